package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommand_PrintsDifferencesAndSaysSo(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	run := func(args ...string) (string, error) {
		var out strings.Builder
		cmd := newCommand(&out)
		cmd.SetArgs(args)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	if out, err := run(a, b); err != nil || out != "" {
		t.Errorf("two empty trees: %q, %v", out, err)
	}
	if out, err := run("--json", a, b); err != nil || out != "[]\n" {
		t.Errorf("two empty trees: %q, %v", out, err)
	}
	if err := os.WriteFile(filepath.Join(a, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run(a, b); !errors.Is(err, errDiffer) || !strings.Contains(out, "file: presence: "+a+": file, "+b+": absent\n") {
		t.Errorf("a file in one: %q, %v", out, err)
	}
	if out, err := run("--json", a, b); !errors.Is(err, errDiffer) || !strings.Contains(out, `"property": "presence"`) {
		t.Errorf("a file in one: %q, %v", out, err)
	}
	for _, args := range [][]string{{a}, {a, b, a}, {a, filepath.Join(b, "absent")}, {"--frob", a, b}} {
		if _, err := run(args...); err == nil || errors.Is(err, errDiffer) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
