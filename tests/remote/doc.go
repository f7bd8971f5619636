// Package remote runs filesystems on disks that other processes serve, and kills those. It has no code of its
// own.
package remote
