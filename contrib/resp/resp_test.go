package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/kv/raftkv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a member, its RPC server, and the server under test over a client of that.
func start(t *testing.T, c Config) (addr string, s *Server) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "resp")
	if err != nil {
		dir = t.TempDir()
	}
	member, err := raftkv.Open(context.Background(), raftkv.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	server := kvrpc.NewServer(kvrpc.ServerOptions{Stores: func(name string) (kvrpc.Member, error) {
		if name != "store" {
			return nil, kv.ErrNoStore
		}
		return member, nil
	}})
	g := grpc.NewServer(server.GRPCOptions()...)
	server.Register(g)
	var w sync.WaitGroup
	rpc := listen(t)
	w.Go(func() { _ = g.Serve(rpc) })
	client, err := kvrpc.Dial(context.Background(), kvrpc.ClientOptions{Addrs: []string{rpc.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = time.Minute
	s = NewServer(client.Store("store"), c)
	l := listen(t)
	w.Go(func() {
		if err := s.Serve(context.Background(), l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.Close()
		_ = client.Close()
		server.Close()
		g.Stop()
		w.Wait()
		_ = member.Close()
		_ = os.RemoveAll(dir)
	})
	return l.Addr().String(), s
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// conn is a client that shows answers as text.
type conn struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	return &conn{t, c, bufio.NewReader(c)}
}

func encode(args ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b
}

// read returns the next answer: OK, (error) text, 7, "bulk", nil, [a b].
func (c *conn) read() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	line = strings.TrimSuffix(line, "\r\n")
	n, _ := strconv.Atoi(line[1:])
	switch line[0] {
	case '+', ':':
		return line[1:]
	case '-':
		return "(error) " + line[1:]
	case '$':
		if n < 0 {
			return "nil"
		}
		b := make([]byte, n+2)
		for at := 0; at < len(b); {
			m, err := c.r.Read(b[at:])
			if err != nil {
				c.t.Fatal(err)
			}
			at += m
		}
		return strconv.Quote(string(b[:n]))
	case '*':
		if n < 0 {
			return "nil"
		}
		list := make([]string, n)
		for i := range list {
			list[i] = c.read()
		}
		return "[" + strings.Join(list, " ") + "]"
	}
	c.t.Fatalf("answer %q", line)
	return ""
}

func (c *conn) do(args ...string) string {
	c.t.Helper()
	if _, err := c.c.Write(encode(args...)); err != nil {
		c.t.Fatal(err)
	}
	return c.read()
}

// want sends a command, split at spaces, and compares the answer with a pattern.
func (c *conn) want(command, answer string) {
	c.t.Helper()
	args := strings.Split(command, " ")
	for i := range args {
		if args[i] == "''" {
			args[i] = ""
		}
	}
	if got := c.do(args...); got != answer && !matches(answer, got) {
		c.t.Errorf("%s: %s, want %s", command, got, answer)
	}
}

// matches takes an answer that begins with ~ as a regular expression.
func matches(want, got string) bool {
	want, is := strings.CutPrefix(want, "~")
	return is && regexp.MustCompile("^"+want+"$").MatchString(got)
}

func TestCommands(t *testing.T) {
	addr, _ := start(t, Config{})
	c := dial(t, addr)
	for _, w := range [][2]string{
		{"PING", "PONG"}, {"ping hello", `"hello"`}, {"ECHO x", `"x"`},
		{"GET a", "nil"}, {"SET a 1", "OK"}, {"GET a", `"1"`}, {"TYPE a", "string"}, {"TYPE none", "none"},
		{"EXISTS a a b", "2"}, {"STRLEN a", "1"}, {"STRLEN b", "0"},
		{"SET a 2 NX", "nil"}, {"SET b 2 NX", "OK"}, {"SET c 2 XX", "nil"}, {"SET b 3 XX", "OK"},
		{"SET a 5 GET", `"1"`}, {"SET a 6 XX GET", `"5"`}, {"SET a 7 NX GET", `"6"`}, {"SET new 7 NX GET", "nil"},
		{"SET none 7 XX GET", "nil"}, {"GET new", `"7"`}, {"GET none", "nil"},
		{"SET a 1 NX XX", "(error) ERR syntax error"}, {"SET a 1 EX 10", "~.error. ERR keys do not expire.*"},
		{"SET a 1 FOO", "(error) ERR syntax error"}, {"GET a", `"6"`},
		{"SETNX a 1", "0"}, {"SETNX d 1", "1"}, {"GETSET d 2", `"1"`}, {"GETSET e 1", "nil"}, {"GETDEL e", `"1"`}, {"GETDEL e", "nil"},
		{"DEL a b nothing", "2"}, {"EXISTS a b", "0"},
		{"MSET a 1 b 2 a 3", "OK"}, {"MGET a none b", `["3" nil "2"]`}, {"MSET a", "~.error. ERR wrong number.*"},
		{"MSET a 1 b", "~.error. ERR wrong number.*"},
		{"MSETNX x 1 a 9", "0"}, {"EXISTS x", "0"}, {"MSETNX x 1 y 2", "1"}, {"MGET x y", `["1" "2"]`},
		{"APPEND s foo", "3"}, {"APPEND s bar", "6"}, {"GET s", `"foobar"`},
		{"INCR n", "1"}, {"INCRBY n 41", "42"}, {"DECR n", "41"}, {"DECRBY n 50", "-9"}, {"GET n", `"-9"`},
		{"INCR s", "(error) ERR value is not an integer or out of range"}, {"INCRBY n x", "(error) ERR value is not an integer or out of range"},
		{"SET m 9223372036854775807", "OK"}, {"INCR m", "(error) ERR increment or decrement would overflow"},
		{"DECRBY m -9223372036854775808", "(error) ERR value is not an integer or out of range"},
		{"SET z 01", "OK"}, {"INCR z", "(error) ERR value is not an integer or out of range"},
		{"SELECT 3", "OK"}, {"GET a", "nil"}, {"SET a three", "OK"}, {"SELECT 0", "OK"}, {"GET a", `"3"`},
		{"SELECT 16", "(error) ERR DB index is out of range"}, {"SELECT x", "~.error. ERR value is not.*"},
		{"EXPIRE a 1", "~.error. ERR unknown command 'EXPIRE'.*"}, {"GET", "~.error. ERR wrong number of arguments for 'get' command"},
		{"SET '' x", "~.error. ERR kv: key of 0 bytes.*"}, {"GET ''", "~.error. ERR kv: key of 0 bytes.*"},
		{"CONFIG GET save", `["save" ""]`}, {"CONFIG GET app*", `["appendonly" "yes"]`}, {"CONFIG SET save x", "~.error. ERR unknown subcommand.*"},
		{"CLIENT SETNAME me", "OK"}, {"CLIENT GETNAME", `"me"`}, {"CLIENT ID", "~[0-9]+"}, {"CLIENT KILL x", "~.error. ERR unknown subcommand.*"},
		{"COMMAND COUNT", "~[0-9]+"}, {"COMMAND INFO get nope", `[["get" 2 [readonly] 1 1 1] nil]`},
		{"HELLO 3", "(error) NOPROTO unsupported protocol version"}, {"HELLO", `~\["server" "redis" .* "proto" 2 .*\]`},
		{"AUTH x", "~.error. ERR AUTH called without any password.*"}, {"INFO", "~(?s).*redis_version.*"},
		{"DBSIZE", "10"}, {"DISCARD", "(error) ERR DISCARD without MULTI"}, {"EXEC", "(error) ERR EXEC without MULTI"},
	} {
		c.want(w[0], w[1])
	}
	c.want("QUIT", "OK")
	if _, err := c.r.ReadByte(); err == nil {
		t.Error("the connection is open after QUIT")
	}
}

func TestTransactions(t *testing.T) {
	addr, _ := start(t, Config{})
	c, other := dial(t, addr), dial(t, addr)
	run := func(steps ...[2]string) {
		t.Helper()
		for _, s := range steps {
			c.want(s[0], s[1])
		}
	}
	queued := func(commands ...string) {
		t.Helper()
		c.want("MULTI", "OK")
		for _, q := range commands {
			c.want(q, "QUEUED")
		}
	}
	queued("SET a 1", "GET a", "SETNX a 2", "DEL a none", "SET b x", "PING")
	run([2]string{"EXEC", `[OK "1" 0 1 OK PONG]`}, [2]string{"GET b", `"x"`})
	// With commands that need to know what is there.
	queued("INCR n", "INCRBY n 4", "GET n", "INCR b", "SET n 7", "APPEND n 0", "MSETNX q 1 n 1", "SET n 1 XX GET")
	run([2]string{"EXEC", `[1 5 "5" (error) ERR value is not an integer or out of range OK 2 0 "70"]`}, [2]string{"MGET n q b", `["1" nil "x"]`})
	queued()
	run([2]string{"EXEC", "[]"})
	queued("SET a gone")
	run([2]string{"DISCARD", "OK"}, [2]string{"GET a", "nil"})
	queued("SET a 1")
	run([2]string{"NOPE", "~.error. ERR unknown command.*"}, [2]string{"EXEC", "~.error. EXECABORT.*"}, [2]string{"GET a", "nil"})
	queued("SET a 1")
	run([2]string{"SELECT 1", "~.error. ERR SELECT is not possible inside MULTI"}, [2]string{"MULTI", "~.error. ERR MULTI calls.*"}, [2]string{"WATCH a", "~.error. ERR WATCH inside.*"},
		[2]string{"EXEC", "~.error. EXECABORT.*"})

	for _, change := range []string{"SET a 1", "INCR n"} {
		run([2]string{"WATCH a b", "OK"})
		queued(change)
		other.want("SET b mine", "OK")
		run([2]string{"EXEC", "nil"}, [2]string{"EXISTS a", "0"})
		// And as it was again.
		run([2]string{"WATCH a b", "OK"})
		queued("SET c 1", "DEL c")
		other.want("SET b theirs", "OK")
		other.want("SET b mine", "OK")
		run([2]string{"EXEC", "[OK 1]"})
		run([2]string{"WATCH a", "OK"}, [2]string{"UNWATCH", "OK"})
		other.want("SET a 1", "OK")
		queued(change)
		run([2]string{"EXEC", "~.(OK|2|3).*"}, [2]string{"DEL a", "1"})
		other.want("SET b x", "OK")
	}
}

// TestPipeline sends everything before it reads anything.
func TestPipeline(t *testing.T) {
	addr, _ := start(t, Config{})
	c := dial(t, addr)
	var b bytes.Buffer
	var want []string
	add := func(answer string, args ...string) {
		b.Write(encode(args...))
		want = append(want, answer)
	}
	for i := range 300 {
		k, v := fmt.Sprint("k", i%7), fmt.Sprint(i)
		add("OK", "SET", k, v)
		add(strconv.Quote(v), "GET", k)
		add(fmt.Sprint(i+1), "INCR", "n")
		if i%10 == 0 {
			add("(error) ERR syntax error", "SET", k, "x", "y")
			add("PONG", "PING")
			add("OK", "MULTI")
			add("QUEUED", "GET", k)
			add("["+strconv.Quote(v)+"]", "EXEC")
		}
		add("1", "EXISTS", k)
	}
	if _, err := c.c.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	for i, w := range want {
		if got := c.read(); got != w {
			t.Fatalf("answer %d is %s, want %s", i, got, w)
		}
	}
}

func TestScan(t *testing.T) {
	addr, _ := start(t, Config{})
	c := dial(t, addr)
	for i := range 100 {
		c.want(fmt.Sprintf("SET user:%d x", i), "OK")
		c.want(fmt.Sprintf("SET other:%d x", i), "OK")
	}
	scan := func(options ...string) (n int) {
		t.Helper()
		seen := map[string]bool{}
		for cursor := "0"; ; {
			got := c.do(append([]string{"SCAN", cursor}, options...)...)
			m := regexp.MustCompile(`^\["(\d+)" \[(.*)\]\]$`).FindStringSubmatch(got)
			if m == nil {
				t.Fatalf("SCAN %s: %s", cursor, got)
			}
			for _, k := range strings.Fields(m[2]) {
				if seen[k] {
					t.Errorf("%s twice", k)
				}
				seen[k] = true
			}
			if cursor = m[1]; cursor == "0" {
				return len(seen)
			}
		}
	}
	for _, w := range []struct {
		n       int
		options []string
	}{
		{200, nil}, {200, []string{"COUNT", "1000"}}, {100, []string{"MATCH", "user:*"}}, {20, []string{"MATCH", "*:?", "COUNT", "7"}},
	} {
		if n := scan(w.options...); n != w.n {
			t.Errorf("SCAN %v found %d keys, want %d", w.options, n, w.n)
		}
	}
	c.want("SCAN 77777", "~.error. ERR invalid cursor.*")
	c.want("SCAN x", "(error) ERR invalid cursor")
	c.want("SCAN 0 COUNT 0", "(error) ERR syntax error")
	c.want("SCAN 0 MATCH", "(error) ERR syntax error")
	c.want("SCAN 0 TYPE list COUNT 1000", `["0" []]`)
	c.want("KEYS user:1?", `["user:10" "user:11" "user:12" "user:13" "user:14" "user:15" "user:16" "user:17" "user:18" "user:19"]`)
	c.want("KEYS nothing", "[]")
	c.want("DBSIZE", "200")
}

// TestCounter lets many clients increment one counter: nothing is lost and nothing counted twice.
func TestCounter(t *testing.T) {
	addr, _ := start(t, Config{})
	const clients, each = 20, 50
	var w sync.WaitGroup
	answers := make([]map[string]bool, clients)
	for i := range clients {
		c := dial(t, addr)
		answers[i] = map[string]bool{}
		w.Go(func() {
			for range each {
				if _, err := c.c.Write(encode("INCR", "n")); err != nil {
					t.Error(err)
					return
				}
				line, err := c.r.ReadString('\n')
				if err != nil {
					t.Error(err)
					return
				}
				answers[i][line] = true
			}
		})
	}
	w.Wait()
	all := map[string]bool{}
	for _, a := range answers {
		for k := range a {
			all[k] = true
		}
	}
	if len(all) != clients*each {
		t.Errorf("%d different answers, want %d", len(all), clients*each)
	}
	dial(t, addr).want("GET n", strconv.Quote(fmt.Sprint(clients*each)))
}

// TestTwoServers increments through two servers, which do not know of each other.
func TestTwoServers(t *testing.T) {
	addr, first := start(t, Config{})
	second := NewServer(first.store, Config{Timeout: time.Minute})
	l := listen(t)
	var w sync.WaitGroup
	w.Go(func() { _ = second.Serve(context.Background(), l) })
	defer w.Wait()
	defer second.Close()
	for _, a := range []string{addr, l.Addr().String()} {
		c := dial(t, a)
		w.Go(func() {
			for range 100 {
				_, _ = c.c.Write(encode("INCR", "n"))
				if line, err := c.r.ReadString('\n'); err != nil || line[0] != ':' {
					t.Errorf("INCR: %q, %v", line, err)
					return
				}
			}
		})
	}
	done := dial(t, addr)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if done.do("GET", "n") == `"200"` {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the counter is at %s, want 200", done.do("GET", "n"))
}

func TestPassword(t *testing.T) {
	addr, _ := start(t, Config{Password: "secret"})
	c := dial(t, addr)
	c.want("GET a", "(error) NOAUTH Authentication required.")
	c.want("PING", "PONG")
	c.want("HELLO 2", "~.error. NOAUTH.*")
	c.want("AUTH wrong", "~.error. WRONGPASS.*")
	c.want("AUTH nobody secret", "~.error. WRONGPASS.*")
	c.want("GET a", "(error) NOAUTH Authentication required.")
	c.want("AUTH secret", "OK")
	c.want("GET a", "nil")
	c = dial(t, addr)
	c.want("HELLO 2 AUTH default secret SETNAME me", `~\["server".*`)
	c.want("CLIENT GETNAME", `"me"`)
}

func TestListenerRefuses(t *testing.T) {
	f := flags{listen: "0.0.0.0:0"}
	if l, err := f.listener(false); err == nil {
		l.Close()
		t.Error("listens everywhere without a password")
	}
	l, err := f.listener(true)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := (&flags{listen: "127.0.0.1:0", cert: "x"}).listener(true); err == nil {
		t.Error("a certificate without a key")
	}
}

// TestTooMuch sends a command without end.
func TestTooMuch(t *testing.T) {
	addr, _ := start(t, Config{})
	c := dial(t, addr)
	part := bytes.Repeat([]byte{'x'}, 1<<20)
	_, err := c.c.Write([]byte("*2\r\n$3\r\nGET\r\n$999999999\r\n"))
	for i := 0; err == nil && i < 2*maxRequest>>20; i++ {
		_, err = c.c.Write(part)
	}
	if err == nil {
		t.Error("took twice the limit")
	}
	dial(t, addr).want("PING", "PONG")
}

// TestErrors of a cluster that cannot answer keep their meaning.
func TestErrors(t *testing.T) {
	for err, want := range map[error]string{
		kv.ErrUnknownOutcome:     "UNKNOWNOUTCOME ",
		&kv.NoQuorumError{}:      "CLUSTERDOWN ",
		context.DeadlineExceeded: "CLUSTERDOWN ",
		&kv.FencedError{}:        "READONLY ",
		errors.New("x"):          "ERR x",
		errSyntax:                "ERR syntax error",
	} {
		if got := errorText(err); !strings.HasPrefix(got, want) {
			t.Errorf("%v: %q", err, got)
		}
	}
}

// TestRedisTools runs redis-cli and redis-benchmark.
func TestRedisTools(t *testing.T) {
	for _, tool := range []string{"redis-cli", "redis-benchmark"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (package redis-tools)", tool)
		}
	}
	addr, _ := start(t, Config{})
	_, port, _ := net.SplitHostPort(addr)
	run := func(stdin, name string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, append([]string{"-h", "127.0.0.1", "-p", port}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	if got := run("SET a 1\nINCR a\nMULTI\nSET b 2\nGET a\nEXEC\nSCAN 0\n", "redis-cli"); got != "OK\n2\nOK\nQUEUED\nQUEUED\nOK\n2\n0\na\nb\n" {
		t.Errorf("redis-cli: %q", got)
	}
	if got := run("", "redis-cli", "--scan"); got != "a\nb\n" {
		t.Errorf("redis-cli --scan: %q", got)
	}
	got := run("", "redis-benchmark", "-t", "ping,set,get,incr,mset", "-n", "400", "-c", "8", "-P", "4", "-r", "50", "--csv")
	for _, test := range []string{"PING_MBULK", "SET", "GET", "INCR", "MSET"} {
		if !strings.Contains(got, `"`+test) {
			t.Errorf("redis-benchmark has no figure for %s:\n%s", test, got)
		}
	}
	if strings.Contains(strings.ToLower(got), "error") {
		t.Errorf("redis-benchmark: %s", got)
	}
}
