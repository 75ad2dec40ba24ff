package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const seedOptions = "fileset=X,mtpt=/mnt/izo,cache_type=ext3,prestodev=/dev/intermezzo0,noauto"

func TestParseMountOptions_Seed(t *testing.T) {
	got, err := ParseMountOptions(seedOptions)
	if err != nil {
		t.Fatal(err)
	}
	want := MountOptions{Fileset: "X", Mtpt: "/mnt/izo", CacheType: "ext3", Channel: 0, Extra: []string{"noauto"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.String() != seedOptions || got.Driver() != "ext4" {
		t.Errorf("%s, %s", got, got.Driver())
	}
}

func TestParseMountOptions(t *testing.T) {
	for in, want := range map[string]string{
		"fileset=a":                    "fileset=a",
		"rw,fileset=a,channel=7":       "fileset=a,prestodev=/dev/intermezzo7",
		"ro,fileset=a,nosuid,,noatime": "fileset=a,ro,nosuid,noatime",
		"fileset=a,ro,rw":              "fileset=a",
		"fileset=a,_netdev,x-systemd.after=b,x-y,nofail": "fileset=a,_netdev,x-systemd.after=b,x-y,nofail",
		"fileset=a,x-a=1,x-a=2":                          "fileset=a,x-a=1,x-a=2",
		"fileset=a,mtpt=/":                               "fileset=a,mtpt=/",
		"fileset=a,cache_type=btrfs":                     "fileset=a,cache_type=btrfs",
	} {
		got, err := ParseMountOptions(in)
		if err != nil || got.String() != want {
			t.Errorf("%s: got %s, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"":                                    "fileset=NAME is missing",
		"noauto":                              "fileset=NAME is missing",
		"fileset=":                            "name is empty",
		"fileset=a b":                         "has ' '",
		"fileset":                             "needs a value",
		"fileset=a,fileset=b":                 "given twice",
		"fileset=a,mtpt=/mnt/izo/":            "must not have a slash at the end; write mtpt=/mnt/izo",
		"fileset=a,mtpt=mnt":                  "must begin with /",
		"fileset=a,mtpt=/a/../b":              "write it as /b",
		"fileset=a,mtpt=":                     "must begin with /",
		"fileset=a,cache_type=ext5":           "did you mean",
		"fileset=a,cache_type=reiserfs":       "use ext2, ext3, ext4, xfs, btrfs, tmpfs",
		"fileset=a,prestodev=/dev/izo0":       "write /dev/intermezzoN",
		"fileset=a,prestodev=/dev/intermezzo": "must be a number",
		"fileset=a,channel=-1":                "must be a number",
		"fileset=a,channel=01":                "must be a number",
		"fileset=a,channel=10000":             "must be a number",
		"fileset=a,channel=1,prestodev=/dev/intermezzo1": "say the same thing",
		"fileset=a,user":         "only root",
		"fileset=a,noauto=1":     "takes no value",
		"fileset=a,ro=1":         "takes no value",
		"fileset=a,filset=b":     `unknown mount option "filset=b"; did you mean "fileset"?`,
		"fileset=a,data=journal": `unknown mount option "data=journal"`,
		"fileset=a,nosiud":       `did you mean "nosuid"?`,
		"fileset=lock":           "taken by a file of the cache",
	} {
		if got, err := ParseMountOptions(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %s, %v", in, got, err)
		}
	}
}

func TestMountOptions_CheckMountpoint(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	for _, ok := range []string{"", real, link} {
		if err := (MountOptions{Mtpt: ok}).CheckMountpoint(real); err != nil {
			t.Error(err)
		}
	}
	if err := (MountOptions{Mtpt: dir}).CheckMountpoint(real); err == nil {
		t.Error("another folder was accepted")
	}
}

func TestFstabLine_Seed(t *testing.T) {
	f := Fileset{Name: "X", Device: "/dev/hda9", Mountpoint: "/mnt/izo"}
	got, err := FstabLine(f, "ext3")
	want := "/dev/hda9 /mnt/izo intermezzo " + seedOptions + " 0 0"
	if got != want || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
	f.Device, f.Mountpoint = "/a b#c\t\\040", "/m n"
	got, err = FstabLine(f, "")
	if err != nil {
		t.Fatal(err)
	}
	e := ParseFstab([]byte("# c\n\n" + got + "\nshort line\n"))
	if len(e) != 1 || e[0].Device != f.Device || e[0].Dir != f.Mountpoint || e[0].Line != 3 {
		t.Errorf("%s gives %+v", got, e)
	}
	for _, bad := range []Fileset{{Name: "X", Device: "/d"}, {Name: "X", Mountpoint: "/m"}, {Name: "X", Device: "/d", Mountpoint: "/m,n"}} {
		if got, err := FstabLine(bad, ""); err == nil {
			t.Errorf("%+v gives %s", bad, got)
		}
	}
}

func TestWriteFstab(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fstab")
	f := Fileset{Name: "X", Device: "/dev/hda9", Mountpoint: "/mnt/izo"}
	line := "/dev/hda9 /mnt/izo intermezzo " + seedOptions + " 0 0\n"
	for _, test := range []struct{ before, after string }{
		{"", line},
		{"# x\n/dev/sda1\t/ ext4 defaults 0 1", "# x\n/dev/sda1\t/ ext4 defaults 0 1\n" + line},
		{line + "# end\n", line + "# end\n"},
		{"/dev/hda9   /mnt/izo  intermezzo  " + seedOptions + "   0 0\n", "/dev/hda9   /mnt/izo  intermezzo  " + seedOptions + "   0 0\n"},
		{"/dev/old /mnt/old intermezzo fileset=X,cache_type=ext2,channel=3,noatime 0 2\nend\n",
			"/dev/hda9 /mnt/izo intermezzo fileset=X,mtpt=/mnt/izo,cache_type=ext2,prestodev=/dev/intermezzo0,noatime 0 2\nend\n"},
	} {
		if err := os.WriteFile(path, []byte(test.before), 0o640); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			change, err := WriteFstab(path, f, "ext3")
			if err != nil {
				t.Fatal(err)
			}
			if changed := change != nil; changed != (i == 0 && test.before != test.after) {
				t.Errorf("run %d on %q: changed is %v", i+1, test.before, changed)
			}
			got, err := os.ReadFile(path)
			if diff := cmp.Diff(test.after, string(got)); diff != "" || err != nil {
				t.Error(diff, err)
			}
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Error(info, err)
	}
	for _, bad := range []string{"/dev/x /mnt/izo ext4 defaults 0 0\n", line + line} {
		if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := WriteFstab(path, f, "ext3"); err == nil || !strings.Contains(err.Error(), path+":") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// In a container fstab is often one file mounted over another, which can't be
// renamed over.
func TestWriteFstab_BindMounted(t *testing.T) {
	dir := t.TempDir()
	source, path := filepath.Join(dir, "source"), filepath.Join(dir, "fstab")
	for _, p := range []string{source, path} {
		if err := os.WriteFile(p, []byte(strings.Repeat("# comment\n", 50)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("bind mount: %v", err)
	}
	defer unix.Unmount(path, unix.MNT_DETACH)
	f := Fileset{Name: "X", Device: "/dev/hda9", Mountpoint: "/mnt/izo"}
	if _, err := WriteFstab(path, f, ""); err != nil {
		t.Fatal(err)
	}
	if entries, err := ReadFstab(source); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
