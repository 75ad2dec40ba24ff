package content_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/content"
)

func TestStage_PauseAndResume(t *testing.T) {
	s, path := stage(t)
	p := noise(large)
	f := put(t, s, nameOf(1), large)
	write(t, f, p[:300000], 0)
	if err := f.Pause(); err != nil {
		t.Fatal(err)
	}
	const have = 4 * content.LeafSize
	if got, err := s.Partial(nameOf(1)); got != have || err != nil {
		t.Fatalf("partial %d, %v", got, err)
	}
	f, got, err := s.Resume(ctx, nameOf(1), large)
	if err != nil || got != have {
		t.Fatalf("resumed at %d, %v", got, err)
	}
	write(t, f, p[have:], have)
	if err := f.Commit(ctx, content.SumBytes(p)); err != nil {
		t.Fatal(err)
	}
	wantStaged(t, s, nameOf(1), p)
	if got := files(t, path); len(got) != 1 {
		t.Errorf("files %v", got)
	}
}

// What a killed process leaves behind is resumed; if it is not what it should
// be, the content is not accepted, and the next try starts anew.
func TestStage_ResumeOfAnything(t *testing.T) {
	p := noise(large)
	wrong := bytes.Clone(p[:200000])
	wrong[77] ^= 1
	tests := []struct {
		name string
		left []byte
		have int64
		err  error
	}{
		{"nothing", nil, 0, nil},
		{"less than a leaf", p[:1000], 0, nil},
		{"a good prefix", p[:200000], 3 * content.LeafSize, nil},
		{"a bad prefix", wrong, 3 * content.LeafSize, content.ErrMismatch},
		{"too much", append(bytes.Clone(p), 1), 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, path := stage(t)
			if tt.left != nil {
				if err := os.WriteFile(filepath.Join(path, nameOf(1)+".part"), tt.left, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f, have, err := s.Resume(ctx, nameOf(1), large)
			if err != nil || have != tt.have {
				t.Fatalf("have %d, %v", have, err)
			}
			write(t, f, p[have:], have)
			if err := f.Commit(ctx, content.SumBytes(p)); !errors.Is(err, tt.err) {
				t.Fatalf("commit: %v", err)
			}
			if tt.err == nil {
				wantStaged(t, s, nameOf(1), p)
			} else if got, _ := s.Partial(nameOf(1)); got != 0 {
				t.Errorf("%d bad bytes left", got)
			}
		})
	}
}

// Only what was written in order can be resumed, for only that is a prefix.
func TestStage_PauseOutOfOrder(t *testing.T) {
	s, path := stage(t)
	for _, size := range []int{small, large} {
		f := put(t, s, nameOf(1), size)
		write(t, f, []byte("later"), 500)
		write(t, f, []byte("first"), 0)
		if err := f.Pause(); err != nil {
			t.Fatal(err)
		}
		if got := files(t, path); len(got) != 0 {
			t.Errorf("left behind: %v", got)
		}
	}
}

func TestStage_InUse(t *testing.T) {
	s, _ := stage(t)
	f := put(t, s, nameOf(1), large)
	if _, err := s.Put(nameOf(1), large); !errors.Is(err, content.ErrInUse) {
		t.Errorf("second put: %v", err)
	}
	if _, _, err := s.Resume(ctx, nameOf(1), large); !errors.Is(err, content.ErrInUse) {
		t.Errorf("resume: %v", err)
	}
	if err := f.Abort(); err != nil {
		t.Fatal(err)
	}
	if err := put(t, s, nameOf(1), large).Abort(); err != nil {
		t.Fatal(err)
	}
}
