package main_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// findText returns the files below dir that hold text.
func findText(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreGone(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return ignoreGone(err)
		}
		if bytes.Contains(raw, []byte(text)) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// TestEncrypted is the life of an encrypted filesystem: made, written, stopped, opened with the wrong key and with
// the right one, its key rotated, two disks lost and made good without any key, the secret changed.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data, key, other := filepath.Join(dir, "data"), filepath.Join(dir, "key"), filepath.Join(dir, "other")
	for _, f := range []string{key, other} {
		gabion(t, "key", "new", f).want(t, 0)
	}
	gabion(t, "key", "new", key).want(t, 1, "exists")
	const marker = "plain text marker"
	text := strings.Repeat(marker+"\n", 200_000)
	small := strings.Repeat(marker+" small\n", 100)
	for name, content := range map[string]string{"big": text, "small": small} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func() *process { return up(t, "--data", data, anyPort, "--key-file", key) }
	same := func(p *process) {
		t.Helper()
		sh(t, `for f in big small; do curl -sf "$1$f" | cmp - "$2/$f" || exit 1; done`, p.dav, dir)
	}
	clear := func(when string) {
		t.Helper()
		if found := findText(t, data, marker); len(found) > 0 {
			t.Errorf("%s: content in the clear in %v", when, found)
		}
	}
	p := start()
	sh(t, `for f in big small; do curl -sfT "$2/$f" "$1$f" || exit 1; done`, p.dav, dir)
	same(p)
	clear("while it runs")
	gabion(t, "status", "--data", data).want(t, 0, "encryption aes-256-gcm", "unlocked")
	p.stop()
	clear("when it is stopped")

	gabion(t, "up", "--data", data, anyPort).want(t, 1, "encrypted", "--key-file")
	gabion(t, "up", "--data", data, anyPort, "--key-file", other).want(t, 1, "the key does not fit")
	gabion(t, "status", "--data", data).want(t, 0, "locked")
	gabion(t, "fsck", "--data", data).want(t, 0, "clean")

	p = start()
	same(p)
	gabion(t, "key", "rotate", "--data", data).want(t, 0, "sealed anew")
	gabion(t, "key", "rotate", "--resume", "--data", data).want(t, 0, "the keys of 0 sealed anew")
	gabion(t, "key", "show", "--data", data).want(t, 0, "unlocked", "namespace fs: key 2")
	same(p)
	p.stop()

	for _, lost := range []string{"asd-02", "asd-05"} {
		if err := os.RemoveAll(filepath.Join(data, lost)); err != nil {
			t.Fatal(err)
		}
	}
	for _, disk := range []string{"7", "8"} {
		gabion(t, "asd", "add", filepath.Join(dir, "asd"+disk), "--data", data).want(t, 0, "added disk "+disk)
	}
	gabion(t, "fsck", "--repair", "--data", data).want(t, 1, "less redundancy")
	for _, lost := range []string{"2", "5"} {
		gabion(t, "asd", "purge", lost, "--data", data).want(t, 0) // refused while anything needs it
	}
	gabion(t, "status", "--data", data).want(t, 0, "ok", "locked")

	p = start()
	same(p)
	gabion(t, "key", "change", "--to-key-file", other, "--data", data).want(t, 0)
	p.stop()
	gabion(t, "up", "--data", data, anyPort, "--key-file", key).want(t, 1, "the key does not fit")
	p = up(t, "--data", data, anyPort, "--key-file", other)
	same(p)
	gabion(t, "fsck", "--data-checksums", "--data", data).want(t, 0, "clean")
	p.stop()
	clear("in the end")
}

// TestPassphrase: a namespace of its own is encrypted while the filesystem is not, with a passphrase.
func TestPassphrase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data, pass := filepath.Join(dir, "data"), filepath.Join(dir, "pass")
	if err := os.WriteFile(pass, []byte("correct horse battery staple\nnot this line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(args ...string) result { return gabion(t, append(args, "--data", data)...) }
	p := up(t, "--data", data, anyPort)
	at("preset", "create", "secret", "--encryption", "aes-256-gcm").want(t, 0)
	at("preset", "use", "secret", "vault").want(t, 1, "the key was not given")
	at("preset", "use", "secret", "fs").want(t, 1, "for ever")
	p.stop()
	p = up(t, "--data", data, anyPort, "--passphrase-file", pass)
	at("preset", "use", "secret", "vault").want(t, 0, "used by      vault")
	gabionIn(t, "some secret content", "object", "put", "x", "--namespace", "vault", "--data", data).want(t, 0)
	at("object", "get", "x", "--namespace", "vault").want(t, 0, "some secret content")
	at("key", "show").want(t, 0, "unlocked, opens with a passphrase", "namespace vault: key 1")
	p.stop()
	if found := findText(t, data, "some secret content"); len(found) > 0 {
		t.Errorf("content in the clear in %v", found)
	}
	p = up(t, "--data", data, anyPort) // the filesystem needs no key
	at("object", "get", "x", "--namespace", "vault").want(t, 1, "the key was not given")
	at("object", "stat", "x", "--namespace", "vault").want(t, 0)
	p.stop()
	if err := os.WriteFile(pass, []byte("correct horse battery stable\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	gabion(t, "up", "--data", data, anyPort, "--passphrase-file", pass).want(t, 1, "the key does not fit")
	gabion(t, "up", "--data", data, anyPort, "--passphrase-file", pass, "--key-file", pass).want(t, 2)
}
