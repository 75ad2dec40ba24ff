package presto

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func ops(rs []kml.Record) string {
	var s []string
	for _, r := range rs {
		if r.Op != kml.OpManifest {
			s = append(s, r.Op.String())
		}
	}
	return strings.Join(s, " ")
}

func TestFilter_EveryOperationIsLogged(t *testing.T) {
	h := newHost(t, "a", "")
	write(t, h.path("f"), "hello")
	must(t, os.Mkdir(h.path("d"), 0o755))
	must(t, os.Rename(h.path("f"), h.path("d/g")))
	must(t, os.Link(h.path("d/g"), h.path("l")))
	must(t, os.Symlink("d/g", h.path("s")))
	must(t, os.Chmod(h.path("l"), 0o600))
	must(t, os.Chown(h.path("l"), 12, 34))
	must(t, os.Chtimes(h.path("l"), time.Unix(1, 2), time.Unix(3, 4)))
	must(t, unix.Setxattr(h.path("l"), "user.x", []byte("y"), 0))
	must(t, unix.Removexattr(h.path("l"), "user.x"))
	must(t, unix.Mknod(h.path("p"), unix.S_IFIFO|0o644, 0))
	must(t, os.Truncate(h.path("l"), 2))
	must(t, unix.Renameat2(unix.AT_FDCWD, h.path("s"), unix.AT_FDCWD, h.path("p"), unix.RENAME_EXCHANGE))
	must(t, os.Remove(h.path("l")))
	must(t, os.Remove(h.path("d/g")))
	must(t, os.Remove(h.path("d")))
	want := "CREATE CLOSE MKDIR RENAME LINK SYMLINK SETATTR SETATTR SETATTR SETXATTR DELXATTR MKNOD CLOSE EXCHANGE UNLINK UNLINK RMDIR"
	if got := ops(h.records()); got != want {
		t.Errorf("logged\n%s\nwant\n%s", got, want)
	}
}

func TestFilter_RenameComesAfterTheContent(t *testing.T) {
	h := newHost(t, "a", "")
	f, err := os.Create(h.path("tmp"))
	must(t, err)
	f.WriteString("whole")
	must(t, os.Rename(h.path("tmp"), h.path("doc")))
	f.Close()
	if got := ops(h.records()); got != "CREATE CLOSE RENAME" {
		t.Errorf("logged %s", got)
	}
}

func TestFilter_ControlFolderIsHidden(t *testing.T) {
	h := newHost(t, "a", "")
	write(t, h.path("f"), "x")
	es, err := os.ReadDir(h.mnt)
	must(t, err)
	if len(es) != 1 || es[0].Name() != "f" {
		t.Errorf("root lists %v", es)
	}
	if _, err := os.Stat(h.path(".intermezzo")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat of the control folder: %v", err)
	}
	if err := os.Mkdir(h.path(".intermezzo"), 0o755); !errors.Is(err, unix.EPERM) {
		t.Errorf("mkdir of the control folder's name: %v", err)
	}
	if n, err := unix.Listxattr(h.mnt, make([]byte, 100)); err != nil || n != 0 {
		t.Errorf("xattrs of the root: %d, %v", n, err)
	}
}

func TestFilter_CreatorOwns(t *testing.T) {
	h := newHost(t, "a", "")
	must(t, os.Chmod(h.mnt, 0o777))
	cmd := exec.Command("sh", "-c", "umask 027; echo x >f; mkdir d; ln -s f s; mkfifo p")
	cmd.Dir = h.mnt
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 4321}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, mode := range map[string]uint32{"f": 0o640, "d": 0o750, "p": 0o640} {
		var st unix.Stat_t
		must(t, unix.Lstat(h.path(name), &st))
		if st.Uid != 1234 || st.Gid != 4321 || st.Mode&0o7777 != mode {
			t.Errorf("%s: %d:%d %o", name, st.Uid, st.Gid, st.Mode)
		}
	}
}

func TestReplica_GetsEverything(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	script := `
set -e
mkdir -p d/e; echo one >d/one; echo two >d/e/two; ln d/one d/three; ln -s d/one sym
mknod null c 1 3; mkfifo fifo; truncate -s 1M sparse; echo x | dd of=sparse bs=1 seek=500000 conv=notrunc 2>/dev/null
setfattr -n user.k -v v d/one; chmod 4755 d/e/two; chown 7:8 d/e/two; chmod 4755 d/e/two; chmod 1777 d
setfacl -m u:55:rw d/one; setfacl -d -m u:66:rwx d/e; touch d/e/inherits; mkdir d/e/sub
head -c 300000 /dev/urandom >big; touch -d '2001-02-03 04:05:06.789012345' big
mv d/e/two moved; echo more >>d/one; rm d/three; touch -d '2011-01-01 00:00:00.5' d/e
`
	sh(t, a.mnt, script)
	if res := pull(a, b); res.Blocked != nil {
		t.Fatalf("blocked: %+v", res.Blocked)
	}
	same(t, a, b)
	sh(t, a.mnt, "mv d D2; echo changed >big; rm -r D2/e; mv moved D2/one; ln sym sym2; chmod 600 big; setfattr -x user.k D2/nothing 2>/dev/null || true")
	if res := pull(a, b); res.Blocked != nil {
		t.Fatalf("blocked: %+v", res.Blocked)
	}
	same(t, a, b)
}

func sh(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("bash", "-exc", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// same compares the two mounts by what GNU tools show of them.
func same(t *testing.T, a, b *host) {
	t.Helper()
	list := `find . -printf '%p %y %m %U:%G %n %l %T@ ' \( -type f -exec sha256sum {} \; -o -printf '\n' \) | sort; getfacl -nR . 2>/dev/null; getfattr -hRd -m - . 2>/dev/null | grep -v security`
	var out [2]bytes.Buffer
	for i, h := range []*host{a, b} {
		cmd := exec.Command("bash", "-c", list)
		cmd.Dir, cmd.Stdout = h.mnt, &out[i]
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			t.Logf("list %s: %v", h.name, err)
		}
	}
	if out[0].String() != out[1].String() {
		dir := t.TempDir()
		os.WriteFile(dir+"/a", out[0].Bytes(), 0o600)
		os.WriteFile(dir+"/b", out[1].Bytes(), 0o600)
		diff, _ := exec.Command("diff", dir+"/a", dir+"/b").CombinedOutput()
		t.Errorf("trees differ:\n%s", diff)
	}
}
