package docs

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// machine is a root shell on a machine of its own: mounts, network, processes
// and name are private, and so is what it writes below /etc, /usr, /run, /srv,
// /mnt and in its copy of the source. It ends with everything that was started on
// it.
type machine struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	in   io.Writer
	out  *bufio.Reader
	mark string
}

// limit bounds every command.
const limit = 3 * time.Minute

// setUp makes the machine private: an overlay shows what is there and has what
// is written, a tmpfs is empty at first.
func (m *machine) setUp(source string) {
	m.t.Helper()
	scratch := m.t.TempDir()
	var b strings.Builder
	fmt.Fprintf(&b, "set -e\nmount --make-rprivate /\nmount -t proc proc /proc\nhostname %s\n", m.name)
	// Our copies of mounts that other tests have made would keep them busy.
	for _, dir := range m.mountsOfOthers() {
		fmt.Fprintf(&b, "umount -i -l %s || true\n", quote(dir))
	}
	fmt.Fprintf(&b, "mount -t tmpfs none %s\n", quote(scratch))
	overlay := func(name, lower, target string) {
		at := filepath.Join(scratch, name)
		fmt.Fprintf(&b, "mkdir -p %[1]s/upper %[1]s/work %[2]s\n", quote(at), quote(target))
		fmt.Fprintf(&b, "mount -t overlay -o %s none %s\n", quote("lowerdir="+lower+",upperdir="+at+"/upper,workdir="+at+"/work"), quote(target))
	}
	overlay("source", source, filepath.Join(scratch, "tree"))
	overlay("etc", "/etc", "/etc")
	overlay("usr", "/usr", "/usr")
	if real, err := filepath.EvalSymlinks("/sbin"); err == nil && real == "/sbin" {
		overlay("sbin", "/sbin", "/sbin")
	}
	for _, dir := range []string{"/run", "/srv", "/mnt"} {
		fmt.Fprintf(&b, "mount -t tmpfs none %s\n", dir)
	}
	fmt.Fprintf(&b, "cd %s\nset +e\n", quote(filepath.Join(scratch, "tree")))
	if out, code := m.run(b.String() + "true"); code != 0 {
		m.t.Fatalf("set up machine %s: %s", m.name, strings.Join(out, "\n"))
	}
}

// mountsOfOthers are the mounts of the machine that lie where tests make theirs,
// the last first.
func (m *machine) mountsOfOthers() []string {
	m.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", m.cmd.Process.Pid))
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	temp, err := filepath.EvalSymlinks(os.TempDir())
	if err != nil {
		m.t.Fatal(err)
	}
	found, err := mountinfo.GetMountsFromReader(f, mountinfo.PrefixFilter(temp))
	if err != nil {
		m.t.Fatal(err)
	}
	var dirs []string
	for _, at := range found {
		if at.Mountpoint != temp {
			dirs = append(dirs, at.Mountpoint)
		}
	}
	slices.Reverse(dirs)
	return dirs
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// newMachine starts a machine whose shell is in a private copy of source.
func newMachine(t *testing.T, name, source string) *machine {
	t.Helper()
	m := &machine{t: t, name: name, mark: "--- " + rand.Text()}
	m.cmd = exec.Command("bash", "--norc")
	m.cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH=/usr/local/sbin:/usr/sbin:/sbin:"+os.Getenv("PATH"))
	m.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
	}
	in, err := m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	m.in, m.out = in, bufio.NewReader(out)
	m.cmd.Stdout, m.cmd.Stderr = w, w
	err = m.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatalf("start machine %s: %v", name, err)
	}
	t.Cleanup(func() {
		m.cmd.Process.Kill() // the first process: the kernel ends all others, and the mounts
		m.cmd.Wait()
		out.Close()
	})
	m.setUp(source)
	return m
}

// run types a command and gives the lines it printed and its exit status.
func (m *machine) run(command string) (lines []string, code int) {
	m.t.Helper()
	timer := time.AfterFunc(limit, func() { m.cmd.Process.Kill() })
	defer timer.Stop()
	// The shell reads its commands from where they would read their input.
	if _, err := fmt.Fprintf(m.in, "{ %s\n} </dev/null; printf '\\n%%s %%d\\n' '%s' $?\n", command, m.mark); err != nil {
		m.t.Fatalf("machine %s is gone: %v", m.name, err)
	}
	for {
		line, err := m.out.ReadString('\n')
		if err != nil {
			m.t.Fatalf("machine %s ended, or %q took longer than %v; it had printed\n%s", m.name, command, limit, strings.Join(lines, "\n"))
		}
		line = strings.TrimSuffix(line, "\n")
		if rest, is := strings.CutPrefix(line, m.mark+" "); is {
			code, err := strconv.Atoi(rest)
			if err != nil {
				m.t.Fatalf("machine %s: exit status %q", m.name, rest)
			}
			return withoutLast(lines), code
		}
		lines = append(lines, line)
	}
}

// withoutLast takes off the empty line before the mark, which ends the last line
// of the output, if that had no end, and else is one too many.
func withoutLast(lines []string) []string {
	if n := len(lines) - 1; n >= 0 && lines[n] == "" {
		return lines[:n]
	}
	return lines
}

// connect joins two machines by a cable and gives each its address.
func connect(t *testing.T, a *machine, addressA string, b *machine, addressB string) {
	t.Helper()
	if err := cable(a.cmd.Process.Pid, b.cmd.Process.Pid); err != nil {
		t.Fatalf("connect %s and %s: %v", a.name, b.name, err)
	}
	for m, address := range map[*machine]string{a: addressA, b: addressB} {
		if err := setAddress(m.cmd.Process.Pid, address); err != nil {
			t.Fatalf("give %s the address %s: %v", m.name, address, err)
		}
	}
}

// cable makes eth0 in the network of process a, and its other end, eth0 in that
// of process b.
func cable(a, b int) error {
	h, err := networkOf(a)
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(b)})
}

func networkOf(pid int) (*netlink.Handle, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return netlink.NewHandleAt(ns)
}

func setAddress(pid int, address string) error {
	h, err := networkOf(pid)
	if err != nil {
		return err
	}
	defer h.Close()
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	for _, name := range []string{"lo", "eth0"} {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if name == "eth0" {
			if err := h.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}
