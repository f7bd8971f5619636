package raftkv

import (
	"fmt"
	"hash/crc32"
	"runtime/debug"

	"github.com/gabionfs/gabion/kv"
)

// pageCheck compares the pages of a file, which it is given in their order, with their checksums.
type pageCheck struct {
	tree *tree
	free pageSet
	next pageID // the page that comes next
	// Of the page with its overflow that has been seen in part:
	id   pageID
	left int64 // bytes to come
	sum  uint32
}

func newPageCheck(t *tree) (c *pageCheck, err error) {
	defer guard(t.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	c = &pageCheck{tree: t}
	return c, t.freePages(&c.free)
}

// pages takes the next pages, as they are in the file. It fills those with zeroes that nothing leads to.
func (c *pageCheck) pages(b []byte) error {
	size := c.tree.size
	if len(b)%size != 0 {
		return fmt.Errorf("raftkv: a piece of %d bytes is not of whole pages of %d", len(b), size)
	}
	for len(b) > 0 {
		if c.left == 0 {
			if err := c.begin(page(b[:size])); err != nil {
				return err
			}
		}
		n := size
		if c.left == 0 {
			if c.next >= 2 {
				clear(b[:size])
			}
		} else {
			n = int(min(c.left, int64(len(b))))
			c.sum = crc32.Update(c.sum, castagnoli, b[:n])
			if c.left -= int64(n); c.left == 0 {
				if err := c.compare(); err != nil {
					return err
				}
			}
		}
		c.next += pageID(n / size)
		b = b[n:]
	}
	return nil
}

// begin begins with the page that comes next, if it is in use.
func (c *pageCheck) begin(p page) error {
	if c.next < 2 || c.free.has(c.next) { // bbolt makes the meta pages of a copy itself
		return nil
	}
	if _, ok := c.tree.sums.get(c.next); !ok {
		return nil // nothing leads there: reading a page without a checksum is an error
	}
	end := uint64(c.next) + 1 + uint64(p.overflow())
	if p.id() != c.next || end > uint64(c.tree.meta.pages) {
		return c.tree.corrupt("page %d has a header of page %d with %d more", c.next, p.id(), p.overflow())
	}
	c.id, c.sum, c.left = c.next, 0, int64(end-uint64(c.next))*int64(c.tree.size)
	return nil
}

func (c *pageCheck) compare() error {
	if want, _ := c.tree.sums.get(c.id); c.sum != want && !(c.sum == 0 && want == 1) { // see pageSum
		return c.tree.corrupt("page %d does not match its checksum", c.id)
	}
	return nil
}

// end says whether all pages were seen.
func (c *pageCheck) end() error {
	if c.left > 0 || c.next != c.tree.meta.pages {
		return &kv.CorruptError{What: c.tree.path, Err: fmt.Errorf("it ends at page %d of %d", c.next, c.tree.meta.pages)}
	}
	return nil
}
