package transport

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Opcodes that matter to the transport; go-fuse has them for itself.
const (
	opLookup      = 1
	opForget      = 2
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opFsync       = 20
	opFlush       = 25
	opInit        = 26
	opFsyncdir    = 30
	opSetlkw      = 33
	opCreate      = 35
	opInterrupt   = 36
	opIoctl       = 39
	opNotifyReply = 41
	opBatchForget = 42
)

// Blocker may be implemented by a file system that knows which requests can take
// long, or wait for something other than the disk. They never hold up a thread
// that others need. FSYNC, FSYNCDIR and SETLKW always count as such.
//
// Blocks is called for every request, from many goroutines, and must not block.
// Only the header is behind in; it is valid during the call.
type Blocker interface {
	Blocks(opcode uint32, in *fuse.InHeader) bool
}

// engine answers requests, wherever they came from.
type engine struct {
	proto   *fuse.ProtocolServer
	blocker Blocker // or nil
	log     *slog.Logger

	gone atomic.Bool // the connection is dead: whatever is still running is cancelled

	mu    sync.Mutex
	slots []*slot

	// Interrupts of requests that nobody works on yet. The kernel sends an
	// interrupt once; over io_uring it can come before the request is fetched.
	orphans  [64]atomic.Uint64
	orphaned atomic.Uint64 // how many there ever were
}

// slot is a place where one request at a time is worked on.
type slot struct {
	current atomic.Uint64 // unique id, 0 for none
	node    atomic.Uint64 // that it is about
}

func newEngine(fs fuse.RawFileSystem, o *Options, log *slog.Logger) *engine {
	mount := o.Mount
	if mount.Logger == nil {
		mount.Logger = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	}
	if o.Force == LinkDevFuse {
		mount.DisabledCapabilities |= fuse.CAP_OVER_IO_URING
	} else {
		mount.ExtraCapabilities |= fuse.CAP_OVER_IO_URING
	}
	e := &engine{proto: fuse.NewProtocolServer(fs, &mount), log: log}
	e.blocker, _ = fs.(Blocker)
	return e
}

func (e *engine) newSlot() *slot {
	s := new(slot)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.slots = append(e.slots, s)
	return s
}

func (e *engine) dropSlot(s *slot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.Index(e.slots, s); i >= 0 {
		e.slots = slices.Delete(e.slots, i, i+1)
	}
}

// nodesUnderWay returns the nodes of requests that are being worked on.
func (e *engine) nodesUnderWay() []uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	var nodes []uint64
	for _, s := range e.slots {
		if s.current.Load() != 0 {
			nodes = append(nodes, s.node.Load())
		}
	}
	return nodes
}

func (e *engine) blocks(h *fuse.InHeader) bool {
	switch h.Opcode {
	case opFsync, opFsyncdir, opSetlkw:
		return true
	case opForget, opBatchForget, opInterrupt, opNotifyReply:
		return false
	}
	return e.blocker != nil && e.blocker.Blocks(h.Opcode, h)
}

// answer has the file system work on a request. It returns the length of the reply
// in out, 0 if there is none to be sent. It blocks for as long as the file system
// does.
func (e *engine) answer(s *slot, h *fuse.InHeader, in, out [][]byte) int {
	opcode, unique := h.Opcode, h.Unique
	switch opcode {
	case opNotifyReply:
		return 0 // nobody asks for content; see ringWorker.kick
	case opIoctl:
		in = cloneAll(in) // the file system may write its reply before it has read all
	}
	s.node.Store(h.NodeId)
	s.current.Store(unique)
	if e.orphaned.Load() != 0 || e.gone.Load() {
		e.catchUp(s, unique)
	}
	n, status := e.proto.HandleRequest(in, out)
	s.current.Store(0)
	if n == 0 && !status.Ok() && opcode != opForget && opcode != opBatchForget {
		return putHeader(out[0], unique, status)
	}
	return n
}

func cloneAll(iov [][]byte) [][]byte {
	c := make([][]byte, len(iov))
	for i, b := range iov {
		c[i] = slices.Clone(b)
	}
	return c
}

// putHeader makes a reply that has no data.
func putHeader(out []byte, unique uint64, status fuse.Status) int {
	*(*fuse.OutHeader)(unsafe.Pointer(&out[0])) = fuse.OutHeader{Length: uint32(outHeaderBytes), Status: -int32(status), Unique: unique}
	return outHeaderBytes
}

// interrupt closes the cancel channel of a request that is being worked on. It
// reports false if there is no such request, or that was done before.
func (e *engine) interrupt(unique uint64) bool {
	in := fuse.InterruptIn{InHeader: fuse.InHeader{Opcode: opInterrupt, Unique: unique | 1}, Unique: unique}
	in.Length = uint32(unsafe.Sizeof(in))
	var out [64]byte
	n, status := e.proto.HandleRequest([][]byte{unsafe.Slice((*byte)(unsafe.Pointer(&in)), in.Length)}, [][]byte{out[:]})
	return n == 0 && status.Ok()
}

// deliver interrupts the request in a slot. The request may not have got as far as
// to be known to ProtocolServer.
func (e *engine) deliver(s *slot, unique uint64) {
	for wait := 10 * time.Microsecond; wait < 100*time.Millisecond && s.current.Load() == unique; wait *= 2 {
		if e.interrupt(unique) {
			return
		}
		time.Sleep(wait)
	}
}

// orphan notes an interrupt that found no request.
func (e *engine) orphan(unique uint64) {
	n := e.orphaned.Add(1)
	e.orphans[n%uint64(len(e.orphans))].Store(unique)
	// It may have begun since: then either it has seen the note, or is seen here.
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.slots {
		if s.current.Load() == unique {
			go e.deliver(s, unique)
		}
	}
}

// catchUp interrupts a request that begins if that was asked for before.
func (e *engine) catchUp(s *slot, unique uint64) {
	hit := e.gone.Load()
	for i := range e.orphans {
		if e.orphans[i].Load() == unique {
			e.orphans[i].Store(0)
			hit = true
		}
	}
	if hit {
		go e.deliver(s, unique)
	}
}

// cancelAll interrupts everything, now and from now on: nobody waits for replies.
func (e *engine) cancelAll() {
	e.gone.Store(true)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.slots {
		if unique := s.current.Load(); unique != 0 {
			go e.deliver(s, unique)
		}
	}
}
