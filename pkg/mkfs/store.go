package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"github.com/diskfs/go-diskfs/backend"
	"golang.org/x/sys/unix"
)

// minZeroRun is from how many bytes on a block of zeros is given to the kernel as
// a range instead of being written.
const minZeroRun = 64 << 10

// store is the device or image file below go-diskfs. Long runs of zeros, which
// are nearly all of a new file system, become holes of a file, and one command
// to a device; and it counts what is done.
type store struct {
	ctx     context.Context // ends the work between two writes
	f       *os.File
	size    int64
	device  bool
	full    bool // an image file without holes, which must stay so
	done    int64
	advance func(done int64) // nil: nobody wants to know
}

var _ backend.Storage = (*store)(nil)

func (s *store) Stat() (fs.FileInfo, error)              { return s.f.Stat() }
func (s *store) Read(b []byte) (int, error)              { return s.f.Read(b) }
func (s *store) ReadAt(b []byte, off int64) (int, error) { return s.f.ReadAt(b, off) }
func (s *store) Seek(off int64, whence int) (int64, error) {
	return s.f.Seek(off, whence)
}

// Close does nothing: the file belongs to who made the store.
func (s *store) Close() error { return nil }

func (s *store) Sys() (*os.File, error)                  { return s.f, nil }
func (s *store) Writable() (backend.WritableFile, error) { return s, nil }
func (s *store) Path() string                            { return s.f.Name() }

func (s *store) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > s.size {
		return 0, fmt.Errorf("write %d bytes at %d: outside of the %d bytes of %s", len(b), off, s.size, s.f.Name())
	}
	if err := s.ctx.Err(); err != nil {
		return 0, context.Cause(s.ctx)
	}
	n, err := len(b), error(nil)
	if len(b) >= minZeroRun && isZero(b) {
		err = s.zero(off, int64(len(b)))
	} else {
		n, err = s.f.WriteAt(b, off)
	}
	s.done += int64(n)
	if s.advance != nil {
		s.advance(s.done)
	}
	return n, err
}

// zero makes length bytes at off read as zeros. Both must be multiples of 512.
func (s *store) zero(off, length int64) error {
	var err error
	switch {
	case s.device:
		err = zeroDevice(s.f, off, length)
	case s.full:
		err = unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	default:
		err = unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("zero %d bytes at %d of %s: %w", length, off, s.f.Name(), err)
	}
	return s.writeZeros(off, length)
}

func (s *store) writeZeros(off, length int64) error {
	zeros := make([]byte, min(length, 1<<20))
	for length > 0 {
		n, err := s.f.WriteAt(zeros[:min(length, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, length = off+int64(n), length-int64(n)
	}
	return nil
}

func zeroDevice(f *os.File, off, length int64) error {
	r := [2]uint64{uint64(off), uint64(length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&r[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

func isZero(b []byte) bool {
	// Comparing b with itself, shifted by one, is the fastest way there is.
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
