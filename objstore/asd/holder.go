package asd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// holder names the process that has a folder locked, as far as the kernel tells.
func holder(dir string) string {
	const unknown = "the other process"
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, formatName), &st); err != nil {
		return unknown
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return unknown
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	for l := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  WRITE 4711 fe:00:131081 0 EOF
		f := strings.Fields(l)
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != file {
			continue
		}
		if name, err := os.ReadFile("/proc/" + f[4] + "/comm"); err == nil {
			return fmt.Sprintf("process %s (%s)", f[4], strings.TrimSpace(string(name)))
		}
		return "process " + f[4]
	}
	return unknown
}
