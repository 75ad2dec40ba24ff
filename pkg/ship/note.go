package ship

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const maxNoteBytes = 64 << 20

// ReadNote reads a small file of the daemon's own in the stage folder. The error
// is fs.ErrNotExist if it was never written.
func (p *Port) ReadNote(name string) ([]byte, error) {
	f, err := p.openNote(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxNoteBytes))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// WriteNote replaces a small file of the daemon's own in the stage folder, whole
// or not at all.
func (p *Port) WriteNote(name string, data []byte) error {
	temp := name + ".new"
	f, err := p.openNote(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	err = p.inStage(func(dir int) error { return unix.Renameat(dir, temp, dir, name) })
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (p *Port) openNote(name string, flags int) (f *os.File, err error) {
	err = p.inStage(func(dir int) error {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		if err == nil {
			f = os.NewFile(uintptr(fd), name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return f, nil
}

func (p *Port) inStage(do func(dir int) error) error {
	rc, err := p.stage.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}
