package asd

// PutSummed is Put for a caller that has the CRC32C of each 64 KiB block of the payload already: they
// are stored instead of being computed again. That also covers the way from there to here: what is
// damaged in between is found when the record is read. With the wrong number of sums it is Put.
func (b *Batch) PutSummed(key, info []byte, sums []uint32, payload ...[]byte) {
	b.Put(key, info, payload...)
	o := &b.ops[len(b.ops)-1]
	if len(sums) != blocks(o.size) || o.size == 0 {
		return
	}
	o.crcs = make([]byte, 0, 4*len(sums))
	for _, s := range sums {
		o.crcs = le.AppendUint32(o.crcs, s)
	}
}
