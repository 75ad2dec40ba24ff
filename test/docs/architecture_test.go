package docs

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/intermezzofs/intermezzo/"

// table gives the first column, without its quotes, of the table below a heading
// of docs/ARCHITECTURE.md, in order.
func table(t *testing.T, heading string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, below, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("docs/ARCHITECTURE.md has no part %q", heading)
	}
	below, _, _ = strings.Cut(below, "\n## ")
	var column []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(below, -1) {
		column = append(column, m[1])
	}
	return column
}

// room is a package as "go list" describes it.
type room struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func rooms(t *testing.T) []room {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []room
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var r room
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
}

func TestArchitecture_Rooms(t *testing.T) {
	order := table(t, "Rooms")
	seen := map[string]bool{}
	for _, r := range rooms(t) {
		name := strings.TrimPrefix(r.ImportPath, module)
		seen[name] = true
		at := slices.Index(order, name)
		if at < 0 {
			t.Errorf("%s is not in the table of rooms", name)
			continue
		}
		for _, path := range r.Imports {
			imported, ours := strings.CutPrefix(path, module)
			if below := slices.Index(order, imported); ours && below >= 0 && below < at {
				t.Errorf("%s imports %s, which is above it in the table of rooms", name, imported)
			}
		}
	}
	for _, name := range order {
		if !seen[name] {
			t.Errorf("the table of rooms has %s, and there is no such package", name)
		}
	}
}

func TestArchitecture_Dependencies(t *testing.T) {
	told := table(t, "Dependencies")
	used := map[string]bool{}
	for _, r := range rooms(t) {
		for _, path := range slices.Concat(r.Imports, r.TestImports, r.XTestImports) {
			first, _, _ := strings.Cut(path, "/")
			if !strings.Contains(first, ".") || strings.HasPrefix(path, module) {
				continue
			}
			at := slices.IndexFunc(told, func(m string) bool { return path == m || strings.HasPrefix(path, m+"/") })
			if at < 0 {
				t.Errorf("%s imports %s, which is not in the table of dependencies", strings.TrimPrefix(r.ImportPath, module), path)
				continue
			}
			used[told[at]] = true
		}
	}
	for _, m := range told {
		if !used[m] {
			t.Errorf("the table of dependencies has %s, and nothing uses it", m)
		}
	}
}
