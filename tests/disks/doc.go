// Package disks takes disks away from gabion, damages what is on them and fills them up. It has no code of
// its own.
package disks
