package meta

import (
	"fmt"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// Kind is what is wrong with a row, or with what it says of others.
type Kind string

// The kinds of problems that Check finds, and what Repair does about each.
const (
	// KindDamaged: the row does not decode. Entries, attributes and orphans are deleted (what they named
	// turns up as unreachable, if it is still there); inodes see Repair.
	KindDamaged Kind = "damaged-row"
	// KindRoot: the root directory is missing or not a directory. A new one is made; what was in it stays.
	KindRoot Kind = "root"
	// KindDangling: an entry names an inode that does not exist. The entry is deleted, or, when it named a
	// directory that still has entries, the directory is made anew.
	KindDangling Kind = "dangling-entry"
	// KindStray: entries are kept under an inode that is missing and that nothing names, or that is no
	// directory. The directory is made anew beneath lost+found; where there is another inode the entry is
	// deleted.
	KindStray Kind = "stray-entry"
	// KindEntryType: the type in an entry is not its inode's. It is corrected.
	KindEntryType Kind = "entry-type"
	// KindCookie: the entry is not where its name hashes to, so a lookup misses it. It is moved there.
	KindCookie Kind = "entry-cookie"
	// KindExtraEntry: a second entry names a directory. It is deleted.
	KindExtraEntry Kind = "extra-entry"
	// KindParent: a directory's own idea of its parent is wrong. It is corrected.
	KindParent Kind = "directory-parent"
	// KindCycle: directories hold each other in a circle that does not reach the root. One of them is
	// moved to lost+found.
	KindCycle Kind = "directory-cycle"
	// KindUnreachable: no entry names the inode, and it is not an orphan. It is linked in lost+found.
	KindUnreachable Kind = "unreachable-inode"
	// KindNlink: the link count is wrong. It is corrected.
	KindNlink Kind = "link-count"
	// KindOrphanMissing: the inode has no links and no orphan row, so it would never be freed. The row is added.
	KindOrphanMissing Kind = "orphan-missing"
	// KindOrphanLinked: an orphan row of an inode that has entries. The row is deleted.
	KindOrphanLinked Kind = "orphan-linked"
	// KindOrphanDangling: an orphan row without an inode. It is deleted.
	KindOrphanDangling Kind = "orphan-dangling"
	// KindXattrDangling: an extended attribute of an inode that does not exist. It is deleted.
	KindXattrDangling Kind = "xattr-dangling"
	// KindXattrCount: the inode counts another number of extended attributes. It is corrected.
	KindXattrCount Kind = "xattr-count"
	// KindFiles: the number of inodes in the volume is wrong. It is corrected.
	KindFiles Kind = "inode-count"
	// KindNext: an inode number in use is not below the next one, so it would be used twice. It is corrected.
	KindNext Kind = "next-inode"
)

// Problem is one finding of Check.
type Problem struct {
	Kind     Kind        `json:"kind"`
	Ino      fs.Ino      `json:"ino,omitempty"`    // the inode concerned; 0 when none is
	Parent   fs.Ino      `json:"parent,omitempty"` // of an entry: the directory
	Name     string      `json:"name,omitempty"`   // of an entry, or of an extended attribute
	Keyspace kv.Keyspace `json:"keyspace"`
	Key      []byte      `json:"key"`  // of the row
	Want     uint64      `json:"want"` // the right count, or type of a damaged inode, where one is known
	Text     string      `json:"text"`
}

func (p Problem) String() string {
	return fmt.Sprintf("%s: %s (row %s/%x)", p.Kind, p.Text, p.Keyspace, p.Key)
}

// Summary is what Check counted.
type Summary struct {
	Inodes      uint64 `json:"inodes"`
	Directories uint64 `json:"directories"`
	Files       uint64 `json:"files"` // regular ones
	Symlinks    uint64 `json:"symlinks"`
	Entries     uint64 `json:"entries"`
	Xattrs      uint64 `json:"xattrs"`
	Orphans     uint64 `json:"orphans"`
	Problems    uint64 `json:"problems"`
}
