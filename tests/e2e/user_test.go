package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gabionfs/gabion/tests/harness"
)

// asUser runs gabion as an ordinary user, in a mount namespace of its own where everybody may open
// /dev/fuse, and uses the mount as that user.
//
// A mount namespace keeps what is mounted when it is made, and with it the mounts of tests beside this one that
// wait for theirs to end: it lets go of them first.
const asUser = `
	awk '$1 ~ "^/dev/loop" || $3 ~ "^fuse" { print $2 }' /proc/mounts | while read m; do umount -lnc "$m" || true; done
	mknod -m 666 "$2/fuse" c 10 229
	mount --bind "$2/fuse" /dev/fuse
	cat > "$2/script" <<-'END'
		"$1" up --data "$2/data" --mount "$2/mnt" --dav 127.0.0.1:0 > "$2/out" 2> "$2/log" & p=$!
		trap 'kill -9 $p 2>/dev/null; fusermount3 -uzq "$2/mnt"; cat "$2/log"' EXIT
		i=0; while ! grep -q "^ready: mount=$2/mnt " "$2/out"; do sleep 0.1; i=$((i+1)); test $i -lt 1800; done
		cd "$2/mnt"; echo hello > f; mkdir d; mv f d/g; ln d/g h; cat h
		test "$(stat -c %u:%g h)" = 1000:1000
		! chown 0 h 2>/dev/null
		cd /; "$1" fsck --data "$2/data"
		kill -TERM $p; wait $p
		! grep -q " $2/mnt " /proc/mounts
		trap - EXIT
	END
	setpriv --reuid 1000 --regid 1000 --clear-groups sh -euc "$(cat "$2/script")" sh "$1" "$2"
`

func TestOrdinaryUser(t *testing.T) {
	harness.NeedRoot(t) // to become somebody else
	harness.NeedMount(t)
	harness.NeedTool(t, "fusermount3")
	harness.NeedTool(t, "setpriv")
	dir, err := os.MkdirTemp("", "gabion-user-") // t.TempDir is not for others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for path, mode := range map[string]os.FileMode{dir: 0o755, filepath.Join(dir, "mnt"): 0o755} {
		if err := os.MkdirAll(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "gabion") // where others may execute it
	raw, err := os.ReadFile(harness.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	c := harness.Go(t, "gabion as an ordinary user", exec.Command("unshare", "-m", "--propagation", "private", "sh", "-euc", asUser, "sh", binary, dir))
	out, err := c.Wait(limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", out)
}

// TestOthers has another user in root's mount, whom permissions keep out of what is not theirs.
func TestOthers(t *testing.T) {
	harness.NeedRoot(t)
	harness.NeedTool(t, "setpriv")
	g := harness.Start(t, harness.Options{})
	// The way to the mount is not for others: they get it as their working directory.
	g.Shell(limit, `
		cd "$1"; echo secret > secret; chmod 600 secret; echo open > open; chmod 644 open
		mkdir -m 1777 tmp; echo mine > tmp/mine; mkdir -m 755 dir
		setpriv --reuid 1000 --regid 1000 --clear-groups sh -euc '
			! cat secret 2>/dev/null; test "$(cat open)" = open; ! echo x 2>/dev/null >> open
			! touch dir/f 2>/dev/null; ! rm -f tmp/mine 2>/dev/null; ! mv tmp/mine tmp/other 2>/dev/null
			echo theirs > tmp/theirs; test "$(stat -c %u tmp/theirs)" = 1000; chmod 4755 tmp/theirs; echo more >> tmp/theirs
			test "$(stat -c %a tmp/theirs)" = 755'
		test "$(cat tmp/mine)" = mine`, g.Mount)
	g.Clean()
	g.Stop()
}
