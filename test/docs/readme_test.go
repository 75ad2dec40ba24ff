package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// root is the top of the source.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func needMachines(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: the tour of the README is long")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the tour of the README mounts, and needs root")
	}
	for _, file := range []string{"/dev/fuse", "/dev/loop-control"} {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Skip("SKIPPED: the tour of the README needs FUSE and loop devices: ", err)
		}
		f.Close()
	}
	if err := exec.Command("sh", "-c", "grep -qw overlay /proc/filesystems || modprobe overlay").Run(); err != nil {
		t.Skip("SKIPPED: the tour of the README plays machines by overlays, which this kernel has not")
	}
	if tool, err := exec.LookPath("make"); err != nil {
		t.Skip("SKIPPED: the tour of the README needs make: ", tool, err)
	}
}

// The code of an invitation, which the README calls CODE where it is used.
var (
	code     = regexp.MustCompile(`\bCODE\b`)
	codeLine = regexp.MustCompile(`^izo[a-z2-7]+$`)
)

// looks are commands that change nothing: they are asked again until they print
// what they are to, because what is made on one machine takes a moment to be on
// the other.
var looks = []string{"cat", "diff", "ls", "stat", "tail", "lento status"}

// arrives is how long that may take.
const arrives = 20 * time.Second

func isLook(command string) bool {
	return slices.ContainsFunc(looks, func(l string) bool { return strings.HasPrefix(command+" ", l+" ") })
}

func TestReadme_Tour(t *testing.T) {
	needMachines(t)
	text, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	tour, err := steps(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(tour) < 20 {
		t.Fatalf("the README has %d commands in blocks fenced by ```console: is this the tour?", len(tour))
	}
	server, laptop := newMachine(t, "server", root(t)), newMachine(t, "laptop", root(t))
	connect(t, server, "192.0.2.1/24", laptop, "192.0.2.2/24")
	invitation := ""
	for _, s := range tour {
		machines := map[string][]*machine{"server": {server}, "laptop": {laptop}, both: {server, laptop}}[s.host]
		if machines == nil {
			t.Fatalf("%v: there is no machine of that name", &s)
		}
		for _, m := range machines {
			got := m.follow(&s, code.ReplaceAllString(s.command, invitation))
			if t.Failed() {
				logs, _ := m.run("tail -n 20 /run/intermezzo/*.log")
				t.Fatalf("logs of %s:\n%s", m.name, strings.Join(logs, "\n"))
			}
			if i := slices.IndexFunc(got, codeLine.MatchString); i >= 0 {
				invitation = got[i]
			}
		}
	}
	for _, m := range []*machine{server, laptop} {
		m.mustBeEmpty()
	}
}

// mustBeEmpty fails the test if something of ours is left on the machine (what
// other tests have mounted below /tmp is seen here too). A
// daemon that was told to end has a moment for it.
func (m *machine) mustBeEmpty() {
	m.t.Helper()
	began := time.Now()
	for {
		left, _ := m.run("cat /proc/[0-9]*/comm 2>/dev/null | grep -E 'lento|intersync'; findmnt -rno TARGET -t fuse.intermezzo | grep -v ^/tmp/")
		if len(left) == 0 {
			return
		}
		if time.Since(began) > arrives {
			m.t.Errorf("left on %s after the tour:\n%s", m.name, strings.Join(left, "\n"))
			return
		}
		m.run("sleep 0.05")
	}
}

// follow does a step and compares what it prints.
func (m *machine) follow(s *step, command string) []string {
	m.t.Helper()
	began := time.Now()
	for {
		got, status := m.run(command)
		// What only looks may exit with 1: that something is wrong is what is shown.
		if printed(trimmed(s.want), trimmed(got)) && (status == 0 || status == 1 && isLook(command)) {
			return got
		}
		if !isLook(command) || time.Since(began) > arrives {
			m.t.Errorf("README, %v\non %s, exit status %d, printed\n%s\nand is to print\n%s", s, m.name, status, strings.Join(got, "\n"), strings.Join(s.want, "\n"))
			return got
		}
		m.run("sleep 0.05")
	}
}

// trimmed leaves out empty lines at the end, and what mkizofs says where it takes
// long.
func trimmed(lines []string) []string {
	lines = slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.HasPrefix(l, "formatting: ") })
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

func TestLinks(t *testing.T) {
	documents, err := filepath.Glob(filepath.Join(root(t), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(documents, filepath.Join(root(t), "README.md")) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", filepath.Base(name), m[1], err)
			}
		}
	}
}
