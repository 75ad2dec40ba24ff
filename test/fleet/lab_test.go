package fleet

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// paper makes a lab that exists on paper only.
func paper(t *testing.T, o Options) *Lab {
	t.Helper()
	dir := t.TempDir()
	l := &Lab{Env: Env{Bin: filepath.Join(dir, "bin"), Notes: t.Output()}, Dir: dir}
	if err := l.take(state{Version: stateVersion, Options: o, Network: 7}); err != nil {
		t.Fatal(err)
	}
	if err := l.save(); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestOpen_FindsWhatWasSaved(t *testing.T) {
	l := paper(t, good())
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(l.Dir, link); err != nil {
		t.Fatal(err)
	}
	again, err := Open(link, l.Env)
	if err != nil {
		t.Fatal(err)
	}
	h, err := again.Host("host2")
	if err != nil {
		t.Fatal(err)
	}
	if again.Dir != l.Dir || h.address() != "10.77.7.2:370" || h.Mount() != filepath.Join(l.Dir, "host2", "mnt") {
		t.Errorf("lab %s, host at %s, mounted on %s", again.Dir, h.address(), h.Mount())
	}
	if _, err := again.Host("host3"); err == nil || !strings.Contains(err.Error(), "host1 to host2") {
		t.Errorf("a host too many: %v", err)
	}
}

func TestOpen_RefusesWhatIsNoLab(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, Env{}); err == nil || !strings.Contains(err.Error(), "is no lab") {
		t.Errorf("an empty folder: %v", err)
	}
	for _, text := range []string{"", "{}", `{"version":2}`, `{"version":1}`} {
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Env{}); err == nil {
			t.Errorf("state %q is a lab", text)
		}
	}
}

func TestSource_IsWhatTheBottomIs(t *testing.T) {
	for bottom, want := range map[string]string{"ext4": "cache.img", "dir": "cache", "xfs": "bottom/cache", "btrfs": "bottom/cache"} {
		o := good()
		o.Bottom = bottom
		l := paper(t, o)
		if got := l.Hosts[0].Source(); got != filepath.Join(l.Dir, "host1", want) {
			t.Errorf("%s: %s", bottom, got)
		}
	}
}

func TestEnviron_HasEachVariableOnce(t *testing.T) {
	t.Setenv("INTERMEZZO_RUN", "/elsewhere")
	t.Setenv("PATH", "/usr/bin:/bin")
	l := paper(t, good())
	env := l.Hosts[0].Environ()
	for _, want := range []string{"INTERMEZZO_RUN=" + l.Hosts[0].Run(), "PATH=" + l.Bin + ":/usr/bin:/bin", l.mark()} {
		name, _, _ := strings.Cut(want, "=")
		found := slices.DeleteFunc(slices.Clone(env), func(v string) bool { return !strings.HasPrefix(v, name+"=") })
		if len(found) != 1 || found[0] != want {
			t.Errorf("found %q, want %q", found, want)
		}
	}
}

func TestUp_RefusesAFolderThatIsInUse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes labs: needs root")
	}
	l := paper(t, good())
	if _, err := Up(t.Context(), l.Dir, good(), l.Env); err == nil || !strings.Contains(err.Error(), "has a lab already") {
		t.Errorf("a lab in a lab: %v", err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Up(t.Context(), full, good(), l.Env); err == nil || !strings.Contains(err.Error(), "mine") {
		t.Errorf("a folder with a file: %v", err)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	if _, err := Up(t.Context(), long, good(), l.Env); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a long name: %v", err)
	}
	if _, err := os.Lstat(long); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of a refused lab stays: %v", err)
	}
}

func TestUp_HalfMadeSaysWhatIsMissingAndIsRemovedByDown(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes labs: needs root")
	}
	dir := filepath.Join(t.TempDir(), "lab")
	env := Env{Bin: "/nowhere", Notes: t.Output()}
	_, err := Up(t.Context(), dir, good(), env)
	if err == nil || !strings.Contains(err.Error(), "/nowhere/inconfig is not built") || !strings.Contains(err.Error(), "lab down "+dir) {
		t.Errorf("without tools: %v", err)
	}
	if mounts, err := mountsBelow(dir); err != nil || len(mounts) != 3 {
		t.Errorf("half made: mounts %v, %v; want three namespaces", mounts, err)
	}
	for range 2 {
		if err := Down(t.Context(), dir, env); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the lab is still there: %v", err)
		}
	}
}

func TestDown_LeavesAloneWhatIsNoLab(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "mine")
	if err := os.WriteFile(mine, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var notes strings.Builder
	if err := Down(t.Context(), dir, Env{Notes: &notes}); err != nil || !strings.Contains(notes.String(), "no lab") {
		t.Errorf("Down: %v, notes %q", err, notes.String())
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("folder has %v, %v", entries, err)
	}
}

func TestLock_IsTakenByOneAtATime(t *testing.T) {
	l := paper(t, good())
	unlock, err := l.lock(l.Dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.lock(l.Dir, 0); err == nil || !strings.Contains(err.Error(), "process") {
		t.Errorf("a second one: %v", err)
	}
	unlock()
	unlock, err = l.lock(l.Dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
