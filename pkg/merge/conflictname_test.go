package merge

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestConflictName(t *testing.T) {
	tests := []struct {
		name string
		n    int
		want string
	}{
		{"report.txt", 1, "report (conflict lap 2026-09-21 14:13).txt"},
		{"report.txt", 3, "report (conflict lap 2026-09-21 14:13 3).txt"},
		{"src.tar.gz", 1, "src (conflict lap 2026-09-21 14:13).tar.gz"},
		{"Makefile", 1, "Makefile (conflict lap 2026-09-21 14:13)"},
		{".bashrc", 1, ".bashrc (conflict lap 2026-09-21 14:13)"},
		{"a.b c", 1, "a.b c (conflict lap 2026-09-21 14:13)"},
		{"ends.", 1, "ends. (conflict lap 2026-09-21 14:13)"},
	}
	for _, tt := range tests {
		if got := ConflictName(tt.name, "lap", "2026-09-21 14:13", tt.n); got != tt.want {
			t.Errorf("%q, %d: %q, want %q", tt.name, tt.n, got, tt.want)
		}
	}
}

// A conflict name is a name, whatever it is made of, and keeps characters whole.
func TestConflictName_IsName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringN(1, -1, 255).Draw(t, "name")
		got := ConflictName(name, rapid.String().Draw(t, "host"), rapid.String().Draw(t, "time"), rapid.IntRange(1, 99999).Draw(t, "n"))
		if len(got) > 255 || got == name || !strings.Contains(name, "/") && strings.ContainsAny(got, "/\x00") && !strings.Contains(name, "\x00") {
			t.Fatalf("%q becomes %q", name, got)
		}
		if utf8.ValidString(name) && !utf8.ValidString(got) {
			t.Fatalf("%q becomes %q", name, got)
		}
	})
}
