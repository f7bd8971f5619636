package mount_test

import (
	"context"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/fs/memfs"
	"github.com/gabionfs/gabion/fs/mount"
)

// requestLog gathers the kernel's requests from the debug log.
type requestLog struct {
	mu  sync.Mutex
	ops []string
}

var request = regexp.MustCompile(`^rx \d+: ([A-Z_0-9]+) `)

func (l *requestLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *requestLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *requestLog) WithGroup(string) slog.Handler            { return l }
func (l *requestLog) Handle(_ context.Context, rec slog.Record) error {
	match := request.FindStringSubmatch(rec.Message)
	if match == nil || strings.HasSuffix(match[1], "FORGET") || match[1] == "INTERRUPT" { // those come when they like
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, match[1])
	return nil
}

func (l *requestLog) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ops := strings.Join(l.ops, " ")
	l.ops = nil
	return ops
}

// TestRequests pins how often the kernel crosses over for each operation: that is what limits the speed
// of metadata. Whatever adds a request here costs some twenty microseconds each time.
func TestRequests(t *testing.T) {
	needFuse(t)
	log := &requestLog{}
	server, err := mount.Mount(t.Context(), t.TempDir(), memfs.New().Session, mount.Options{Debug: true, Logger: slog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, server) })
	sh := (&model{dir: server.Dir()}).shell(t)
	if os.Geteuid() != 0 {
		t.Skip("the root directory of the model belongs to root")
	}
	log.take()
	for _, c := range []struct {
		want string
		cmd  string
	}{
		{"LOOKUP MKDIR", "mkdir d"},
		{"GETATTR LOOKUP CREATE", "create d/a"}, // of the root, which mkdir changed, to check permission
		{"WRITE", "writefd 4096"},
		{"", "closefd"}, // neither FLUSH nor RELEASE
		{"GETATTR LOOKUP CREATE", "create d/b"},
		{"", "closefd"},
		{"GETATTR GETATTR", "stat d/a"}, // of the directory, and of the file, which was written
		{"", "stat d/a"},
		{"LOOKUP", "stat d/none"},
		{"", "stat d/none"},
		{"", "open d/a"},
		{"READ", "pread 4096"},
		{"", "pread 4096"},
		{"GETXATTR WRITE", "pwrite x"}, // asks for security.capability, once
		{"WRITE", "pwrite x"},
		{"", "closefd"},
		{"", "open d/a"},
		{"WRITE", "pwrite x"},
		{"GETATTR", "fstat"},
		{"", "fstat"},
		{"", "closefd"},
		{"READDIRPLUS READDIR", "ls d"}, // all at once, and the end
		{"", "ls d"},
		{"LOOKUP RENAME", "rename d/b d/c"},
		{"GETATTR", "stat d"},
		{"UNLINK", "unlink d/c"},
	} {
		sh.try(strings.Fields(c.cmd)...)
		if got := log.take(); got != c.want {
			t.Errorf("%s: the kernel asks %q, want %q", c.cmd, got, c.want)
		}
	}
}
