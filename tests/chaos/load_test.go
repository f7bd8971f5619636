package chaos

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

// stock is what was put at URLs below one, and is to be read there: objects over HTTP, or files over WebDAV. Each
// name is used by one goroutine.
type stock struct {
	name      string
	url       string
	immutable bool // a name is put again only after it was deleted

	mu      sync.Mutex
	content map[string]content // of all names that were ever used
}

// content is that of an object: so many bytes of a generator. What was deleted has no generator.
type content struct {
	seed uint64
	size int
}

func (c content) bytes() []byte {
	p := make([]byte, c.size)
	rng := rand.NewChaCha8([32]byte{byte(c.seed), byte(c.seed >> 8), byte(c.seed >> 16), byte(c.seed >> 24), byte(c.seed >> 32)})
	rng.Read(p) // never fails
	return p
}

func newStock(name, url string, immutable bool) *stock {
	return &stock{name: name, url: url, immutable: immutable, content: make(map[string]content)}
}

func (s *stock) get(name string) (content, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.content[name]
	return c, ok
}

func (s *stock) set(name string, c content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content[name] = c
}

// size is how many bytes there are.
func (s *stock) size() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.content {
		n += c.size
	}
	return n
}

// requestLimit is how long a request may take: longer than gabion lets one hang.
const requestLimit = 2 * time.Minute

func (s *stock) do(method, name, ranges string, body []byte) (status int, got []byte, err error) {
	r, err := http.NewRequest(method, s.url+name, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if ranges != "" {
		r.Header.Set("Range", ranges)
	}
	c := http.Client{Timeout: harness.Patience(requestLimit)}
	a, err := c.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer a.Body.Close()
	got, err = io.ReadAll(a.Body)
	return a.StatusCode, got, err
}

func (s *stock) put(name string, c content) error {
	status, got, err := s.do(http.MethodPut, name, "", c.bytes())
	if err != nil || status/100 != 2 {
		return fmt.Errorf("put %s%s of %d bytes: %d, %w: %.200s", s.url, name, c.size, status, err, got)
	}
	s.set(name, c)
	return nil
}

func (s *stock) remove(name string) error {
	status, got, err := s.do(http.MethodDelete, name, "", nil)
	if err != nil || status/100 != 2 {
		return fmt.Errorf("delete %s%s: %d, %w: %.200s", s.url, name, status, err, got)
	}
	s.set(name, content{})
	return nil
}

// check reads all of an object, which may be one that was deleted.
func (s *stock) check(name string) error {
	c, _ := s.get(name)
	status, got, err := s.do(http.MethodGet, name, "", nil)
	switch {
	case err == nil && c == content{} && status == http.StatusNotFound:
		return nil
	case err != nil || status != http.StatusOK || c == content{}:
		return fmt.Errorf("get %s%s of %d bytes: %d, %w: %.200s", s.url, name, c.size, status, err, got)
	case !bytes.Equal(got, c.bytes()):
		return fmt.Errorf("get %s%s of %d bytes: %d wrong bytes", s.url, name, c.size, len(got))
	}
	return nil
}

// checkRange reads a part of an object.
func (s *stock) checkRange(r *rand.Rand, name string) error {
	c, _ := s.get(name)
	if c.size == 0 {
		return s.check(name)
	}
	from := r.IntN(c.size)
	to := min(c.size-1, from+r.IntN(1<<16))
	status, got, err := s.do(http.MethodGet, name, fmt.Sprintf("bytes=%d-%d", from, to), nil)
	if err != nil || status != http.StatusPartialContent {
		return fmt.Errorf("get %s%s, bytes %d to %d of %d: %d, %w", s.url, name, from, to, c.size, status, err)
	}
	if !bytes.Equal(got, c.bytes()[from:to+1]) {
		return fmt.Errorf("get %s%s, bytes %d to %d of %d: wrong bytes", s.url, name, from, to, c.size)
	}
	return nil
}

// checkAll reads everything.
func (s *stock) checkAll(t testing.TB) (n int) {
	t.Helper()
	s.mu.Lock()
	var names []string
	for name, c := range s.content {
		names = append(names, name)
		if c != (content{}) {
			n++
		}
	}
	s.mu.Unlock()
	for _, name := range names {
		if err := s.check(name); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// load puts, reads and deletes until it is stopped.
type load struct {
	over          chan struct{}
	work          sync.WaitGroup
	reads, writes atomic.Int64

	mu   sync.Mutex
	errs []error
}

// pace is how long a worker rests between requests: the load is there to be hit, not to fill the machine.
const pace = 100 * time.Millisecond

// fill puts so many objects.
func (l *load) fill(s *stock, r *rand.Rand, names int) error {
	for i := range names {
		if err := s.put(fmt.Sprintf("w%d-%d", i%workers, i/workers), content{r.Uint64(), 1 + r.IntN(maxSize)}); err != nil {
			return err
		}
	}
	return nil
}

// workers is how many goroutines use a stock, each with names of its own.
const workers = 2

// maxSize bounds most objects.
const maxSize = 250_000

// begin has workers use names of a stock.
func (l *load) begin(s *stock, seed uint64, names int) {
	for w := range workers {
		r := harness.Rand(seed, fmt.Sprint(s.name, w))
		l.work.Go(func() {
			for {
				select {
				case <-l.over:
					return
				case <-time.After(pace):
				}
				if err := l.step(s, r, fmt.Sprintf("w%d-%d", w, r.IntN(names/workers))); err != nil {
					l.mu.Lock()
					l.errs = append(l.errs, err)
					l.mu.Unlock()
					return
				}
			}
		})
	}
}

func (l *load) step(s *stock, r *rand.Rand, name string) error {
	old, known := s.get(name)
	what := r.IntN(100)
	switch {
	case what < 20 && s.immutable && old.size > 0:
		l.writes.Add(1)
		return s.remove(name)
	case !known || what < 20:
		size := 1 + r.IntN(maxSize)
		if r.IntN(10) == 0 {
			size *= 8
		}
		l.writes.Add(1)
		return s.put(name, content{r.Uint64(), size})
	case what < 25:
		if old.size == 0 {
			return nil
		}
		l.writes.Add(1)
		return s.remove(name)
	case what < 60:
		l.reads.Add(1)
		return s.checkRange(r, name)
	}
	l.reads.Add(1)
	return s.check(name)
}

// failed returns what went wrong so far.
func (l *load) failed() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.errs
}

// end stops the load. All of it must have gone well.
func (l *load) end(t testing.TB) {
	t.Helper()
	close(l.over)
	l.work.Wait()
	if len(l.errs) > 0 {
		t.Fatal(l.errs)
	}
}
