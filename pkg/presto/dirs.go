package presto

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// dir is an open directory of the bottom, shared by those who use it.
type dir struct {
	h    handle
	fd   int // O_PATH
	refs atomic.Int32
}

func (d *dir) put() {
	if d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// dirs keeps directories open that were used lately: opening one by handle
// costs as much as the operation in it.
type dirs struct {
	b     *bottom
	cache *lru[handle, *dir]
}

func newDirs(b *bottom) *dirs {
	return &dirs{b: b, cache: newLRU(256, func(_ handle, d *dir) { d.put() })}
}

// get opens a directory; the caller puts it back. ESTALE if it is gone,
// ENOTDIR if it is something else.
func (ds *dirs) get(h handle) (*dir, error) {
	if d, ok := ds.cache.get(h); ok && d.take() {
		return d, nil
	}
	fd, err := ds.b.open(h, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	d := &dir{h: h, fd: fd}
	d.refs.Store(2) // the cache's and the caller's
	ds.cache.put(h, d)
	return d, nil
}

// take fails where the last reference was given back between the look into the
// cache and now.
func (d *dir) take() bool {
	for {
		n := d.refs.Load()
		if n == 0 {
			return false
		}
		if d.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}
