// Package recover holds the tests that lose the key-value store, or parts of it, and bring back what the disks
// hold.
package recover
