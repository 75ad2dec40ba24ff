package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/kml"
	"golang.org/x/sys/unix"
)

var (
	// ErrName means that a name is not one that channel.StageName makes.
	ErrName = errors.New("not the name of a staged content")

	// ErrInUse means that a content is being staged by somebody else.
	ErrInUse = errors.New("content is already being staged")
)

const partSuffix = ".part"

// Stage is a folder of staged contents, under names that channel.StageName
// makes; other files in the folder are left alone. NAME is whole and verified,
// NAME.part is a large one on its way. Nothing is made durable before Sync.
//
// After a power loss a content that was not yet made durable may be there with
// too few bytes or wrong ones: Check it before it is relied upon.
//
// A Stage may be used by many goroutines.
type Stage struct {
	dir *os.File
}

// OpenStage opens the stage in the folder dir, which stays the caller's. Call
// Close when done.
func OpenStage(dir *os.File) (*Stage, error) {
	fd, err := openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open stage %s: %w", dir.Name(), err)
	}
	return &Stage{dir: os.NewFile(uintptr(fd), dir.Name())}, nil
}

// Close closes the folder. StageFiles that are still in use fail from then on.
func (s *Stage) Close() error { return s.dir.Close() }

// Sync makes durable what was staged so far, together with all else on that
// file system. It blocks on the disk.
func (s *Stage) Sync() error {
	if err := s.at(unix.Syncfs); err != nil {
		return fmt.Errorf("sync stage: %w", err)
	}
	return nil
}

// Has reports whether a content is staged, and how many bytes it has.
func (s *Stage) Has(name string) (bool, int64, error) {
	if err := checkName(name); err != nil {
		return false, 0, err
	}
	return s.sizeOf(name)
}

// Partial returns how many bytes of a content, from the start, an interrupted
// transfer has left behind; 0 if none.
func (s *Stage) Partial(name string) (int64, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	_, size, err := s.sizeOf(name + partSuffix)
	return size - size%LeafSize, err
}

func (s *Stage) sizeOf(file string) (bool, int64, error) {
	var st unix.Stat_t
	err := s.at(func(dir int) error { return unix.Fstatat(dir, file, &st, unix.AT_SYMLINK_NOFOLLOW) })
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, 0, nil
	case err != nil:
		return false, 0, fmt.Errorf("look at staged %s: %w", file, err)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return false, 0, fmt.Errorf("look at staged %s: not a regular file", file)
	}
	return true, st.Size, nil
}

// Open opens a staged content for reading. The error is fs.ErrNotExist if it is
// not there.
func (s *Stage) Open(name string) (*os.File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	fd, err := openat(s.dir, name, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open staged %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Check reads a staged content and fails with ErrMismatch if it is not the one
// of size bytes with that root.
func (s *Stage) Check(ctx context.Context, name string, root [32]byte, size int64) error {
	f, err := s.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at staged %s: %w", name, err)
	}
	if fi.Size() != size {
		return fmt.Errorf("check staged %s: %w: %d bytes instead of %d", name, ErrMismatch, fi.Size(), size)
	}
	is, err := SumFile(ctx, f, size)
	if err != nil {
		return err
	}
	if is != root {
		return fmt.Errorf("check staged %s: %w", name, ErrMismatch)
	}
	return nil
}

// Staged is an entry of List.
type Staged struct {
	Name    string
	Size    int64
	Partial bool // on its way, or left behind by an interrupted transfer
}

// List returns what is in the stage, in no particular order. A name may be there
// both whole and partial.
func (s *Stage) List() ([]Staged, error) {
	fd, err := openat(s.dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("list stage: %w", err)
	}
	dir := os.NewFile(uintptr(fd), s.dir.Name())
	defer dir.Close()
	files, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list stage: %w", err)
	}
	var out []Staged
	for _, file := range files {
		name, partial := strings.CutSuffix(file, partSuffix)
		if checkName(name) != nil {
			continue
		}
		there, size, err := s.sizeOf(file)
		if err != nil {
			return nil, err
		}
		if there {
			out = append(out, Staged{Name: name, Size: size, Partial: partial})
		}
	}
	return out, nil
}

// Remove takes a content out of the stage, whole or partial. One that is not
// there is no error.
func (s *Stage) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return errors.Join(s.unlink(name), s.unlink(name+partSuffix))
}

func (s *Stage) unlink(file string) error {
	err := s.at(func(dir int) error { return unix.Unlinkat(dir, file, 0) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove staged %s: %w", file, err)
	}
	return nil
}

// Clean removes every content, whole or partial, for whose name keep says no. A
// transfer under way of one that is removed will fail at its Commit.
func (s *Stage) Clean(keep func(name string) bool) error {
	all, err := s.List()
	if err != nil {
		return err
	}
	for _, e := range all {
		if keep(e.Name) {
			continue
		}
		if err := s.Remove(e.Name); err != nil {
			return err
		}
	}
	return nil
}

// at calls f with the descriptor of the folder, which stays open meanwhile.
func (s *Stage) at(f func(dir int) error) error { return onFD(s.dir, f) }

func onFD(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = ignoringEINTR(func() error { return f(int(fd)) }) }); err != nil {
		return err
	}
	return inner
}

func openat(dir *os.File, name string, flags int, mode uint32) (fd int, err error) {
	err = onFD(dir, func(at int) error {
		fd, err = unix.Openat(at, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// checkName accepts exactly what channel.StageName makes.
func checkName(name string) error {
	const uuidLen = 36
	if len(name) < uuidLen+2 || name[uuidLen] != '.' {
		return fmt.Errorf("%w: %q", ErrName, name)
	}
	u, err := kml.ParseUUID(name[:uuidLen])
	if err != nil || u.String() != name[:uuidLen] {
		return fmt.Errorf("%w: %q", ErrName, name)
	}
	seq, err := strconv.ParseUint(name[uuidLen+1:], 10, 64)
	if err != nil || strconv.FormatUint(seq, 10) != name[uuidLen+1:] {
		return fmt.Errorf("%w: %q", ErrName, name)
	}
	return nil
}
