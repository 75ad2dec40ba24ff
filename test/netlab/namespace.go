package netlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// makeNamespace makes a network namespace and holds it by a mount on file,
// which it makes.
func makeNamespace(ctx context.Context, file string) error {
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return fmt.Errorf("make file for a network namespace: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, childWord, "hold")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	from := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "ns/net")
	mountErr := unix.Mount(from, file, "", unix.MS_BIND, "")
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	if mountErr != nil {
		return fmt.Errorf("hold network namespace at %s: %w", file, mountErr)
	}
	return nil
}

// dropNamespace lets go of a namespace and removes its file. One that is not
// there, or was never made whole, is no error.
func dropNamespace(file string) error {
	for {
		err := unix.Unmount(file, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("let go of network namespace %s: %w", file, err)
		}
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove file of a network namespace: %w", err)
	}
	return nil
}
