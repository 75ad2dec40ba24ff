package transport

import (
	"fmt"
	"os"
	"sync"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	inHeaderBytes  = int(unsafe.Sizeof(fuse.InHeader{}))
	outHeaderBytes = int(unsafe.Sizeof(fuse.OutHeader{}))
	// What a WRITE request has before its data.
	writeInBytes = int(unsafe.Sizeof(fuse.WriteIn{}))
	// The kernel refuses a read of /dev/fuse into less.
	minReadBytes = 8192
)

// sizes says how large buffers have to be for what INIT agreed on.
type sizes struct {
	page    int
	payload int // what follows the headers, of a request or of a reply
}

func sizesFor(maxWrite, maxPages int) sizes {
	page := os.Getpagesize()
	return sizes{page: page, payload: max(minReadBytes, maxWrite, maxPages*page)}
}

func (s sizes) bytes() int { return s.page + s.payload + s.page }

// buffer holds one request, and then the reply to it, outside of the Go heap. Its
// first page has the headers, at the end, so that data begins on a page boundary
// both in a WRITE and in the reply to a READ; at its beginning io_uring's.
//
// Request and reply share the memory: ProtocolServer copies the structured part of
// a request before it calls the file system, and that of the reply afterwards.
type buffer struct {
	memory []byte
	page   int

	// What engine.answer is given, kept here so that no request allocates them.
	header fuse.InHeader
	in     [3][]byte
	out    [2][]byte
}

func newBuffer(s sizes) (*buffer, error) {
	// A page more than the kernel ever fills, for the structured part of a reply
	// that has a full payload as well.
	m, err := unix.Mmap(-1, 0, s.bytes(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map buffer: %w", err)
	}
	return &buffer{memory: m, page: s.page}, nil
}

func (b *buffer) free() { unix.Munmap(b.memory) }

// request is where a read of /dev/fuse goes.
func (b *buffer) request() []byte { return b.memory[b.page-writeInBytes:] }

// reply is where the answer to what request got is made.
func (b *buffer) reply() []byte { return b.memory[b.page-outHeaderBytes:] }

// payload is the part without headers.
func (b *buffer) payload() []byte { return b.memory[b.page:] }

// buffers lends buffers out. It keeps as many as were in use at once, up to keep.
type buffers struct {
	size sizes
	keep int

	mu    sync.Mutex
	free  []*buffer
	total int // free and lent
}

func (p *buffers) get() (*buffer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b, nil
	}
	b, err := newBuffer(p.size)
	if err == nil {
		p.total++
	}
	return b, err
}

func (p *buffers) put(b *buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) < p.keep {
		p.free = append(p.free, b)
		return
	}
	p.total--
	b.free()
}

// drop frees all that are not lent.
func (p *buffers) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.free {
		b.free()
	}
	p.total -= len(p.free)
	p.free = nil
}

func (p *buffers) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}
