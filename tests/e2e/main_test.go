package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

func TestMain(m *testing.M) {
	harness.Main(m, map[string]harness.Role{"sql": sql, "crowd": crowd, "davsum": davSum})
}

const limit = 4 * time.Minute // of one step

// goroot returns a folder of Go's sources.
func goroot(t *testing.T, folder string) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src", folder)
}
