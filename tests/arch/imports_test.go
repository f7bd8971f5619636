package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/gabionfs/gabion"

// layers from right to left of the arrow cmd -> dav -> fs -> objstore -> kv: a package may import its
// own layer and those with a lower rank.
var layers = map[string]int{"kv": 1, "objstore": 2, "fs": 3, "dav": 4, "cmd": 5}

// free are the trees that may use any layer and that no layer may use.
var free = map[string]bool{"tests": true, "contrib": true}

type pkg struct {
	ImportPath   string
	Dir          string
	Doc          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func listPackages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Doc,GoFiles,Imports,TestImports,XTestImports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < len(layers) {
		t.Fatalf("go list found only %d packages", len(pkgs))
	}
	return pkgs
}

// inside splits an import path of this module into its layer and whether it is the layer's root.
func inside(path string) (layer string, root, ok bool) {
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return "", false, false
	}
	layer, below, _ := strings.Cut(rest, "/")
	return layer, below == "", true
}

// arrow says why from may not import to, or "".
func arrow(from, to string) string {
	tl, _, ok := inside(to)
	if !ok {
		return ""
	}
	fl, root, _ := inside(from)
	if free[fl] {
		return ""
	}
	if free[tl] {
		return "nothing may import " + tl
	}
	fr, fok := layers[fl]
	tr, tok := layers[tl]
	switch {
	case !fok || !tok:
		return "not a layer of the design"
	case tr > fr:
		return "imports only go right: cmd -> dav -> fs -> objstore -> kv"
	case root && tr == fr:
		return "the root package of a layer imports nothing below it"
	}
	return ""
}

func TestImportArrows(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, to := range p.Imports {
			if why := arrow(p.ImportPath, to); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, to, why)
			}
		}
		// A test may use any package to the right, and the suites and models of its own layer.
		for _, to := range append(p.TestImports, p.XTestImports...) {
			if to == p.ImportPath {
				continue
			}
			if why := arrow(p.ImportPath+"/test", to); why != "" {
				t.Errorf("test of %s imports %s: %s", p.ImportPath, to, why)
			}
		}
	}
}

// TestArrowRule shows that the rule can fail.
func TestArrowRule(t *testing.T) {
	for _, c := range []struct {
		from, to string
		bad      bool
	}{
		{"cmd/gabion", "kv/raftkv", false},
		{"fs/meta", "kv", false},
		{"fs/meta", "fs", false},
		{"tests/e2e", "cmd/internal/datadir", false},
		{"kv/raftkv", "objstore", true},
		{"objstore/nsm", "fs", true},
		{"fs/mount", "dav", true},
		{"kv", "kv/memkv", true},
		{"fs", "fs/meta", true},
		{"dav", "tests/e2e", true},
		{"util", "kv", true},
	} {
		if why := arrow(module+"/"+c.from, module+"/"+c.to); (why != "") != c.bad {
			t.Errorf("%s -> %s: %q", c.from, c.to, why)
		}
	}
	if arrow(module+"/kv", "context") != "" {
		t.Error("the standard library is refused")
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range listPackages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
