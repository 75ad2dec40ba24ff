package mkfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
)

// format makes an ext4 and a cache on a device or image file.
func (m *maker) format(ctx context.Context) error {
	if err := m.checkFormat(ctx); err != nil {
		return err
	}
	id := m.req.UUID
	if id.IsZero() && !m.req.DryRun {
		var err error
		if id, err = cache.NewUUID(); err != nil {
			return err
		}
	}
	g := planGeometry(m.target.size, m.req.Label, id)
	m.sum.Action, m.sum.Bottom, m.sum.Engine = "format", "ext4", m.req.Engine
	m.sum.SizeBytes, m.sum.Inodes = g.size, g.inodes()
	m.req.UUID = id
	if m.target.absent {
		m.step("make the sparse image file %s of %s", m.target.path, FormatSize(m.target.size))
	}
	if m.sum.Destroyed != "" {
		m.step("destroy %s", m.sum.Destroyed)
	}
	m.step("make an ext4 file system of %s with about %d inodes, by the engine %s", FormatSize(g.size), g.inodes(), m.req.Engine)
	m.planFilesets(false)
	if m.req.DryRun {
		return nil
	}
	made := m.target.absent
	err := m.makeFilesystem(ctx, g)
	if err == nil {
		err = m.fillFormatted(ctx)
	}
	if err != nil && made {
		// An image file that we made ourselves does not stay half done.
		if rerr := os.Remove(m.target.path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// checkFormat refuses a target that cannot, or should not, be formatted.
func (m *maker) checkFormat(ctx context.Context) error {
	if err := checkLabel(m.req.Label, maxVolumeLabel); err != nil {
		return &UsageError{Detail: err.Error() + ", which is what ext4 can hold"}
	}
	if err := m.checkSize(); err != nil {
		return err
	}
	if m.req.Engine == EngineE2fsprogs {
		var err error
		if m.mke2fs, err = findMke2fs(); err != nil {
			return err
		}
	}
	if m.target.absent {
		return nil
	}
	if err := cache.CheckFree(m.target.path); err != nil {
		return err
	}
	found, err := m.target.content(ctx)
	if err != nil || found.what == "" {
		return err
	}
	if !m.req.Force {
		next := "to destroy that and format it add --force"
		if found.keep != "" {
			next = found.keep + "; " + next
		}
		return &Refusal{m.target.path, "has " + found.what, next}
	}
	m.sum.Destroyed = found.what
	return nil
}

// checkSize refuses a target of a wrong size. An empty file is one that is still
// to be made.
func (m *maker) checkSize() error {
	t := &m.target
	if t.kind == kindImage && t.size == 0 {
		t.size = m.req.Size
	}
	switch {
	case m.req.Size != 0 && m.req.Size != t.size:
		return &Refusal{t.path, fmt.Sprintf("exists and has %s (%d bytes), not the %d bytes of --size", FormatSize(t.size), t.size, m.req.Size),
			"leave --size out to use it as it is, or remove it first"}
	case t.size < MinSize:
		return &Refusal{t.path, fmt.Sprintf("has %d bytes, too small for a cache", t.size), "at least " + FormatSize(MinSize) + " is needed"}
	case m.req.Engine == EngineGo && t.size > MaxSize:
		return &Refusal{t.path, fmt.Sprintf("is larger than the %s that the built-in engine makes", FormatSize(MaxSize)),
			"use --engine " + string(EngineE2fsprogs)}
	}
	return nil
}

// makeFilesystem makes the ext4 of g.
func (m *maker) makeFilesystem(ctx context.Context, g geometry) error {
	err := m.withTarget(func(f *os.File) error {
		s, err := newStore(ctx, f, m.target)
		if err != nil {
			return err
		}
		if err := wipe(s); err != nil || m.mke2fs != "" {
			return err
		}
		if m.req.Progress != nil {
			work := g.work()
			s.advance = func(done int64) { m.req.Progress(min(done, work), work) }
		}
		return createExt4(s, g)
	})
	if err != nil || m.mke2fs == "" {
		return err
	}
	// The program wants the target for itself, so it cannot be open here.
	m.target.absent = false
	if err := runMke2fs(ctx, m.mke2fs, g, m.target.path); err != nil {
		return err
	}
	return m.withTarget(func(*os.File) error { return nil })
}

// withTarget opens the target for us alone, calls do, and makes durable what is
// on it then.
func (m *maker) withTarget(do func(*os.File) error) (err error) {
	f, err := m.openTarget()
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close %s: %w", m.target.path, cerr)
		}
	}()
	if err := do(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", f.Name(), err)
	}
	if m.target.kind == kindDevice {
		// The kernel forgets the partitions of a whole disk. On a partition this fails.
		_, _ = unix.IoctlRetInt(int(f.Fd()), unix.BLKRRPART)
	}
	return nil
}

// openTarget opens the device or image for us alone, making the image where that
// is wanted.
func (m *maker) openTarget() (*os.File, error) {
	flags := os.O_RDWR
	if m.target.kind == kindDevice || m.target.absent {
		flags |= os.O_EXCL
	}
	if m.target.absent {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(m.target.path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	if m.target.kind == kindImage {
		// The lock that whoever opens a cache in an image file takes.
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
		if st, err := f.Stat(); err != nil || st.Size() != m.target.size {
			if err == nil {
				err = f.Truncate(m.target.size)
			}
			if err != nil {
				return nil, errors.Join(fmt.Errorf("size %s: %w", f.Name(), err), f.Close())
			}
		}
	}
	return f, nil
}

func newStore(ctx context.Context, f *os.File, t target) (*store, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return &store{
		ctx: ctx, f: f, size: t.size, device: t.kind == kindDevice,
		full: t.kind == kindImage && st.Blocks*sector >= t.size,
	}, nil
}

// fillFormatted makes the content of the new file system, through the kernel.
func (m *maker) fillFormatted(ctx context.Context) error {
	b, err := cache.Mount(ctx, m.target.path, cache.Options{CacheType: "ext4"})
	if err != nil {
		return fmt.Errorf("mount what was formatted: %w", err)
	}
	err = makeLostFound(b.Root())
	if err == nil {
		err = m.create(b, false)
	}
	return errors.Join(err, b.Close())
}

// lostFoundSize is how large mke2fs makes lost+found, so that e2fsck has a place
// for what it finds without having to look for free blocks.
const lostFoundSize = 16384

// makeLostFound makes lost+found in root, unless it is there.
func makeLostFound(root *os.File) error {
	at := int(root.Fd())
	err := unix.Mkdirat(at, cache.LostFound, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", cache.LostFound, err)
	}
	fd, err := unix.Openat(at, cache.LostFound, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", cache.LostFound, err)
	}
	defer unix.Close(fd)
	// A folder grows with its names and keeps its size when they go.
	var names []string
	for err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err != nil || st.Size >= lostFoundSize {
			break
		}
		name := fmt.Sprintf("%0200d", len(names))
		if err = growBy(fd, name, len(names) == 0); err == nil {
			names = append(names, name)
		}
	}
	for _, name := range names {
		err = errors.Join(err, unix.Unlinkat(fd, name, 0))
	}
	if err != nil {
		return fmt.Errorf("grow %s: %w", cache.LostFound, err)
	}
	return nil
}

// growBy makes one more name in a folder: all are links to the first one's file.
func growBy(dir int, name string, first bool) error {
	if !first {
		return unix.Linkat(dir, fmt.Sprintf("%0200d", 0), dir, name, 0)
	}
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
