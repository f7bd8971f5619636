package dav_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gabionfs/gabion/fs"
)

// newBenchServer serves the reference model, quietly: what is measured is this package and HTTP.
func newBenchServer(b *testing.B) *testServer {
	s := newTestServer(b, func(o *options) { o.Logger = nil })
	s.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	return s
}

func (s *testServer) bench(b *testing.B, method, path string, body io.Reader, headers ...string) int64 {
	req, err := http.NewRequest(method, s.URL+path, body)
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := s.Client().Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || res.StatusCode >= 300 {
		b.Fatal(res.Status, err)
	}
	return n
}

func BenchmarkPut4K(b *testing.B) {
	for _, mode := range []string{"new", "replace", "parallel"} {
		b.Run(mode, func(b *testing.B) {
			s := newBenchServer(b)
			body := bytes.Repeat([]byte("x"), 4<<10)
			var n atomic.Int64
			put := func() {
				i := n.Add(1)
				if mode == "replace" {
					i %= 16
				}
				s.bench(b, "PUT", fmt.Sprintf("/f%d", i), bytes.NewReader(body))
			}
			if mode == "parallel" {
				b.SetParallelism(8)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						put()
					}
				})
				return
			}
			for b.Loop() {
				put()
			}
		})
	}
}

func BenchmarkPutLarge(b *testing.B) {
	s := newBenchServer(b)
	body := make([]byte, 64<<20)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		s.bench(b, "PUT", "/f", bytes.NewReader(body))
	}
}

func BenchmarkGetLarge(b *testing.B) {
	s := newBenchServer(b)
	s.bench(b, "PUT", "/f", bytes.NewReader(make([]byte, 64<<20)))
	b.SetBytes(64 << 20)
	for b.Loop() {
		s.bench(b, "GET", "/f", nil)
	}
}

func BenchmarkGet4K(b *testing.B) {
	s := newBenchServer(b)
	s.bench(b, "PUT", "/f", bytes.NewReader(make([]byte, 4<<10)))
	for b.Loop() {
		s.bench(b, "GET", "/f", nil)
	}
}

// BenchmarkPropfind lists 10,000 files.
func BenchmarkPropfind(b *testing.B) {
	const entries = 10000
	for name, body := range map[string]string{
		"allprop": "",
		"few":     `<propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/><getetag/></prop></propfind>`,
	} {
		b.Run(name, func(b *testing.B) {
			s := newBenchServer(b)
			for i := range entries {
				if _, err := s.fs.Mknod(b.Context(), fs.Cred{}, fs.Root, fmt.Sprintf("file-%05d.txt", i), fs.TypeRegular|0o644, 0); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				s.bench(b, "PROPFIND", "/", strings.NewReader(body), "Depth", "1")
			}
			b.ReportMetric(float64(entries*b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
