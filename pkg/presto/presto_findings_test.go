package presto

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// A truncate that has returned must be in the log, also where somebody else has
// the file open for writing.
func TestPresto_TruncateIsLoggedAtOnce(t *testing.T) {
	a := newHost(t, "a", "")
	write(t, a.path("f"), "hello")
	other, err := os.OpenFile(a.path("f"), os.O_RDWR, 0)
	must(t, err)
	defer other.Close()
	must(t, os.Truncate(a.path("f"), 2))
	must(t, os.Mkdir(a.path("later"), 0o755))
	if got := ops(a.records()); got != "CREATE CLOSE CLOSE MKDIR" {
		t.Errorf("truncate by path: logged %s", got)
	}
	f, err := os.OpenFile(a.path("f"), os.O_RDWR, 0)
	must(t, err)
	must(t, f.Truncate(1))
	must(t, f.Close())
	must(t, os.Mkdir(a.path("later2"), 0o755))
	if got := ops(a.records()); got != "CREATE CLOSE CLOSE MKDIR CLOSE MKDIR" {
		t.Errorf("ftruncate and close: logged %s", got)
	}
}

// RELEASE comes after close() has returned, so it runs beside a truncate.
func TestPresto_TruncateAgainstRelease(t *testing.T) {
	a := newHost(t, "a", "")
	write(t, a.path("f"), "hello")
	const n = 3000
	for i := range n {
		f, err := os.OpenFile(a.path("f"), os.O_RDWR, 0)
		must(t, err)
		f.Close()
		must(t, os.Truncate(a.path("f"), int64(i+10)))
	}
	_, err := a.ch.Barrier(t.Context(), testFileset)
	must(t, err)
	seen := map[int64]bool{}
	for _, r := range a.records() {
		if r.Op == kml.OpClose {
			seen[r.After.Size] = true
		}
	}
	if len(seen) < n {
		t.Logf("%d of %d truncates have a CLOSE of their own", len(seen)-1, n)
	}
	var st unix.Stat_t
	must(t, unix.Stat(a.path("f"), &st))
	rs := a.records()
	if last := rs[len(rs)-1]; last.After.Size != st.Size {
		t.Errorf("size is %d, the log says %d", st.Size, last.After.Size)
	}
}

// The time of a directory that a pending change set is only kept until that
// change has its place in the order.
func TestPresto_DirectoryTimeAfterConfirm(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "mkdir D")
	rPull(a, b)
	sh(t, b.mnt, "mkdir D/x")
	sh(t, a.mnt, "mkdir D/y")
	if res := rPush(b, a); res.Accepted != 1 {
		t.Fatalf("push: %+v", res)
	}
	sh(t, a.mnt, "mkdir D/z")
	rPull(a, b)
	rSame(t, a, b)
}

// Hard-points A9 (5) and R10: a file open for writing is a pending edit.
func TestPresto_AppendToOpenFile(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	write(t, a.path("log"), "aaaa\n")
	rPull(a, b)
	f, err := os.OpenFile(b.path("log"), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer f.Close()
	f2, err := os.OpenFile(a.path("log"), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	f2.WriteString("from the server\n")
	f2.Close()
	if res := rPull(a, b); res.Blocked != nil {
		return // as the design has it
	}
	f.WriteString("mine\n")
	if got := read(t, b.path("log")); got != "aaaa\nfrom the server\nmine\n" {
		t.Errorf("append gave %q", got)
	}
}

func TestPresto_MappedPagesOverForeignContent(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	write(t, a.path("f"), strings.Repeat("a", 8192))
	rPull(a, b)
	f, err := os.OpenFile(b.path("f"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	m[0] = 'X' // in the page cache only, so presto has not seen it
	write(t, a.path("f"), strings.Repeat("b", 8192))
	res := rPull(a, b)
	got := read(t, b.path("f"))
	unix.Munmap(m)
	if res.Blocked == nil && got != strings.Repeat("b", 8192) {
		t.Errorf("no conflict, and the file is a mix of both: %.3q... %.3q... of %d", got, got[4096:], len(got))
	}
}

// An inode that was swapped out is still reached by who holds it with O_PATH (or
// by an open that was under way): what is written there is in no tree and no log.
func TestPresto_OpenOfSwappedInode(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	write(t, a.path("f"), "one")
	rPull(a, b)
	rd, err := os.Open(b.path("f")) // keeps the old inode
	must(t, err)
	defer rd.Close()
	path, err := unix.Open(b.path("f"), unix.O_PATH, 0)
	must(t, err)
	defer unix.Close(path)
	write(t, a.path("f"), "two")
	rPull(a, b)
	f, err := os.OpenFile(procPath(path), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	_, err = f.WriteString("mine")
	must(t, err)
	must(t, f.Close())
	if got := read(t, b.path("f")); got != "twomine" {
		t.Errorf("write and close succeeded, the file has %q", got)
	}
}

// group makes a group of peer's, as a push has it.
func group(peer kml.UUID, first uint64, rs ...kml.Record) kml.Group {
	for i := range rs {
		rs[i].Seq = first + uint64(i)
		rs[i].Time = 1
	}
	return kml.Group{Origin: peer, OriginEpoch: 1, First: first, Last: first + uint64(len(rs)) - 1, Chain: kml.Chain{byte(first)}, Records: rs}
}

func mkdirRecord(peer kml.UUID, ino uint64, name string) kml.Record {
	return kml.Record{Op: kml.OpMkdir, Object: kml.ObjectID{Space: peer, Ino: ino, Gen: 1, Birth: 1}, Where: kml.Name{Parent: kml.RootID, Name: name},
		Attr: kml.Attr{Mode: unix.S_IFDIR | 0o755, Mtime: 1e18}, ParentAfter: kml.Version{Mtime: 1e18}}
}

// The order may not say that changes First to Last of a peer are in it when only
// some are.
func TestPresto_OrderSaysWhatWasTaken(t *testing.T) {
	a := newHost(t, "a", "")
	sat := a.attach(channel.RoleServer)
	peer := kml.UUID{7}
	bad := mkdirRecord(peer, 101, "two")
	bad.Xattrs = []kml.Xattr{{Name: "user.big", Value: make([]byte, 60000)}} // more than ext4 holds
	g := group(peer, 1, mkdirRecord(peer, 100, "one"), bad, mkdirRecord(peer, 102, "three"))
	res, err := a.ch.Accept(t.Context(), testFileset, peer, a.info().Order, []kml.Group{g})
	t.Logf("%+v, %v", res, err)
	v, err := kml.NewView(sat.Order)
	must(t, err)
	v.SetEnd(a.info().Order)
	rd, err := v.ReadFrom(0)
	must(t, err)
	for {
		f, err := rd.Next()
		if err != nil {
			break
		}
		g, err := f.Group()
		must(t, err)
		if int(g.Last-g.First+1) != len(g.Records) {
			t.Errorf("position %d stands for %d..%d of the peer and has %d records; the answer was %+v", f.Pos.Seq, g.First, g.Last, len(g.Records), res)
		}
	}
}

// A push that failed may not be in the way of all that follow.
func TestPresto_RefusedPushLeavesNothing(t *testing.T) {
	a := newHost(t, "a", "")
	a.attach(channel.RoleServer)
	peer := kml.UUID{7}
	bad := mkdirRecord(peer, 101, "two")
	bad.Xattrs = []kml.Xattr{{Name: "user.big", Value: make([]byte, 60000)}}
	res, err := a.ch.Accept(t.Context(), testFileset, peer, a.info().Order, []kml.Group{group(peer, 1, bad)})
	must(t, err)
	if res.Refused == "" {
		t.Skip("this bottom takes large xattrs")
	}
	t.Log(res.Refused)
	other := kml.UUID{8}
	res, err = a.ch.Accept(t.Context(), testFileset, other, a.info().Order, []kml.Group{group(other, 1, mkdirRecord(other, 1, "fine"))})
	must(t, err)
	if res.Accepted != 1 {
		t.Errorf("a push of somebody else: %+v", res)
	}
}

// Exactly once: a push whose answer was lost is sent again.
func TestPresto_PushTwice(t *testing.T) {
	a := newHost(t, "a", "")
	a.attach(channel.RoleServer)
	write(t, a.path("f"), "x")
	peer := kml.UUID{7}
	f := a.records()[0].Object
	base := a.info().Order
	g := group(peer, 1, kml.Record{Op: kml.OpSetattr, Object: f, Valid: kml.ValidMode, Attr: kml.Attr{Mode: unix.S_IFREG | 0o600}})
	for range 2 {
		_, err := a.ch.Accept(t.Context(), testFileset, peer, base, []kml.Group{g})
		must(t, err)
	}
	if n := a.info().Order.Seq - base.Seq; n != 1 {
		t.Errorf("one change of the peer has %d positions", n)
	}
}

// Ids of a push must be objects of the fileset (A13): everything on the bottom
// has an id that presto can open, the control folder and other filesets too.
func TestPresto_PushOutsideTheFileset(t *testing.T) {
	a := newHost(t, "a", "")
	a.attach(channel.RoleServer)
	target := filepath.Join(a.source, cache.ControlDir, cache.InfoFile)
	fh, _, err := unix.NameToHandleAt(unix.AT_FDCWD, target, 0)
	must(t, err)
	b := &bottom{fsType: bottomName(t, a.source)}
	h, err := b.parse(fh)
	must(t, err)
	st, err := statAt(unix.AT_FDCWD, target)
	must(t, err)
	i, err := a.ch.Info(t.Context())
	must(t, err)
	peer := kml.UUID{7}
	id := kml.ObjectID{Space: i.Cache, Ino: h.ino, Gen: h.gen, Birth: nanos(st.Btime)}
	g := group(peer, 1, kml.Record{Op: kml.OpSetattr, Object: id, Valid: kml.ValidMode, Attr: kml.Attr{Mode: unix.S_IFREG | 0o666}},
		kml.Record{Op: kml.OpLink, Object: id, To: kml.Name{Parent: kml.RootID, Name: "stolen"}})
	res, err := a.ch.Accept(t.Context(), testFileset, peer, a.info().Order, []kml.Group{g})
	must(t, err)
	if b, err := os.ReadFile(a.path("stolen")); err == nil {
		t.Errorf("accepted %+v: a file of the control folder is in the fileset now: %.40q", res, b)
	}
}

// A unit whose content is not staged must be refused while nothing has been done.
func TestPresto_UnitWithoutContent(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "mkdir one; head -c 100000 /dev/zero >f")
	ends, groups := rUnit(a, b)
	stage := filepath.Join(b.source, cache.ControlDir, testFileset, cache.StageDir)
	es, err := os.ReadDir(stage)
	must(t, err)
	for _, e := range es {
		os.Remove(filepath.Join(stage, e.Name()))
	}
	_, err = b.ch.Apply(t.Context(), testFileset, ends, groups)
	t.Log(err)
	if d := b.info().Damage; d != "" {
		t.Errorf("the replica is read-only: %s", d)
	}
	b.kill()
	b.start() // fatal if the cache can't be mounted any more
}

func TestPresto_FarTimes(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "touch -d 1902-01-01 old; touch -d 2300-01-01 new")
	rPull(a, b)
	rSame(t, a, b)
}

// The move of a file must not meet the move of another file.
func TestPresto_MovesOfFilesDoNotMeet(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "mkdir d e; touch f g")
	rPull(a, b)
	sh(t, a.mnt, "mv f d")
	sh(t, b.mnt, "mv g e")
	if res := rPush(b, a); res.Accepted != 1 {
		t.Errorf("push: %+v", res)
	}
}

func TestPresto_FsyncLogsTheChange(t *testing.T) {
	a := newHost(t, "a", "")
	f, err := os.Create(a.path("f"))
	must(t, err)
	defer f.Close()
	f.WriteString("x")
	must(t, f.Sync())
	if got := ops(a.records()); got != "CREATE CLOSE" {
		t.Errorf("after fsync the log has %s", got)
	}
}

// native runs the same script in a plain folder of the same file system, and on
// the mount, and compares what is there then.
func TestPresto_LikeTheBottom(t *testing.T) {
	a := newHost(t, "a", fsFolder(t, "INTERMEZZO_TEST_FS_A"))
	plain := filepath.Join(filepath.Dir(a.source), "plain")
	must(t, os.MkdirAll(plain, 0o777))
	defer os.RemoveAll(plain)
	script := `
chmod 777 .
U="setpriv --reuid 1000 --regid 1000 --clear-groups"
P=/usr/bin/python3
umask 022
mkdir sg; chgrp 77 sg; chmod 2777 sg
$U sh -c 'umask 027; echo x >sg/f; mkdir sg/d; ln -s f sg/s; mkfifo sg/p'
$U $P -c 'import os; os.umask(0); os.close(os.open("sg/g2", os.O_CREAT|os.O_WRONLY, 0o2775)); os.close(os.open("su", os.O_CREAT|os.O_WRONLY, 0o6755))'
mkdir acl; setfacl -d -m u::rwx,g::r-x,o::---,u:55:rw- acl; chmod 777 acl
touch acl/f; mkdir acl/d; mkfifo acl/p
$U $P -c 'import os; os.umask(0); os.close(os.open("acl/u", os.O_CREAT|os.O_WRONLY, 0o666)); os.close(os.open("acl/su", os.O_CREAT|os.O_WRONLY, 0o4777)); os.mkdir("acl/ud", 0o777)'
cat >tmp.py <<'X'
import os,ctypes,sys
l=ctypes.CDLL(None)
os.umask(0o22)
for d in ("acl","sg","."):
    fd=os.open(d,os.O_TMPFILE|os.O_RDWR,0o666)
    os.write(fd,b"hello")
    assert l.linkat(-100,b"/proc/self/fd/%d"%fd,-100,(d+"/tmp"+sys.argv[1]).encode(),0x400)==0
X
chmod 644 tmp.py
$P tmp.py root; $U $P tmp.py user
for i in 1 2 3 4 5 6 7; do echo x >w$i; chmod 6777 w$i; done
$U sh -c 'echo y >>w1'
$U sh -c ': >w2'
$U $P -c 'import os; os.truncate("w3",0)'
$U $P -c 'import os; f=os.open("w4",os.O_RDWR); os.pwrite(f,b"z",0)'
chown 1000 w5; $U chgrp 1000 w5
chown 1000:1000 w6; $U chmod 6755 w6
chown 1000:5 w7; $U chmod 2755 w7
echo x >own; $U chmod 600 own 2>/dev/null && echo no >>own
mkdir st; chmod 1777 st; touch st/f; $U rm -f st/f 2>/dev/null; $U mv st/f st/g 2>/dev/null
$U touch -d 2001-01-01 own 2>/dev/null
mkdir ro; touch ro/f; chmod 755 ro; $U touch ro/g 2>/dev/null; $U ln ro/f ro/h 2>/dev/null; $U ln own own2 2>/dev/null
setfattr -n user.a -v 1 own; $U setfattr -n user.b -v 1 own 2>/dev/null
setfattr -h -n trusted.l -v 1 sg/s; mkdir -p a/b/c; touch a/b/c/f; rm -rf a
setcap cap_net_raw+ep w1 2>/dev/null; cp --preserve=all w1 w1c; $U sh -c 'echo q >>w1'
mknod dev c 5 6; $U mknod nodev c 1 3 2>/dev/null
touch -h -d 1999-01-01 sg/s; touch x1 x2; ln x1 x3; mv -T x3 x1 2>/dev/null
$P - <<'X'
import os
f=open("del","w+"); f.write("abc"); f.flush(); os.unlink("del")
os.fchmod(f.fileno(),0o600); os.ftruncate(f.fileno(),1); os.utime(f.fileno(),(1,1)); os.fchown(f.fileno(),5,6)
st=os.fstat(f.fileno()); g=open("/proc/self/fd/%d"%f.fileno(),"r+"); g.write("xyz"); g.flush()
f.seek(0)
open("out","w").write("%o %d %d %s %d\n"%(st.st_mode,st.st_size,st.st_uid,f.read(),os.fstat(f.fileno()).st_nlink))
os.mkdir("dd"); d=os.open("dd",os.O_RDONLY); os.rmdir("dd"); st=os.fstat(d)
open("out","a").write("%o %s\n"%(st.st_mode,os.listdir(d)))
try: os.open("x",os.O_CREAT|os.O_WRONLY,dir_fd=d)
except OSError as e: open("out","a").write(str(e.errno)+"\n")
def t(f):
    try: f(); r="ok"
    except OSError as e: r=str(e.errno)
    open("out","a").write(r+"\n")
t(lambda: os.setxattr("own","user.big",b"x"*65536))
t(lambda: os.setxattr("own","user.big",b"x"*65537))
t(lambda: os.setxattr("own","user."+"n"*250,b"x"))
t(lambda: os.setxattr("own","user."+"n"*251,b"x"))
t(lambda: os.setxattr("own","user.a",b"x",os.XATTR_CREATE))
t(lambda: os.setxattr("own","user.none",b"x",os.XATTR_REPLACE))
t(lambda: os.getxattr("own","user.none"))
t(lambda: os.removexattr("own","user.none"))
t(lambda: open("n"*255,"w").close())
t(lambda: open("n"*256,"w").close())
t(lambda: os.mkdir("n"*1000))
t(lambda: os.symlink("x"*4095,"longlink"))
t(lambda: os.rename("st","st/below"))
t(lambda: os.rename("own","st"))
t(lambda: os.rename("ro","own"))
t(lambda: os.rmdir("st"))
t(lambda: os.unlink("st"))
t(lambda: os.rmdir("own"))
t(lambda: os.link("st","st2"))
t(lambda: os.open("st",os.O_WRONLY))
t(lambda: os.open("sg/s",os.O_NOFOLLOW|os.O_RDONLY))
t(lambda: os.posix_fallocate(os.open("fa",os.O_CREAT|os.O_RDWR),100,1000))
t(lambda: os.truncate("own",1<<62))
X
true`
	var out [2]string
	for i, dir := range []string{plain, a.mnt} {
		cmd := exec.Command("bash", "-c", script)
		cmd.Dir = dir
		if b, err := cmd.CombinedOutput(); err != nil || len(b) > 0 {
			t.Logf("%s: %v: %s", dir, err, b)
		}
		cmd = exec.Command("bash", "-c", `find . -path ./lost+found -prune -o -path ./.intermezzo -prune -o -not -path . -printf '%p %y %m %U:%G %l %n ' \( -not -type d -printf '%s' \) -printf '\n' | LC_ALL=C sort; cat out; find . | LC_ALL=C sort | xargs -d '\n' getfacl -n 2>/dev/null; getcap -r . 2>/dev/null; find . -type f -newermt 1990-01-01 -not -newermt 2020-01-01; true`)
		cmd.Dir = dir
		x, _ := cmd.CombinedOutput()
		out[i] = string(x)
	}
	rDiff(t, "the mount behaves otherwise than the bottom", out[0], out[1])
	if d := a.info().Damage; d != "" {
		t.Error(d)
	}
}

// A crash after a file was made and before its owner was set: what recovery makes
// of it must not be open to more people than the ACL of the directory says.
func TestPresto_RecoveredModeObeysDefaultACL(t *testing.T) {
	needCrash(t)
	a := newHost(t, "a", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "chmod 777 .; setfacl -d -m u::rw-,g::r--,o::---,u:55:rw- .")
	for k := 1; k < 12; k++ {
		name := fmt.Sprintf("f%d", k)
		killAt(a, k, func() {
			exec.Command("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "sh", "-c", "umask 0; echo x >"+a.path(name)).Run()
		})
		a.start()
		var st unix.Stat_t
		if unix.Stat(a.path(name), &st) == nil && st.Mode&0o007 != 0 {
			t.Errorf("killed at call %d: mode %o", k, st.Mode)
		}
	}
}

// A name that came into being between the kernel's LOOKUP and its CREATE is
// opened without any check of permissions.
func TestPresto_CreateOfForeignFileChecksPermission(t *testing.T) {
	needCrash(t)
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "chmod 777 .; mkdir d; echo x >d/x; chmod 777 d")
	rPull(a, b)
	sh(t, a.mnt, "umask 077; echo very secret >secret; echo y >>d/x")
	ends, groups := rUnit(a, b)
	sh(t, b.mnt, "stat d/x")
	// Lookups are slow, so that this one comes between the preparations of the
	// unit, which take long because of the one in d, and the unit itself.
	strace := exec.Command("strace", "-f", "-p", fmt.Sprint(b.cmd.Process.Pid), "-e", "trace=name_to_handle_at",
		"-e", "inject=name_to_handle_at:delay_enter=500000", "-o", b.dir+"/trace")
	must(t, strace.Start())
	time.Sleep(300 * time.Millisecond)
	user := func(name string) *exec.Cmd {
		return exec.Command("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "bash", "-c", `exec 3<>"$0"; cat <&3`, b.path(name))
	}
	busy := user("d/other")
	must(t, busy.Start())
	time.Sleep(200 * time.Millisecond)
	applied := make(chan struct{})
	go func() {
		defer close(applied)
		res, err := b.ch.Apply(t.Context(), testFileset, ends, groups)
		t.Logf("apply %+v %v", res, err)
	}()
	time.Sleep(1100 * time.Millisecond)
	out, _ := user("secret").CombinedOutput()
	<-applied
	busy.Wait()
	strace.Process.Signal(syscall.SIGINT)
	strace.Wait()
	if strings.Contains(string(out), "very secret") {
		t.Errorf("a user read and may write a file of root's with mode 600: %s", out)
	}
}

// A damaged index is derived data: it is made again, whatever is wrong with it.
func TestPresto_DamagedIndex(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "for i in $(seq 300); do echo $i >f$i; done")
	rPull(a, b)
	b.stop()
	p := filepath.Join(b.source, cache.ControlDir, cache.IndexFile)
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	st, _ := f.Stat()
	for off := int64(2 * 4096); off < st.Size(); off += 4096 {
		f.WriteAt(bytes.Repeat([]byte{0xaa}, 512), off)
	}
	f.Close()
	b.start()
	sh(t, a.mnt, "echo more >>f7; mv f8 g8; rm f9")
	rPull(a, b)
	rSame(t, a, b)
}

func TestPresto_MappedWrites(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	write(t, a.path("f"), strings.Repeat("a", 8192))
	f, err := os.OpenFile(a.path("f"), os.O_RDWR, 0)
	must(t, err)
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	f.Close()
	copy(m, "stored after close")
	must(t, unix.Munmap(m))
	for range 100 {
		if a.info().Writing == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	rPull(a, b)
	rSame(t, a, b)
}

// A change of attributes through a descriptor that was opened before a foreign
// version came is not lost in silence.
func TestPresto_AttributesOfSwappedInode(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	write(t, a.path("f"), "one")
	rPull(a, b)
	rd, err := os.Open(b.path("f"))
	must(t, err)
	defer rd.Close()
	write(t, a.path("f"), "two")
	rPull(a, b)
	if err := rd.Chmod(0o600); errors.Is(err, unix.ESTALE) {
		return
	}
	st, err := os.Stat(b.path("f"))
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("fchmod succeeded, the file has mode %o", st.Mode().Perm())
	}
}

// Recovery logs what is not in the log, and nothing twice.
func TestPresto_CloseIsLoggedOnce(t *testing.T) {
	a := newHost(t, "a", "")
	f, err := os.Create(a.path("f"))
	must(t, err)
	f.WriteString("x")
	fd, err := unix.Dup(int(f.Fd()))
	must(t, err)
	unix.Close(fd) // FLUSH: the CLOSE is logged
	g, err := os.OpenFile(a.path("f"), os.O_WRONLY, 0)
	must(t, err)
	before := ops(a.records())
	a.kill()
	f.Close()
	g.Close()
	a.start()
	if got := ops(a.records()); got != before {
		t.Errorf("logged %s, after the kill %s", before, got)
	}
}

// The daemon gets no content of what is removed.
func TestPresto_ContentOfRemovedFile(t *testing.T) {
	a := newHost(t, "a", "")
	a.attach(channel.RoleServer)
	f, err := os.Create(a.path("f"))
	must(t, err)
	defer f.Close()
	f.WriteString("x")
	id := a.records()[len(a.records())-1].Object
	must(t, os.Remove(a.path("f")))
	o, err := a.ch.Contents(t.Context(), testFileset, []kml.ObjectID{id}, true)
	must(t, err)
	if o[0].Errno != int(unix.ENOENT) {
		t.Errorf("%+v", o[0])
	}
}
