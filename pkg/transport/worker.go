package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Commands on /dev/fuse through io_uring, and what an entry has in memory: a
// header of 288 bytes, in which the kernel puts FUSE's header, the operation's and
// its own, and we the reply's header. What follows them is in the payload.
const (
	cmdRegister       = 1
	cmdCommitAndFetch = 2

	opInAt        = 128
	opInBytes     = 128
	commitIDAt    = 264
	payloadSizeAt = 272
	entryBytes    = 288
	iovecsAt      = 512  // ours: where the kernel finds header and payload
	eventAt       = 1024 // ours: what is read of the eventfd

	// A ring has room for the eventfd, the entry, and one that is registered.
	ringSubmissions = 8
	ringCompletions = 64
	// spareEntries of a CPU wait for requests while others are blocked.
	spareEntries = 4
	// eventData marks completions of the eventfd; an entry's is its index.
	eventData = 1 << 63
)

// worker is a thread that waits for requests of one CPU, and works on them.
type worker struct {
	q        *queue
	ready    chan error    // two answers: made, registered
	register chan struct{} // closed when it may register
	late     bool          // it is registered when requests may wait already
	cause    uint64        // and this is the node of what blocks the others, or 0

	// Of the thread alone.
	ring    *ring
	slot    *slot
	entries []*entry
	live    int // entries that the kernel has, or that are worked on
	served  bool

	event int
	mu    sync.Mutex
	back  []reply // made by goroutines
}

// entry is one place for a request in the kernel's queue.
type entry struct {
	index int
	buf   *buffer
	dead  bool
}

type reply struct {
	entry *entry
	n     int
}

func newWorker(q *queue) *worker {
	return &worker{q: q, ready: make(chan error, 2), register: make(chan struct{}), event: -1}
}

// run is the thread. It ends when the kernel has given back all entries.
func (w *worker) run() {
	// Never unlocked: the thread, which is tied to a CPU, ends with the goroutine.
	runtime.LockOSThread()
	r := w.q.r
	defer r.running.Done()
	w.q.threads.Add(1)
	defer w.q.threads.Add(-1)
	defer w.release()
	err := w.prepare()
	w.ready <- err
	if err != nil {
		return
	}
	<-w.register
	if r.quit.Load() {
		w.ready <- unix.ECANCELED
		return
	}
	err = w.begin()
	w.ready <- err
	if err != nil {
		return
	}
	<-r.serve
	w.loop()
	w.q.leave(w)
}

// prepare makes everything but what needs INIT to be answered.
func (w *worker) prepare() error {
	var cpu unix.CPUSet
	cpu.Set(int(w.q.id))
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		// Offline, or outside of our cpuset: it works, only slower.
		w.q.r.e.log.Debug("tie thread to CPU", "cpu", w.q.id, "err", err)
	}
	w.slot = w.q.r.e.newSlot()
	var err error
	if w.ring, err = newRing(ringSubmissions, ringCompletions); err != nil {
		return err
	}
	if w.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("make eventfd: %w", err)
	}
	_, err = w.newEntry()
	return err
}

func (w *worker) newEntry() (*entry, error) {
	buf, err := newBuffer(w.q.r.size)
	if err != nil {
		return nil, err
	}
	e := &entry{index: len(w.entries), buf: buf}
	w.entries = append(w.entries, e)
	w.q.r.entries.Add(1)
	return e, nil
}

// begin registers the first entry, and waits for the kernel's word on it.
func (w *worker) begin() error {
	w.awaitEvent()
	w.submitRegister(w.entries[0])
	if err := w.ring.enter(0); err != nil {
		return err
	}
	if c, ok := w.ring.find(uint64(w.entries[0].index)); ok && c.res < 0 {
		w.live--
		w.q.idle.Add(-1)
		return fmt.Errorf("register entry for CPU %d: %w", w.q.id, syscall.Errno(-c.res))
	}
	if w.late {
		w.kick(w.cause)
	}
	return nil
}

func (w *worker) release() {
	w.q.r.e.dropSlot(w.slot)
	if w.ring != nil {
		w.ring.close()
	}
	w.mu.Lock()
	if w.event >= 0 {
		unix.Close(w.event)
	}
	w.event = -1
	w.mu.Unlock()
	if w.live > 0 && w.served {
		return // memory of entries that the kernel still knows is left to it
	}
	for _, e := range w.entries {
		e.buf.free()
	}
	w.q.r.entries.Add(-int64(len(w.entries)))
}

// submission returns room in the ring.
func (w *worker) submission() *sqe {
	s := w.ring.next()
	for s == nil {
		if err := w.ring.enter(0); err != nil {
			w.q.r.e.log.Error("submit", "err", err)
		}
		s = w.ring.next()
	}
	return s
}

func (w *worker) submitCommand(command uint64, e *entry) *sqe {
	s := w.submission()
	s.opcode, s.fd, s.off, s.userData = uringCmd, int32(w.q.r.fd), command, uint64(e.index)
	binary.NativeEndian.PutUint16(s.cmd[16:], w.q.id)
	return s
}

func (w *worker) submitRegister(e *entry) {
	m := e.buf.memory
	iov := (*[2]unix.Iovec)(unsafe.Pointer(&m[iovecsAt]))
	iov[0] = unix.Iovec{Base: &m[0]}
	iov[0].SetLen(entryBytes)
	iov[1] = unix.Iovec{Base: &e.buf.payload()[0]}
	iov[1].SetLen(w.q.r.size.payload)
	if w.q.r.limits.spoil {
		iov[1].SetLen(w.q.r.size.payload / 2)
	}
	s := w.submitCommand(cmdRegister, e)
	s.addr, s.length = uint64(uintptr(unsafe.Pointer(iov))), uint32(len(iov))
	w.live++
	w.q.idle.Add(1)
}

// awaitEvent has the ring tell when replies of goroutines are there.
func (w *worker) awaitEvent() {
	s := w.submission()
	s.opcode, s.fd, s.off, s.userData = uringRead, int32(w.event), 0, eventData
	s.addr, s.length = uint64(uintptr(unsafe.Pointer(&w.entries[0].buf.memory[eventAt]))), 8
}

// stop makes the thread look at quit. Any goroutine may call it.
func (w *worker) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.register:
	default:
		close(w.register)
	}
	w.signal()
}

// signal wakes the thread. The caller holds mu.
func (w *worker) signal() {
	if w.event >= 0 {
		one := uint64(1)
		unix.Write(w.event, bytesOf(&one)) // fails only when it is full, that is, signalled
	}
}

// loop works on requests until no entry is left.
func (w *worker) loop() {
	for w.live > 0 && !w.q.r.quit.Load() {
		w.served = true
		if err := w.ring.enter(1); err != nil {
			w.q.r.e.log.Error("wait for requests", "cpu", w.q.id, "err", err)
			return
		}
		for {
			c, ok := w.ring.pop()
			if !ok {
				break
			}
			w.completed(c)
		}
	}
}

func (w *worker) completed(c cqe) {
	if c.userData == eventData {
		w.takeBack()
		w.awaitEvent()
		return
	}
	e := w.entries[c.userData]
	w.q.idle.Add(-1)
	if c.res < 0 {
		w.lost(e, syscall.Errno(-c.res))
		return
	}
	h := header(e.buf.memory)
	if h.Opcode == opNotifyReply {
		w.kicked(e, h.NodeId)
		return
	}
	w.dispatch(e, h)
	if !w.ring.empty() {
		w.flush() // the reply does not wait for what is worked on next
	}
}

func (w *worker) flush() {
	if err := w.ring.enter(0); err != nil {
		w.q.r.e.log.Error("send reply", "cpu", w.q.id, "err", err)
	}
}

// lost deals with an entry that the kernel gave back.
func (w *worker) lost(e *entry, errno syscall.Errno) {
	w.live--
	e.dead = true
	if unmounted(errno) {
		return
	}
	w.q.r.e.log.Error("the kernel gave back an entry", "cpu", w.q.id, "err", errno)
	if _, err := w.addEntry(); err != nil {
		w.q.r.e.log.Error("replace entry", "cpu", w.q.id, "err", err)
	}
}

// unmounted reports whether an entry ended with the mount.
func unmounted(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ECANCELED) || errors.Is(err, unix.ENODEV)
}

func (w *worker) addEntry() (*entry, error) {
	e, err := w.newEntry()
	if err == nil {
		w.submitRegister(e)
	}
	return e, err
}

// dispatch has a request worked on, here if it can be.
func (w *worker) dispatch(e *entry, h *fuse.InHeader) {
	q, l := w.q, &w.q.r.limits
	idle := q.idle.Load()
	if !q.r.e.blocks(h) {
		if idle <= 0 {
			q.r.watch.poke()
		}
		w.commit(e, w.answer(w.slot, e))
		return
	}
	if idle <= 1 { // early, so that nothing has to wait in the kernel
		q.grow(h.NodeId)
		q.r.watch.poke() // in case that it fails
	}
	// Only a thread with nothing else to do may block for long.
	if w.live == 1 {
		if q.inline.Add(1) <= int32(l.inline) {
			n := w.answer(w.slot, e)
			q.inline.Add(-1)
			w.commit(e, n)
			return
		}
		q.inline.Add(-1)
	}
	w.aside(e, h.NodeId, idle)
}

// aside gives a request and its entry to a goroutine. A new entry takes its place
// unless enough are left from earlier times.
func (w *worker) aside(e *entry, node uint64, idle int32) {
	if idle < spareEntries {
		if _, err := w.addEntry(); err != nil {
			w.q.r.e.log.Warn("another entry for requests", "cpu", w.q.id, "err", err)
			w.commit(e, w.answer(w.slot, e))
			return
		}
	}
	w.q.r.running.Add(1)
	go func() {
		defer w.q.r.running.Done()
		s := w.q.r.e.newSlot()
		defer w.q.r.e.dropSlot(s)
		n := w.answer(s, e)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.back = append(w.back, reply{e, n})
		if len(w.back) == 1 {
			w.signal()
		}
	}()
	w.flush()
	if idle <= 0 {
		w.kick(node)
	}
}

// takeBack sends the replies that goroutines have made.
func (w *worker) takeBack() {
	w.mu.Lock()
	back := w.back
	w.back = nil
	w.mu.Unlock()
	for _, r := range back {
		w.commit(r.entry, r.n)
	}
}

// answer works on the request in an entry. It returns the length of the reply.
func (w *worker) answer(s *slot, e *entry) int {
	b, m := e.buf, e.buf.memory
	h := &b.header // a copy, since the reply's goes to its place
	*h = *header(m)
	payload := int(binary.NativeEndian.Uint32(m[payloadSizeAt:]))
	op := int(h.Length) - inHeaderBytes - payload
	if op < 0 || op > opInBytes || payload > w.q.r.size.payload {
		w.q.r.e.log.Error("request does not add up", "opcode", h.Opcode, "bytes", h.Length, "payload", payload)
		return putHeader(m, h.Unique, fuse.EIO)
	}
	b.in = [3][]byte{bytesOf(h), m[opInAt : opInAt+op], b.payload()[:payload]}
	b.out = [2][]byte{m[:outHeaderBytes], b.payload()}
	n := w.q.r.e.answer(s, h, b.in[:], b.out[:])
	w.q.r.files.noteReply(h, b.payload()[:max(n-outHeaderBytes, 0)])
	return n
}

// commit replies to the request in an entry, which then waits for the next.
func (w *worker) commit(e *entry, n int) {
	m := e.buf.memory
	id := binary.NativeEndian.Uint64(m[commitIDAt:])
	if n == 0 { // every request has a reply here
		n = putHeader(m, id, fuse.OK)
	}
	if n > outHeaderBytes+w.q.r.size.payload {
		w.q.r.e.log.Error("reply is too long for the kernel", "bytes", n)
		n = putHeader(m, id, fuse.EIO)
	}
	binary.NativeEndian.PutUint32(m[payloadSizeAt:], uint32(n-outHeaderBytes))
	s := w.submitCommand(cmdCommitAndFetch, e)
	binary.NativeEndian.PutUint64(s.cmd[8:], id)
	w.q.idle.Add(1)
	w.q.done.Add(1)
}
