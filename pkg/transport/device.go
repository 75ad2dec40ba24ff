package transport

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// napTime is how long the kernel's FORGETs are left to gather.
const napTime = 5 * time.Millisecond

// errUnmounted says that the kernel has ended the connection.
var errUnmounted = errors.New("unmounted")

// device serves /dev/fuse.
type device struct {
	e     *engine
	fd    int
	pool  *buffers
	watch *watch
	// beside is what else there is when requests come over io_uring. Their interrupts
	// come here, and cannot be given back to the kernel until the request is there.
	beside *rings

	// turn is odd while the reader is in a request. Only the reader and the watch
	// change it; a reader that does not find what it left has lost the reading.
	turn    atomic.Uint64
	seen    uint64 // the watch's: turn when it last looked
	running sync.WaitGroup

	handovers atomic.Int64
	ended     chan error // gets what ended the reading: nil if unmounted
}

// start makes a new reader. There is none when it is called.
func (d *device) start() {
	d.running.Add(1)
	go d.lead()
}

// lead reads and answers requests until the connection ends, or it was stuck in
// one for so long that there is another reader.
func (d *device) lead() {
	defer d.running.Done()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := d.e.newSlot()
	defer d.e.dropSlot(s)
	buf, err := d.pool.get()
	if err != nil {
		d.ended <- err
		return
	}
	defer func() { d.pool.put(buf) }()
	for {
		n, err := d.read(buf)
		if err != nil {
			d.end(err)
			return
		}
		h := header(buf.request())
		if d.e.blocks(h) {
			if next, err := d.pool.get(); err == nil {
				d.running.Add(1)
				go d.aside(buf, n)
				buf = next
				continue
			} // else it is answered here, and the watch sees to the rest
		}
		opcode := h.Opcode
		mine := d.turn.Add(1)
		d.watch.poke()
		d.answer(s, buf, n)
		if !d.turn.CompareAndSwap(mine, mine+1) {
			return
		}
		if d.beside != nil && (opcode == opForget || opcode == opBatchForget) {
			d.beside.files.noteForgotten(buf.request()[:n])
			d.nap()
		}
	}
}

// end tells Serve. It is called by the one reader, which stops then: nothing more
// can be read.
func (d *device) end(err error) {
	if errors.Is(err, errUnmounted) {
		err = nil
	}
	d.ended <- err
}

// look replaces a reader that is stuck. It is the watch's.
func (d *device) look() bool {
	v := d.turn.Load()
	busy := v%2 == 1
	if busy && v == d.seen && d.turn.CompareAndSwap(v, v+1) {
		d.handovers.Add(1)
		d.start()
		v++
	}
	active := busy || v != d.seen
	d.seen = v
	return active
}

// aside answers a request away from the reader.
func (d *device) aside(buf *buffer, n int) {
	defer d.running.Done()
	s := d.e.newSlot()
	defer d.e.dropSlot(s)
	d.answer(s, buf, n)
	d.pool.put(buf)
}

func header(request []byte) *fuse.InHeader {
	return (*fuse.InHeader)(unsafe.Pointer(&request[0]))
}

// read waits for a request. It returns its length, at least that of a header.
func (d *device) read(buf *buffer) (int, error) {
	dst := buf.request()
	for {
		// Never RawSyscall: this blocks, and would keep the scheduler's P.
		n, _, errno := syscall.Syscall(unix.SYS_READ, uintptr(d.fd), uintptr(unsafe.Pointer(&dst[0])), uintptr(len(dst)))
		switch errno {
		case 0:
			if int(n) >= inHeaderBytes {
				return int(n), nil
			}
			return 0, fmt.Errorf("read request: %d bytes are no FUSE request", n)
		case unix.EINTR, unix.ENOENT: // the request was given up while it was read
		case unix.EAGAIN: // somebody who shares the descriptor set O_NONBLOCK
			d.await()
		case unix.ENODEV, unix.ECONNABORTED:
			return 0, errUnmounted
		default:
			return 0, fmt.Errorf("read request: %w", errno)
		}
	}
}

// nap lets FORGETs gather. Each would wake this thread, on another CPU as often as
// not, at the cost of the application that caused it; the kernel sends what has
// gathered as one BATCH_FORGET. Nothing else that
// comes here beside io_uring is urgent.
func (d *device) nap() {
	t := unix.NsecToTimespec(napTime.Nanoseconds())
	unix.Nanosleep(&t, nil) // blocks the thread, with no timer of the scheduler's
}

func (d *device) await() {
	p := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
	unix.Poll(p, -1) // whatever it says, the next read tells
}

// answer works on a request and sends the reply.
func (d *device) answer(s *slot, buf *buffer, n int) {
	h := &buf.header
	*h = *header(buf.request())
	out := buf.reply()
	buf.in[0], buf.out[0] = buf.request()[:n], out
	m := d.e.answer(s, h, buf.in[:1], buf.out[:1])
	if m == 0 {
		return
	}
	errno := write(d.fd, out[:m])
	switch {
	case errno == 0:
	case errno == unix.ENOENT && h.Opcode == opInterrupt:
		// The interrupted request is over, or it is not one of /dev/fuse.
		if d.beside != nil {
			d.e.orphan((*fuse.InterruptIn)(unsafe.Pointer(&buf.request()[0])).Unique)
		}
	case errno == unix.ENOENT || errno == unix.ENODEV || errno == unix.ECONNABORTED:
		// Nobody waits any longer: killed, unmounted.
	default:
		d.e.log.Error("reply refused by the kernel", "opcode", h.Opcode, "bytes", m, "err", errno)
		d.failed(h, out)
	}
}

// failed replies EIO where the kernel did not take the reply: else the caller
// would wait for ever.
func (d *device) failed(h *fuse.InHeader, out []byte) {
	write(d.fd, out[:putHeader(out, h.Unique, fuse.EIO)])
}

// write sends a reply or a notification.
func write(fd int, b []byte) syscall.Errno {
	for {
		_, _, errno := syscall.Syscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno != unix.EINTR {
			return errno
		}
	}
}
