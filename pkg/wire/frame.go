package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// FrameType says what a frame carries. Unknown types end a stream with an error.
type FrameType uint8

const (
	FrameGroup     FrameType = 1 // position, encoded group
	FrameExtent    FrameType = 2 // origin, number of the CLOSE, offset, bytes
	FrameEnd       FrameType = 3 // origin, number of the CLOSE, size: the content is complete
	FrameGone      FrameType = 4 // origin, number of the CLOSE: the content can't be had any more
	FrameHeartbeat FrameType = 5 // position: the sender's end of the order log
	FrameError     FrameType = 6 // Error as JSON; the stream ends
	FramePacked    FrameType = 7 // u32 unpacked length, other frames compressed with zstd
)

func (t FrameType) String() string {
	names := [...]string{FrameGroup: "group", FrameExtent: "extent", FrameEnd: "end", FrameGone: "gone",
		FrameHeartbeat: "heartbeat", FrameError: "error", FramePacked: "packed"}
	if int(t) < len(names) && names[t] != "" {
		return names[t]
	}
	return fmt.Sprintf("frame type %d", uint8(t))
}

// Limits of frames, in bytes of payload.
const (
	MaxGroupBytes  = kml.MaxFrame + posBytes // a group is never larger than a frame of the log
	MaxExtentBytes = 1 << 20                 // of data in one extent
	MaxPackedBytes = 8 << 20                 // of frames in one packed frame, unpacked or not
	maxErrorBytes  = 64 << 10
)

const (
	frameHead   = 8 // type, three bytes of zero, u32 length of the payload
	posBytes    = 4 + 8 + 16
	contentName = 16 + 8
)

// maxPayload is the most a frame of type t may carry, 0 for an unknown type.
func maxPayload(t FrameType) int {
	switch t {
	case FrameGroup:
		return MaxGroupBytes
	case FrameExtent:
		return contentName + 8 + MaxExtentBytes
	case FrameEnd:
		return contentName + 8
	case FrameGone:
		return contentName
	case FrameHeartbeat:
		return posBytes
	case FrameError:
		return maxErrorBytes
	case FramePacked:
		return 4 + MaxPackedBytes
	}
	return 0
}

// ContentID names content: what the CLOSE with number Seq in the log of the
// cache Origin means.
type ContentID struct {
	Origin kml.UUID
	Seq    uint64
}

func (id ContentID) String() string { return fmt.Sprintf("%v/%d", id.Origin, id.Seq) }

func appendHead(b []byte, t FrameType, payload int) []byte {
	b = append(b, byte(t), 0, 0, 0)
	return binary.LittleEndian.AppendUint32(b, uint32(payload))
}

func appendPos(b []byte, p kml.Pos) []byte {
	b = binary.LittleEndian.AppendUint32(b, p.Epoch)
	b = binary.LittleEndian.AppendUint64(b, p.Seq)
	return append(b, p.Chain[:]...)
}

func appendContentID(b []byte, id ContentID) []byte {
	b = append(b, id.Origin[:]...)
	return binary.LittleEndian.AppendUint64(b, id.Seq)
}

// AppendGroup appends a frame with an encoded group to b. In a follow stream pos
// is the group's position in the order; in a push it is zero.
func AppendGroup(b []byte, pos kml.Pos, body []byte) []byte {
	b = appendHead(b, FrameGroup, posBytes+len(body))
	return append(appendPos(b, pos), body...)
}

// AppendExtent appends a frame with bytes of a content, at most MaxExtentBytes,
// to b. What no extent covers is a hole.
func AppendExtent(b []byte, id ContentID, offset int64, data []byte) []byte {
	b = appendHead(b, FrameExtent, contentName+8+len(data))
	b = appendContentID(b, id)
	b = binary.LittleEndian.AppendUint64(b, uint64(offset))
	return append(b, data...)
}

// AppendEnd appends the frame that ends a content of size bytes to b.
func AppendEnd(b []byte, id ContentID, size int64) []byte {
	b = appendHead(b, FrameEnd, contentName+8)
	return binary.LittleEndian.AppendUint64(appendContentID(b, id), uint64(size))
}

// AppendGone appends the frame that says that a content will not come to b.
func AppendGone(b []byte, id ContentID) []byte {
	return appendContentID(appendHead(b, FrameGone, contentName), id)
}

// AppendHeartbeat appends a heartbeat to b.
func AppendHeartbeat(b []byte, end kml.Pos) []byte {
	return appendPos(appendHead(b, FrameHeartbeat, posBytes), end)
}

// AppendError appends the frame that ends a stream with e to b.
func AppendError(b []byte, e *Error) []byte {
	body, err := json.Marshal(e)
	if err != nil || len(body) > maxErrorBytes {
		body = []byte(`{"code":"internal"}`)
	}
	return append(appendHead(b, FrameError, len(body)), body...)
}

// Frame is one frame as it came. Payload is valid until the Reader is used again.
type Frame struct {
	Type    FrameType
	Payload []byte
}

// ErrFrame is what is wrong with bytes that are no valid frame.
var ErrFrame = errors.New("invalid frame")

func (f Frame) bad(want string) error {
	return fmt.Errorf("%w: %v of %d bytes, wanted %s", ErrFrame, f.Type, len(f.Payload), want)
}

func takePos(b []byte) (p kml.Pos) {
	p.Epoch = binary.LittleEndian.Uint32(b)
	p.Seq = binary.LittleEndian.Uint64(b[4:])
	copy(p.Chain[:], b[12:])
	return p
}

func takeContentID(b []byte) (id ContentID) {
	copy(id.Origin[:], b)
	id.Seq = binary.LittleEndian.Uint64(b[16:])
	return id
}

// Group returns the position and the still encoded group of a FrameGroup.
func (f Frame) Group() (kml.Pos, []byte, error) {
	if f.Type != FrameGroup || len(f.Payload) <= posBytes {
		return kml.Pos{}, nil, f.bad("a group")
	}
	return takePos(f.Payload), f.Payload[posBytes:], nil
}

// Extent returns what a FrameExtent carries. offset is never negative, and
// neither is the offset after data, which is never empty.
func (f Frame) Extent() (id ContentID, offset int64, data []byte, err error) {
	if f.Type != FrameExtent || len(f.Payload) <= contentName+8 {
		return id, 0, nil, f.bad("an extent")
	}
	data = f.Payload[contentName+8:]
	offset = int64(binary.LittleEndian.Uint64(f.Payload[contentName:]))
	if offset < 0 || offset+int64(len(data)) < 0 {
		return id, 0, nil, fmt.Errorf("%w: extent at %d", ErrFrame, offset)
	}
	return takeContentID(f.Payload), offset, data, nil
}

// End returns what a FrameEnd carries. size is never negative.
func (f Frame) End() (id ContentID, size int64, err error) {
	if f.Type != FrameEnd || len(f.Payload) != contentName+8 {
		return id, 0, f.bad("the end of a content")
	}
	if size = int64(binary.LittleEndian.Uint64(f.Payload[contentName:])); size < 0 {
		return id, 0, fmt.Errorf("%w: content of %d bytes", ErrFrame, size)
	}
	return takeContentID(f.Payload), size, nil
}

// Gone returns what a FrameGone carries.
func (f Frame) Gone() (ContentID, error) {
	if f.Type != FrameGone || len(f.Payload) != contentName {
		return ContentID{}, f.bad("content gone")
	}
	return takeContentID(f.Payload), nil
}

// Heartbeat returns what a FrameHeartbeat carries.
func (f Frame) Heartbeat() (kml.Pos, error) {
	if f.Type != FrameHeartbeat || len(f.Payload) != posBytes {
		return kml.Pos{}, f.bad("a heartbeat")
	}
	return takePos(f.Payload), nil
}

// Err returns the error that a FrameError carries, or what is wrong with it.
func (f Frame) Err() error {
	if f.Type != FrameError {
		return f.bad("an error")
	}
	e := &Error{}
	if err := json.Unmarshal(f.Payload, e); err != nil || e.Code == "" {
		return f.bad("an error as JSON")
	}
	return e
}

// Reader takes frames from a stream and unpacks packed ones on the way.
type Reader struct {
	src    source
	inner  source // frames of the packed frame under way
	buf    []byte
	packed []byte
	z      unpacker
}

// NewReader returns a Reader of r. Close it.
func NewReader(r io.Reader) *Reader {
	return &Reader{src: source{r: r, buf: make([]byte, 64<<10)}}
}

// Close gives back what the Reader holds. It does not close what it reads from.
func (r *Reader) Close() { r.z.close() }

// Buffered reports whether there is more to read without waiting for the other
// end: at least the beginning of the next frame is here.
func (r *Reader) Buffered() bool { return r.inner.len() > 0 || r.src.len() > 0 }

// Next returns the next frame, never a packed one. It is io.EOF where the stream
// ends between two frames, and ErrFrame for what no honest peer sends.
func (r *Reader) Next() (Frame, error) {
	for {
		if r.inner.len() > 0 {
			f, err := r.inner.frame(&r.buf)
			if err == nil && f.Type == FramePacked {
				err = fmt.Errorf("%w: packed twice", ErrFrame)
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("%w: packed frames end early", ErrFrame)
			}
			return f, err
		}
		f, err := r.src.frame(&r.buf)
		if err != nil || f.Type != FramePacked {
			return f, err
		}
		if r.packed, err = r.z.unpack(r.packed[:0], f.Payload); err != nil {
			return Frame{}, err
		}
		r.inner = source{buf: r.packed, w: len(r.packed)}
	}
}

// source is a buffer, and what it is filled from: nothing, for frames that were
// unpacked.
type source struct {
	r    io.Reader
	buf  []byte
	n, w int // unread: buf[n:w]
}

func (s *source) len() int { return s.w - s.n }

// frame reads a frame into *buf, which grows as the bytes come in and not as the
// sender promises.
func (s *source) frame(buf *[]byte) (Frame, error) {
	var head [frameHead]byte
	if err := s.full(head[:]); err != nil {
		return Frame{}, err
	}
	t, n := FrameType(head[0]), binary.LittleEndian.Uint32(head[4:])
	if limit := maxPayload(t); head[1]|head[2]|head[3] != 0 || n == 0 || int64(n) > int64(limit) {
		return Frame{}, fmt.Errorf("%w: %v of %d bytes", ErrFrame, t, n)
	}
	const step = 1 << 20
	b := (*buf)[:0]
	for len(b) < int(n) {
		part := min(step, int(n)-len(b))
		at := len(b)
		b = append(b, make([]byte, part)...)
		if err := s.full(b[at:]); err != nil {
			return Frame{}, unexpected(err)
		}
	}
	if cap(b) <= 4*step {
		*buf = b
	} else {
		*buf = nil // one large group should not stay in memory for the rest of a stream
	}
	return Frame{Type: t, Payload: b}, nil
}

func (s *source) full(p []byte) error {
	n := copy(p, s.buf[s.n:s.w])
	s.n += n
	for n < len(p) {
		got, err := s.fill(p[n:])
		n += got
		if err != nil && n < len(p) {
			if n > 0 {
				return unexpected(err)
			}
			return err
		}
	}
	return nil
}

// fill reads once: straight into p if that is long, else into the buffer.
func (s *source) fill(p []byte) (int, error) {
	if s.r == nil {
		return 0, io.EOF
	}
	if len(p) >= len(s.buf) {
		return s.r.Read(p)
	}
	got, err := s.r.Read(s.buf)
	n := copy(p, s.buf[:got])
	s.n, s.w = n, got
	return n, err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
