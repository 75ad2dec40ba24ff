package channel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Limits on what one frame may carry. A frame beyond them ends the connection.
const (
	MaxHeaderBytes = 1 << 20
	MaxBlobBytes   = 512 << 20 // one unit of a long absence
	MaxFiles       = 250       // Linux passes at most 253 descriptors in one message
)

const prefixBytes = 12

// frame is what travels: the header as JSON, a binary blob, and descriptors
// which whoever holds the frame owns.
type frame struct {
	header []byte
	blob   []byte
	files  []*os.File
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// frameReader takes frames from a socket. The kernel hands descriptors over
// with the first byte they were sent with and never two lots in one read, so a
// queue keeps them in step with the frames. Not safe for concurrent use.
type frameReader struct {
	conn  *net.UnixConn
	buf   []byte // read, not yet used: buf[r:w]
	r, w  int
	oob   []byte
	queue []*os.File
}

func newFrameReader(c *net.UnixConn) *frameReader {
	return &frameReader{conn: c, buf: make([]byte, 64<<10), oob: make([]byte, unix.CmsgSpace(4*(MaxFiles+3)))}
}

// close closes the descriptors that no frame claimed.
func (fr *frameReader) close() {
	closeFiles(fr.queue)
	fr.queue = nil
}

// next returns the next frame. It is io.EOF when the other end closed the
// connection between two frames.
func (fr *frameReader) next() (frame, error) {
	var prefix [prefixBytes]byte
	if err := fr.full(prefix[:]); err != nil {
		return frame{}, err
	}
	hlen, blen := binary.LittleEndian.Uint32(prefix[0:]), binary.LittleEndian.Uint32(prefix[4:])
	nfiles := binary.LittleEndian.Uint32(prefix[8:])
	if hlen > MaxHeaderBytes || blen > MaxBlobBytes || nfiles > MaxFiles {
		return frame{}, fmt.Errorf("frame of %d+%d bytes and %d descriptors is beyond the limits", hlen, blen, nfiles)
	}
	f := frame{header: make([]byte, hlen)}
	if err := fr.full(f.header); err != nil {
		return frame{}, unexpected(err)
	}
	// The blob grows as it arrives, not as it was promised.
	for len(f.blob) < int(blen) {
		part := min(int(blen)-len(f.blob), max(len(f.blob), 4<<20))
		at := len(f.blob)
		f.blob = append(f.blob, make([]byte, part)...)
		if err := fr.full(f.blob[at:]); err != nil {
			return frame{}, unexpected(err)
		}
	}
	if int(nfiles) > len(fr.queue) {
		return frame{}, fmt.Errorf("frame announces %d descriptors, %d came", nfiles, len(fr.queue))
	}
	f.files = fr.queue[:nfiles:nfiles]
	fr.queue = fr.queue[nfiles:]
	return f, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// full fills p. It reports io.EOF only if not a byte of p was there.
func (fr *frameReader) full(p []byte) error {
	n := copy(p, fr.buf[fr.r:fr.w])
	fr.r += n
	for got := n; got < len(p); got += n {
		var err error
		if len(p)-got >= len(fr.buf) {
			n, err = fr.read(p[got:])
		} else {
			if fr.w, err = fr.read(fr.buf); err == nil {
				n = copy(p[got:], fr.buf[:fr.w])
				fr.r = n
			} else {
				fr.r, fr.w = 0, 0
			}
		}
		if err == io.EOF && got > 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read is one recvmsg into p; descriptors go to the queue.
func (fr *frameReader) read(p []byte) (int, error) {
	n, oobn, flags, _, err := fr.conn.ReadMsgUnix(p, fr.oob)
	if oobn > 0 {
		if perr := fr.take(fr.oob[:oobn]); perr != nil && err == nil {
			err = perr
		}
	}
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("descriptors were lost on the way; is the limit on open files reached?")
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}

func (fr *frameReader) take(oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control message: %w", err)
	}
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fmt.Errorf("parse descriptors: %w", err)
		}
		for _, fd := range fds {
			fr.queue = append(fr.queue, os.NewFile(uintptr(fd), "channel"))
		}
	}
	return nil
}

// frameWriter puts frames on a socket, whole, from any goroutine.
type frameWriter struct {
	conn *net.UnixConn
	mu   sync.Mutex
}

// write sends f, whose descriptors stay the caller's. After an error the
// connection is of no more use, and is shut so that its reader notices.
func (fw *frameWriter) write(f frame) error {
	if len(f.header) > MaxHeaderBytes || len(f.blob) > MaxBlobBytes || len(f.files) > MaxFiles {
		return &Error{ErrInvalid, fmt.Sprintf("message of %d+%d bytes and %d descriptors is beyond the limits of the channel",
			len(f.header), len(f.blob), len(f.files))}
	}
	first := make([]byte, prefixBytes, prefixBytes+len(f.header)+min(len(f.blob), 64<<10))
	binary.LittleEndian.PutUint32(first[0:], uint32(len(f.header)))
	binary.LittleEndian.PutUint32(first[4:], uint32(len(f.blob)))
	binary.LittleEndian.PutUint32(first[8:], uint32(len(f.files)))
	first = append(first, f.header...)
	rest := f.blob
	if len(rest) <= 64<<10 {
		first, rest = append(first, rest...), nil
	}
	fw.mu.Lock()
	defer fw.mu.Unlock()
	err := fw.send(first, f.files)
	if err == nil && len(rest) > 0 {
		_, err = fw.conn.Write(rest)
	}
	if err != nil {
		fw.conn.Close()
		return fmt.Errorf("write to channel: %w", err)
	}
	return nil
}

// send writes p with the descriptors on its first byte.
func (fw *frameWriter) send(p []byte, files []*os.File) error {
	if len(files) == 0 {
		_, err := fw.conn.Write(p)
		return err
	}
	fds, release, err := rawFDs(files)
	defer release()
	if err != nil {
		return err
	}
	n, _, err := fw.conn.WriteMsgUnix(p, unix.UnixRights(fds...), nil)
	if err != nil {
		return err
	}
	if n < len(p) {
		_, err = fw.conn.Write(p[n:])
	}
	return err
}

// rawFDs duplicates the descriptors of files, because os.File.Fd would make
// them blocking and a file may be closed by another goroutine meanwhile.
func rawFDs(files []*os.File) (fds []int, release func(), err error) {
	release = func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	for _, f := range files {
		rc, err := f.SyscallConn()
		if err != nil {
			return fds, release, fmt.Errorf("pass descriptor: %w", err)
		}
		var derr error
		err = rc.Control(func(fd uintptr) {
			var d int
			if d, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); derr == nil {
				fds = append(fds, d)
			}
		})
		if err = errors.Join(err, derr); err != nil {
			return fds, release, fmt.Errorf("pass descriptor: %w", err)
		}
	}
	return fds, release, nil
}
