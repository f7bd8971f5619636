package raftkv

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// hcLog passes raft's log on to slog. What raft calls info is of interest when debugging only.
type hcLog struct {
	log  *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*hcLog)(nil)

func newHCLog(l *slog.Logger) hclog.Logger { return &hcLog{log: l, name: "raft"} }

func slogLevel(l hclog.Level) slog.Level {
	switch {
	case l >= hclog.Error:
		return slog.LevelError
	case l == hclog.Warn:
		return slog.LevelWarn
	case l == hclog.Info:
		return slog.LevelDebug
	}
	return slog.LevelDebug - 4
}

func (h *hcLog) Log(l hclog.Level, msg string, args ...any) {
	level := slogLevel(l)
	if !h.log.Enabled(context.Background(), level) {
		return
	}
	args = append(append([]any(nil), h.args...), args...)
	for i, a := range args {
		switch f := a.(type) {
		case hclog.Format:
			if s, ok := f[0].(string); ok {
				args[i] = fmt.Sprintf(s, f[1:]...)
			}
		}
	}
	h.log.Log(context.Background(), level, h.name+": "+msg, args...)
}

func (h *hcLog) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h *hcLog) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h *hcLog) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h *hcLog) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h *hcLog) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

func (h *hcLog) enabled(l hclog.Level) bool {
	return h.log.Enabled(context.Background(), slogLevel(l))
}

func (h *hcLog) IsTrace() bool { return h.enabled(hclog.Trace) }
func (h *hcLog) IsDebug() bool { return h.enabled(hclog.Debug) }
func (h *hcLog) IsInfo() bool  { return h.enabled(hclog.Info) }
func (h *hcLog) IsWarn() bool  { return h.enabled(hclog.Warn) }
func (h *hcLog) IsError() bool { return h.enabled(hclog.Error) }

func (h *hcLog) ImpliedArgs() []any { return h.args }

func (h *hcLog) With(args ...any) hclog.Logger {
	return &hcLog{h.log, h.name, append(append([]any(nil), h.args...), args...)}
}

func (h *hcLog) Name() string                        { return h.name }
func (h *hcLog) Named(name string) hclog.Logger      { return &hcLog{h.log, h.name + "." + name, h.args} }
func (h *hcLog) ResetNamed(name string) hclog.Logger { return &hcLog{h.log, name, h.args} }
func (h *hcLog) SetLevel(hclog.Level)                {}
func (h *hcLog) GetLevel() hclog.Level               { return hclog.Debug }

func (h *hcLog) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(o), "", 0)
}

func (h *hcLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return logWriter{h} }

type logWriter struct{ h *hcLog }

func (w logWriter) Write(p []byte) (int, error) {
	w.h.Debug(string(p))
	return len(p), nil
}
