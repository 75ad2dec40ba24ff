package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// Incoming is a content on its way from a peer into a stage. Nil is none. It is
// not safe for concurrent use.
type Incoming struct {
	ID   wire.ContentID
	Size int64
	Next int64 // extents come in order: where the last one ended

	file *content.StageFile
}

// Receive begins to stage a content, from its start.
func Receive(stage *content.Stage, id wire.ContentID, size int64) (*Incoming, error) {
	f, err := stage.Put(channel.StageName(id.Origin, id.Seq), size)
	if err != nil {
		return nil, receiveError(id, err)
	}
	return &Incoming{ID: id, Size: size, file: f}, nil
}

// ReceiveMore goes on to stage a content after what has come before: see Next.
func ReceiveMore(ctx context.Context, stage *content.Stage, id wire.ContentID, size int64) (*Incoming, error) {
	f, have, err := stage.Resume(ctx, channel.StageName(id.Origin, id.Seq), size)
	if err != nil {
		return nil, receiveError(id, err)
	}
	return &Incoming{ID: id, Size: size, Next: have, file: f}, nil
}

func receiveError(id wire.ContentID, err error) error {
	if errors.Is(err, content.ErrInUse) {
		return wire.Errorf(wire.CodeTooMany, "content %v is on its way already", id)
	}
	return err
}

// Take takes an extent or the end. done: the content is staged, and is the one
// that root names. wire.CodeMismatch says that it is another one, and
// wire.CodeInvalid that the peer keeps no rules; other errors are of the disk.
func (in *Incoming) Take(ctx context.Context, f wire.Frame, root [32]byte) (done bool, err error) {
	if f.Type == wire.FrameEnd {
		id, size, err := f.End()
		if err != nil {
			return false, err
		}
		if id != in.ID || size != in.Size {
			return false, wire.Errorf(wire.CodeInvalid, "content %v of %d bytes is ended as %v of %d", in.ID, in.Size, id, size)
		}
		err = in.file.Commit(ctx, root)
		if errors.Is(err, content.ErrMismatch) {
			return false, wire.Errorf(wire.CodeMismatch, "content %v is not what its hash says", in.ID)
		}
		return err == nil, err
	}
	id, off, data, err := f.Extent()
	if err != nil {
		return false, err
	}
	if id != in.ID || off < in.Next || off > in.Size-int64(len(data)) {
		return false, wire.Errorf(wire.CodeInvalid, "%d bytes at %d of content %v have no place in %v of %d bytes", len(data), off, id, in.ID, in.Size)
	}
	in.Next = off + int64(len(data))
	if _, err := in.file.WriteAt(data, off); err != nil {
		return false, fmt.Errorf("stage content %v: %w", in.ID, err)
	}
	return false, nil
}

// Abort drops what has come. After the end it does nothing.
func (in *Incoming) Abort() {
	if in != nil {
		_ = in.file.Abort() // what stays is dropped when the content is staged again
	}
}

// Pause keeps what has come of a large content, for ReceiveMore. After the end
// it does nothing.
func (in *Incoming) Pause() {
	if in != nil {
		_ = in.file.Pause() // what is not kept is only sent again
	}
}

// ContentOf says which content an extent or end is of.
func ContentOf(f wire.Frame) (wire.ContentID, error) {
	switch f.Type {
	case wire.FrameEnd:
		id, _, err := f.End()
		return id, err
	case wire.FrameGone:
		return f.Gone()
	}
	id, _, _, err := f.Extent()
	return id, err
}

// IsStaged reports whether a content is staged, whole. It is read to make sure,
// because it may be from before a power loss; one that is not right is removed.
func IsStaged(ctx context.Context, stage *content.Stage, id wire.ContentID, root [32]byte, size int64) (bool, error) {
	name := channel.StageName(id.Origin, id.Seq)
	there, _, err := stage.Has(name)
	if err != nil || !there {
		return false, err
	}
	err = stage.Check(ctx, name, root, size)
	if errors.Is(err, content.ErrMismatch) || errors.Is(err, content.ErrShort) {
		return false, stage.Remove(name)
	}
	return err == nil, err
}

// Bound is a CLOSE of some bytes that a record gives its content: itself, or the
// one that a MANIFEST names.
type Bound struct {
	ID      wire.ContentID
	Version Version
	Index   int // of the record in its group
}

// BoundIn lists the CLOSEs to which g gives a content.
func BoundIn(g *kml.Group) []Bound {
	var list []Bound
	for i := range g.Records {
		r := &g.Records[i]
		if r.Content.IsZero() || r.After.Size == 0 {
			continue
		}
		b := Bound{Version: Version{Object: r.Object, Root: r.Content.Root, Size: r.After.Size}, Index: i}
		switch r.Op {
		case kml.OpClose:
			b.ID = wire.ContentID{Origin: g.Origin, Seq: r.Seq}
		case kml.OpManifest:
			b.ID = wire.ContentID{Origin: g.Origin, Seq: r.CloseSeq}
		default:
			continue
		}
		list = append(list, b)
	}
	return list
}

const sendBytes = 256 << 10 // of one extent of a large content

// SendFile writes what f has from req.Offset on as extents, without its holes.
// The error is content.ErrShort if f is shorter than it should be. progress is
// told how far it is; it may be nil. It moves the offset of f.
func SendFile(ctx context.Context, f *os.File, req wire.ContentRequest, w io.Writer, progress func(at int64)) error {
	data, err := content.Extents(f, req.Size)
	if err != nil {
		return err
	}
	buf := make([]byte, sendBytes)
	var frame []byte
	for _, e := range data {
		for off := max(e.Off, req.Offset); off < e.End(); {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			n, err := f.ReadAt(buf[:min(e.End()-off, sendBytes)], off)
			if n == 0 && (err == nil || err == io.EOF) {
				err = content.ErrShort
			}
			if n == 0 {
				return fmt.Errorf("read content %v: %w", req.ID, err)
			}
			frame = wire.AppendExtent(frame[:0], req.ID, off, buf[:n])
			if _, err := w.Write(frame); err != nil {
				return err
			}
			if off += int64(n); progress != nil {
				progress(off)
			}
		}
	}
	return nil
}
