package fsx

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/gabionfs/gabion/tests/harness"
)

const (
	pairs    = 6   // of files that are worked on at the same time
	kept     = 60  // operations that are shown when something is wrong
	checkAll = 100 // operations after which a whole file is compared
)

// run does a phase: it wants every file to be as the model directory has it, does random operations, and
// leaves the new content there.
func run(args []string) error {
	dir, model := args[0], args[1]
	seed, err1 := strconv.ParseUint(args[2], 10, 64)
	ops, err2 := strconv.Atoi(args[4])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, pairs)
	for i := range pairs {
		p := &pair{r: harness.Rand(seed, fmt.Sprint(args[3], "/", i)), limit: 600_000, most: 70_000, sync: args[5] == "true"}
		if i%3 == 0 {
			p.limit, p.most = 10<<20, 1_300_000
		}
		for j, name := range []string{"a", "b"} {
			name = fmt.Sprint(i, "-", name)
			p.files[j] = &file{pair: p, name: name, path: filepath.Join(dir, name), model: filepath.Join(model, name)}
		}
		wg.Go(func() {
			if err := p.run(ops); err != nil {
				errs[i] = fmt.Errorf("%w\nthe last operations:\n%s", err, strings.Join(p.log, "\n"))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Printf("%d operations on each of %d pairs of files agree with the model, synced at the end: %s\n", ops, pairs, args[5])
	return nil
}

// pair is two files that one goroutine works on.
type pair struct {
	r     *rand.Rand
	limit int  // of a file's size
	most  int  // bytes of one operation
	sync  bool // everything at the end
	files [2]*file
	log   []string
}

func (p *pair) note(format string, args ...any) {
	if len(p.log) == kept {
		p.log = p.log[1:]
	}
	p.log = append(p.log, fmt.Sprintf(format, args...))
}

func (p *pair) run(ops int) error {
	for _, f := range p.files {
		if err := f.load(); err != nil {
			return err
		}
		defer f.close()
	}
	for n := range ops {
		f := p.files[p.r.IntN(2)]
		if err := f.step(n); err != nil {
			return fmt.Errorf("operation %d: %s: %w", n, f.name, err)
		}
		if f.size() > p.limit {
			if err := f.truncate(p.r.IntN(p.limit)); err != nil {
				return err
			}
		}
	}
	for _, f := range p.files {
		if err := f.whole(); err != nil {
			return fmt.Errorf("at the end: %w", err)
		}
		if p.sync {
			if err := f.fd.Sync(); err != nil {
				return err
			}
		}
		if err := f.close(); err != nil {
			return err
		}
		if err := os.WriteFile(f.model, f.want, 0o644); err != nil {
			return err
		}
	}
	return nil
}
