package played

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// endProcess ends a process that is not our child and waits until it is gone.
func endProcess(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && err != unix.ESRCH {
		return err
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if n, err := unix.Poll(p, 1000); n == 1 && err == nil {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// mounted looks into the mount table only: the mount itself may hang.
func mounted(dir string) bool {
	real, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return false
	}
	found, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(filepath.Join(real, filepath.Base(dir))))
	return err == nil && len(found) > 0
}
