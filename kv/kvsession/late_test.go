package kvsession

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// script is a member that acknowledges at once and leaves the answers to questions to the test.
type script struct {
	answers chan *kvpb.SessionResponse
	reads   chan *kvpb.SessionRead
	batches chan uint64
	closed  chan struct{}
	empty   bool // there is nothing: questions about keys are answered at once
}

func newScript() *script {
	return &script{make(chan *kvpb.SessionResponse, 100), make(chan *kvpb.SessionRead, 100), make(chan uint64, 10_000), make(chan struct{}), false}
}

func (c *script) Dial(context.Context, error) (Conn, error) { return c, nil }

func (c *script) Close() {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
}

func (c *script) Recv() (*kvpb.SessionResponse, error) {
	select {
	case m := <-c.answers:
		return m, nil
	case <-c.closed:
		return nil, errors.New("closed")
	}
}

func (c *script) Send(m *kvpb.SessionRequest) error {
	switch r := m.GetRequest().(type) {
	case *kvpb.SessionRequest_Open:
		c.answers <- &kvpb.SessionResponse{Response: &kvpb.SessionResponse_Opened{Opened: &kvpb.SessionOpened{Epoch: 1}}}
	case *kvpb.SessionRequest_Renew:
		c.answers <- &kvpb.SessionResponse{Response: &kvpb.SessionResponse_Renewed{Renewed: &kvpb.SessionRenewed{Id: r.Renew.GetId()}}}
	case *kvpb.SessionRequest_Release:
		c.answers <- &kvpb.SessionResponse{Response: &kvpb.SessionResponse_Released{Released: &kvpb.SessionReleased{}}}
	case *kvpb.SessionRequest_Batch:
		c.batches <- r.Batch.GetNumber()
		c.answers <- &kvpb.SessionResponse{Response: &kvpb.SessionResponse_Durable{Durable: &kvpb.SessionDurable{Number: r.Batch.GetNumber()}}}
	case *kvpb.SessionRequest_Read:
		if len(r.Read.GetKeys()) > 0 && c.empty {
			rows := &kvpb.SessionRows{Id: r.Read.GetId()}
			for range r.Read.GetKeys() {
				rows.Rows = append(rows.Rows, &kvpb.SessionRow{Absent: true})
			}
			c.answer(rows)
			break
		}
		c.reads <- r.Read
	}
	return nil
}

func (c *script) answer(r *kvpb.SessionRows) {
	c.answers <- &kvpb.SessionResponse{Response: &kvpb.SessionResponse_Rows{Rows: r}}
}

func openScript(t *testing.T, o Options, empty bool) (*Session, *script) {
	t.Helper()
	c := newScript()
	c.empty = empty
	o.Owner, o.TTL = "o", time.Hour
	s, err := OpenWith(context.Background(), c, "s", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, c
}

func (s *Session) mustPut(t *testing.T, ks kv.Keyspace, key, value string) {
	t.Helper()
	if err := s.Update(context.Background(), kv.Ordered, func(tx kv.Txn) error { tx.Put(ks, []byte(key), []byte(value)); return nil }); err != nil {
		t.Fatal(err)
	}
}

// TestLateAnswer: an answer that was given before a batch was applied arrives after the batch is
// acknowledged and everything that may be forgotten is forgotten. It must not undo the batch.
func TestLateAnswer(t *testing.T) {
	ctx := context.Background()
	s, c := openScript(t, Options{CacheBytes: 1, Window: time.Hour}, true)
	s.mustPut(t, "a", "k", "new")
	got := make(chan string, 1)
	go func() {
		_ = s.View(ctx, kv.Pending, func(r kv.Reader) error {
			_, _ = r.Get("a", []byte("j"))
			v, err := r.Get("a", []byte("k"))
			got <- fmt.Sprintf("%s %v", v, err)
			return nil
		})
	}()
	q := <-c.reads // the member looks now, and has nothing
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		s.mustPut(t, "other", fmt.Sprint(i), "x")
		if err := s.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c.answer(&kvpb.SessionRows{Id: q.GetId(), End: true})
	if v := <-got; v != "new <nil>" {
		t.Errorf("the view shows %q", v)
	}
	if v, known := s.table.get("a", []byte("k"), s.seq); !known || string(v) != "new" {
		t.Errorf("the table has %q, %v", v, known)
	}
}

// TestOldView: a batch that overwrites what an older view may want to see is not sent before the session
// knows what that was.
func TestOldView(t *testing.T) {
	ctx := context.Background()
	s, c := openScript(t, Options{Window: time.Hour}, false)
	look, seen := make(chan struct{}), make(chan string, 1)
	began := make(chan struct{})
	go func() {
		_ = s.View(ctx, kv.Pending, func(r kv.Reader) error {
			close(began)
			<-look
			v, err := r.Get("a", []byte("k"))
			seen <- fmt.Sprintf("%s %v", v, err)
			return nil
		})
	}()
	<-began
	s.mustPut(t, "a", "k", "new")
	synced := make(chan error, 1)
	go func() { synced <- s.Sync(ctx) }()
	var q *kvpb.SessionRead
	select {
	case q = <-c.reads:
	case n := <-c.batches:
		t.Fatalf("batch %d was sent", n)
	}
	if len(q.GetKeys()) != 1 || string(q.GetKeys()[0].GetKey()) != "k" {
		t.Fatalf("asked for %v", q)
	}
	c.answer(&kvpb.SessionRows{Id: q.GetId(), Rows: []*kvpb.SessionRow{{Value: []byte("old")}}})
	if err := <-synced; err != nil {
		t.Fatal(err)
	}
	close(look)
	if v := <-seen; v != "old <nil>" {
		t.Errorf("the old view shows %q", v)
	}
	if v, known := s.table.get("a", []byte("k"), s.seq); !known || string(v) != "new" {
		t.Errorf("the table has %q, %v", v, known)
	}
}

// TestTurns: a transaction that waits for the member lets others go first, and is evaluated again on what
// they did. In the end it is not starved.
func TestTurns(t *testing.T) {
	ctx := context.Background()
	s, c := openScript(t, Options{}, false)
	runs := 0
	done := make(chan error, 1)
	go func() {
		done <- s.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
			runs++
			v, err := tx.Get("a", []byte("n"))
			if err != nil && !errors.Is(err, kv.ErrNotFound) {
				return err
			}
			if _, err := tx.Get("a", fmt.Appendf(nil, "far %d", runs)); err != nil && !errors.Is(err, kv.ErrNotFound) {
				return err
			}
			tx.Put("a", []byte("n"), append(v, 'x'))
			return nil
		})
	}()
	empty := func(q *kvpb.SessionRead) { // only of the key itself
		c.answer(&kvpb.SessionRows{Id: q.GetId(), Low: q.GetKey(), High: append(q.GetKey(), 0)})
	}
	others := 0
	for others < 20 {
		select {
		case q := <-c.reads:
			s.seqMu.Lock()
			alone := s.alone != nil // then it would have to wait
			s.seqMu.Unlock()
			if !alone {
				s.mustPut(t, "a", "n", "o")
				others++
			}
			empty(q)
			continue
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		}
		break
	}
	if runs != maxRuns+1 || others < maxRuns || others == 20 {
		t.Errorf("evaluated %d times while %d others were", runs, others)
	}
	if v, _ := s.table.get("a", []byte("n"), s.seq); string(v) != "ox" {
		t.Errorf("the transaction left %q", v)
	}
}
