package docs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// both is the name in a prompt that stands for every machine.
const both = "both"

// step is a command of a document, with what it is said to print.
type step struct {
	line    int      // of the document, from 1
	host    string   // in whose shell
	command string   // as it is typed
	want    []string // lines; nil: the document shows nothing
}

func (s *step) String() string { return fmt.Sprintf("line %d: %s# %s", s.line, s.host, s.command) }

var prompt = regexp.MustCompile(`^([a-z]+)# (.+)$`)

// steps takes the commands out of the blocks of a document that are fenced by
// ```console. A command begins with a prompt, "HOST# "; what follows up to the
// next is what it prints.
func steps(text string) ([]step, error) {
	var all []step
	fence := "" // the info string of the block we are in, "": in none
	for i, line := range strings.Split(text, "\n") {
		if info, is := strings.CutPrefix(line, "```"); is {
			if fence != "" {
				info = ""
			} else if info == "" {
				info = "text"
			}
			fence = info
			continue
		}
		if fence != "console" {
			continue
		}
		if m := prompt.FindStringSubmatch(line); m != nil {
			all = append(all, step{line: i + 1, host: m[1], command: m[2]})
		} else if len(all) == 0 {
			return nil, fmt.Errorf("line %d: a block begins with the output of no command", i+1)
		} else {
			last := &all[len(all)-1]
			last.want = append(last.want, line)
		}
	}
	if fence != "" {
		return nil, fmt.Errorf("the last block, %q, does not end", fence)
	}
	return all, nil
}

// dots stands for whatever is there: in a line for a part of it, alone for any
// number of lines.
const dots = "..."

// printed reports whether got is what the document shows.
func printed(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == dots {
		for skip := range len(got) + 1 {
			if printed(want[1:], got[skip:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && sameLine(want[0], got[0]) && printed(want[1:], got[1:])
}

// sameLine compares a line. How wide columns are depends on what is in them.
func sameLine(want, got string) bool {
	var parts []string
	for part := range strings.SplitSeq(oneSpace(want), dots) {
		parts = append(parts, regexp.QuoteMeta(part))
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(oneSpace(got))
}

var spaces = regexp.MustCompile(` {2,}`)

func oneSpace(s string) string { return spaces.ReplaceAllString(strings.TrimRight(s, " "), " ") }

func TestSteps(t *testing.T) {
	text := strings.Join([]string{"text", "```console", "a# one", "out", "", "b# two", "```", "```sh", "c# no", "```", "```", "d# no", "```", "```console", "both# three", "```"}, "\n")
	got, err := steps(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []step{{3, "a", "one", []string{"out", ""}}, {6, "b", "two", nil}, {15, both, "three", nil}}
	if !slices.EqualFunc(got, want, func(a, b step) bool { return a.String() == b.String() && slices.Equal(a.want, b.want) }) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{"```console\nout\n```", "```console\na# one"} {
		if _, err := steps(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestPrinted(t *testing.T) {
	for _, c := range []struct {
		want, got string
		ok        bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a", "a|b", false},
		{"a|b", "a", false},
		{"...", "", true},
		{"...|z", "a|b|z", true},
		{"...|z", "a|b|z|y", false},
		{"a|...|z|...", "a|z", true},
		{"at ..., done", "at 12:00, done", true},
		{"at ..., done", "at 12:00, do", false},
		{"a.c", "abc", false},
		{"  two   columns", "  two      columns", true},
		{"two columns", "twocolumns", false},
	} {
		if ok := printed(strings.Split(c.want, "|"), strings.Split(c.got, "|")); ok != c.ok {
			t.Errorf("%q for %q: %v", c.got, c.want, ok)
		}
	}
}
