package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func (h *Host) image() string  { return h.path("cache.img") }
func (h *Host) bottom() string { return h.path("bottom") }

// Source is what is mounted: the loop file that holds the cache, or its folder.
func (h *Host) Source() string {
	switch h.lab.state.Options.Bottom {
	case bottomExt4:
		return h.image()
	case bottomDir:
		return h.path("cache")
	}
	return filepath.Join(h.bottom(), "cache")
}

// format makes the host's cache.
func (h *Host) format(ctx context.Context) error {
	o := h.lab.state.Options
	if o.Bottom == bottomExt4 {
		_, err := h.tool(ctx, false, "mkizofs", "--size", o.Size, "--fileset", shared, h.image())
		return err
	}
	if o.Bottom != bottomDir {
		if err := h.makeBottom(ctx); err != nil {
			return err
		}
	}
	if err := os.Mkdir(h.Source(), 0o755); err != nil {
		return fmt.Errorf("%s: make folder for the cache: %w", h.Name, err)
	}
	_, err := h.tool(ctx, false, "mkizofs", "--fileset", shared, h.Source())
	return err
}

// makeBottom makes a file system that mkizofs does not format, and mounts it.
func (h *Host) makeBottom(ctx context.Context) error {
	o := h.lab.state.Options
	size, err := ParseSize(o.Size)
	if err != nil {
		return err
	}
	f, err := os.Create(h.image())
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		return fmt.Errorf("%s: make loop file: %w", h.Name, err)
	}
	if err := os.Mkdir(h.bottom(), 0o755); err != nil {
		return fmt.Errorf("%s: make mount point for the bottom: %w", h.Name, err)
	}
	if err := h.system(ctx, "mkfs."+o.Bottom, "-q", h.image()); err != nil {
		return err
	}
	return h.system(ctx, "mount", "-t", o.Bottom, "-o", "loop", h.image(), h.bottom())
}

// system runs a command that is not ours.
func (h *Host) system(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %s: %w\n%s", h.Name, name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// bottomLimit is how long the kernel may take to let go of a dead presto's loop
// file. It is long because it is the limit of a rare fault.
const bottomLimit = 10 * time.Second

// waitBottom waits until no loop device has the cache any more: the kernel lets
// go of it some time after the process that had it is gone.
func (h *Host) waitBottom(ctx context.Context) error {
	if h.lab.state.Options.Bottom != bottomExt4 {
		return nil
	}
	deadline := time.Now().Add(bottomLimit)
	for {
		devices, err := loopsOf(func(file string) bool { return file == h.image() })
		if err != nil || len(devices) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %s still has %s %v after its presto ended: something holds files of the old mount open",
				h.Name, strings.Join(devices, ", "), h.image(), bottomLimit)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// loopsOf gives the loop devices whose backing file is one that is asked for.
func loopsOf(is func(file string) bool) ([]string, error) {
	found, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	var out []string
	for _, path := range found {
		file, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue // detached since
		}
		if err != nil {
			return nil, fmt.Errorf("list loop devices: %w", err)
		}
		if is(strings.TrimSuffix(strings.TrimSuffix(string(file), "\n"), " (deleted)")) {
			out = append(out, "/dev/"+filepath.Base(filepath.Dir(filepath.Dir(path))))
		}
	}
	return out, nil
}

// detachLoop makes a loop device let go of its file, at once or when its last
// user goes.
func detachLoop(device string) error {
	f, err := os.Open(device)
	if err != nil {
		return fmt.Errorf("detach loop device: %w", err)
	}
	defer f.Close()
	err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach loop device %s: %w", device, err)
	}
	return nil
}
