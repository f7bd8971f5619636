package asd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
)

// Problem is something on a disk that is not as it was written.
type Problem struct {
	// Key of the record that is hit. Nil when a place is damaged and it is not known what was there. When the index is
	// damaged too, records of it may be missing, and records that were replaced or deleted there be back as they were.
	Key     []byte
	Segment uint64 // 0: unknown
	File    string // of the segment, in the folder of the ASD
	Offset  int64  // in that file
	Cause   string
	// Lost is true when the content of the record is lost. Otherwise only its recovery information is.
	Lost bool
}

// Report says what Verify and Recover found.
type Report struct {
	Identity Identity
	Segments int
	Records  int64 // that are intact
	Bytes    int64 // of their payloads
	Lost     int64 // records that are known to be lost
	Damaged  int64 // problems, with those of the records that are lost
	Rebuilt  bool  // the index was lost or damaged: what the segments say counts
}

// Intact reports whether nothing is damaged.
func (r *Report) Intact() bool { return r.Damaged == 0 && !r.Rebuilt }

// SalvageOptions tune Verify and Recover. The zero value is good.
type SalvageOptions struct {
	// Cluster is the cluster of the ASD where its format file is lost or damaged. Zero makes that an error.
	Cluster ID
	// Scratch is a folder for a copy of the index, removed afterwards. Empty means the system's folder for
	// temporary files for Verify, and the new folder for Recover.
	Scratch string
	// Problem is called for each problem as it is found. Nil ignores them.
	Problem func(Problem)
	// Progress is called now and then with the bytes of segments that were read, of all. Nil ignores it.
	Progress func(done, total int64)
	// Logger gets details. Nil discards it.
	Logger *slog.Logger
}

// Verify reads everything in a folder that nobody has open and compares it with its checksums, and the index with the
// segments. Nothing in the folder is changed. What is damaged is in the report; the error, of type *OpenError where the
// folder could not be opened, says that the check could not be carried out.
func Verify(ctx context.Context, dir string, o SalvageOptions) (Report, error) {
	s := &salvage{ctx: ctx, o: o}
	err := s.run(dir, cmp.Or(o.Scratch, os.TempDir()), nil)
	return s.report, err
}

// Recover saves every record of a folder that is intact to a new one, which must not exist or be empty, and becomes the same
// ASD of the same cluster: it may take the place of the old one. Nothing in the old folder is changed. Versions and
// recovery information are kept. The new folder holds no ASD until everything is in it.
func Recover(ctx context.Context, dir, to string, o SalvageOptions) (Report, error) {
	s := &salvage{ctx: ctx, o: o}
	if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return s.report, &OpenError{to, err, "cannot create the folder"}
	}
	if err := checkEmpty(to); err != nil {
		return s.report, err
	}
	part := filepath.Join(to, "recovering")
	err := s.run(dir, cmp.Or(o.Scratch, to), func(src *ASD) (err error) {
		if s.out, err = newTarget(s.ctx, part, src); err != nil {
			return err
		}
		return nil
	})
	if s.out != nil {
		err = errors.Join(err, s.out.Close())
	}
	if err != nil {
		return s.report, errors.Join(err, os.RemoveAll(part))
	}
	return s.report, publishTarget(part, to)
}

// newTarget makes an ASD with the identity of another.
func newTarget(ctx context.Context, dir string, src *ASD) (*ASD, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	id := src.identity
	if err := writeFormat(dir, &id); err != nil {
		return nil, err
	}
	return Open(ctx, dir, Options{Logger: src.opts.Logger, SegmentSize: src.largestSegment(),
		Compaction: Compaction{Mode: CompactManual}})
}

// largestSegment is a segment size in which every record of the ASD has room; zero when the usual one will do.
func (a *ASD) largestSegment() int64 {
	var size int64
	for _, s := range a.table.segments {
		size = max(size, s.allocated)
	}
	if size <= a.segmentSize {
		return 0
	}
	return min(size, 4<<30)
}

// publishTarget moves an ASD one folder up; the format file, which makes it one, last.
func publishTarget(from, to string) error {
	list, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	move := func(name string) error { return os.Rename(filepath.Join(from, name), filepath.Join(to, name)) }
	for _, e := range list {
		if e.Name() != formatName {
			if err := move(e.Name()); err != nil {
				return err
			}
		}
	}
	if err := syncDir(to); err != nil {
		return err
	}
	if err := errors.Join(move(formatName), os.Remove(from)); err != nil {
		return err
	}
	return errors.Join(syncDir(to), syncDir(filepath.Dir(filepath.Clean(to))))
}

// salvage is one run.
type salvage struct {
	ctx    context.Context
	o      SalvageOptions
	src    *ASD
	out    *ASD // nil to verify only
	report Report

	done, total int64
	good        map[uint64]map[uint32]bool // by segment, the pages of frames that are whole
	seen        int64                      // records that the segments and the index agree on

	ops   []op
	bytes int64
	bufs  []*Buffer
}

func (s *salvage) run(dir, scratch string, ready func(src *ASD) error) (err error) {
	home, err := os.MkdirTemp(scratch, ".salvage-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	if s.src, err = openSalvage(s.ctx, dir, home, &s.o, &s.report); err != nil {
		return err
	}
	defer s.src.abandon()
	s.report.Identity = s.src.identity
	if ready != nil {
		if err := ready(s.src); err != nil {
			return err
		}
	}
	return s.everything()
}

// openSalvage opens a folder with its index in another, and changes nothing in it.
func openSalvage(ctx context.Context, dir, home string, o *SalvageOptions, r *Report) (_ *ASD, err error) {
	a := &ASD{dir: dir, home: home, salvage: true, opts: Options{Logger: o.Logger}, log: o.Logger,
		kick: make(chan struct{}, 1), stop: make(chan struct{})}
	defer func() {
		if err != nil {
			a.abandon()
		}
	}()
	if a.lock, err = lockFormat(dir); err == nil {
		a.identity, err = readFormat(dir, a.lock)
	}
	if errors.Is(err, ErrMissing) || errors.Is(err, ErrDamaged) {
		if a.identity, err = inferIdentity(dir, o.Cluster, err); err == nil {
			r.Damaged++
			if o.Problem != nil {
				o.Problem(Problem{Cause: "the format file is lost or damaged"})
			}
		}
	}
	if err != nil {
		return nil, err
	}
	a.defaults()
	if err := a.sizes(); err != nil {
		return nil, err
	}
	from := filepath.Join(dir, indexName)
	if _, serr := os.Stat(from + ".rebuild"); serr == nil {
		err = markRebuild(home)
	} else if err = os.CopyFS(filepath.Join(home, indexName), os.DirFS(from)); err != nil && ctx.Err() == nil {
		a.log.Error("the index cannot be read", "error", err)
		err = markRebuild(home)
	}
	if err == nil {
		err = os.MkdirAll(filepath.Join(home, indexName), 0o700)
	}
	if err != nil {
		return nil, err
	}
	return a, a.openSalvaged(ctx, r)
}

// openSalvaged brings the copy of the index and the segments together.
func (a *ASD) openSalvaged(ctx context.Context, r *Report) error {
	if err := a.recover(ctx); err != nil {
		return err
	}
	// A look at every block of the index, so that damage of it is found before anything relies on it.
	if err := a.withIndex(func(x *index) error {
		return x.scan(nil, nil, func([]byte, *entry) (bool, error) { return true, ctx.Err() })
	}); err != nil {
		return err
	}
	a.indexMu.RLock()
	defer a.indexMu.RUnlock()
	r.Rebuilt = a.rebuilt
	return nil
}

// inferIdentity finds out from the segments which ASD a folder without a format file is.
func inferIdentity(dir string, cluster ID, cause error) (Identity, error) {
	list, err := filepath.Glob(filepath.Join(dir, segmentsName, "*.seg"))
	if err != nil || len(list) == 0 {
		return Identity{}, cause
	}
	votes := make(map[ID]int)
	id := Identity{Cluster: cluster, Version: formatVersion}
	for _, name := range list {
		var ff foundFile
		if ff.read(name); ff.err == nil {
			if votes[ff.info.asd]++; votes[ff.info.asd] > votes[id.ASD] {
				id.ASD = ff.info.asd
			}
		}
	}
	switch {
	case id.ASD.IsZero():
		return Identity{}, cause
	case cluster.IsZero():
		return Identity{}, fmt.Errorf("%w; its segments are of ASD %s: name its cluster to go on", cause, id.ASD)
	}
	return id, nil
}

func (s *salvage) problem(p Problem) {
	if seg := s.src.table.segments[p.Segment]; seg != nil {
		p.File = filepath.Join(segmentsName, filepath.Base(seg.path))
	}
	s.report.Damaged++
	if p.Lost {
		s.report.Lost++
	}
	if s.o.Problem != nil {
		s.o.Problem(p)
	}
}

// everything looks at all segments, and then at what the index knows besides.
func (s *salvage) everything() error {
	defer s.free()
	segs := make([]*segment, 0, len(s.src.table.segments))
	for _, seg := range s.src.table.segments {
		if segs = append(segs, seg); !seg.missing {
			s.total += seg.state.end
		}
	}
	slices.SortFunc(segs, func(x, y *segment) int { return cmp.Compare(x.id, y.id) })
	s.good = make(map[uint64]map[uint32]bool)
	for _, seg := range segs {
		if seg.missing {
			continue
		}
		s.report.Segments++
		if err := s.segment(seg); err != nil {
			return fmt.Errorf("asd %s: segment %d: %w", s.src.dir, seg.id, err)
		}
		s.done += seg.state.end
	}
	if s.report.Rebuilt {
		s.nameless()
	}
	if len(segs) > 0 {
		s.tail(segs[len(segs)-1])
	}
	if err := s.strays(); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	s.progress(s.total)
	return cmp.Or(s.src.Err(), s.ctx.Err())
}

// nameless says which files may have been segments. With an index, it knows.
func (s *salvage) nameless() {
	for _, pf := range s.src.table.pool {
		var ff foundFile
		path := segmentPath(s.src.dir, pf.slot)
		if ff.read(path); ff.err != nil && ff.size > segmentStart {
			s.problem(Problem{File: filepath.Join(segmentsName, filepath.Base(path)),
				Cause: "its header is damaged, and nothing in it tells whether it was in use: " + ff.err.Error()})
		}
	}
}

// tail says where the newest segment ends with a frame that is not whole. That is what a crash leaves of a write that was
// never acknowledged, but without a whole index nobody can tell.
func (s *salvage) tail(seg *segment) {
	f, err := os.Open(seg.path)
	if err != nil {
		return
	}
	defer f.Close()
	b := make([]byte, frameHeader)
	if _, err := f.ReadAt(b, seg.state.end); err != nil {
		return
	}
	if s.report.Rebuilt || string(b[:8]) == frameMagic && le.Uint64(b[8:]) == seg.epoch {
		s.problem(Problem{Segment: seg.id, Offset: seg.state.end, Cause: "nothing is whole from here on: it was being written in a crash, or is damaged"})
	}
}

func (s *salvage) progress(done int64) {
	if s.o.Progress != nil {
		s.o.Progress(done, s.total)
	}
}

func (s *salvage) segment(seg *segment) error {
	good := make(map[uint32]bool)
	s.good[seg.id] = good
	frames := 0
	err := s.src.walkFrames(seg, func(h *frameInfo) {
		good[h.page] = true
		if frames++; frames%64 == 0 {
			s.progress(s.done + h.offset())
		}
	}, func(h *frameInfo, o *opView) error {
		if err := s.ctx.Err(); err != nil || o.kind != opPut || !good[h.page] {
			return err
		}
		e, err := s.src.lookup(o.key)
		if err != nil || e == nil || e.seq != o.seq || e.location != o.entry(h).location {
			return err
		}
		s.seen++
		return s.record(seg, bytes.Clone(o.key), bytes.Clone(o.info), e)
	}, func(off int64, err error) {
		s.problem(Problem{Segment: seg.id, Offset: off, Cause: err.Error()})
	})
	var pe *fs.PathError
	if err != nil && s.ctx.Err() == nil && errors.As(err, &pe) && s.src.Err() == nil {
		s.problem(Problem{Segment: seg.id, Cause: err.Error()}) // the disk does not give it
		return nil
	}
	return err
}

// record reads and verifies a record, and saves it.
func (s *salvage) record(seg *segment, key, info []byte, e *entry) error {
	b := s.src.buffers.Get(e.size)
	p := b.Bytes()
	if err := s.src.readSection(seg, key, e, 0, p); err != nil {
		b.Free()
		s.lost(key, e, err)
		return nil
	}
	s.report.Records++
	s.report.Bytes += int64(e.size)
	if s.out == nil {
		b.Free()
		return nil
	}
	o := op{kind: opPut, move: true, key: key, info: info, payload: [][]byte{p}, size: e.size, crcs: e.crcs, seq: e.seq}
	size := o.metaLen() + pageCeil(int64(e.size))
	if len(s.ops) > 0 && (len(s.ops) == MaxBatchOps || s.bytes+size > min(compactBatch, s.out.MaxBatchBytes())) {
		if err := s.flush(); err != nil {
			b.Free()
			return err
		}
	}
	s.ops, s.bufs, s.bytes = append(s.ops, o), append(s.bufs, b), s.bytes+size
	return nil
}

func (s *salvage) lost(key []byte, e *entry, err error) {
	p := Problem{Key: key, Segment: e.segment, Offset: e.payloadOffset(), Cause: err.Error(), Lost: true}
	var ce *CorruptError
	if errors.As(err, &ce) {
		p.Offset, p.Cause = ce.Offset, ce.Detail
	}
	s.problem(p)
}

// flush writes what was gathered.
func (s *salvage) flush() error {
	if len(s.ops) == 0 {
		return nil
	}
	defer s.free()
	if err := s.out.submit(&request{ops: s.ops, class: classRestore}); err != nil {
		return err
	}
	if s.out.tooMuchPending() {
		return s.out.syncUntil(s.out.lastWritten())
	}
	return nil
}

func (s *salvage) free() {
	for _, b := range s.bufs {
		b.Free()
	}
	s.ops, s.bufs, s.bytes = nil, nil, 0
}

// strays are records that the index knows and whose frame is not there, or not whole.
func (s *salvage) strays() error {
	const page = 4096
	var from []byte
	var inGood int64
	for {
		list, err := s.src.entries(from, nil, func(l []found) bool { return len(l) < page })
		if err != nil {
			return err
		}
		for _, f := range list {
			if s.good[f.e.segment][f.e.page] {
				inGood++
			} else if err := s.stray(f); err != nil {
				return err
			}
		}
		if len(list) < page {
			break
		}
		from = append(list[len(list)-1].key, 0)
	}
	if inGood != s.seen {
		s.problem(Problem{Cause: fmt.Sprintf("the index names %d records that are not where it says; move it away to go by the segments alone", inGood-s.seen)})
	}
	return nil
}

func (s *salvage) stray(f found) error {
	seg := s.src.table.segments[f.e.segment]
	if seg == nil || seg.missing {
		s.lost(f.key, f.e, errors.New("the segment file is missing"))
		return nil
	}
	before := s.report.Records
	if err := s.record(seg, f.key, nil, f.e); err != nil {
		return err
	}
	if s.report.Records > before {
		s.problem(Problem{Key: f.key, Segment: f.e.segment, Offset: int64(f.e.page) * pageSize,
			Cause: "its recovery information is lost with the header of its frame"})
	}
	return nil
}

// stageRestored adds puts with the versions that they have.
func (a *ASD) stageRestored(g *group, r *request) error {
	for i := range r.ops {
		o := &r.ops[i]
		old, err := a.current(g, o.key)
		if err != nil {
			return err
		}
		a.writer.seq = max(a.writer.seq, o.seq)
		e := o.entry(a.table.active.seg.id)
		g.add(o, &pendingOp{key: string(o.key), cur: e, old: old, cost: e.cost(len(o.key))})
	}
	return nil
}
