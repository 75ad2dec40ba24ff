package kml

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	recentFrames = 1024    // places kept in memory besides the index
	keepBuffer   = 1 << 20 // bytes of write buffer kept between appends
	maxWrite     = 1 << 30 // bytes of one write
)

// Log is a log file open for appending. All methods may be called by any number
// of goroutines. Only one Log may be open for a file: nothing here prevents a
// second, the owner of the cache does.
type Log struct {
	f      *os.File
	header Header
	fr     framer

	// write is held while appending. It comes before state.
	write sync.Mutex
	buf   []byte
	side  sidecar

	// state is held for moments, never over I/O.
	state  sync.Mutex
	end    mark
	torn   int64 // bytes after the valid end that are not part of the log
	cut    bool  // they must be cut before the next append
	index  index
	recent [recentFrames]mark // by number; only those up to end and whole
	synced error              // the first failed Sync

	closing sync.Once
	closed  error
}

// Header is what the file says of itself.
func (l *Log) Header() Header { return l.header }

// End is the position after the last frame.
func (l *Log) End() Pos {
	l.state.Lock()
	defer l.state.Unlock()
	return l.end.pos
}

// EndOffset is the offset in the file where the next frame will begin.
func (l *Log) EndOffset() int64 {
	l.state.Lock()
	defer l.state.Unlock()
	return l.end.off
}

// Torn is the number of bytes after the last frame that a crash or a failed
// write left there: the beginning of a frame that never became part of the log.
func (l *Log) Torn() int64 {
	l.state.Lock()
	defer l.state.Unlock()
	return l.torn
}

// CutTorn cuts the torn tail and returns its bytes, at most the first 64 MiB of
// them. Without one it does nothing. The first append cuts it too.
func (l *Log) CutTorn() ([]byte, error) {
	l.write.Lock()
	defer l.write.Unlock()
	off, torn := l.EndOffset(), l.Torn()
	if torn == 0 {
		return nil, nil
	}
	w := window{f: l.f}
	b, err := w.bytes(off, int(min(torn, MaxFrame)))
	if err != nil {
		return nil, err
	}
	if err := l.cutTail(); err != nil {
		return nil, err
	}
	return b, nil
}

// cutTail makes the file end at the valid end. write is held.
func (l *Log) cutTail() error {
	if err := l.f.Truncate(l.EndOffset()); err != nil {
		return fmt.Errorf("cut torn tail of log: %w", err)
	}
	l.state.Lock()
	defer l.state.Unlock()
	l.torn, l.cut = 0, false
	return nil
}

// Append appends one frame by one write and returns the position after it. kind
// must be that of the log; now is the wall clock in nanoseconds and only
// informs. body is not kept. The frame is visible to readers, but not durable:
// see Sync. After an error nothing was appended and the Log is as usable as
// before. Blocks on disk.
func (l *Log) Append(kind FrameKind, flags uint8, now int64, body []byte) (Pos, error) {
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.ready(kind, flags, body); err != nil {
		return Pos{}, err
	}
	end := l.end // only changed under write
	b, pos := l.fr.appendFrame(l.buf[:0], end.pos, flags, now, body)
	if err := l.put(b, 1); err != nil {
		return Pos{}, err
	}
	l.publish(mark{pos: pos, off: end.off + int64(len(b)), checked: true})
	return pos, nil
}

// AppendMany is Append for frames that follow each other, by one write: either
// all are appended or none. flags has one for each body, or is nil for none.
func (l *Log) AppendMany(kind FrameKind, flags []uint8, now int64, bodies [][]byte) ([]Pos, error) {
	if flags != nil && len(flags) != len(bodies) {
		return nil, fmt.Errorf("append to log %s: %d flags for %d frames", l.f.Name(), len(flags), len(bodies))
	}
	l.write.Lock()
	defer l.write.Unlock()
	var total int64
	for i, body := range bodies {
		if err := l.ready(kind, flagOf(flags, i), body); err != nil {
			return nil, err
		}
		if total += frameSize(len(body)); total > maxWrite {
			return nil, fmt.Errorf("append to log %s: more than 1 GiB at once", l.f.Name())
		}
	}
	if total == 0 {
		return nil, nil
	}
	b, at := slices.Grow(l.buf[:0], int(total)), l.end
	marks := make([]mark, len(bodies))
	for i, body := range bodies {
		b, at.pos = l.fr.appendFrame(b, at.pos, flagOf(flags, i), now, body)
		at.off = l.end.off + int64(len(b))
		marks[i] = mark{pos: at.pos, off: at.off, checked: true}
	}
	if err := l.put(b, len(bodies)); err != nil {
		return nil, err
	}
	l.publish(marks...)
	ends := make([]Pos, len(marks))
	for i := range marks {
		ends[i] = marks[i].pos
	}
	return ends, nil
}

func flagOf(flags []uint8, i int) uint8 {
	if flags == nil {
		return 0
	}
	return flags[i]
}

// ready checks what is to be appended, and cuts what may lie in its way.
func (l *Log) ready(kind FrameKind, flags uint8, body []byte) error {
	switch {
	case kind != l.fr.kind:
		return fmt.Errorf("append to log %s: %v in a log of kind %v", l.f.Name(), kind, l.header.Kind)
	case flags&^FlagMore != 0:
		return fmt.Errorf("append to log %s: unknown flags %#x", l.f.Name(), flags)
	case len(body) == 0 || len(body) > maxBody:
		return fmt.Errorf("append to log %s: body of %d bytes, want 1 to %d", l.f.Name(), len(body), maxBody)
	case l.torn > 0 || l.cut:
		return l.cutTail()
	}
	return nil
}

// put writes n frames at the end, and keeps the buffer unless it has become
// large. write is held.
func (l *Log) put(b []byte, n int) error {
	if l.buf = b[:0]; cap(b) > keepBuffer {
		l.buf = nil
	}
	wrote, err := l.f.WriteAt(b, l.end.off)
	if err == nil {
		return nil
	}
	l.state.Lock()
	l.torn, l.cut = int64(wrote), true
	l.state.Unlock()
	// Give the space back now, where that works; the next append needs it gone.
	_ = l.cutTail()
	return fmt.Errorf("append %d frames to log: %w", n, err)
}

// publish makes frames that were written part of the log. write is held.
func (l *Log) publish(marks ...mark) {
	var added []mark
	l.state.Lock()
	for _, m := range marks {
		l.recent[m.pos.Seq%recentFrames] = m
		if l.index.add(m) {
			added = append(added, m)
		}
	}
	l.end = marks[len(marks)-1]
	l.state.Unlock()
	for _, m := range added {
		l.side.append(m)
	}
}

// Sync makes everything that was appended before the call durable (fdatasync).
// Once it has failed it fails for ever with the same error: what the kernel gave
// up writing is not written by asking again. Blocks on disk, not on appends.
func (l *Log) Sync() error {
	l.state.Lock()
	err := l.synced
	l.state.Unlock()
	if err != nil {
		return err
	}
	if err = fdatasync(l.f); err == nil {
		return nil
	}
	err = fmt.Errorf("sync log %s: %w", l.f.Name(), err)
	if errors.Is(err, os.ErrClosed) {
		return err
	}
	l.state.Lock()
	defer l.state.Unlock()
	if l.synced == nil {
		l.synced = err
	}
	return l.synced
}

func fdatasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var synced error
	err = conn.Control(func(fd uintptr) {
		for {
			if synced = unix.Fdatasync(int(fd)); synced != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return os.ErrClosed // the only reason there is
	}
	return synced
}

// Close closes both files; it does not sync. Readers and appends fail from then
// on.
func (l *Log) Close() error {
	l.closing.Do(func() {
		l.write.Lock()
		defer l.write.Unlock()
		l.closed = l.f.Close()
		if l.side.own != nil {
			l.closed = errors.Join(l.closed, l.side.own.Close())
		}
	})
	return l.closed
}
