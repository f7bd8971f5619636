package maint

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manager"
)

// Every disk holds a label of every namespace, as fragments of namespace 0, which there is not: the object's
// id is the number of the namespace, and the data is
//
//	"GL" 01   magic and version
//	JSON      of a manager.Label
//	u32       CRC32C of everything before, little endian
const (
	labelMagic = "GL\x01"
	maxLabel   = 1 << 20
)

// isLabel tells labels of namespaces from what else is in namespace 0.
func isLabel(k objstore.FragmentKey) bool { return k == labelKey(uint32(k.Object)) }

func labelKey(ns uint32) objstore.FragmentKey { return objstore.FragmentKey{Object: uint64(ns)} }

func encodeLabel(l manager.Label) []byte {
	b, err := json.Marshal(l)
	if err != nil {
		panic(fmt.Sprintf("objstore: a label does not encode: %v", err)) // plain structs always do
	}
	b = append([]byte(labelMagic), b...)
	return binary.LittleEndian.AppendUint32(b, crc.Sum(b))
}

func decodeLabel(b []byte) (manager.Label, error) {
	bad := func(err error) (manager.Label, error) {
		return manager.Label{}, &objstore.CorruptError{What: "label of a namespace", Err: err}
	}
	if len(b) < len(labelMagic)+4 || string(b[:2]) != labelMagic[:2] {
		return bad(errors.New("no magic"))
	}
	body := b[:len(b)-4]
	if got, want := crc.Sum(body), binary.LittleEndian.Uint32(b[len(body):]); got != want {
		return bad(fmt.Errorf("checksum %08x, expected %08x", got, want))
	}
	if body[2] != labelMagic[2] {
		return bad(fmt.Errorf("version %d, this program knows %d", body[2], labelMagic[2]))
	}
	l, err := manager.ParseLabel(body[len(labelMagic):])
	if err != nil {
		return bad(err)
	}
	return l, nil
}

// Label writes the labels of all namespaces, and the keyring, on every disk that lacks them and takes anything; those
// that nobody knows stay: the store may have lost them. It is done before a namespace is used, and again when disks
// come. A disk that fails is left to later; the error is that of none having taken everything.
func (m *Maint) Label(ctx context.Context) error {
	took, err := m.label(ctx)
	if took > 0 {
		if err != nil {
			m.log.Warn("some disks lack labels for now", "error", err)
		}
		return nil
	}
	return err
}

// Labelled tells whether this process knows that the label of a namespace is on disks.
func (m *Maint) Labelled(ns uint32) bool {
	m.labelling.Lock()
	defer m.labelling.Unlock()
	return m.namesOnDisks[ns]
}

// label is Label that says how many disks have everything, and what went wrong at others.
func (m *Maint) label(ctx context.Context) (took int, err error) {
	m.labelling.Lock()
	defer m.labelling.Unlock()
	want, err := m.wanted(ctx)
	if err != nil {
		return 0, err
	}
	var disks []*manager.Disk
	for _, d := range m.o.Disks.Disks() {
		if d.Writable() {
			disks = append(disks, d)
		}
	}
	errs := make([]error, len(disks))
	had := make([]map[objstore.FragmentKey]string, len(disks))
	var wg sync.WaitGroup
	for i, d := range disks {
		is := maps.Clone(m.labels[d.ASD()])
		if is == nil {
			is = make(map[objstore.FragmentKey]string)
		}
		had[i] = is
		wg.Go(func() {
			for _, l := range want {
				if is[l.key] == l.content {
					continue
				}
				if err := m.writeLabel(ctx, d, l); err != nil {
					errs[i] = fmt.Errorf("%s to disk %d: %w", l.what, d.ID(), err)
					return
				}
				is[l.key] = l.content
			}
		})
	}
	wg.Wait()
	for i, d := range disks {
		m.labels[d.ASD()] = had[i]
		if errs[i] == nil {
			took++
		}
	}
	for _, l := range want {
		if took > 0 && l.key != keyringKey {
			m.namesOnDisks[uint32(l.key.Object)] = true
		}
	}
	return took, errors.Join(errs...)
}

// label is what is to be on every disk under a key.
type label struct {
	key     objstore.FragmentKey
	content string
	what    string // for people
}

// wanted returns the labels as they are now, least number first, and the keyring before them.
func (m *Maint) wanted(ctx context.Context) (out []label, err error) {
	ring, err := m.o.Disks.Keyring(ctx)
	if err == nil {
		content, err := m.nextKeyring(ctx, ring.Encode())
		if err != nil {
			return nil, err
		}
		out = append(out, label{keyringKey, string(content), "keyring"})
	} else if !errors.Is(err, objstore.ErrNotFound) {
		return nil, err
	}
	labels, err := m.o.Disks.Labels(ctx)
	for _, l := range labels {
		out = append(out, label{labelKey(l.Number), string(encodeLabel(l)), "label of namespace " + l.Name})
	}
	return out, err
}

func (m *Maint) writeLabel(ctx context.Context, d *manager.Disk, l label) error {
	err := d.Do(ctx, func(dev objstore.Disk) error {
		if is, err := readLabel(ctx, dev, l.key); err == nil && string(is) == l.content {
			return nil
		}
		b := bufpool.Alloc((len(l.content) + bufpool.Align - 1) / bufpool.Align * bufpool.Align)[:len(l.content)]
		copy(b, l.content)
		return dev.PutFragment(ctx, l.key, nil, b, crc.Blocks(nil, b))
	})
	m.o.Disks.Observe(d, err)
	return err
}

// readLabel returns a label's bytes.
func readLabel(ctx context.Context, dev objstore.Disk, key objstore.FragmentKey) ([]byte, error) {
	size := int64(-1)
	err := dev.Range(ctx, key, key.Next(), func(f objstore.FragmentInfo) bool { size = f.Size; return false })
	switch {
	case err != nil:
		return nil, err
	case size < 0:
		return nil, objstore.ErrNoFragment
	case size > maxLabel:
		return nil, &objstore.CorruptError{What: "label of a namespace", Err: fmt.Errorf("%d bytes", size)}
	}
	b := make([]byte, size)
	return b, dev.ReadFragment(ctx, key, 0, b)
}

// Namespaces returns the labels of all namespaces of which the disks that are up hold anything, by number. One
// of which no label is left has only a number.
func Namespaces(ctx context.Context, disks *manager.Manager) ([]manager.Label, error) {
	found := make(map[uint32]manager.Label)
	for _, d := range disks.Disks() {
		if !d.Readable() {
			continue
		}
		var numbers []uint32
		var labels []manager.Label
		err := d.Do(ctx, func(dev objstore.Disk) (err error) {
			numbers, labels, err = namespacesOn(ctx, dev)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("objstore: namespaces on disk %d: %w", d.ID(), err)
		}
		for _, n := range numbers {
			if _, ok := found[n]; !ok {
				found[n] = manager.Label{Number: n}
			}
		}
		for _, l := range labels {
			if is, ok := found[l.Number]; !ok || is.Name == "" || newer(l, is) {
				found[l.Number] = l
			}
		}
	}
	var out []manager.Label
	for _, l := range found {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b manager.Label) int { return int(int64(a.Number) - int64(b.Number)) })
	return out, nil
}

// newer tells whether a is a later label than b: disks that were away have old ones. The version of the preset
// tells.
func newer(a, b manager.Label) bool {
	version := func(l manager.Label) (p struct{ Version uint32 }) {
		_ = json.Unmarshal(l.Preset, &p) // without one it is the oldest
		return p
	}
	return version(a).Version > version(b).Version
}

func namespacesOn(ctx context.Context, dev objstore.Disk) (numbers []uint32, labels []manager.Label, err error) {
	var keys []objstore.FragmentKey
	err = dev.Range(ctx, objstore.FragmentKey{}, objstore.FragmentKey{Namespace: 1}, func(f objstore.FragmentInfo) bool {
		keys = append(keys, f.Key)
		return true
	})
	if err != nil {
		return nil, nil, err
	}
	for _, k := range keys {
		if !isLabel(k) {
			continue
		}
		b, err := readLabel(ctx, dev, k)
		var l manager.Label
		if err == nil {
			l, err = decodeLabel(b)
		}
		var corrupt *objstore.CorruptError
		if errors.As(err, &corrupt) || err == nil && labelKey(l.Number) != k {
			continue // another disk has it
		}
		if err != nil {
			return nil, nil, err
		}
		labels = append(labels, l)
	}
	for at := (objstore.FragmentKey{Namespace: 1}); at.Namespace != 0; at = (objstore.FragmentKey{Namespace: at.Namespace + 1}) {
		ok := false
		err := dev.Range(ctx, at, objstore.FragmentKey{Namespace: 1<<32 - 1}, func(f objstore.FragmentInfo) bool {
			at, ok = f.Key, true
			return false
		})
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			break
		}
		numbers = append(numbers, at.Namespace)
	}
	return numbers, labels, nil
}
