// Package remote carries objstore.Disk over the network: a Server serves the disks of one process, a Disk
// is one of them as its users in other processes see it.
//
// It promises:
//
//   - What Disk returns means what it means of a disk in the same process. PutFragment returns nil only
//     after the disk at the other end has made the fragment durable.
//   - A read moves the bytes that were asked for, from the disk's block checks straight to the caller's memory.
//   - A call that is cut off returns a *LinkError, which is ErrUnreachable, and the next call dials anew.
//     A put or a deletion that was cut off may have happened.
//   - Nobody is heard who is not of the cluster: both sides show certificates, checked before a byte is decoded.
//   - Every length is checked before memory is taken for it, and the memory for what clients send and ask for is
//     bounded together. A client that announces more than is allowed, or sends less than it announced, is cut off.
//
// It assumes of package mux that the handshake says who the peer is, and that the kernel closes connections
// whose peer has fallen silent.
//
// # The protocol
//
// A connection is TLS 1.3 with the ALPN name "gabion-asd/1". It carries one request at a time; a client that
// wants more at once has more connections. So a small request never waits behind a large one, cancelling is
// hanging up, and data goes between the socket and where it belongs without a queue. Integers are big endian.
// A request:
//
//	 0    1     4          8          12           16
//	+----+-----+----------+----------+------------+------+------+
//	| op | 0   | meta len | data len | limit, ms  | meta | data |
//	+----+-----+----------+----------+------------+------+------+
//
// limit is how long the client waits; 0 is without end. The answer:
//
//	 0        1     4          8          12    16
//	+--------+-----+----------+----------+-----+------+------+
//	| status | 0   | meta len | data len | 0   | meta | data |
//	+--------+-----+----------+----------+-----+------+------+
//
// With a status that is not 0 the meta is a text. The first request is hello; it says which disk all others are
// for, and for which cluster of disks the client works: the owner, in the sense of asd.Claim.
//
//	op  name      meta                                                     data      answer: meta; data
//	1   hello     "GBNR" version(2) asd(16) owner(16)
//	2   put       key(22) recovery length(4) recovery, CRC32C(4) per 64 KiB  fragment
//	3   read      key(22) offset(8) length(4)                                         ; the bytes
//	4   recovery  key(22)                                                            ; the recovery information
//	5   has       keys(22 each), up to 4096                                          ; a byte 0 or 1 per key
//	6   delete    keys(22 each), up to 4096
//	7   range     from(22) to(22) limit(4)                                   more(1), then key(22) size(8) each
//	8   stat                                                                total used free own fragments device(8 each) full(1)
//	9   probe
//	10  list                                                                count(2), then each disk:
//	                 asd(16) owner(16) total(8) used(8) free(8) state(1) length(2) folder, length(2) trouble
//	11  claim     asd(16) owner(16)
//	12  release   asd(16) owner(16) wipe(1)
//	13  prefetch  key(22) offset(8) length(4)
//	14  readmany  key(22) offset(8) length(4) each, up to 1024                a status per read; the bytes of all, in
//	                                                                         order, zeroes for those that failed
//
// A hello without an asd, 16 zeroes, is for list, claim and release alone.
package remote
