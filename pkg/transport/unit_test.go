package transport

import (
	"encoding/binary"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func itoa(n uintptr) string { return strconv.Itoa(int(n)) }

func TestCountList(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-1": 2, "0-3,8": 5, "2,4-5,7-9": 6, "": -1, "a": -1, "3-1": -1, "0-99999999": -1, "1,": -1} {
		n, err := countList(list)
		if want < 0 && err == nil || want >= 0 && (n != want || err != nil) {
			t.Errorf("%q: %d, %v", list, n, err)
		}
	}
}

func FuzzCountList(f *testing.F) {
	f.Add("0-3,8")
	f.Fuzz(func(t *testing.T, list string) {
		if n, err := countList(list); err == nil && n < 0 {
			t.Errorf("%q: %d", list, n)
		}
	})
}

func TestBuffer_DataOnPageBoundary(t *testing.T) {
	b, err := newBuffer(sizesFor(1<<20, 256))
	must(t, err)
	defer b.free()
	page := b.page
	if &b.request()[writeInBytes] != &b.memory[page] || &b.reply()[outHeaderBytes] != &b.memory[page] || &b.payload()[0] != &b.memory[page] {
		t.Error("data of WRITE, READ and io_uring are not where they should be")
	}
	if len(b.request()) < writeInBytes+1<<20 || len(b.reply()) < outHeaderBytes+1<<20+page {
		t.Error("too little room")
	}
}

func TestBuffers_KeepWhatIsUsed(t *testing.T) {
	p := &buffers{size: sizesFor(0, 0), keep: 2}
	var lent []*buffer
	for range 4 {
		b, err := p.get()
		must(t, err)
		lent = append(lent, b)
	}
	if p.count() != 4 {
		t.Errorf("%d mapped", p.count())
	}
	for _, b := range lent {
		p.put(b)
	}
	if p.count() != 2 {
		t.Errorf("%d kept", p.count())
	}
	p.drop()
	if p.count() != 0 {
		t.Errorf("%d left", p.count())
	}
}

func TestRing_ReadsEventfd(t *testing.T) {
	r, err := newRing(8, 16)
	if err != nil {
		t.Skip("no io_uring here: ", err)
	}
	defer r.close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	must(t, err)
	defer unix.Close(fd)
	b, err := newBuffer(sizesFor(0, 0))
	must(t, err)
	defer b.free()
	w := &worker{ring: r, event: fd, entries: []*entry{{buf: b}}}
	for round := range 100 { // more than the ring has room for
		w.awaitEvent()
		must(t, r.enter(0))
		if !r.empty() {
			t.Fatal("completed before the event")
		}
		w.signal()
		w.signal()
		for r.empty() {
			must(t, r.enter(1))
		}
		c, ok := r.find(eventData)
		if !ok || c.res != 8 || binary.NativeEndian.Uint64(b.memory[eventAt:]) != 2 {
			t.Fatalf("round %d: %+v", round, c)
		}
		if got, ok := r.pop(); !ok || got != c {
			t.Fatalf("round %d: %+v", round, got)
		}
	}
	if r.next() == nil {
		t.Error("no room although all is submitted")
	}
}

func TestWatch_LooksWhileThereIsWork(t *testing.T) {
	var work, looks atomic.Int64
	looked := make(chan bool)
	w := newWatch(func() bool {
		looks.Add(1)
		select {
		case looked <- true:
		default:
		}
		return work.Load() > 0
	})
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { w.run(done); close(ended) }()
	for range 3 {
		work.Store(1)
		w.poke()
		for range 2 * patience {
			<-looked
		}
		work.Store(0)
		for !w.asleep.Load() {
			select {
			case <-looked:
			default:
			}
		}
	}
	close(done)
	<-ended
	if looks.Load() < 6*patience {
		t.Errorf("looked %d times", looks.Load())
	}
}

func TestKnownFiles(t *testing.T) {
	var k knownFiles
	k.note(5)
	k.note(5 + uint64(len(k))) // the same place: the older stays
	request := make([]byte, inHeaderBytes+8+2*16)
	*header(request) = fuse.InHeader{Opcode: opBatchForget}
	binary.NativeEndian.PutUint64(request[inHeaderBytes+8:], 6)
	binary.NativeEndian.PutUint64(request[inHeaderBytes+8+16:], 5+uint64(len(k)))
	k.noteForgotten(request)
	if k.place(5).Load() != 5 {
		t.Error("forgot another one")
	}
	binary.NativeEndian.PutUint64(request[inHeaderBytes+8:], 5)
	k.noteForgotten(request)
	if k.place(5).Load() != 0 {
		t.Error("still there")
	}
	k.note(7)
	*header(request) = fuse.InHeader{Opcode: opForget, NodeId: 7}
	k.noteForgotten(request)
	if k.place(7).Load() != 0 {
		t.Error("still there")
	}
}

// FuzzEntry has a worker take apart what is in an entry, as the kernel would never
// fill it.
func FuzzEntry(f *testing.F) {
	f.Add(uint32(3), uint32(56), uint32(0), []byte{1})
	f.Add(uint32(opIoctl), uint32(200), uint32(100), []byte("x"))
	e := newEngine(fuse.NewDefaultRawFileSystem(), &Options{}, slog.New(slog.DiscardHandler))
	size := sizesFor(1<<16, 0)
	w := &worker{q: &queue{r: &rings{e: e, size: size}}}
	buf, err := newBuffer(size)
	must(f, err)
	s := e.newSlot()
	f.Fuzz(func(t *testing.T, opcode, length, payload uint32, data []byte) {
		clear(buf.memory)
		copy(buf.memory[opInAt:opInAt+opInBytes], data)
		copy(buf.payload(), data)
		*header(buf.memory) = fuse.InHeader{Opcode: opcode, Length: length, Unique: 42}
		binary.NativeEndian.PutUint32(buf.memory[payloadSizeAt:], payload)
		n := w.answer(s, &entry{buf: buf})
		if n != 0 && (n < outHeaderBytes || n > len(buf.reply())) {
			t.Errorf("reply of %d bytes", n)
		}
	})
}
