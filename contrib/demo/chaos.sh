#!/bin/sh
# Everything that can happen to disks, to six of them in four processes, one thing after the other, while clients put,
# read and delete: a process is killed, a disk wiped, one made slow, bits are flipped; a new disk is added; in the end
# the key-value store is lost. Each line says what happens. Every read is compared with what was put, and the
# first that is wrong ends it. It takes half a minute, and Go, which builds gabion; nothing stays behind.
#
#	contrib/demo/chaos.sh              the story
#	GABION_LONG=1 contrib/demo/chaos.sh    with more objects, and eight rounds of random losses
#	contrib/demo/chaos.sh --all        and then: bytes of metadata per object, puts and gets beside what the disk can do
set -eu
cd "$(dirname "$0")/../.."
GABION_DEMO=1 go test -count 1 -timeout 30m -run '^TestChaos$' ./tests/chaos -v
if [ "${1:-}" = --all ]; then
	go run ./cmd/gabion bench metadata
	go run ./cmd/gabion bench object
fi
