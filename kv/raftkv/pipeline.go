package raftkv

import (
	"sync"

	"github.com/hashicorp/raft"
)

// pipeline is a stream of entries to a peer that ends when the link falls silent.
//
// It also takes answers from the transport as they come. Raft takes none after the first that is no
// success, while its sender may be waiting for room for another request; the transport only makes room as
// answers are taken. Then both would wait for ever, and with them the replication to that peer and the end
// of the member.
type pipeline struct {
	raft.AppendPipeline
	link    *link
	id      raft.ServerID
	answers chan raft.AppendFuture
	closed  chan struct{}
	close   sync.Once
}

// maxAnswers is how many answers wait for raft. When it takes no more, its sender notices before it has
// sent as many requests: it has two things to choose from at random, and one is to end.
const maxAnswers = 64

func newPipeline(inner raft.AppendPipeline, l *link, id raft.ServerID) *pipeline {
	p := &pipeline{
		AppendPipeline: inner, link: l, id: id,
		answers: make(chan raft.AppendFuture, maxAnswers), closed: make(chan struct{}),
	}
	l.done.Go(p.take)
	return p
}

// take is the goroutine that takes answers.
func (p *pipeline) take() {
	for {
		select {
		case a := <-p.AppendPipeline.Consumer():
			select {
			case p.answers <- a:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

func (p *pipeline) AppendEntries(q *raft.AppendEntriesRequest, a *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.link.silent() {
		return nil, errSilent
	}
	p.link.carry(p.id, q)
	p.link.holds.advance(p.id, q.PrevLogEntry)
	defer p.link.arm(p.id, q.Term)
	return p.AppendPipeline.AppendEntries(q, a)
}

func (p *pipeline) Close() error {
	p.close.Do(func() { close(p.closed) })
	return p.AppendPipeline.Close()
}
