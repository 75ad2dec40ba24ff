package transport

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What of the io_uring interface is used. x/sys/unix has only the numbers of the
// system calls.
const (
	setupCQSize       = 1 << 3
	setupSubmitAll    = 1 << 7
	setupSQE128       = 1 << 10
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13

	offSQRing = 0
	offSQEs   = 0x10000000

	enterGetEvents = 1 << 0

	featSingleMmap = 1 << 0

	uringRead = 22
	uringCmd  = 46

	sqeBytes = 128
	cqeBytes = 16
)

type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array, resv1 uint32
	userAddr                                                uint64
}

type cqOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, resv1 uint32
	userAddr                                                uint64
}

type ringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	resv                                                                   [3]uint32
	sq                                                                     sqOffsets
	cq                                                                     cqOffsets
}

// sqe is a submission of the 128-byte form; cmd is where URING_CMD has its
// argument.
type sqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64 // for URING_CMD the command, in the lower half
	addr     uint64
	length   uint32
	opFlags  uint32
	userData uint64
	bufIndex uint16
	pad      uint16
	pad2     uint32
	cmd      [80]byte
}

type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// ring is an io_uring of the thread that made it: only that thread may use it.
// Completions are worked off only while the thread waits, so that system calls of
// a handler are not interrupted by the arrival of another request.
type ring struct {
	fd           int
	memory, sqes []byte
	sqHead       *uint32
	sqTail       *uint32
	sqMask       uint32
	cqHead       *uint32
	cqTail       *uint32
	cqMask       uint32
	cqOffset     uint32
	queued       uint32 // filled in, not yet submitted
}

func newRing(submissions, completions uint32) (*ring, error) {
	p := ringParams{cqEntries: completions,
		flags: setupSQE128 | setupCQSize | setupSubmitAll | setupSingleIssuer | setupDeferTaskrun}
	fd, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, uintptr(submissions), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("set up io_uring: %w", errno)
	}
	r := &ring{fd: int(fd)}
	if err := r.mapMemory(&p); err != nil {
		r.close()
		return nil, fmt.Errorf("map io_uring: %w", err)
	}
	return r, nil
}

func (r *ring) mapMemory(p *ringParams) error {
	if p.features&featSingleMmap == 0 {
		return unix.EOPNOTSUPP
	}
	size := max(p.sq.array+4*p.sqEntries, p.cq.cqes+cqeBytes*p.cqEntries)
	var err error
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.memory, err = unix.Mmap(r.fd, offSQRing, int(size), prot, flags); err != nil {
		return err
	}
	if r.sqes, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries*sqeBytes), prot, flags); err != nil {
		return err
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.memory[off])) }
	r.sqHead, r.sqTail, r.sqMask = at(p.sq.head), at(p.sq.tail), *at(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask, r.cqOffset = at(p.cq.head), at(p.cq.tail), *at(p.cq.mask), p.cq.cqes
	for i := range p.sqEntries {
		*at(p.sq.array + 4*i) = i
	}
	return nil
}

// next returns a cleared submission to fill in, nil when the ring has no room
// until flush was called.
func (r *ring) next() *sqe {
	tail := *r.sqTail
	if tail-atomic.LoadUint32(r.sqHead) > r.sqMask {
		return nil
	}
	s := (*sqe)(unsafe.Pointer(&r.sqes[(tail&r.sqMask)*sqeBytes]))
	*s = sqe{}
	atomic.StoreUint32(r.sqTail, tail+1)
	r.queued++
	return s
}

// enter submits what next handed out and waits for at least wait completions. An
// interrupted wait is no error.
func (r *ring) enter(wait uint32) error {
	for {
		// Never RawSyscall: this blocks, and would keep the scheduler's P.
		n, _, errno := syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.queued), uintptr(wait), enterGetEvents, 0, 0)
		switch errno {
		case 0:
			r.queued -= min(uint32(n), r.queued)
			if r.queued == 0 {
				return nil
			}
		case unix.EINTR:
			if r.queued = *r.sqTail - atomic.LoadUint32(r.sqHead); r.queued == 0 {
				return nil
			}
		case unix.EAGAIN, unix.EBUSY: // short of memory, or completions to be fetched first
			if !r.empty() {
				return nil
			}
			time.Sleep(time.Millisecond)
		default:
			return fmt.Errorf("enter io_uring: %w", errno)
		}
	}
}

// pop takes a completion, if there is one.
func (r *ring) pop() (cqe, bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return cqe{}, false
	}
	c := *(*cqe)(unsafe.Pointer(&r.memory[r.cqOffset+(head&r.cqMask)*cqeBytes]))
	atomic.StoreUint32(r.cqHead, head+1)
	return c, true
}

// empty reports whether no completion is there to be taken.
func (r *ring) empty() bool { return *r.cqHead == atomic.LoadUint32(r.cqTail) }

// close withdraws everything that is under way.
func (r *ring) close() {
	if r.sqes != nil {
		unix.Munmap(r.sqes)
	}
	if r.memory != nil {
		unix.Munmap(r.memory)
	}
	unix.Close(r.fd)
}

// find looks for a completion with that data, and leaves it to be taken.
func (r *ring) find(userData uint64) (cqe, bool) {
	for head := *r.cqHead; head != atomic.LoadUint32(r.cqTail); head++ {
		c := *(*cqe)(unsafe.Pointer(&r.memory[r.cqOffset+(head&r.cqMask)*cqeBytes]))
		if c.userData == userData {
			return c, true
		}
	}
	return cqe{}, false
}
