package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	loopControl = "/dev/loop-control"
	// sysBlock has a folder for every block device, whatever is in /dev.
	sysBlock = "/sys/block"
	// loopTries bounds how often a free loop device may be taken by somebody else
	// between asking for it and using it.
	loopTries = 100
	// releaseLimit is how long Close waits for the kernel, and for processes that
	// hold descriptors of the cache, to let go of the device.
	releaseLimit = 10 * time.Second
)

// loopDevice is a loop device of ours. It detaches by itself when its last user
// goes away, so that none is left behind by a process that was killed.
type loopDevice struct {
	path    string
	device  *os.File
	backing *os.File // its open file description has the flock, and the loop device shares it
	path0   *os.File // O_PATH on the backing file, to find out when the flock has ended
}

// attachLoop makes a block device of the regular file at path, of which it
// takes an exclusive flock first: a file can back only one loop device. With
// strict a device that is to be read only cannot even replay a journal.
func attachLoop(ctx context.Context, path string, readOnly, strict bool) (*loopDevice, error) {
	backing, readOnly, err := openBacking(path, readOnly, strict)
	if err != nil {
		return nil, err
	}
	l := &loopDevice{backing: backing}
	if err := l.attach(ctx, path, readOnly); err != nil {
		l.backing.Close()
		if l.path0 != nil {
			l.path0.Close()
		}
		return nil, err
	}
	return l, nil
}

// openBacking opens an image file for writing, unless it is to be read only and
// that is to be strict, or cannot be otherwise.
func openBacking(path string, readOnly, strict bool) (f *os.File, onlyRead bool, err error) {
	if !readOnly || !strict {
		f, err = os.OpenFile(path, os.O_RDWR, 0)
		if err == nil || !readOnly {
			return f, false, err
		}
	}
	f, err = os.Open(path)
	return f, true, err
}

func (l *loopDevice) attach(ctx context.Context, path string, readOnly bool) error {
	var err error
	if l.path0, err = os.OpenFile(path, unix.O_PATH, 0); err != nil {
		return err
	}
	// A process that is being started has copies of its parent's locks for a moment.
	err = waitUntil(lockTime, func() (bool, error) {
		err := flock(l.backing)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if errors.Is(err, errStillHeld) {
		if dev, err := loopOf(l.backing); err == nil && dev != "" {
			return backsLoop(path, dev)
		}
		return lockedImage(path)
	} else if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	if err := l.settle(path); err != nil {
		return err
	}
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open loop control (is the loop driver in this kernel?): %w", err)
	}
	defer control.Close()
	for range loopTries {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fmt.Errorf("get a free loop device: %w", err)
		}
		err = l.configure(n, path, readOnly)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return fmt.Errorf("attach a loop device to %s: all that were free got taken at once", path)
}

// configure binds loop device n to the backing file. EBUSY: somebody else has
// taken the device.
// lockTime is how long the lock of an image is tried for.
const lockTime = 100 * time.Millisecond

// settleTime is for the loop device of an owner that died: it goes when the last
// descriptor that a daemon had from it is closed.
const settleTime = 5 * time.Second

// settle makes sure that no other loop device has the image. One that nobody
// owns and nobody has mounted is about to detach itself, and is waited for.
func (l *loopDevice) settle(path string) error {
	dev, err := loopOf(l.backing)
	if err != nil || dev == "" {
		return err
	}
	auto, err := os.ReadFile(filepath.Join(sysBlock, filepath.Base(dev), "loop/autoclear"))
	if err != nil || strings.TrimSpace(string(auto)) != "1" || mountedAt(dev) != "" {
		return backsLoop(path, dev)
	}
	err = waitUntil(settleTime, func() (bool, error) {
		now, err := loopOf(l.backing)
		return now == "", err
	})
	if dev, lerr := loopOf(l.backing); lerr == nil && dev != "" {
		return backsLoop(path, dev)
	}
	if errors.Is(err, errStillHeld) {
		return nil // it went at the last moment
	}
	return err
}

func (l *loopDevice) configure(n int, path string, readOnly bool) error {
	dev, err := openLoop(n, readOnly)
	if err != nil {
		return err
	}
	cfg := unix.LoopConfig{Fd: uint32(l.backing.Fd())}
	cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if readOnly {
		cfg.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], path)
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &cfg); err != nil {
		dev.Close()
		return fmt.Errorf("configure %s for %s: %w", dev.Name(), path, err)
	}
	l.path, l.device = dev.Name(), dev
	return nil
}

// openLoop opens loop device n, making its node in /dev if nobody else has.
func openLoop(n int, readOnly bool) (*os.File, error) {
	name := "loop" + strconv.Itoa(n)
	path := "/dev/" + name
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	dev, err := deviceNumber(name)
	if err != nil {
		return nil, err
	}
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(dev)); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	return os.OpenFile(path, flags, 0)
}

// deviceNumber gives the number of the block device that sysfs calls name.
func deviceNumber(name string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(sysBlock, name, "dev"))
	if err != nil {
		return 0, fmt.Errorf("find block device %s: %w", name, err)
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(b), "%d:%d", &major, &minor); err != nil {
		return 0, fmt.Errorf("read device number %q of %s: %w", b, name, err)
	}
	return unix.Mkdev(major, minor), nil
}

// loopOf gives the path of the loop device that f backs already, "" if none.
func loopOf(f *os.File) (string, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &want); err != nil {
		return "", fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	bound, err := filepath.Glob(sysBlock + "/loop*/loop/backing_file")
	if err != nil {
		return "", fmt.Errorf("list loop devices: %w", err)
	}
	for _, b := range bound {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(filepath.Dir(b))), "loop"))
		if err != nil {
			continue
		}
		dev, err := openLoop(n, true)
		if err != nil {
			return "", fmt.Errorf("look at a loop device: %w", err)
		}
		st, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
		path := dev.Name()
		dev.Close()
		// An error means that it was detached in the meantime.
		if err == nil && st.Inode == want.Ino && st.Device == uint64(want.Dev) {
			return path, nil
		}
	}
	return "", nil
}

// close gives up the device, and waits until it is detached. It must come after
// the unmount. held tells who else keeps it, for the error.
func (l *loopDevice) close(held func() string) error {
	l.device.Close() // the last close detaches: no error of this one matters
	l.backing.Close()
	defer l.path0.Close()
	err := waitUntil(releaseLimit, func() (bool, error) {
		// The flock belongs to the open file description that the loop device has,
		// so it can be had again exactly when the device is detached.
		f, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(l.path0.Fd())))
		if err != nil {
			return false, err
		}
		defer f.Close()
		err = flock(f)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if errors.Is(err, errStillHeld) {
		return fmt.Errorf("detach %s: still in use%s", l.path, held())
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", l.path, err)
	}
	return nil
}

var errStillHeld = errors.New("still held")

// waitUntil asks free until it says yes or limit has passed: errStillHeld. The
// kernel has no event for the end of a mount that is in no namespace.
func waitUntil(limit time.Duration, free func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if ok, err := free(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errStillHeld
		}
		<-time.After(pause)
	}
}
