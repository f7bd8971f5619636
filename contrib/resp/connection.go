package main

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/redcon"
)

// redisVersion is the release whose answers these are; clients look at it.
const redisVersion = "7.0.0"

func (n *session) leave([][]byte) {
	n.quit = true
	n.ok()
}

func (n *session) selectDatabase(args [][]byte) {
	i, err := integer(args[1])
	if err != nil {
		n.fail(err)
		return
	}
	if i < 0 || i >= databases {
		n.fail(replyError("ERR DB index is out of range"))
		return
	}
	n.database = int(i)
	n.ok()
}

const errPassword replyError = "WRONGPASS invalid username-password pair or user is disabled."

func (n *session) auth(args [][]byte) {
	user := "default"
	if len(args) == 3 {
		user = string(args[1])
	}
	switch {
	case n.server.Password == "":
		n.fail(replyError("ERR AUTH called without any password configured"))
	case user != "default" || !n.login(args[len(args)-1]):
		n.fail(errPassword)
	default:
		n.ok()
	}
}

// hello answers HELLO [2 [AUTH user password] [SETNAME name]]. Version 3 of the protocol is not spoken.
func (n *session) hello(args [][]byte) {
	if len(args) > 1 {
		switch v, err := integer(args[1]); {
		case err != nil:
			n.fail(replyError("ERR Protocol version is not an integer or out of range"))
			return
		case v != 2:
			n.fail(replyError("NOPROTO unsupported protocol version"))
			return
		}
	}
	name := n.name
	for i := 2; i < len(args); {
		switch option := strings.ToUpper(string(args[i])); {
		case option == "AUTH" && i+2 < len(args):
			if string(args[i+1]) != "default" || !n.login(args[i+2]) {
				n.fail(errPassword)
				return
			}
			i += 3
		case option == "SETNAME" && i+1 < len(args):
			name = string(args[i+1])
			i += 2
		default:
			n.fail(errSyntax)
			return
		}
	}
	if !n.trusted {
		n.fail(replyError("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"))
		return
	}
	n.name = name
	n.out = redcon.AppendArray(n.out, 14)
	for _, p := range [][2]string{{"server", "redis"}, {"version", redisVersion}} {
		n.out = redcon.AppendBulkString(redcon.AppendBulkString(n.out, p[0]), p[1])
	}
	n.out = redcon.AppendInt(redcon.AppendBulkString(n.out, "proto"), 2)
	n.out = redcon.AppendInt(redcon.AppendBulkString(n.out, "id"), n.id)
	for _, p := range [][2]string{{"mode", "standalone"}, {"role", "master"}} {
		n.out = redcon.AppendBulkString(redcon.AppendBulkString(n.out, p[0]), p[1])
	}
	n.out = redcon.AppendArray(redcon.AppendBulkString(n.out, "modules"), 0)
}

func (n *session) unknown(args [][]byte) {
	n.fail(replyError(fmt.Sprintf("ERR unknown subcommand or wrong number of arguments for '%.64s %.64s'", args[0], args[1])))
}

// client answers what libraries say when they connect.
func (n *session) client(args [][]byte) {
	switch sub := strings.ToUpper(string(args[1])); {
	case sub == "ID" && len(args) == 2:
		n.out = redcon.AppendInt(n.out, n.id)
	case sub == "GETNAME" && len(args) == 2:
		n.out = redcon.AppendBulkString(n.out, n.name)
	case sub == "SETNAME" && len(args) == 3:
		n.name = string(args[2])
		n.ok()
	case sub == "SETINFO" && len(args) == 4:
		n.ok()
	default:
		n.unknown(args)
	}
}

// describe answers COMMAND.
func (n *session) describe(args [][]byte) {
	names := slices.Sorted(maps.Keys(commands))
	if len(args) == 1 {
		n.out = redcon.AppendArray(n.out, len(names))
		for _, name := range names {
			n.out = appendCommand(n.out, name)
		}
		return
	}
	switch sub := strings.ToUpper(string(args[1])); {
	case sub == "COUNT" && len(args) == 2:
		n.out = redcon.AppendInt(n.out, int64(len(names)))
	case sub == "LIST" && len(args) == 2:
		n.out = redcon.AppendArray(n.out, len(names))
		for _, name := range names {
			n.out = redcon.AppendBulkString(n.out, strings.ToLower(name))
		}
	case sub == "INFO":
		n.out = redcon.AppendArray(n.out, len(args)-2)
		for _, a := range args[2:] {
			n.out = appendCommand(n.out, strings.ToUpper(string(a)))
		}
	case sub == "DOCS": // there are none; a client shows no hints then
		n.out = redcon.AppendArray(n.out, 0)
	default:
		n.unknown(args)
	}
}

func appendCommand(out []byte, name string) []byte {
	c := commands[name]
	if c == nil {
		return append(out, "*-1\r\n"...)
	}
	arity := int64(c.min)
	if c.max != c.min {
		arity = -arity
	}
	flag := "readonly"
	switch {
	case c.writes:
		flag = "write"
	case c.first == 0:
		flag = "fast"
	}
	out = redcon.AppendArray(out, 6)
	out = redcon.AppendBulkString(out, strings.ToLower(name))
	out = redcon.AppendInt(out, arity)
	out = redcon.AppendString(redcon.AppendArray(out, 1), flag)
	for _, n := range []int{c.first, c.last, c.step} {
		out = redcon.AppendInt(out, int64(n))
	}
	return out
}

// config answers CONFIG GET with what of it has a meaning here.
func (n *session) config(args [][]byte) {
	if !strings.EqualFold(string(args[1]), "GET") || len(args) < 3 {
		n.unknown(args)
		return
	}
	known := [][2]string{{"appendonly", "yes"}, {"databases", strconv.Itoa(databases)}, {"maxmemory", "0"}, {"save", ""}}
	var out []string
	for _, k := range known {
		for _, pattern := range args[2:] {
			if ok, err := path.Match(strings.ToLower(string(pattern)), k[0]); err == nil && ok {
				out = append(out, k[0], k[1])
				break
			}
		}
	}
	n.out = redcon.AppendArray(n.out, len(out))
	for _, s := range out {
		n.out = redcon.AppendBulkString(n.out, s)
	}
}

func (n *session) info([][]byte) {
	s := n.server
	var b strings.Builder
	fmt.Fprintf(&b, "# Server\r\nredis_version:%s\r\nredis_mode:standalone\r\nprocess_id:%d\r\nuptime_in_seconds:%d\r\n",
		redisVersion, os.Getpid(), int(time.Since(s.began).Seconds()))
	fmt.Fprintf(&b, "\r\n# Clients\r\nconnected_clients:%d\r\n", s.sessions.Load())
	fmt.Fprintf(&b, "\r\n# Stats\r\ntotal_connections_received:%d\r\ntotal_commands_processed:%d\r\n", s.last.Load(), s.answered.Load())
	fmt.Fprintf(&b, "\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n")
	n.out = redcon.AppendBulkString(n.out, b.String())
}
