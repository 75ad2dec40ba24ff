package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fuseMagic is the type that statfs(2) tells for FUSE.
const fuseMagic = 0x65735546

// detached is a FUSE mount that has no place in the tree yet. Nobody can meet
// it before presto answers for it, and closing it undoes it without a trace.
type detached struct {
	fuse  *os.File // of /dev/fuse: the file system side
	mount int      // the mount
}

// newDetached makes a mount of source, whose requests come on d.fuse.
func newDetached(source string, f flags) (*detached, error) {
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open FUSE device (modprobe fuse?): %w", err)
	}
	fd, err := fuseMount(fuse, source, f)
	if err != nil {
		fuse.Close()
		return nil, err
	}
	return &detached{fuse: fuse, mount: fd}, nil
}

func fuseMount(fuse *os.File, source string, f flags) (int, error) {
	fsfd, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("begin a FUSE mount (needs Linux 5.2 and root): %w", err)
	}
	defer unix.Close(fsfd)
	for _, p := range [][2]string{
		{"source", source}, {"subtype", strings.TrimPrefix(FSType, "fuse.")},
		{"fd", strconv.Itoa(int(fuse.Fd()))}, {"rootmode", "40000"}, {"user_id", "0"}, {"group_id", "0"},
	} {
		if err := unix.FsconfigSetString(fsfd, p[0], p[1]); err != nil {
			return -1, fmt.Errorf("set FUSE option %s=%s: %w", p[0], p[1], explain(fsfd, err))
		}
	}
	set := append([]string{"default_permissions", "allow_other"}, f.super...)
	if f.readOnly() {
		set = append(set, "ro")
	}
	for _, name := range set {
		if err := unix.FsconfigSetFlag(fsfd, name); err != nil {
			return -1, fmt.Errorf("set FUSE option %s: %w", name, explain(fsfd, err))
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, fmt.Errorf("make a FUSE mount: %w", explain(fsfd, err))
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, int(f.attr))
	if err != nil {
		return -1, fmt.Errorf("make a FUSE mount: %w", explain(fsfd, err))
	}
	return fd, nil
}

// explain adds what the kernel had to say about a failed step.
func explain(fsfd int, err error) error {
	buf := make([]byte, 1024)
	n, readErr := unix.Read(fsfd, buf)
	if readErr != nil || n < 2 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, bytes.TrimSpace(buf[2:n]))
}

// close gives both ends up. A mount that was put into the tree stays there.
func (d *detached) close() {
	d.fuse.Close()
	unix.Close(d.mount)
}

// waitAnswer waits until the file system answers a statfs.
func (d *detached) waitAnswer(ctx context.Context) error {
	// Its own descriptor, so that it may hang on while we go.
	fd, err := unix.FcntlInt(uintptr(d.mount), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("copy descriptor: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		defer unix.Close(fd)
		var st unix.Statfs_t
		for {
			err := unix.Fstatfs(fd, &st)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err == nil && st.Type != fuseMagic {
				err = fmt.Errorf("the mount has type %#x", st.Type)
			}
			done <- err
			return
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", context.Cause(ctx))
	}
}

// attach puts the mount on dir.
func (d *detached) attach(dir string) error {
	err := unix.MoveMount(d.mount, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attach mount to %s: %w", dir, err)
	}
	return nil
}
