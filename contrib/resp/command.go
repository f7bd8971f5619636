package main

import (
	"fmt"

	"github.com/gabionfs/gabion/kv"
)

// command is one that clients may send. Either run answers it at once, or plan turns it into an op.
type command struct {
	min, max          int // arguments, the name included; max 0: any number
	first, last, step int // which of them are keys, as COMMAND tells it
	writes            bool
	open              bool // before the password was given too
	control           bool // may run between MULTI and EXEC
	run               func(n *session, args [][]byte)
	plan              func(ks kv.Keyspace, args [][]byte) (*op, error)
}

// databases that SELECT knows.
const databases = 16

var keyspaces = func() (k [databases]kv.Keyspace) {
	for i := range k {
		k[i] = kv.Keyspace(fmt.Sprint("redis", i))
	}
	return k
}()

// commands by their names in capitals. Some of them look at it, so it is filled when all are known.
var commands map[string]*command

func init() {
	commands = map[string]*command{
		"GET":     {min: 2, max: 2, first: 1, last: 1, step: 1, plan: planGet},
		"MGET":    {min: 2, first: 1, last: -1, step: 1, plan: planMGet},
		"EXISTS":  {min: 2, first: 1, last: -1, step: 1, plan: planExists},
		"STRLEN":  {min: 2, max: 2, first: 1, last: 1, step: 1, plan: planStrlen},
		"TYPE":    {min: 2, max: 2, first: 1, last: 1, step: 1, plan: planType},
		"SET":     {min: 3, first: 1, last: 1, step: 1, writes: true, plan: planSet},
		"SETNX":   {min: 3, max: 3, first: 1, last: 1, step: 1, writes: true, plan: planSetNX},
		"GETSET":  {min: 3, max: 3, first: 1, last: 1, step: 1, writes: true, plan: planGetSet},
		"GETDEL":  {min: 2, max: 2, first: 1, last: 1, step: 1, writes: true, plan: planGetDel},
		"DEL":     {min: 2, first: 1, last: -1, step: 1, writes: true, plan: planDel},
		"UNLINK":  {min: 2, first: 1, last: -1, step: 1, writes: true, plan: planDel},
		"MSET":    {min: 3, first: 1, last: -1, step: 2, writes: true, plan: planMSet},
		"MSETNX":  {min: 3, first: 1, last: -1, step: 2, writes: true, plan: planMSetNX},
		"APPEND":  {min: 3, max: 3, first: 1, last: 1, step: 1, writes: true, plan: planAppend},
		"INCR":    {min: 2, max: 2, first: 1, last: 1, step: 1, writes: true, plan: planCount(+1)},
		"DECR":    {min: 2, max: 2, first: 1, last: 1, step: 1, writes: true, plan: planCount(-1)},
		"INCRBY":  {min: 3, max: 3, first: 1, last: 1, step: 1, writes: true, plan: planCount(+1)},
		"DECRBY":  {min: 3, max: 3, first: 1, last: 1, step: 1, writes: true, plan: planCount(-1)},
		"PING":    {min: 1, max: 2, open: true, plan: planPing},
		"ECHO":    {min: 2, max: 2, plan: planEcho},
		"SCAN":    {min: 2, run: (*session).scan},
		"KEYS":    {min: 2, max: 2, run: (*session).keys},
		"DBSIZE":  {min: 1, max: 1, run: (*session).dbsize},
		"MULTI":   {min: 1, max: 1, control: true, run: (*session).multi},
		"EXEC":    {min: 1, max: 1, control: true, run: (*session).exec},
		"DISCARD": {min: 1, max: 1, control: true, run: (*session).discard},
		"WATCH":   {min: 2, first: 1, last: -1, step: 1, control: true, run: (*session).watch},
		"UNWATCH": {min: 1, max: 1, run: (*session).unwatch},
		"SELECT":  {min: 2, max: 2, run: (*session).selectDatabase},
		"AUTH":    {min: 2, max: 3, open: true, run: (*session).auth},
		"HELLO":   {min: 1, open: true, run: (*session).hello},
		"QUIT":    {min: 1, open: true, control: true, run: (*session).leave},
		"CLIENT":  {min: 2, run: (*session).client},
		"COMMAND": {min: 1, run: (*session).describe},
		"CONFIG":  {min: 2, run: (*session).config},
		"INFO":    {min: 1, run: (*session).info},
	}
}
