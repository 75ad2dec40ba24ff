package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountsAt counts the mounts on a folder, one above the other. It asks the mount
// table, so a mount that hangs does not hang it.
func mountsAt(dir string) (int, error) {
	found, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil {
		return 0, fmt.Errorf("read mount table: %w", err)
	}
	return len(found), nil
}

// mountsBelow gives the mount points in a folder, those made last first.
func mountsBelow(dir string) ([]string, error) {
	found, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	var out []string
	for _, i := range slices.Backward(found) {
		out = append(out, i.Mountpoint)
	}
	return out, nil
}

// detachAll takes everything away that is mounted on a folder, whether it is in
// use or dead.
func detachAll(dir string) error {
	for {
		n, err := mountsAt(dir)
		if err != nil || n == 0 {
			return err
		}
		err = unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("detach %s: %w", dir, err)
		}
	}
}

// usableLimit is how long a fresh mount may take to answer.
const usableLimit = 10 * time.Second

// waitUsable makes sure that the host's mount is there and answers.
func (h *Host) waitUsable(ctx context.Context) error {
	n, err := mountsAt(h.Mount())
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%s: lento mount succeeded, but nothing is mounted on %s", h.Name, h.Mount())
	}
	answer := make(chan error, 1)
	go func() {
		_, err := os.ReadDir(h.Mount())
		answer <- err
	}()
	select {
	case err := <-answer:
		if err != nil {
			return fmt.Errorf("%s: mount does not work: %w", h.Name, err)
		}
		return nil
	case <-time.After(usableLimit):
		return fmt.Errorf("%s: mount %s does not answer within %v", h.Name, h.Mount(), usableLimit)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
