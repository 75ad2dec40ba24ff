package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The kernels from which on data and requests take the short ways.
const (
	passthroughKernel = "6.9"
	ioUringKernel     = "6.14"
)

// kernel checks what mounting needs of this machine.
func (c *checker) kernel() {
	if filesystems, err := os.ReadFile("/proc/filesystems"); err == nil && !hasWord(string(filesystems), "fuse") {
		c.fault("kernel", "modprobe fuse", "it has no FUSE, on which every mount is built")
	}
	c.fuseDevice()
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return
	}
	release := unix.ByteSliceToString(uts.Release[:])
	passthrough, uring := "has passthrough", "has io_uring enabled"
	if olderThan(release, passthroughKernel) {
		passthrough = "has no passthrough (Linux " + passthroughKernel + " has it)"
	}
	if on, err := os.ReadFile("/sys/module/fuse/parameters/enable_uring"); err != nil {
		uring = "has no io_uring (Linux " + ioUringKernel + " has it)"
	} else if strings.TrimSpace(string(on)) != "Y" {
		uring = "has io_uring disabled"
	}
	c.note("kernel", "", "FUSE of Linux %s %s, and %s", release, passthrough, uring)
	if !isRoot() {
		c.note("inconfig_chk", "run it as root", "not run as root: what only root can see was left out")
	}
}

func (c *checker) fuseDevice() {
	const path = "/dev/fuse"
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		c.fault(path, "modprobe fuse; if it stays away: mknod -m 666 /dev/fuse c 10 229", "it does not exist")
		return
	}
	if err != nil {
		c.fault(path, "", "%v", err)
		return
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&os.ModeCharDevice == 0 || sys.Rdev != unix.Mkdev(10, 229) {
		c.fault(path, "rm /dev/fuse && mknod -m 666 /dev/fuse c 10 229", "it is not the device of FUSE")
		return
	}
	if !isRoot() {
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		c.fault(path, "modprobe fuse; in a container, allow it the device 10:229", "it can't be opened: %v", errnoOf(err))
		return
	}
	f.Close()
}

// maxSocketPath is what fits into the address of a unix socket.
const maxSocketPath = 107

// runFolder checks the folder of the sockets. One that is missing is made by
// the first mount.
func (c *checker) runFolder() {
	run := c.opts.Run
	if longest := filepath.Join(run, strconv.Itoa(MaxChannel)); len(longest) > maxSocketPath {
		c.fault(run, "choose a shorter one with --run or INTERMEZZO_RUN", "its name is too long for the sockets in it: %d characters of at most %d", len(longest), maxSocketPath)
	}
	info, err := os.Stat(run)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		c.fault(run, "", "%v", errnoOf(err))
	case !info.IsDir():
		c.fault(run, "remove it, or choose another with --run", "the run folder is not a folder")
	case info.Mode().Perm()&0o022 != 0:
		c.fault(run, "chmod go-w "+run, "others may write the run folder (mode %04o), and so pose as a daemon", info.Mode().Perm())
	}
}

func errnoOf(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

func hasWord(text, word string) bool {
	for _, w := range strings.Fields(text) {
		if w == word {
			return true
		}
	}
	return false
}

// olderThan compares the first two numbers of kernel releases.
func olderThan(release, than string) bool {
	var a, b, x, y int
	if _, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(than, "%d.%d", &x, &y); err != nil {
		return false
	}
	return a < x || (a == x && b < y)
}
