package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// smallMax is the size up to which a content is gathered in memory, verified
// there, and written at once.
const smallMax = 256 << 10

// StageFile is a content on its way into a Stage. End it with one of Commit,
// Abort and Pause. It must not be used by two goroutines at once.
//
// Bytes that are never written are a hole. Writing in order is cheapest, and
// only what was written in order can be resumed.
type StageFile struct {
	stage *Stage
	name  string
	size  int64
	done  bool

	buf  []byte   // small: the content
	data []Extent // small: what of it was written

	part *os.File // large: NAME.part, locked
	hash Hasher   // large: of what was written, while that was in order
	end  int64    // large: end of what was written
	torn bool     // large: not written in order
}

// PutBytes stages a whole content at once. The error is ErrMismatch if it is not
// the one that root names. data stays the caller's.
func (s *Stage) PutBytes(name string, data []byte, root [32]byte) error {
	if err := checkName(name); err != nil {
		return err
	}
	if SumBytes(data) != root {
		return fmt.Errorf("stage %s: %w", name, ErrMismatch)
	}
	var written []Extent
	if len(data) > 0 {
		written = []Extent{{0, int64(len(data))}}
	}
	return s.writeWhole(name, data, written, int64(len(data)))
}

// Put begins a content of size bytes. What an interrupted transfer has left
// behind is dropped. The error is ErrInUse if another transfer of the same
// content is under way.
func (s *Stage) Put(name string, size int64) (*StageFile, error) {
	f, _, err := s.begin(name, size)
	if err != nil {
		return nil, err
	}
	if f.part != nil {
		if err := f.part.Truncate(0); err != nil {
			f.Abort()
			return nil, fmt.Errorf("stage %s: %w", name, err)
		}
	}
	return f, nil
}

// Resume is Put that goes on after the first have bytes, which an interrupted
// transfer has left behind. It reads them, to go on with their hash.
func (s *Stage) Resume(ctx context.Context, name string, size int64) (f *StageFile, have int64, err error) {
	f, left, err := s.begin(name, size)
	if err != nil || f.part == nil {
		return f, 0, err
	}
	have = left - left%LeafSize
	if left > size {
		have = 0
	}
	err = f.part.Truncate(have)
	if err == nil {
		err = hashFile(ctx, &f.hash, f.part, have)
	}
	if err != nil {
		f.Pause()
		return nil, 0, fmt.Errorf("resume staging %s: %w", name, err)
	}
	f.end = have
	return f, have, nil
}

// begin returns a StageFile, and how many bytes its part has.
func (s *Stage) begin(name string, size int64) (f *StageFile, left int64, err error) {
	if err := checkName(name); err != nil {
		return nil, 0, err
	}
	if size < 0 {
		return nil, 0, fmt.Errorf("stage %s: size %d is negative", name, size)
	}
	f = &StageFile{stage: s, name: name, size: size}
	if size > smallMax {
		f.part, left, err = s.lockPart(name + partSuffix)
		if err != nil {
			return nil, 0, fmt.Errorf("stage %s: %w", name, err)
		}
	}
	return f, left, nil
}

// lockPart opens or makes a part and locks it, so that two transfers do not mix
// their bytes.
func (s *Stage) lockPart(file string) (*os.File, int64, error) {
	for {
		fd, err := openat(s.dir, file, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, 0, err
		}
		part := os.NewFile(uintptr(fd), file)
		size, ok, err := s.lock(part, file)
		if ok {
			return part, size, nil
		}
		part.Close()
		if err != nil {
			return nil, 0, err
		}
	}
}

// lock locks part and reports whether it is still the file of that name.
func (s *Stage) lock(part *os.File, file string) (size int64, ok bool, err error) {
	var open, named unix.Stat_t
	err = onFD(part, func(fd int) error {
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return err
		}
		return unix.Fstat(fd, &open)
	})
	if errors.Is(err, unix.EWOULDBLOCK) {
		return 0, false, ErrInUse
	}
	if err != nil {
		return 0, false, err
	}
	if open.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, false, fmt.Errorf("%s is not a regular file", file)
	}
	err = s.at(func(dir int) error { return unix.Fstatat(dir, file, &named, unix.AT_SYMLINK_NOFOLLOW) })
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	return open.Size, err == nil && open.Ino == named.Ino && open.Dev == named.Dev, err
}

// WriteAt writes p at offset off of the content. It blocks on the disk at most.
func (f *StageFile) WriteAt(p []byte, off int64) (int, error) {
	if f.done {
		return 0, fmt.Errorf("stage %s: %w", f.name, fs.ErrClosed)
	}
	if off < 0 || off > f.size-int64(len(p)) {
		return 0, fmt.Errorf("stage %s: %d bytes at %d are outside its %d bytes", f.name, len(p), off, f.size)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if f.part == nil {
		f.writeSmall(p, off)
		return len(p), nil
	}
	n, err := f.part.WriteAt(p, off)
	if n > 0 {
		if err == nil {
			err = f.punch(f.end, off)
		}
		f.note(p[:n], off)
	}
	if err != nil {
		return n, fmt.Errorf("stage %s: %w", f.name, err)
	}
	return n, nil
}

// punch makes sure that a range nobody wrote is a hole: a file system that
// allocates ahead of a growing file (XFS) would leave data of zeros there.
func (f *StageFile) punch(from, to int64) error {
	if from >= to {
		return nil
	}
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	err := onFD(f.part, func(fd int) error { return unix.Fallocate(fd, mode, from, to-from) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

func (f *StageFile) writeSmall(p []byte, off int64) {
	if f.buf == nil {
		f.buf = make([]byte, f.size)
	}
	copy(f.buf[off:], p)
	if n := len(f.data); n > 0 && f.data[n-1].End() == off {
		f.data[n-1].Len += int64(len(p))
		return
	}
	f.data = append(f.data, Extent{off, int64(len(p))})
}

// note keeps the hash of a large content going while it is written in order.
func (f *StageFile) note(p []byte, off int64) {
	if off < f.end {
		f.torn = true
	}
	f.end = max(f.end, off+int64(len(p)))
	if f.torn {
		return
	}
	// Neither can fail: off is not below the hash's size, nor the end above 2^63-1.
	_ = f.hash.WriteHole(off - f.hash.Size())
	_, _ = f.hash.Write(p)
}

// Commit verifies that what was written is the content that root names, and
// makes it visible. In every case the StageFile is done; if there is an error,
// nothing of it is left. The error is ErrMismatch if it is another content.
func (f *StageFile) Commit(ctx context.Context, root [32]byte) error {
	if f.done {
		return fmt.Errorf("stage %s: %w", f.name, fs.ErrClosed)
	}
	if f.part == nil {
		return f.commitSmall(root)
	}
	err := f.verify(ctx, root)
	if err == nil {
		err = f.part.Truncate(f.size)
	}
	if err == nil {
		err = f.punch(f.end, f.size)
	}
	if err == nil {
		err = f.stage.at(func(dir int) error {
			return unix.Renameat(dir, f.name+partSuffix, dir, f.name)
		})
	}
	if err != nil {
		f.Abort()
		return fmt.Errorf("stage %s: %w", f.name, err)
	}
	return f.close()
}

func (f *StageFile) commitSmall(root [32]byte) error {
	f.done = true
	var h Hasher
	h.Write(f.buf)
	got, err := h.Sum(f.size)
	if err != nil {
		return err
	}
	if got.Root != root {
		return fmt.Errorf("stage %s: %w", f.name, ErrMismatch)
	}
	return f.stage.writeWhole(f.name, f.buf, joined(f.data), f.size)
}

func (f *StageFile) verify(ctx context.Context, root [32]byte) error {
	if f.torn {
		// The disk has it, but not in the order the hash needs.
		f.hash.Reset()
		if err := hashFile(ctx, &f.hash, f.part, f.end); err != nil {
			return err
		}
	}
	got, err := f.hash.Sum(f.size)
	if err == nil && got.Root != root {
		err = ErrMismatch
	}
	return err
}

// Abort drops what was written. It does nothing after another of the three.
func (f *StageFile) Abort() error {
	if f.done {
		return nil
	}
	if f.part == nil {
		f.done, f.buf = true, nil
		return nil
	}
	return errors.Join(f.stage.unlink(f.name+partSuffix), f.close())
}

// Pause ends the transfer for now and keeps what can be resumed: of a large
// content what was written in order, of a small one nothing.
func (f *StageFile) Pause() error {
	if f.done {
		return nil
	}
	if f.part == nil || f.torn || f.end == 0 {
		return f.Abort()
	}
	return f.close()
}

func (f *StageFile) close() error {
	f.done = true
	if err := f.part.Close(); err != nil {
		return fmt.Errorf("stage %s: %w", f.name, err)
	}
	return nil
}

// writeWhole makes a file of size bytes, of which only the extents written are
// data, and gives it its name when it is complete. This is the way of nearly all
// contents: four system calls.
func (s *Stage) writeWhole(name string, content []byte, written []Extent, size int64) error {
	err := s.tryWhole(name, content, written, size)
	if errors.Is(err, unix.ENOSPC) {
		// XFS reserves several times what files that are not yet on the disk
		// will need, and does not look again before it refuses an unnamed file.
		if err = s.Sync(); err == nil {
			err = s.tryWhole(name, content, written, size)
		}
	}
	if err != nil {
		return fmt.Errorf("stage %s: %w", name, err)
	}
	return nil
}

func (s *Stage) tryWhole(name string, content []byte, written []Extent, size int64) error {
	fd, err := openat(s.dir, ".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = fillFile(fd, content, written, size)
	if err == nil {
		err = s.link(fd, name)
	}
	return errors.Join(err, unix.Close(fd))
}

func fillFile(fd int, content []byte, written []Extent, size int64) error {
	if size > 0 && (len(written) != 1 || written[0].Len != size) {
		// First, or a file system that allocates ahead makes data of the holes.
		if err := ignoringEINTR(func() error { return unix.Ftruncate(fd, size) }); err != nil {
			return err
		}
	}
	for _, e := range written {
		for off := e.Off; off < e.End(); {
			n, err := unix.Pwrite(fd, content[off:e.End()], off)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			off += int64(max(n, 0))
		}
	}
	return nil
}

// link gives an unnamed file its name. What had it before is an earlier staging
// of the same content, perhaps one that a power loss has cut.
func (s *Stage) link(fd int, name string) error {
	for {
		err := s.at(func(dir int) error { return linkFD(fd, dir, name) })
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := s.unlink(name); err != nil {
			return err
		}
	}
}

// linkFD links an unnamed file. Without CAP_DAC_READ_SEARCH kernels before 6.10
// do that only by way of /proc.
func linkFD(fd, dir int, name string) error {
	err := unix.Linkat(fd, "", dir, name, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), dir, name, unix.AT_SYMLINK_FOLLOW)
	}
	return err
}

// joined puts extents in order and makes those that touch one.
func joined(list []Extent) []Extent {
	slices.SortFunc(list, func(a, b Extent) int { return int(a.Off - b.Off) })
	out := list[:0]
	for _, e := range list {
		if n := len(out); n > 0 && e.Off <= out[n-1].End() {
			out[n-1].Len = max(out[n-1].End(), e.End()) - out[n-1].Off
			continue
		}
		out = append(out, e)
	}
	return out
}
