package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/intermezzofs/intermezzo/pkg/kml"
	"pgregory.net/rapid"
)

var (
	testID  = ContentID{Origin: kml.UUID{1, 2}, Seq: 77}
	testPos = kml.Pos{Epoch: 3, Seq: 9, Chain: kml.Chain{4}}
)

// sample is one frame of each type that a Reader returns.
func sample() []byte {
	b := AppendGroup(nil, testPos, []byte("group"))
	b = AppendExtent(b, testID, 4096, bytes.Repeat([]byte("data"), 300))
	b = AppendEnd(b, testID, 1<<40)
	b = AppendGone(b, testID)
	b = AppendHeartbeat(b, testPos)
	return AppendError(b, Errorf(CodeForked, "history forked"))
}

func checkSample(t *testing.T, r *Reader) {
	t.Helper()
	next := func() Frame {
		f, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if p, body, err := next().Group(); err != nil || p != testPos || string(body) != "group" {
		t.Errorf("group: %v %q %v", p, body, err)
	}
	if id, off, data, err := next().Extent(); err != nil || id != testID || off != 4096 || len(data) != 1200 {
		t.Errorf("extent: %v %d %d %v", id, off, len(data), err)
	}
	if id, size, err := next().End(); err != nil || id != testID || size != 1<<40 {
		t.Errorf("end: %v %d %v", id, size, err)
	}
	if id, err := next().Gone(); err != nil || id != testID {
		t.Errorf("gone: %v %v", id, err)
	}
	if p, err := next().Heartbeat(); err != nil || p != testPos {
		t.Errorf("heartbeat: %v %v", p, err)
	}
	if err := next().Err(); CodeOf(err) != CodeForked || err.Error() != "history forked" {
		t.Errorf("error: %v", err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestReader_AllTypes(t *testing.T) {
	var p Packer
	plain, packed := sample(), p.AppendPacked(nil, sample())
	if len(packed) >= len(plain) {
		t.Errorf("%d bytes packed are %d", len(plain), len(packed))
	}
	for name, b := range map[string][]byte{"plain": plain, "packed": packed} {
		t.Run(name, func(t *testing.T) { checkSample(t, NewReader(bytes.NewReader(b))) })
		t.Run(name+" byte by byte", func(t *testing.T) { checkSample(t, NewReader(iotest.OneByteReader(bytes.NewReader(b)))) })
	}
}

func TestReader_Refuses(t *testing.T) {
	var p Packer
	group := AppendGroup(nil, testPos, []byte("x"))
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"unknown type":      {[]byte{99, 0, 0, 0, 1, 0, 0, 0, 0}, ErrFrame},
		"reserved bytes":    {[]byte{1, 1, 0, 0, 1, 0, 0, 0, 0}, ErrFrame},
		"no payload":        {[]byte{1, 0, 0, 0, 0, 0, 0, 0}, ErrFrame},
		"too long":          {[]byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, ErrFrame},
		"cut in the head":   {group[:5], io.ErrUnexpectedEOF},
		"cut after it":      {group[:8], io.ErrUnexpectedEOF},
		"cut":               {group[:len(group)-1], io.ErrUnexpectedEOF},
		"a bomb":            {bomb(), ErrFrame},
		"packed twice":      {p.AppendPacked(nil, bytes.Repeat(p.AppendPacked(nil, sample()), 30)), ErrFrame},
		"packed frame cut":  {p.AppendPacked(nil, sample()[:1200]), ErrFrame},
		"not zstd":          {append(appendHead(nil, FramePacked, 8), 9, 0, 0, 0, 1, 2, 3, 4), ErrFrame},
		"packed nothing":    {append(appendHead(nil, FramePacked, 5), 0, 0, 0, 0, 1), ErrFrame},
		"packed length off": {lie(), ErrFrame},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(bytes.NewReader(c.b))
			defer r.Close()
			var err error
			for range 100000 {
				if _, err = r.Next(); err != nil {
					break
				}
			}
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// bomb is a packed frame that would unpack to far more than is allowed.
func bomb() []byte {
	var p Packer
	b := p.AppendPacked(nil, make([]byte, MaxPackedBytes))
	one := b[frameHead+4:]
	out := appendHead(nil, FramePacked, 4+20*len(one))
	out = append(out, 0, 0, 128, 0) // 8 MiB, it says
	for range 20 {
		out = append(out, one...)
	}
	return out
}

func lie() []byte {
	var p Packer
	b := p.AppendPacked(nil, sample())
	b[frameHead]++
	return b
}

func TestReader_LargeGroupNeedsNoPromise(t *testing.T) {
	// 64 MiB are promised and 10 bytes come: next to nothing may be allocated.
	b := append(appendHead(nil, FrameGroup, MaxGroupBytes), make([]byte, 10)...)
	var n float64 = testing.AllocsPerRun(1, func() {
		r := NewReader(bytes.NewReader(b))
		if _, err := r.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
	if n > 20 {
		t.Errorf("%v allocations", n)
	}
	big := bytes.Repeat([]byte("0123456789"), 1<<20)
	r := NewReader(bytes.NewReader(AppendGone(AppendGroup(nil, testPos, big), testID)))
	f, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	if _, body, err := f.Group(); err != nil || !bytes.Equal(body, big) {
		t.Errorf("large group: %d bytes, %v", len(body), err)
	}
	if f, err := r.Next(); err != nil || f.Type != FrameGone {
		t.Errorf("the frame after: %v %v", f.Type, err)
	}
}

func TestPos_Text(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p Pos
		p.Epoch, p.Seq = rapid.Uint32().Draw(t, "epoch"), rapid.Uint64().Draw(t, "seq")
		copy(p.Chain[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "chain"))
		q, err := ParsePos(p.String())
		if err != nil || q != p {
			t.Errorf("%v became %v, %v", p, q, err)
		}
	})
	for _, s := range []string{"", "1/2", "1/2/3", "01/2/" + strings.Repeat("0", 32), "1/2/" + strings.Repeat("A", 32), "1/2/" + strings.Repeat("0", 32) + "/"} {
		if _, err := ParsePos(s); err == nil {
			t.Errorf("%q is a position", s)
		}
	}
}

func TestObject_Text(t *testing.T) {
	for _, id := range []kml.ObjectID{{}, kml.RootID, {Space: kml.UUID{0xff, 3}, Ino: 1 << 63, Gen: 1 << 31, Birth: -7}} {
		got, err := parseObject(formatObject(id))
		if err != nil || got != id {
			t.Errorf("%v became %v, %v", id, got, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	var p Packer
	f.Add(sample())
	f.Add(p.AppendPacked(nil, sample()))
	f.Add(lie())
	f.Add([]byte{7, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		defer r.Close()
		for {
			f, err := r.Next()
			if err != nil {
				return
			}
			if f.Type == FramePacked {
				t.Fatal("a packed frame came out")
			}
			f.Group()
			f.End()
			f.Gone()
			f.Heartbeat()
			f.Err()
			if _, off, data, err := f.Extent(); err == nil && (off < 0 || off+int64(len(data)) < off || len(data) == 0) {
				t.Fatalf("extent at %d of %d bytes", off, len(data))
			}
		}
	})
}
