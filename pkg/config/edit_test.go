package config

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestEdit_CreatesAndIsIdempotent(t *testing.T) {
	d := Dir(t.TempDir() + "/etc/intermezzo")
	edit := func(c *Config) error {
		if err := c.Init("iserver", []string{"192.0.2.3"}); err != nil {
			return err
		}
		m := "/mnt/izo"
		return c.AddFileset("shared", "", Placement{Mountpoint: &m})
	}
	plan, err := d.Plan(edit)
	if err != nil || len(plan) != 2 {
		t.Fatalf("plan: %v, %v", plan, err)
	}
	if _, err := os.Stat(string(d)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("Plan made the folder")
	}
	if diff := plan[1].Diff(); !strings.Contains(diff, "--- /dev/null\n+++ ") || !strings.Contains(diff, "\n+name = \"shared\"\n") {
		t.Errorf("diff:\n%s", diff)
	}
	changes, err := d.Edit(edit)
	if err != nil || len(changes) != 2 {
		t.Fatalf("first: %v, %v", changes, err)
	}
	if changes, err = d.Edit(edit); err != nil || len(changes) != 0 {
		t.Fatalf("second: %v, %v", changes, err)
	}
	text, err := os.ReadFile(d.Path(FsetdbFile))
	if err != nil || !strings.HasPrefix(string(text), "# fsetdb: ") || !strings.Contains(string(text), "man 5 fsetdb") {
		t.Errorf("%s, %v", text, err)
	}
}

func TestEdit_KeepsHandwritten(t *testing.T) {
	d := writeDir(t, "# mine\n\n# own comment\nuuid = '"+testUUID+"' # x\nname='iclientA'\n", goodServerdb, "")
	before, err := os.ReadFile(d.Path(ServerdbFile))
	if err != nil {
		t.Fatal(err)
	}
	changes, err := d.Edit(func(c *Config) error {
		if err := c.Init("", []string{"[::1]:99"}); err != nil {
			return err
		}
		return c.AddServer(Server{Name: "iserver", Addresses: []string{"192.0.2.3:370"}, Fingerprint: c.Servers[0].Fingerprint})
	})
	if err != nil || len(changes) != 1 {
		t.Fatalf("%v, %v", changes, err)
	}
	after, err := os.ReadFile(d.Path(ServerdbFile))
	if err != nil || string(after) != string(before) {
		t.Error("serverdb was rewritten though nothing in it changed")
	}
	sysid, err := os.ReadFile(d.Path(SysidFile))
	want := "# mine\n\n# own comment\n\nname = \"iclientA\"\nuuid = \"" + testUUID + "\"\nbind = [\"[::1]:99\"]\n"
	if diff := cmp.Diff(want, string(sysid)); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestEdit_RefusesFaultyAndInvalid(t *testing.T) {
	d := writeDir(t, goodSysid, "", "[[fileset]]\nnmae = \"x\"\n")
	if _, err := d.Edit(func(*Config) error { t.Error("called"); return nil }); err == nil {
		t.Error("a faulty configuration was edited")
	}
	d = writeDir(t, goodSysid, goodServerdb, goodFsetdb)
	_, err := d.Edit(func(c *Config) error { c.Servers = nil; return nil })
	if !errors.Is(err, ErrInvalidEdit) || !strings.Contains(err.Error(), "iserver") {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(d.Path(ServerdbFile)); err != nil || string(text) != goodServerdb {
		t.Error("an invalid edit changed serverdb")
	}
	if _, err := Dir(t.TempDir()).Edit(func(c *Config) error { return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("edit without sysid: %v", err)
	}
}

func TestEdit_Concurrent(t *testing.T) {
	d := writeDir(t, goodSysid, "", "")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			name := "f" + string(rune('a'+i))
			if _, err := d.Edit(func(c *Config) error { return c.AddFileset(name, "", Placement{}) }); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { // readers see whole files only
			if _, err := d.Load(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c, err := d.Load()
	if err != nil || len(c.Filesets) != 16 {
		t.Fatalf("%d filesets, %v", len(c.Filesets), err)
	}
	channels := map[int]bool{}
	for _, f := range c.Filesets {
		channels[f.Channel] = true
	}
	if len(channels) != 16 {
		t.Errorf("channels %v", channels)
	}
	entries, err := os.ReadDir(string(d))
	if err != nil || len(entries) != 3 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestEdit_KeepsModeAndSymlink(t *testing.T) {
	d := writeDir(t, goodSysid, "", "")
	target := t.TempDir() + "/real"
	if err := os.WriteFile(target, []byte(goodFsetdb), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, d.Path(FsetdbFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Path(ServerdbFile), []byte(goodServerdb), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Edit(func(c *Config) error { return c.AddFileset("more", "", Placement{}) }); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(target)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if info, err = os.Lstat(d.Path(FsetdbFile)); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}
}

func TestSetFilesetUUID(t *testing.T) {
	d := writeDir(t, goodSysid, goodServerdb, goodFsetdb)
	a, b := NewUUID(), NewUUID()
	if err := d.SetFilesetUUID("shared", a); err != nil {
		t.Fatal(err)
	}
	if err := d.SetFilesetUUID("shared", a); err != nil {
		t.Fatal(err)
	}
	if err := d.SetFilesetUUID("shared", b); err == nil {
		t.Error("a uuid was replaced")
	}
	if err := d.SetFilesetUUID("sharde", a); !errors.Is(err, ErrNoFileset) || !strings.Contains(err.Error(), `"shared"`) {
		t.Errorf("got %v", err)
	}
}

func TestPlace_Channels(t *testing.T) {
	c := &Config{}
	if err := c.Init("h", nil); err != nil {
		t.Fatal(err)
	}
	x, y, five := "/dev/x", "/dev/y", 5
	for _, step := range []struct {
		name    string
		p       Placement
		channel int
	}{
		{"a", Placement{Device: &x}, 0},
		{"b", Placement{Device: &y}, 1},
		{"c", Placement{Device: &x}, 0},
		{"d", Placement{Channel: &five}, 5},
		{"e", Placement{}, 2},
		{"a", Placement{}, 0},
	} {
		if err := c.AddFileset(step.name, "", step.p); err != nil {
			t.Fatal(err)
		}
		if got := c.Fileset(step.name).Channel; got != step.channel {
			t.Errorf("%s: channel %d, want %d", step.name, got, step.channel)
		}
	}
}

func TestAddServer_NeverReplacesKey(t *testing.T) {
	c := &Config{Sysid: Sysid{Name: "h"}}
	one, two := mustPrint(t, testPrint), mustPrint(t, otherFP)
	if err := c.AddServer(Server{Name: "s", Addresses: []string{"a"}}); err == nil {
		t.Error("a server without fingerprint was added")
	}
	c = &Config{Sysid: Sysid{Name: "h"}}
	for range 2 {
		if err := c.AddServer(Server{Name: "s", Addresses: []string{"a", "b:1"}, Fingerprint: one}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.AddServer(Server{Name: "s", Addresses: []string{"c"}, Fingerprint: two}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]Server{{"s", []string{"a:370", "b:1"}, one}}, c.Servers); diff != "" {
		t.Error(diff)
	}
	c.Filesets = []Fileset{{Name: "f", Server: "s"}}
	if _, err := c.RemoveServer("s"); err == nil {
		t.Error("a server in use was removed")
	}
}

func TestReplicators(t *testing.T) {
	c := &Config{}
	if err := errors.Join(c.Init("h", nil), c.AddFileset("f", "", Placement{})); err != nil {
		t.Fatal(err)
	}
	one, two := mustPrint(t, testPrint), mustPrint(t, otherFP)
	add := func(name string, fp Fingerprint, rights Rights) error {
		return c.AddReplicator("f", Replicator{Name: name, Fingerprint: fp, Rights: rights})
	}
	if err := errors.Join(add("a", one, ""), add("a", one, ReadOnly)); err != nil {
		t.Fatal(err)
	}
	if got := c.Filesets[0].Replicators; len(got) != 1 || got[0].Rights != ReadOnly {
		t.Errorf("got %v", got)
	}
	for _, err := range []error{add("a", two, ""), add("b", one, ""), add("h", two, ""), add("b", two, "wr"), add("b", Fingerprint{}, ""), add("b b", two, ""), c.AddReplicator("g", Replicator{})} {
		if err == nil {
			t.Error("accepted")
		}
	}
	if ok, err := c.RemoveReplicator("f", "a"); !ok || err != nil {
		t.Error(ok, err)
	}
	if ok, err := c.RemoveReplicator("f", "a"); ok || err != nil {
		t.Error(ok, err)
	}
}

// Whatever can be configured comes back from the files as it was.
func TestEncode_RoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		want := drawConfig(t)
		d := Dir(dir)
		for _, name := range []string{SysidFile, ServerdbFile, FsetdbFile} {
			os.Remove(d.Path(name))
		}
		if _, err := d.Edit(func(c *Config) error { *c = *want; return nil }); err != nil {
			t.Fatal(err)
		}
		got, err := d.Load()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func drawConfig(t *rapid.T) *Config {
	name := rapid.StringMatching(`[a-z0-9][A-Za-z0-9._-]{0,8}`)
	print := func(label string) Fingerprint {
		var fp Fingerprint
		copy(fp[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Filter(func(b []byte) bool { return b[0] != 0 }).Draw(t, label))
		return fp
	}
	names := rapid.SliceOfNDistinct(name, 1, 6, rapid.ID).Draw(t, "names")
	c := &Config{Sysid: Sysid{Name: names[0], UUID: NewUUID(), Key: rapid.SampledFrom([]string{"key.pem", "/k \"x\"\\", "käy"}).Draw(t, "key"),
		Bind: rapid.SampledFrom([][]string{{":370"}, {"[::1]:1", "h:2"}}).Draw(t, "bind")}}
	for _, n := range names[1:] {
		c.Servers = append(c.Servers, Server{Name: n, Addresses: []string{n + ":7"}, Fingerprint: print("pin")})
	}
	for i, n := range rapid.SliceOfNDistinct(name, 0, 4, rapid.ID).Draw(t, "filesets") {
		if CheckFilesetName(n) != nil {
			continue
		}
		f := Fileset{Name: n, Server: rapid.SampledFrom(names).Draw(t, "server"), Channel: i,
			Permit: "none", Disconnected: rapid.SampledFrom([]string{"work", "wait"}).Draw(t, "d"), Mode: "full",
			Mountpoint: rapid.SampledFrom([]string{"", "/m x/" + n, "/ü\"'/" + n}).Draw(t, "m"),
			Device:     rapid.SampledFrom([]string{"", "/dev/" + n, "LABEL=a b"}).Draw(t, "dev")}
		if f.Device == "LABEL=a b" {
			f.Channel = 99
		}
		for _, r := range rapid.SliceOfNDistinct(name, 0, 3, rapid.ID).Draw(t, "replicators") {
			f.Replicators = append(f.Replicators, Replicator{Name: r, UUID: NewUUID(), Fingerprint: print("fp"),
				Rights: rapid.SampledFrom([]Rights{ReadOnly, ReadWrite}).Draw(t, "rights")})
		}
		c.Filesets = append(c.Filesets, f)
	}
	return c
}
