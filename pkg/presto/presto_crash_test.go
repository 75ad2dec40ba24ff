package presto

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// These tests kill presto before each call that changes anything, one after
// another: strace slows those calls down, so that a kill lands where it is
// wanted. Between two such calls nothing on disk changes, so that is every
// instant there is. They are slow, and only run where INTERMEZZO_TEST_CRASH is set.
const changing = "pwrite64,mkdirat,mknodat,symlinkat,linkat,unlinkat,renameat,renameat2,fchownat,fchmodat,fchmod,chmod,setxattr,fsetxattr,removexattr,utimensat,truncate,ftruncate,fallocate,copy_file_range"

const slow = 80 * time.Millisecond

func needCrash(t *testing.T) {
	if os.Getenv("INTERMEZZO_TEST_CRASH") == "" {
		t.Skip("SKIPPED: set INTERMEZZO_TEST_CRASH")
	}
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("SKIPPED: no strace")
	}
}

// slowDown makes each changing call of h's presto take a while, and notes it in
// the file trace.
func slowDown(h *host) *exec.Cmd {
	h.t.Helper()
	os.Remove(h.dir + "/trace")
	cmd := exec.Command("strace", "-f", "-p", strconv.Itoa(h.cmd.Process.Pid), "-e", "trace="+changing,
		"-e", fmt.Sprintf("inject=%s:delay_enter=%d", changing, slow.Microseconds()), "-o", h.dir+"/trace")
	err, _ := cmd.StderrPipe()
	must(h.t, cmd.Start())
	line, _ := bufio.NewReader(err).ReadString('\n')
	if !strings.Contains(line, "attached") {
		h.t.Fatalf("strace: %s", line)
	}
	return cmd
}

// calls are the changing calls so far, the one under way included.
func calls(h *host) []string {
	b, _ := os.ReadFile(h.dir + "/trace")
	var calls []string
	for _, l := range strings.Split(string(b), "\n") {
		if strings.Contains(l, "(") && !strings.Contains(l, "resumed") {
			calls = append(calls, l)
		}
	}
	return calls
}

// killAt kills h's presto right before its k-th changing call of what do does.
// It is false if there were fewer; then it is killed after the last.
func killAt(h *host, k int, do func()) (last string, killed bool) {
	h.t.Helper()
	strace := slowDown(h)
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	idle, ended := 0, done
	for len(calls(h)) < k && idle < 60 {
		timer := time.NewTimer(4 * time.Millisecond)
		select {
		case <-ended:
			ended = nil
		case <-timer.C:
		}
		if ended == nil {
			idle++ // a RELEASE may be under way
		}
	}
	// The parent can reap it only when the tracer is gone.
	h.cmd.Process.Kill()
	list := calls(h)
	strace.Process.Kill()
	strace.Wait()
	h.kill()
	<-done
	if n := len(list); n > 0 {
		last = fmt.Sprintf("call %d: %s", n, list[n-1])
	}
	return last, len(list) >= k
}

var crashOps = []struct{ name, setup, op string }{
	{"mkdir", "", "mkdir d"},
	{"mkdirs", "", "mkdir d1 d2 d3 d4 d5"},
	{"create", "", "echo hello >f"},
	{"create user", "chmod 777 .", "setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'umask 027; echo hello >f'"},
	{"create acl", "setfacl -d -m u:66:rwx,o::- . ; chmod g+s .; chgrp 77 .", "echo hello >f"},
	{"mkdir acl", "setfacl -d -m u:66:rwx,o::- . ; chmod g+s .; chgrp 77 .", "mkdir d"},
	{"symlink", "", "ln -s x s"},
	{"mknod", "", "mknod c c 1 3"},
	{"suid", "chmod 777 .", `setpriv --reuid 1000 --regid 1000 --clear-groups /usr/bin/python3 -c 'import os; os.umask(0); os.open("s", os.O_CREAT|os.O_WRONLY, 0o4755)'`},
	{"unlink", "echo x >f", "rm f"},
	{"unlink one", "echo x >f; ln f g", "rm f"},
	{"rmdir", "mkdir d", "rmdir d"},
	{"rename", "echo x >f; mkdir d", "mv f d/g"},
	{"rename over", "echo x >f; echo y >g", "mv f g"},
	{"rename dirty", "echo y >g", `/usr/bin/python3 -c 'import os; f=open("f","w"); f.write("new"); f.flush(); os.rename("f","g")'`},
	{"rename dir", "mkdir -p a/b c d; echo x >a/b/f", "mv a/b c; mv -T c d"},
	{"exchange", "echo x >f; mkdir d", `/usr/bin/python3 -c 'import ctypes; ctypes.CDLL(None).renameat2(-100,b"f",-100,b"d",2)'`},
	{"link", "echo x >f", "ln f g"},
	{"tmpfile", "", `/usr/bin/python3 -c '
import os
fd=os.open(".", os.O_TMPFILE|os.O_RDWR, 0o644)
os.write(fd,b"whole")
import ctypes; r=ctypes.CDLL(None).linkat(-100,b"/proc/self/fd/%d"%fd,-100,b"t",0x400); assert r==0'`},
	{"chmod", "echo x >f", "chmod 4711 f"},
	{"chown", "echo x >f; chmod 4711 f", "chown 5:6 f"},
	{"touch", "echo x >f", "touch -d 2001-01-01 f"},
	{"setxattr", "echo x >f; setfattr -n user.a -v b f", "setfattr -n user.a -v c f; setfattr -n user.q -v c f"},
	{"delxattr", "echo x >f; setfattr -n user.a -v b f", "setfattr -x user.a f"},
	{"acl", "echo x >f", "setfacl -m u:5:r f"},
	{"truncate", "echo hello >f", "truncate -s 2 f"},
	{"rewrite", "echo hello >f; ln f g", "echo new >f"},
	{"append", "echo hello >f", "echo more >>f"},
	{"replace", "echo hello >f", "sed -i s/hello/byebye/ f"},
}

func TestPresto_CrashLocal(t *testing.T) {
	needCrash(t)
	for _, c := range crashOps {
		t.Run(c.name, func(t *testing.T) {
			a, b := newHost(t, "a", fsFolder(t, "INTERMEZZO_TEST_FS_A")), newHost(t, "b", "")
			a.attach(channel.RoleServer)
			for k := 1; k < 40 && !t.Failed(); k++ {
				dir := fmt.Sprintf("k%d", k)
				sh(t, a.mnt, "mkdir "+dir+"; cd "+dir+"; "+c.setup)
				var out []byte
				last, killed := killAt(a, k, func() {
					cmd := exec.Command("bash", "-c", c.op)
					cmd.Dir = a.path(dir)
					out, _ = cmd.CombinedOutput()
				})
				a.start()
				func() {
					defer func() {
						if t.Failed() {
							t.Logf("killed in %s: %s\n%s", dir, last, out)
						}
					}()
					if res := rPull(a, b); res.Blocked != nil {
						t.Fatalf("blocked: %+v", res.Blocked)
					}
					rSame(t, a, b)
					if n := a.records(); len(n) == 0 {
						t.Error("no records")
					}
				}()
				if !killed {
					t.Logf("%d instants %s", k-1, out)
					break
				}
			}
		})
	}
}

func TestPresto_CrashApply(t *testing.T) {
	needCrash(t)
	for _, c := range crashOps {
		t.Run(c.name, func(t *testing.T) {
			a, b := newHost(t, "a", ""), newHost(t, "b", fsFolder(t, "INTERMEZZO_TEST_FS_A"))
			a.attach(channel.RoleServer)
			for k := 1; k < 60 && !t.Failed(); k++ {
				dir := fmt.Sprintf("k%d", k)
				sh(t, a.mnt, "mkdir "+dir+"; cd "+dir+"; "+c.setup)
				rPull(a, b)
				sh(t, a.path(dir), c.op+"; true")
				ends, groups := rUnit(a, b)
				last, killed := killAt(b, k, func() { b.ch.Apply(t.Context(), testFileset, ends, groups) })
				func() {
					defer func() {
						if t.Failed() {
							t.Logf("killed in %s: %s", dir, last)
						}
					}()
					b.start()
					rPull(a, b)
					rSame(t, a, b)
				}()
				if !killed {
					t.Logf("%d instants", k-1)
					break
				}
			}
		})
	}
}

func TestPresto_CrashAccept(t *testing.T) {
	needCrash(t)
	for _, c := range crashOps {
		t.Run(c.name, func(t *testing.T) {
			a, b, x := newHost(t, "a", fsFolder(t, "INTERMEZZO_TEST_FS_A")), newHost(t, "b", ""), newHost(t, "x", "")
			a.attach(channel.RoleServer)
			for k := 1; k < 60 && !t.Failed(); k++ {
				dir := fmt.Sprintf("k%d", k)
				sh(t, a.mnt, "mkdir "+dir+"; cd "+dir+"; "+c.setup)
				rPull(a, b)
				sh(t, b.path(dir), c.op+"; true")
				cat, sat := b.attach(channel.RoleClient), a.attach(channel.RoleServer)
				b.ch.Barrier(t.Context(), testFileset)
				state := b.info()
				groups := rPending(b, cat)
				rStage(b, sat, groups)
				last, killed := killAt(a, k, func() {
					a.ch.Accept(t.Context(), testFileset, cat.Cache, state.Applied, groups)
				})
				func() {
					defer func() {
						if t.Failed() {
							t.Logf("killed in %s: %s", dir, last)
						}
					}()
					a.start()
					if res := rPull(a, b); res.Blocked != nil {
						t.Fatalf("blocked: %+v", res.Blocked)
					}
					if b.info().PendingRecords > 0 {
						if res := rPush(b, a); res.Accepted != 1 {
							t.Fatalf("push again: %+v", res)
						}
						rPull(a, b)
					}
					rSame(t, a, b)
					rPull(a, x) // somebody who only has the log
					rSame(t, a, x)
				}()
				if !killed {
					t.Logf("%d instants", k-1)
					break
				}
			}
		})
	}
}
