package cache

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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

// writePID makes our pid the content of a lock file.
func writePID(f *os.File) error {
	b := []byte(strconv.Itoa(os.Getpid()) + "\n")
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(b)))
}

// lockOwner gives the pid of the process that has the flock of f, 0 if that is not
// found out. The kernel knows; where its answer cannot be matched to the file
// (Btrfs has two device numbers) what the owner wrote into it is taken.
func lockOwner(f *os.File) int {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return readPID(f)
	}
	place := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	for line := range strings.Lines(string(locks)) {
		// "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"
		word := strings.Fields(line)
		if len(word) < 6 || word[1] != "FLOCK" || word[5] != place {
			continue
		}
		if pid, err := strconv.Atoi(word[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return readPID(f)
}

// readPID gives the pid in a lock file if there is such a process, else 0.
func readPID(f *os.File) int {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0) // a short file ends in EOF; what was read counts
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil || pid <= 0 || errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return 0
	}
	return pid
}
