package cache

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// takeLock takes the lock of the cache whose control folder is control. The
// lock ends when the file is closed, by whatever closes it. It returns
// unix.EWOULDBLOCK, and the holder's pid if that is known, if the cache has an
// owner.
func takeLock(control *os.File, readOnly bool) (f *os.File, pid int, err error) {
	flags := unix.O_RDWR
	if readOnly {
		flags = unix.O_RDONLY
	}
	f, err = openAt(control, LockFile, flags, 0)
	if err != nil {
		return nil, 0, err
	}
	if err := flock(f); err != nil {
		pid := readPID(f)
		f.Close()
		return nil, pid, err
	}
	return f, 0, nil
}

// flock takes an exclusive lock on the open file description of f, without
// waiting.
func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// writePID tells others who we are. It is only for their messages, so it need
// not be durable.
func writePID(f *os.File) error {
	b := []byte(strconv.Itoa(os.Getpid()) + "\n")
	if _, err := f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	if err := f.Truncate(int64(len(b))); err != nil {
		return fmt.Errorf("truncate %s: %w", f.Name(), err)
	}
	return nil
}

// readPID gives the pid in a lock file, 0 if there is none.
func readPID(f *os.File) int {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0) // a short file ends in EOF; what was read counts
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil || pid <= 0 {
		return 0
	}
	return pid
}
