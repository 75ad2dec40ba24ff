package main

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mkizofs": main, "mkfs.intermezzo": main})
}

// TestScripts runs the command as people do. A script that makes caches is skipped,
// loudly, where that is not possible.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Condition: func(cond string) (bool, error) {
			if cond == "caches" {
				_, err := os.Stat("/dev/loop-control")
				return os.Geteuid() == 0 && err == nil, nil
			}
			_, err := exec.LookPath(cond)
			return err == nil, nil
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("INTERMEZZO_CONFIG", e.Getenv("WORK")+"/etc")
			e.Setenv("PATH", e.Getenv("PATH")+":/usr/sbin:/sbin")
			return nil
		},
	})
}

func TestRun_ExitStatus(t *testing.T) {
	t.Setenv("INTERMEZZO_CONFIG", t.TempDir())
	for _, test := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"mkizofs", "--help"}, exitOK, "Exit status"},
		{[]string{"/sbin/mkfs.intermezzo", "--help"}, exitOK, "mkfs.intermezzo [options] TARGET"},
		{[]string{"/sbin/mkizofs"}, exitMisuse, "mkizofs: name one target"},
		{[]string{"/sbin/mkfs.intermezzo"}, exitMisuse, "mkfs.intermezzo: name one target"},
		{[]string{"mkizofs", "a", "b"}, exitMisuse, "one target"},
		{[]string{"mkizofs", "--nonsense", "a"}, exitMisuse, "--nonsense"},
		{[]string{"mkizofs", "--size", "big", "a"}, exitMisuse, "big"},
		{[]string{"mkizofs", "--uuid", "1", "a"}, exitMisuse, "uuid"},
		{[]string{"mkizofs", "-U", "00000000-0000-0000-0000-000000000000", "a"}, exitMisuse, "zero"},
		{[]string{"mkizofs", "--engine", "ntfs", "a"}, exitMisuse, "ntfs"},
		{[]string{"mkizofs", "-r", "a/b", "a"}, exitMisuse, "a/b"},
		{[]string{"mkizofs", "--add", "a"}, exitMisuse, "--fileset"},
		{[]string{"mkizofs", "/nowhere/at/all"}, exitNo, "/nowhere/at/all"},
	} {
		var out, complaint bytes.Buffer
		status := run(t.Context(), test.args, &out, &complaint)
		if status != test.status || !bytes.Contains(append(out.Bytes(), complaint.Bytes()...), []byte(test.says)) {
			t.Errorf("%q: status %d, want %d saying %q:\n%s%s", test.args, status, test.status, test.says, &out, &complaint)
		}
		if status != exitOK && out.Len() > 0 {
			t.Errorf("%q: an error, and on stdout:\n%s", test.args, &out)
		}
	}
}

func TestProgress(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(&b)
	p.show(10, 100)
	if b.Len() > 0 {
		t.Errorf("said too early: %q", &b)
	}
	p.begin = p.begin.Add(-10 * time.Second)
	p.next = p.begin
	p.show(50<<20, 100<<20)
	p.show(60<<20, 100<<20)
	p.end()
	if got := b.String(); got != "formatting: 50%, 5.0 MiB/s, 10s left\n" && got != "formatting: 50%, 5 MiB/s, 10s left\n" {
		t.Errorf("said %q", got)
	}
	b.Reset()
	p.terminal, p.next = true, p.begin
	p.show(50<<20, 100<<20)
	p.end()
	if !bytes.HasPrefix(b.Bytes(), []byte("\rformatting: 50%")) || !bytes.HasSuffix(b.Bytes(), []byte(" \r")) {
		t.Errorf("on a terminal said %q", &b)
	}
	var none *progress
	none.end()
}
