package wire

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Packer compresses runs of frames. It is safe for concurrent use, one at a
// time. The zero value is ready.
type Packer struct {
	mu  sync.Mutex
	enc *zstd.Encoder
}

// minPack is below what compressing pays.
const minPack = 256

// AppendPacked appends frames to b, as one packed frame if that is at least an
// eighth smaller, else as they are. frames may be of any length; more than
// MaxPackedBytes travel unpacked.
func (p *Packer) AppendPacked(b, frames []byte) []byte {
	if len(frames) < minPack || len(frames) > MaxPackedBytes {
		return append(b, frames...)
	}
	start := len(b)
	b = appendHead(b, FramePacked, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frames)))
	p.mu.Lock()
	if p.enc == nil {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
		if err != nil { // the options are constants: can't be
			p.mu.Unlock()
			return append(b[:start], frames...)
		}
		p.enc = enc
	}
	b = p.enc.EncodeAll(frames, b)
	p.mu.Unlock()
	if packed := len(b) - start; packed > len(frames)-len(frames)/8 {
		return append(b[:start], frames...)
	}
	binary.LittleEndian.PutUint32(b[start+4:], uint32(len(b)-start-frameHead))
	return b
}

// unpacker is the other direction. The zero value is ready.
type unpacker struct {
	dec *zstd.Decoder
}

func (u *unpacker) close() {
	if u.dec != nil {
		u.dec.Close()
		u.dec = nil
	}
}

// unpack appends the frames in the payload of a packed frame to dst.
func (u *unpacker) unpack(dst, payload []byte) ([]byte, error) {
	if len(payload) <= 4 {
		return dst, fmt.Errorf("%w: packed frame of %d bytes", ErrFrame, len(payload))
	}
	want := binary.LittleEndian.Uint32(payload)
	if want == 0 || want > MaxPackedBytes {
		return dst, fmt.Errorf("%w: %d bytes packed into one frame", ErrFrame, want)
	}
	if u.dec == nil {
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxPackedBytes))
		if err != nil {
			return dst, fmt.Errorf("prepare to unpack: %w", err)
		}
		u.dec = dec
	}
	out, err := u.dec.DecodeAll(payload[4:], dst)
	if err != nil {
		return dst, fmt.Errorf("%w: packed frame: %v", ErrFrame, err)
	}
	if len(out)-len(dst) != int(want) {
		return dst, fmt.Errorf("%w: packed frame holds %d bytes and says %d", ErrFrame, len(out)-len(dst), want)
	}
	return out, nil
}
