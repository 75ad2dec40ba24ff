package transport

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// gates make requests slow on purpose. The LOOKUP of slow-N sits in a system call
// for N ms; that of gate-X waits until the gates are opened, or it is interrupted.
// In the directory marked the transport is told so before.
type gates struct {
	mu     sync.Mutex
	opened chan struct{}
	locked map[uint64]*fileLock // by node
	change chan struct{}        // closed and replaced when a lock changes

	waiting     atomic.Int64
	interrupted atomic.Int64
	forgets     atomic.Int64
	reads       atomic.Int64
	markedDir   atomic.Uint64
}

type fileLock struct {
	owner uint64
	lk    fuse.FileLock
}

func (g *gates) init() {
	g.opened, g.change = make(chan struct{}), make(chan struct{})
	g.locked = map[uint64]*fileLock{}
}

func (g *gates) pass(cancel <-chan struct{}, name string) fuse.Status {
	if ms, ok := strings.CutPrefix(name, "slow-"); ok {
		n, _ := strconv.Atoi(ms)
		left := unix.NsecToTimespec(int64(n) * 1e6)
		for unix.Nanosleep(&left, &left) == unix.EINTR {
		}
	}
	if !strings.HasPrefix(name, "gate-") {
		return fuse.OK
	}
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	select {
	case <-opened:
		return fuse.OK
	case <-cancel:
		g.interrupted.Add(1)
		return fuse.EINTR
	}
}

func (g *gates) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.opened)
	g.opened = make(chan struct{})
}

func (g *gates) unlock(owner uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, l := range g.locked {
		if l.owner == owner {
			delete(g.locked, id)
			close(g.change)
			g.change = make(chan struct{})
		}
	}
}

// try takes or gives back the lock of a whole file. Otherwise it returns what to
// wait for.
func (g *gates) try(in *fuse.LkIn) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.locked[in.NodeId]
	switch {
	case in.Lk.Typ == unix.F_UNLCK:
		if l != nil && l.owner == in.Owner {
			delete(g.locked, in.NodeId)
			close(g.change)
			g.change = make(chan struct{})
		}
	case l != nil && l.owner != in.Owner:
		return g.change
	default:
		g.locked[in.NodeId] = &fileLock{in.Owner, in.Lk}
	}
	return nil
}

func (b *bottomFS) GetLk(_ <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	b.gates.mu.Lock()
	defer b.gates.mu.Unlock()
	out.Lk = in.Lk
	out.Lk.Typ = unix.F_UNLCK
	if l := b.gates.locked[in.NodeId]; l != nil && l.owner != in.Owner {
		out.Lk = l.lk
	}
	return fuse.OK
}

func (b *bottomFS) SetLk(_ <-chan struct{}, in *fuse.LkIn) fuse.Status {
	if b.gates.try(in) != nil {
		return fuse.EAGAIN
	}
	return fuse.OK
}

func (b *bottomFS) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	b.gates.waiting.Add(1)
	defer b.gates.waiting.Add(-1)
	for {
		change := b.gates.try(in)
		if change == nil {
			return fuse.OK
		}
		select {
		case <-change:
		case <-cancel:
			b.gates.interrupted.Add(1)
			return fuse.EINTR
		}
	}
}

// Blocks is for Blocker: what happens in the directory marked.
func (b *bottomFS) Blocks(_ uint32, h *fuse.InHeader) bool {
	return h.NodeId != 0 && h.NodeId == b.gates.markedDir.Load()
}

// ioctlReverse turns the order of 8-byte words around: a reply made while the
// request is read.
const ioctlReverse = 0xc0407801 // _IOWR('x', 1, 64 bytes)

func (b *bottomFS) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, arg []byte, _ *fuse.IoctlOut, reply []byte) fuse.Status {
	if in.Cmd != ioctlReverse {
		return fuse.Status(unix.ENOTTY)
	}
	n := len(arg) / 8
	for i := range n {
		binary.NativeEndian.PutUint64(reply[8*i:], binary.NativeEndian.Uint64(arg[8*(n-1-i):]))
	}
	return fuse.OK
}

func (b *bottomFS) mark(name string) {
	var out fuse.EntryOut
	if b.entry(fuse.FUSE_ROOT_ID, name, &out).Ok() {
		b.gates.markedDir.Store(out.NodeId)
	}
}

func (b *bottomFS) nodeOf(name string) uint64 {
	var out fuse.EntryOut
	b.entry(fuse.FUSE_ROOT_ID, name, &out)
	return out.NodeId
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}
