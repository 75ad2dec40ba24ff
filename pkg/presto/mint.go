package presto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
)

// mint counts the ids that are no inode's. The high-water mark is an xattr of
// the control folder, durable before numbers below it are given, so that it
// outlives every derived file.
type mint struct {
	mu      sync.Mutex
	control *os.File
	last    int64
	limit   int64 // no number above it was ever given
}

const (
	xattrMint = cache.XattrPrefix + ".mint"
	mintStep  = 1024
)

func openMint(control *os.File) (*mint, error) {
	var b [8]byte
	n, err := unix.Fgetxattr(int(control.Fd()), xattrMint, b[:])
	m := &mint{control: control}
	switch {
	case errors.Is(err, unix.ENODATA):
	case err != nil:
		return nil, fmt.Errorf("read %s of the control folder: %w", xattrMint, err)
	case n != 8:
		return nil, fmt.Errorf("%s of the control folder has %d bytes, want 8", xattrMint, n)
	default:
		m.limit = int64(binary.LittleEndian.Uint64(b[:]))
	}
	m.last = m.limit
	return m, nil
}

func (m *mint) next() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last == m.limit {
		v := binary.LittleEndian.AppendUint64(nil, uint64(m.limit+mintStep))
		fd := int(m.control.Fd())
		if err := unix.Fsetxattr(fd, xattrMint, v, 0); err != nil {
			return 0, fmt.Errorf("reserve object ids: %w", err)
		}
		if err := unix.Fsync(fd); err != nil {
			return 0, fmt.Errorf("reserve object ids: %w", err)
		}
		m.limit += mintStep
	}
	m.last++
	return m.last, nil
}
