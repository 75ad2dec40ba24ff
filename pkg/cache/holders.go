package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// inUse explains why the device of b cannot be had.
func (b *Bottom) inUse() error {
	return deviceInUse(b.source, b.device, "in use",
		"the kernel has it open exclusively (a partition of it, a RAID, a mapping, or a mount in another namespace); release it there")
}

// CheckFree makes sure that nobody uses the block device or image file at path,
// which must be resolved. The error is an *Error with ErrInUse that says who
// does, and how to end it. For anything else it returns nil.
func CheckFree(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Mode().IsRegular() {
		return checkFileFree(path)
	}
	if st.Mode()&os.ModeDevice == 0 || st.Mode()&os.ModeCharDevice != 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return (&Bottom{source: path, device: path}).inUse()
	}
	if err != nil {
		return err
	}
	return f.Close()
}

func checkFileFree(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if dev, err := loopOf(f); err != nil {
		return err
	} else if dev != "" {
		return backsLoop(path, dev)
	}
	if err := flock(f); errors.Is(err, unix.EWOULDBLOCK) {
		return lockedImage(path)
	} else if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	if usedAsSwap(path) {
		return swapInUse(path)
	}
	return nil
}

func backsLoop(path, dev string) error {
	return deviceInUse(path, dev, "in use as the backing file of "+dev, "end what uses that, then detach it with: losetup -d "+dev)
}

func lockedImage(path string) error {
	return &Error{Source: path, Kind: ErrInUse, Detail: "in use: another process holds a lock on this image file; end it first"}
}

func swapInUse(source string) error {
	return &Error{Source: source, Kind: ErrInUse, Detail: "in use as swap space; end that first with: swapoff " + source}
}

// usedAsSwap tells whether the kernel swaps to the device or file at path.
func usedAsSwap(path string) bool {
	b, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return false
	}
	want, err := os.Stat(path)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		name, _, _ := strings.Cut(line, " ")
		if st, err := os.Stat(name); err == nil && os.SameFile(st, want) {
			return true
		}
	}
	return false
}

// deviceInUse is the ErrInUse of source, which is or backs device: it names
// where that is mounted, or which process has the cache on it, or says otherwise.
func deviceInUse(source, device, what, otherwise string) error {
	if at := mountedAt(device); at != "" {
		return &Error{Source: source, Kind: ErrInUse,
			Detail: fmt.Sprintf("in use: mounted on %s; unmount it first with: umount %s", at, at)}
	}
	if usedAsSwap(device) {
		return swapInUse(source)
	}
	pid := lockHolder(device)
	return &Error{Source: source, Kind: ErrInUse, PID: pid, Detail: inUseText(what, pid, otherwise)}
}

// inUseText words an ErrInUse: by the process if it is known, else with what
// can be done.
func inUseText(what string, pid int, otherwise string) string {
	if pid != 0 {
		return fmt.Sprintf("%s by process %d, which has the cache open; unmount the cache first", what, pid)
	}
	return what + ": " + otherwise
}

// mountedAt gives the first place where the block device is mounted in our
// namespace, "" if none.
func mountedAt(device string) string {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return ""
	}
	mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		if unix.Mkdev(uint32(i.Major), uint32(i.Minor)) == uint64(st.Rdev) {
			return false, true
		}
		// Btrfs has device numbers of its own; there only the source tells.
		var src unix.Stat_t
		if !filepath.IsAbs(i.Source) || unix.Lstat(i.Source, &src) != nil {
			return true, false
		}
		same := src.Mode&unix.S_IFMT == unix.S_IFBLK && src.Rdev == st.Rdev
		return !same, same
	})
	if err != nil || len(mounts) == 0 {
		return ""
	}
	return mounts[0].Mountpoint
}

// lockHolder gives the pid of the process that owns the cache on a device which
// is mounted where we cannot see it, 0 if that is not found out. It looks by
// joining the mounted file system for a moment.
func lockHolder(device string) int {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
	if !errors.Is(err, unix.EBUSY) { // nobody has it mounted, and it must not be us who does
		if err == nil {
			f.Close()
		}
		return 0
	}
	if f, err = os.Open(device); err != nil {
		return 0
	}
	kind, err := probeDevice(f)
	f.Close()
	if err != nil || kind == "" {
		return 0
	}
	for _, readOnly := range []bool{false, true} { // it must be as the other one's is
		mount, err := joinKind(device, kind, readOnly)
		if err != nil {
			continue
		}
		pid := holderBelow(mount)
		mount.Close()
		return pid
	}
	return 0
}

// holderBelow gives the pid in the lock file of the cache at root, if the lock
// is held.
func holderBelow(root *os.File) int {
	lock, err := openAt(root, filepath.Join(ControlDir, LockFile), unix.O_RDONLY, 0)
	if err != nil {
		return 0
	}
	defer lock.Close()
	if err := flock(lock); err == nil {
		return 0
	}
	return lockOwner(lock)
}

// heldBy names the processes that have files of the mount open, as
// " by process N, N". It asks no file system, so it cannot hang.
func (b *Bottom) heldBy() string {
	if b.mountID == 0 {
		return ""
	}
	infos, err := filepath.Glob("/proc/[0-9]*/fdinfo/*")
	if err != nil {
		return ""
	}
	want := "mnt_id:\t" + strconv.FormatUint(b.mountID, 10) + "\n"
	var pids []string
	seen := map[string]bool{}
	for _, path := range infos {
		pid := strings.Split(path, "/")[2]
		if seen[pid] {
			continue
		}
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), want) {
			seen[pid] = true
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return ""
	}
	return " by process " + strings.Join(pids, ", ")
}
