// Package crypt is the encryption of objects: secrets, keyrings, data keys and frames.
//
//	secret (key file | passphrase)
//	   | HKDF-SHA256 | argon2id, with the keyring's salt
//	key of the keyring  -- seals -->  per namespace: keys 1, 2, ... and a secret that never changes
//	key of the namespace -- seals --> data key of an object: 256 random bits, drawn for each upload
//	data key            -- seals -->  the object's frames, AES-256-GCM
//
// Objects are sealed before they are coded, so checksums, repair and scrub are about ciphertext and need no key.
// What is not hidden: names and sizes of objects, the lengths of compressed frames, when things were written.
//
// # Frames
//
// A frame is up to 128 KiB of an object, compressed if that pays, sealed with a 96-bit nonce:
//
//	0              4             8            12
//	+--------------+-------------+-------------+
//	| encoding     | 0           | frame       |   big endian
//	+--------------+-------------+-------------+
//
// A nonce is used once with a key. A data key belongs to one upload, which draws it at random and never hands it
// to another; 256 random bits do not repeat. Within an upload every time that a chunk is encoded, the first time or
// again because disks failed, takes a new number "encoding" from a counter of the upload; within an encoding each
// frame has its number. So the three together are used for one call of the cipher, and an object that is
// written again, for another policy or preset, is another upload. The manifest keeps "encoding" per chunk.
//
// The associated data say what the frame is and where it belongs, so that frames that were moved between objects,
// or within one, do not open:
//
//	0      3          7         15                    23                 27            28
//	+------+----------+---------+---------------------+------------------+-------------+
//	| GF 1 | namespace| upload  | offset in the object| length, decoded  | compression |
//	+------+----------+---------+---------------------+------------------+-------------+
//
// A frame takes 16 bytes more than its content, the tag.
//
// # Boxes
//
// Keys, and small things beside the objects, are sealed in boxes:
//
//	0              24                    24+n      40+n
//	+--------------+---------------------+---------+
//	| random nonce | content             | tag     |
//	+--------------+---------------------+---------+
//
// The AES key and the nonce of a box are the output of BLAKE3, keyed with the key that seals, over the 24 random
// bytes: a key of its own for each box, so that any number of boxes may be sealed with one key. Associated data say
// what the box holds, and for whom.
//
// # Keyrings
//
//	0      3     4       20      24         28       29
//	+------+-----+-------+-------+----------+--------+--------------------+-------+
//	| GK 1 | kdf | salt  | time  | memory   | lanes  | uvarint n, entries | crc32c|
//	+------+-----+-------+-------+----------+--------+--------------------+-------+
//
// kdf is 1 for a key file and 2 for a passphrase, whose argon2id takes time passes over memory KiB in lanes, all
// little endian; they are 0 for a key file. An entry is: uvarint namespace, uvarint version, a box of 32 bytes.
// Version 0 of a namespace is its secret. Namespace 0, version 0 is there to tell a wrong key from a right one.
// Keys of a namespace that are not the newest stay in the keyring: what lies beside the fragments, from which
// manifests can be rebuilt, was sealed with the key of its time.
package crypt
