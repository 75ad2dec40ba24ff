package content_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"pgregory.net/rapid"
)

const (
	small = 1000
	large = 1<<20 + 1000
)

var ctx = context.Background()

func nameOf(seq uint64) string { return channel.StageName(kml.UUID{0xab, 15: 1}, seq) }

func stage(t testing.TB) (*content.Stage, string) {
	t.Helper()
	path := t.TempDir()
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close() // the Stage has its own
	s, err := content.OpenStage(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

func noise(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}

func put(t testing.TB, s *content.Stage, name string, size int) *content.StageFile {
	t.Helper()
	f, err := s.Put(name, int64(size))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t testing.TB, f *content.StageFile, p []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(p, off); err != nil || n != len(p) {
		t.Fatalf("wrote %d: %v", n, err)
	}
}

// files are the names in the folder.
func files(t testing.TB, path string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func wantStaged(t testing.TB, s *content.Stage, name string, p []byte) {
	t.Helper()
	if ok, size, err := s.Has(name); !ok || size != int64(len(p)) || err != nil {
		t.Fatalf("has %v, %d bytes, %v", ok, size, err)
	}
	f, err := s.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("other bytes, %v", err)
	}
	if err := s.Check(ctx, name, content.SumBytes(p), int64(len(p))); err != nil {
		t.Fatal(err)
	}
}

func TestStage_PutAndCommit(t *testing.T) {
	for _, size := range []int{0, 1, small, 256 << 10, 256<<10 + 1, large} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s, path := stage(t)
			p := noise(size)
			f := put(t, s, nameOf(1), size)
			for off := 0; off < size; off += 100000 {
				write(t, f, p[off:min(off+100000, size)], int64(off))
			}
			if ok, _, err := s.Has(nameOf(1)); ok || err != nil {
				t.Fatalf("there before it is verified: %v", err)
			}
			if err := f.Commit(ctx, content.SumBytes(p)); err != nil {
				t.Fatal(err)
			}
			wantStaged(t, s, nameOf(1), p)
			if got := files(t, path); len(got) != 1 {
				t.Errorf("files %v", got)
			}
			if err := f.Abort(); err != nil { // as a deferred one
				t.Error(err)
			}
			wantStaged(t, s, nameOf(1), p)
			if _, err := f.WriteAt(p, 0); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("write afterwards: %v", err)
			}
			if err := f.Commit(ctx, content.SumBytes(p)); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("commit afterwards: %v", err)
			}
		})
	}
}

func TestStage_PutBytes(t *testing.T) {
	s, path := stage(t)
	for i, size := range []int{0, small, large} {
		p := noise(size)
		name := nameOf(uint64(i))
		if err := s.PutBytes(name, p, content.SumBytes([]byte("else"))); !errors.Is(err, content.ErrMismatch) {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if ok, _, _ := s.Has(name); ok {
			t.Fatal("staged although it is another")
		}
		if err := s.PutBytes(name, p, content.SumBytes(p)); err != nil {
			t.Fatal(err)
		}
		wantStaged(t, s, name, p)
	}
	if got := files(t, path); len(got) != 3 {
		t.Errorf("files %v", got)
	}
}

// Nothing that does not verify is ever seen, nor left behind.
func TestStage_Mismatch(t *testing.T) {
	for _, size := range []int{small, large} {
		s, path := stage(t)
		f := put(t, s, nameOf(1), size)
		write(t, f, noise(size-1), 0)
		if err := f.Commit(ctx, content.SumBytes(noise(size))); !errors.Is(err, content.ErrMismatch) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if got := files(t, path); len(got) != 0 {
			t.Errorf("%d bytes: left behind: %v", size, got)
		}
	}
}

// A content that is staged again takes the place of what was there, such as a
// file that a power loss has cut.
func TestStage_Again(t *testing.T) {
	for _, size := range []int{small, large} {
		s, path := stage(t)
		if err := os.WriteFile(filepath.Join(path, nameOf(1)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p := noise(size)
		if err := s.Check(ctx, nameOf(1), content.SumBytes(p), int64(size)); !errors.Is(err, content.ErrMismatch) {
			t.Errorf("check of a cut one: %v", err)
		}
		f := put(t, s, nameOf(1), size)
		write(t, f, p, 0)
		if err := f.Commit(ctx, content.SumBytes(p)); err != nil {
			t.Fatal(err)
		}
		wantStaged(t, s, nameOf(1), p)
	}
}

// Bytes that were not written are holes, on the disk too.
func TestStage_HolesStayHoles(t *testing.T) {
	const block = 16 << 10
	for _, size := range []int{10 * block, 100 * block} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s, _ := stage(t)
			p := make([]byte, size)
			copy(p[2*block:], noise(block))
			copy(p[5*block:], noise(2*block))
			f := put(t, s, nameOf(1), size)
			write(t, f, p[2*block:3*block], 2*block)
			write(t, f, p[5*block:6*block], 5*block)
			write(t, f, p[6*block:7*block], 6*block)
			if err := f.Commit(ctx, content.SumBytes(p)); err != nil {
				t.Fatal(err)
			}
			wantStaged(t, s, nameOf(1), p)
			r, err := s.Open(nameOf(1))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := content.Extents(r, int64(size))
			if want := []content.Extent{{Off: 2 * block, Len: block}, {Off: 5 * block, Len: 2 * block}}; err != nil || !slices.Equal(got, want) {
				t.Errorf("data at %v, %v", got, err)
			}
		})
	}
	s, _ := stage(t)
	f := put(t, s, nameOf(1), 5000)
	if err := f.Commit(ctx, content.SumBytes(make([]byte, 5000))); err != nil {
		t.Fatal(err)
	}
	wantStaged(t, s, nameOf(1), make([]byte, 5000))
}

// However the bytes are cut and ordered, and written twice, the content is the
// same.
func TestStage_AnyOrder(t *testing.T) {
	s, _ := stage(t)
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{1000, 200000, 300000}).Draw(t, "size")
		p := noise(size)
		var cuts []content.Extent
		for off := 0; off < size; {
			n := min(rapid.IntRange(size/10, size).Draw(t, "n"), size-off)
			cuts = append(cuts, content.Extent{Off: int64(off), Len: int64(n)})
			off += n
		}
		cuts = rapid.Permutation(cuts).Draw(t, "order")
		if rapid.Bool().Draw(t, "twice") {
			cuts = append(cuts, cuts[0])
		}
		f, err := s.Put(nameOf(9), int64(size))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range cuts {
			if _, err := f.WriteAt(p[e.Off:e.End()], e.Off); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Commit(ctx, content.SumBytes(p)); err != nil {
			t.Fatal(err)
		}
		if err := s.Check(ctx, nameOf(9), content.SumBytes(p), int64(size)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStage_WriteOutside(t *testing.T) {
	s, _ := stage(t)
	for _, size := range []int{10, large} {
		f := put(t, s, nameOf(uint64(size)), size)
		for _, off := range []int64{-1, int64(size) - 2, 1<<63 - 1} {
			if _, err := f.WriteAt([]byte("abc"), off); err == nil {
				t.Errorf("wrote at %d of %d", off, size)
			}
		}
		if err := f.Abort(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Put(nameOf(1), -1); err == nil {
		t.Error("took a negative size")
	}
}

func TestStage_Names(t *testing.T) {
	s, path := stage(t)
	good := nameOf(1)
	for _, name := range []string{
		"", ".", "..", "../" + good, "x", good + ".part", good + "x", good[:37], good[:36] + "x1", good[:37] + "01", good[:37] + "+1",
		good[:37] + "18446744073709551616", "AB" + good[2:], good + "/x", "\x00" + good[1:],
	} {
		if _, err := s.Put(name, 1); !errors.Is(err, content.ErrName) {
			t.Errorf("put %q: %v", name, err)
		}
		if err := s.PutBytes(name, nil, [32]byte{}); !errors.Is(err, content.ErrName) {
			t.Errorf("put bytes %q: %v", name, err)
		}
		_, _, hasErr := s.Has(name)
		_, partialErr := s.Partial(name)
		_, openErr := s.Open(name)
		for _, err := range []error{hasErr, partialErr, openErr, s.Remove(name)} {
			if !errors.Is(err, content.ErrName) {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
	if err := s.PutBytes(nameOf(1<<64-1), nil, content.SumBytes(nil)); err != nil {
		t.Error(err)
	}
	if got := files(t, path); len(got) != 1 {
		t.Errorf("files %v", got)
	}
}

// Links and folders under our names are never followed.
func TestStage_ForeignFiles(t *testing.T) {
	s, path := stage(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{nameOf(1), nameOf(2) + ".part"} {
		if err := os.Symlink(outside, filepath.Join(path, file)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Open(nameOf(1)); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("open: %v", err)
	}
	if _, _, err := s.Has(nameOf(1)); err == nil {
		t.Error("has a link")
	}
	if _, err := s.Put(nameOf(2), large); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("put: %v", err)
	}
	p := noise(small)
	if err := s.PutBytes(nameOf(1), p, content.SumBytes(p)); err != nil {
		t.Fatal(err)
	}
	wantStaged(t, s, nameOf(1), p)
	if got, err := os.ReadFile(outside); err != nil || string(got) != "precious" {
		t.Errorf("the file outside is %q, %v", got, err)
	}
}

func TestStage_ListCleanRemove(t *testing.T) {
	s, path := stage(t)
	for seq := range uint64(4) {
		p := noise(int(seq) * 10)
		if err := s.PutBytes(nameOf(seq), p, content.SumBytes(p)); err != nil {
			t.Fatal(err)
		}
	}
	f := put(t, s, nameOf(7), large)
	write(t, f, noise(5000), 0)
	if err := f.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "of-somebody-else"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	list := func() []content.Staged {
		got, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(got, func(a, b content.Staged) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
		return got
	}
	want := []content.Staged{
		{Name: nameOf(0)}, {Name: nameOf(1), Size: 10}, {Name: nameOf(2), Size: 20}, {Name: nameOf(3), Size: 30},
		{Name: nameOf(7), Size: 5000, Partial: true},
	}
	if got := list(); !slices.Equal(got, want) {
		t.Errorf("list %+v", got)
	}
	if err := errors.Join(s.Remove(nameOf(2)), s.Remove(nameOf(2)), s.Remove(nameOf(99))); err != nil {
		t.Error(err)
	}
	if err := s.Clean(func(name string) bool { return name == nameOf(3) }); err != nil {
		t.Fatal(err)
	}
	if got := list(); !slices.Equal(got, want[3:4]) {
		t.Errorf("after clean %+v", got)
	}
	if got := files(t, path); len(got) != 2 {
		t.Errorf("files %v", got)
	}
	if _, err := s.Open(nameOf(2)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of a removed one: %v", err)
	}
	if err := s.Sync(); err != nil {
		t.Error(err)
	}
}

// A transfer that was cleaned away under its feet says so, and leaves nothing.
func TestStage_CleanedMeanwhile(t *testing.T) {
	s, path := stage(t)
	p := noise(large)
	f := put(t, s, nameOf(1), large)
	write(t, f, p, 0)
	if err := s.Clean(func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(ctx, content.SumBytes(p)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("commit: %v", err)
	}
	if got := files(t, path); len(got) != 0 {
		t.Errorf("files %v", got)
	}
}

func TestStage_ManyAtOnce(t *testing.T) {
	s, path := stage(t)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			p := noise(100 * (i%4 + 1))
			if i == 3 {
				p = noise(large)
			}
			name := nameOf(uint64(i % 4)) // the same content from several
			if len(p) == large {
				name = nameOf(50)
			}
			f, err := s.Put(name, int64(len(p)))
			if err == nil {
				_, err = f.WriteAt(p, 0)
			}
			if err == nil {
				err = f.Commit(ctx, content.SumBytes(p))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := files(t, path); len(got) != 5 {
		t.Errorf("files %v", got)
	}
	for i := range uint64(4) {
		wantStaged(t, s, nameOf(i), noise(100*(int(i)+1)))
	}
}

func BenchmarkStage_PutBytes(b *testing.B) {
	s, _ := stage(b)
	p := noise(8000)
	root := content.SumBytes(p)
	b.ReportAllocs()
	seq := uint64(0)
	for b.Loop() {
		seq++
		if err := s.PutBytes(nameOf(seq), p, root); err != nil {
			b.Fatal(err)
		}
	}
}
