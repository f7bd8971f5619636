package daemon

import (
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
)

// startPProf serves the profiles of this process, if asked to.
func (r *run) startPProf() error {
	if r.o.PProf == "" {
		return nil
	}
	l, err := net.Listen("tcp", r.o.PProf)
	if err != nil {
		return fmt.Errorf("pprof: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	r.pprof = &http.Server{Handler: mux}
	r.serve("pprof", r.pprof, l)
	r.log.Info("profiles", "url", "http://"+l.Addr().String()+"/debug/pprof/")
	return nil
}
