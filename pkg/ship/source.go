package ship

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// ErrGone means that the bytes which a CLOSE meant are no longer what the object
// holds.
var ErrGone = errors.New("the content was replaced meanwhile")

// Version names bytes of an object.
type Version struct {
	Object kml.ObjectID
	Root   [32]byte
	Size   int64
}

// Body is the content of a Version. Extents say what of Data is not a hole.
type Body struct {
	Data    []byte
	Extents []content.Extent
}

const (
	smallBytes = 1 << 20  // contents up to here are read and kept whole
	keepBytes  = 32 << 20 // of recent small contents
	keepTokens = 4096     // of recent large contents, whose hash is known
	keepFiles  = 8        // copies of large contents whose files are being written again
)

// Source reads versions of objects from presto, if they are still there.
type Source struct {
	port *Port
	busy func(id kml.ObjectID, size int64) // told of what can't be read for a writer at work

	mu     sync.Mutex
	kept   map[Version]*list.Element // of keptBody
	recent *list.List                // newest first
	bytes  int
	roots  map[tokenOf][32]byte
	copies []keptFile // oldest first
}

type keptFile struct {
	v    Version
	file *os.File
}

type keptBody struct {
	v    Version
	body Body
}

type tokenOf struct {
	object kml.ObjectID
	token  channel.Token
}

// NewSource returns a Source of the objects of p. Close it.
func NewSource(p *Port) *Source {
	return &Source{port: p, busy: func(kml.ObjectID, int64) {}, kept: make(map[Version]*list.Element), recent: list.New(), roots: make(map[tokenOf][32]byte)}
}

// Close gives back the copies that it holds.
func (s *Source) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.copies {
		c.file.Close()
	}
	s.copies = nil
}

// keepFile takes over the copy that was made of a file while its writers waited:
// nothing else has these bytes.
func (s *Source) keepFile(b *channel.Binding, f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.copies) >= keepFiles {
		s.copies[0].file.Close()
		s.copies = s.copies[1:]
	}
	s.copies = append(s.copies, keptFile{Version{b.Object, b.Content.Root, b.Token.Size}, f})
}

// copyOf returns a descriptor of the copy of v, nil if there is none.
func (s *Source) copyOf(v Version) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.copies {
		if c.v != v {
			continue
		}
		// Opened anew: who reads extents moves the offset.
		return os.Open(fmt.Sprintf("/proc/self/fd/%d", c.file.Fd()))
	}
	return nil, nil
}

// keep remembers a small content that is likely to be asked for soon.
func (s *Source) keep(v Version, b Body) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.kept[v]; ok {
		return
	}
	s.kept[v] = s.recent.PushFront(keptBody{v, b})
	s.bytes += len(b.Data)
	for s.bytes > keepBytes {
		old := s.recent.Remove(s.recent.Back()).(keptBody)
		delete(s.kept, old.v)
		s.bytes -= len(old.body.Data)
	}
}

func (s *Source) lookup(v Version) (Body, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.kept[v]
	if !ok {
		return Body{}, false
	}
	s.recent.MoveToFront(e)
	return e.Value.(keptBody).body, true
}

// keepRoot remembers the hash of a large file as it was at token.
func (s *Source) keepRoot(id kml.ObjectID, t channel.Token, root [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.roots) >= keepTokens {
		clear(s.roots)
	}
	s.roots[tokenOf{id, t}] = root
}

func (s *Source) rootAt(id kml.ObjectID, t channel.Token) ([32]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	root, ok := s.roots[tokenOf{id, t}]
	return root, ok
}

// Small reads contents of at most 1 MiB each. ok[i] is false where want[i] is
// gone. The bodies may be shared: they must not be changed.
func (s *Source) Small(ctx context.Context, want []Version) (bodies []Body, ok []bool, err error) {
	bodies, ok = make([]Body, len(want)), make([]bool, len(want))
	var ask []int
	for i, v := range want {
		if bodies[i], ok[i] = s.lookup(v); !ok[i] {
			ask = append(ask, i)
		}
	}
	for len(ask) > 0 {
		n := min(len(ask), channel.MaxContents)
		if err := s.small(ctx, want, ask[:n], bodies, ok); err != nil {
			return nil, nil, err
		}
		ask = ask[n:]
	}
	return bodies, ok, nil
}

func (s *Source) small(ctx context.Context, want []Version, ask []int, bodies []Body, ok []bool) error {
	ids := make([]kml.ObjectID, len(ask))
	for n, i := range ask {
		ids[n] = want[i].Object
	}
	opened, err := s.port.Contents(ctx, s.port.Name, ids, false)
	if err != nil {
		return fmt.Errorf("open contents: %w", err)
	}
	defer closeOpened(opened)
	for n, i := range ask {
		o := opened[n]
		if o.Errno == int(syscall.ETXTBSY) {
			s.busy(want[i].Object, want[i].Size)
		}
		if o.File == nil || o.Token.Size != want[i].Size || o.Token.Size > smallBytes {
			continue
		}
		body, root, err := readBody(o.File, o.Token.Size)
		if errors.Is(err, content.ErrShort) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read content of %v: %w", want[i].Object, err)
		}
		if root == want[i].Root {
			bodies[i], ok[i] = body, true
		}
	}
	return nil
}

func closeOpened(list []channel.Opened) {
	for _, o := range list {
		if o.File != nil {
			o.File.Close()
		}
	}
}

// readBody reads a whole file of size bytes and names it.
func readBody(f *os.File, size int64) (Body, [32]byte, error) {
	data := make([]byte, size)
	b := Body{Data: data}
	if size == 0 {
		return b, content.SumBytes(nil), nil
	}
	// The number of blocks does not tell: that of xattrs is among them.
	var err error
	if b.Extents, err = content.Extents(f, size); err != nil {
		return b, [32]byte{}, err
	}
	for _, e := range b.Extents {
		n, err := f.ReadAt(data[e.Off:e.End()], e.Off)
		if err == io.EOF || err == nil && int64(n) < e.Len {
			return b, [32]byte{}, content.ErrShort
		}
		if err != nil {
			return b, [32]byte{}, err
		}
	}
	return b, content.SumBytes(data), nil
}

// OpenContent is the content of a Version, opened. Close the File.
type OpenContent struct {
	File *os.File
	at   channel.Token // when it was opened
}

// Still reports whether nobody wrote since: what was read from File is one
// version.
func (o *OpenContent) Still() (bool, error) {
	now, err := tokenNow(o.File)
	// ctime moves with names and attributes too, and mtime may be set by anybody,
	// but a writer moves both.
	same := now.Size == o.at.Size && (now.Mtime == o.at.Mtime || now.Ctime == o.at.Ctime)
	return same && err == nil, err
}

// Open opens a content of any size, which is what v names: its hash is known or
// is made now, while waiting is called now and then (it may be nil). The error
// is ErrGone if the object holds something else. When everything was read, ask
// Still.
func (s *Source) Open(ctx context.Context, v Version, waiting func() error) (*OpenContent, error) {
	f, err := s.copyOf(v)
	if err != nil {
		return nil, fmt.Errorf("open content: %w", err)
	}
	known := f != nil
	if !known {
		if f, err = s.openPresent(ctx, v); err != nil {
			return nil, err
		}
	}
	o := &OpenContent{File: f}
	if o.at, err = tokenNow(f); err == nil && !known {
		err = s.checkRoot(ctx, v, o, waiting)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return o, nil
}

// openPresent opens what the object of v holds now.
func (s *Source) openPresent(ctx context.Context, v Version) (*os.File, error) {
	opened, err := s.port.Contents(ctx, s.port.Name, []kml.ObjectID{v.Object}, false)
	if err != nil {
		return nil, fmt.Errorf("open content: %w", err)
	}
	o := opened[0]
	if o.Errno == int(syscall.ETXTBSY) {
		s.busy(v.Object, v.Size)
	}
	if o.File == nil {
		return nil, ErrGone
	}
	return o.File, nil
}

func (s *Source) checkRoot(ctx context.Context, v Version, o *OpenContent, waiting func() error) error {
	if o.at.Size != v.Size {
		return ErrGone
	}
	root, known := s.rootAt(v.Object, o.at)
	if !known {
		var err error
		if root, err = sumPatiently(ctx, o.File, v.Size, waiting); err != nil {
			return err
		}
		still, err := o.Still()
		if err != nil {
			return err
		}
		if !still {
			return ErrGone
		}
		s.keepRoot(v.Object, o.at, root)
	}
	if root != v.Root {
		return ErrGone
	}
	return nil
}

// tokenNow is the token of a file as it is now.
func tokenNow(f *os.File) (channel.Token, error) {
	st, err := statOf(f)
	return channel.Token{Ino: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}, err
}

func statOf(f *os.File) (st syscall.Stat_t, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return st, fmt.Errorf("look at content: %w", err)
	}
	var serr error
	err = rc.Control(func(fd uintptr) { serr = syscall.Fstat(int(fd), &st) })
	if err = errors.Join(err, serr); err != nil {
		return st, fmt.Errorf("look at content: %w", err)
	}
	return st, nil
}
