package asd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The child writes and deletes until it is killed, and says on its standard output what was acknowledged. Every key belongs
// to one writer, and every payload tells key and count.

const childEnv = "ASD_TEST_CHILD"

func childMain(dir string) {
	a, err := Open(context.Background(), dir, childOptions())
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	churn(context.Background(), a, func(line string) { fmt.Println(line) })
}

func childOptions() Options {
	return Options{SegmentSize: 2 << 20, Compaction: Compaction{MinGarbage: 0.1, Rate: -1, PoolDelay: 20 * time.Millisecond}}
}

// churn says "begin KEY COUNT" before and "done KEY COUNT" after each durable update; count 0 is a delete.
func churn(ctx context.Context, a *ASD, say func(string)) {
	var mu sync.Mutex
	locked := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		say(fmt.Sprintf(format, args...))
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(w)))
			for count := uint64(time.Now().UnixNano()); ctx.Err() == nil; count++ {
				key := uint64(w)*1000 + r.Uint64N(30)
				var b Batch
				c := count
				if r.IntN(3) == 0 {
					c = 0
					b.Delete(churnKey(key))
				} else {
					p := NewBuffer(16 * (1 + r.IntN(4000)))
					stressPayload(p, key, c)
					b.Put(churnKey(key), nil, p)
				}
				locked("begin %d %d", key, c)
				if _, err := a.Apply(ctx, &b, Durable); err != nil {
					return
				}
				locked("done %d %d", key, c)
			}
		})
	}
	wg.Wait()
}

func churnKey(key uint64) []byte { return fmt.Appendf(nil, "key-%06d", key) }

// churnLog follows what churn says: what must be there, and what may be.
type churnLog struct {
	mu    sync.Mutex
	done  map[uint64]uint64
	begun map[uint64]uint64
	acks  int
}

func newChurnLog() *churnLog {
	return &churnLog{done: make(map[uint64]uint64), begun: make(map[uint64]uint64)}
}

func (l *churnLog) line(s string) {
	f := strings.Fields(s)
	if len(f) != 3 {
		return
	}
	key, err1 := strconv.ParseUint(f[1], 10, 64)
	count, err2 := strconv.ParseUint(f[2], 10, 64)
	if err1 != nil || err2 != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch f[0] {
	case "begin":
		l.begun[key] = count
	case "done":
		l.done[key] = count
		delete(l.begun, key)
		l.acks++
	}
}

// await waits until n updates were acknowledged in all, which takes a while where many tests run at once.
func (l *churnLog) await(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		acks := l.acks
		l.mu.Unlock()
		if acks >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d updates were acknowledged in two minutes, want %d", acks, n)
		}
	}
}

// verify compares an ASD with the log, and takes what is there as the new truth.
func (l *churnLog) verify(t *testing.T, a *ASD) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := make(map[uint64]bool)
	for k := range l.done {
		keys[k] = true
	}
	for k := range l.begun {
		keys[k] = true
	}
	records := 0
	for k := range keys {
		got, err := a.Get(t.Context(), churnKey(k), nil)
		var count uint64
		if err == nil {
			count, err = checkStress(got, k)
			records++
		} else if errors.Is(err, ErrNotFound) {
			err = nil
		}
		if err != nil {
			t.Fatalf("key %d: %v", k, err)
		}
		begun, may := l.begun[k]
		if count != l.done[k] && !(may && count == begun) {
			t.Fatalf("key %d has count %d; acknowledged was %d, begun %d", k, count, l.done[k], begun)
		}
		l.done[k] = count
	}
	clear(l.begun)
	if st := a.Stat(); st.Records != int64(records) {
		t.Fatalf("%d records, stat says %d", records, st.Records)
	}
}

func TestKill(t *testing.T) {
	dir := newDir(t)
	log := newChurnLog()
	for round := range 6 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			sc := bufio.NewScanner(out)
			for sc.Scan() {
				if strings.HasPrefix(sc.Text(), "error") {
					t.Error(sc.Text())
				}
				log.line(sc.Text())
			}
			io.Copy(io.Discard, out)
		}()
		time.Sleep(100*time.Millisecond + rand.N(200*time.Millisecond)) // a random moment is the point
		log.await(t, 4*(round+1))
		cmd.Process.Kill()
		<-read
		cmd.Wait()
		if round == 3 {
			if err := os.RemoveAll(filepath.Join(dir, indexName)); err != nil {
				t.Fatal(err)
			}
		}
		a := mustOpen(t, dir, childOptions())
		log.verify(t, a)
		if round%2 == 0 {
			a.Close() // otherwise the next child finds an ASD that was opened and not written to
		} else {
			a.crash(t, 0)
		}
	}
	t.Logf("%d updates acknowledged, none lost", log.acks)
}

// TestPowerCut cuts the power of a real filesystem under the ASD.
func TestPowerCut(t *testing.T) {
	l := newLoopMount(t, 96<<20)
	dir := filepath.Join(l.dir, "asd")
	if _, err := Format(dir, testCluster); err != nil {
		t.Fatal(err)
	}
	log := newChurnLog()
	for round := range 5 {
		a := mustOpen(t, dir, childOptions())
		log.verify(t, a)
		ctx, cancel := context.WithCancel(t.Context())
		churned := make(chan struct{})
		go func() { churn(ctx, a, log.line); close(churned) }()
		time.Sleep(50*time.Millisecond + rand.N(300*time.Millisecond)) // a random moment is the point
		log.await(t, 4*(round+1))
		l.cut()
		cancel()
		<-churned
		a.Close()
		if err := a.Err(); err != nil && !errors.Is(err, ErrFailed) {
			t.Fatal(err)
		}
		l.unmount()
		l.mount()
		if round == 3 {
			if err := os.RemoveAll(filepath.Join(dir, indexName)); err != nil {
				t.Fatal(err)
			}
		}
	}
	a := mustOpen(t, dir, childOptions())
	log.verify(t, a)
	a.Close()
	t.Logf("%d updates acknowledged, none lost", log.acks)
}

func FuzzDecodeFrame(f *testing.F) {
	var fr frame
	ops := []op{
		{kind: opPut, key: []byte("key"), info: []byte("info"), size: 5, payload: [][]byte{[]byte("hello")}, seq: 7},
		{kind: opDelete, key: []byte("other"), seq: 8, prevLo: 1, prevHi: 2},
	}
	ops[0].crcs = blockCRCs(ops[0].payload, 5)
	for i := range ops {
		fr.add(&ops[i])
	}
	_, iov, _ := fr.build(new(BufferPool), frameInfo{epoch: 1, segment: 2, lsn: 3, page: 1})
	f.Add(bytes.Join(iov, nil))
	f.Add([]byte(frameMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeFrame(b)
		if err != nil || len(b) < frameHeader+int(h.metaLen) {
			return
		}
		n := 0
		err = decodeOps(&h, b[frameHeader:frameHeader+int(h.metaLen)], func(o *opView) error {
			n++
			if int64(o.off)+int64(o.size) > h.length() || len(o.crcs) != 4*blocks(o.size) || len(o.key) == 0 {
				t.Fatalf("op makes no sense: %+v", o)
			}
			return nil
		})
		if err == nil && n != int(h.ops) {
			t.Fatalf("%d ops, header says %d", n, h.ops)
		}
	})
}

// FuzzDecodeOps gets past the checksums, which random bytes never do.
func FuzzDecodeOps(f *testing.F) {
	o := op{kind: opPut, key: []byte("key"), info: []byte("info"), size: 100000, seq: 7, crcs: make([]byte, 8)}
	f.Add(o.encode(nil, 4096), uint32(1), uint32(30))
	f.Fuzz(func(t *testing.T, meta []byte, n, pages uint32) {
		h := frameInfo{metaLen: uint32(len(meta)), ops: n, pages: pages, metaCRC: crc32.Checksum(meta, castagnoli)}
		decodeOps(&h, meta, func(o *opView) error {
			if o.size > 0 && (int64(o.off)+int64(o.size) > h.length() || int64(o.off) < frameHeader+int64(h.metaLen)) {
				t.Fatalf("payload outside of the frame: %+v", o)
			}
			return nil
		})
	})
}

func FuzzDecodeEntry(f *testing.F) {
	e := entry{location: location{segment: 1, page: 2, ord: 3, off: 4}, size: 70000, infoLen: 6, seq: 7, crcs: make([]byte, 8)}
	f.Add(e.encode(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeEntry(b); err == nil {
			if f, err := decodeEntry(e.encode(nil)); err != nil || f.location != e.location || f.size != e.size || f.seq != e.seq {
				t.Fatalf("%+v becomes %+v: %v", e, f, err)
			}
		}
	})
}

func FuzzDecodeHeaders(f *testing.F) {
	s := segmentInfo{state: segmentInUse, id: 1, epoch: 2}
	f.Add(s.encode()[:segmentHeader])
	f.Add((&Identity{ASD: ID{1}, Cluster: ID{2}, Version: 1}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeSegmentInfo(b); err == nil && s.id == 0 {
			t.Fatalf("segment without an id: %+v", s)
		}
		if id, err := decodeFormat(b); err == nil && id.Version != formatVersion {
			t.Fatalf("format of version %d", id.Version)
		}
	})
}
