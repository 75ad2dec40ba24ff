package mkfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/cache"
)

// kind is what sort of thing a target is.
type kind string

const (
	kindDevice kind = "device"
	kindImage  kind = "image"
	kindFolder kind = "folder"
)

// target is what a Request names, as it was found.
type target struct {
	path   string // real
	kind   kind
	absent bool  // an image file that is still to be made
	size   int64 // bytes, of a device or image
}

// findTarget looks at what name is, without opening it.
func findTarget(name string, size int64) (target, error) {
	path, err := filepath.EvalSymlinks(name)
	if errors.Is(err, os.ErrNotExist) {
		return absentTarget(name, size)
	}
	if err != nil {
		return target{}, fmt.Errorf("find target: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return target{}, fmt.Errorf("find target: %w", err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return target{}, fmt.Errorf("find target: %w", err)
	}
	t := target{path: path}
	switch mode := st.Mode(); {
	case mode.IsDir():
		t.kind = kindFolder
		return t, nil
	case mode.IsRegular():
		t.kind = kindImage
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		t.kind = kindDevice
	default:
		return target{}, &Refusal{path, "is neither a block device, nor an image file, nor a folder", "name one of these"}
	}
	t.size, err = sizeOf(path)
	return t, err
}

// absentTarget is an image file that is to be made, if a size is given and the
// folder for it exists.
func absentTarget(name string, size int64) (target, error) {
	if size == 0 {
		return target{}, &Refusal{name, "does not exist", "to make an image file there add --size SIZE; to use a folder make it first: mkdir " + name}
	}
	if _, err := os.Lstat(name); err == nil {
		return target{}, &Refusal{name, "is a symbolic link to something that does not exist", "name what is to be made"}
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(name))
	if err != nil {
		return target{}, fmt.Errorf("find folder of target: %w", err)
	}
	path, err := filepath.Abs(filepath.Join(dir, filepath.Base(name)))
	if err != nil {
		return target{}, fmt.Errorf("find target: %w", err)
	}
	return target{path: path, kind: kindImage, absent: true, size: size}, nil
}

// sizeOf gives the size of a device or file in bytes.
func sizeOf(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("find size: %w", err)
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("find size of %s: %w", path, err)
	}
	return n, nil
}

// content is what is on a device or image.
type content struct {
	what string // "" for nothing
	keep string // how it can be kept, where it can: the other way than destroying it
}

const (
	keepTree  = "to keep that as a fileset use --adopt"
	keepCache = "to give that another fileset use --add --fileset NAME"
)

// content tells what is on a device or image.
func (t target) content(ctx context.Context) (content, error) {
	if t.absent || t.size == 0 {
		return content{}, nil
	}
	f, err := os.Open(t.path)
	if err != nil {
		return content{}, fmt.Errorf("look at target: %w", err)
	}
	defer f.Close()
	what, err := recognise(f, t.size)
	if err != nil {
		return content{}, fmt.Errorf("look at %s: %w", t.path, err)
	}
	if len(what) == 0 {
		empty, err := blank(f, t.size)
		if err != nil {
			return content{}, fmt.Errorf("look at %s: %w", t.path, err)
		}
		if empty {
			return content{}, nil
		}
		return content{what: "data of no known kind"}, nil
	}
	more, keep := peek(ctx, t.path)
	return content{what: strings.Join(what, " and ") + more, keep: keep}, nil
}

// peek tells what is in the file system on a device or image, if it can be
// mounted, beginning with a space, and how it can be kept. Where it cannot there
// is nothing to add to what its signature says. Nothing is changed, not even by
// replaying a journal.
func peek(ctx context.Context, path string) (what, keep string) {
	b, err := cache.Mount(ctx, path, cache.Options{ReadOnly: true, NoReplay: true})
	if err != nil {
		return "", ""
	}
	what, keep = inside(b)
	if err := b.Close(); err != nil {
		return "", ""
	}
	return what, keep
}

func inside(b *cache.Bottom) (what, keep string) {
	info, filesets, err := cache.Describe(b)
	if err == nil {
		return " with " + describeCache(info, filesets), keepCache
	}
	if !errors.Is(err, cache.ErrNotCache) {
		return " with a cache of InterMezzo in it", ""
	}
	n, err := b.Entries()
	switch {
	case err != nil:
		return "", ""
	case n == 0:
		return ", empty", keepTree
	}
	return " with " + count(n), keepTree
}

// count words a number of entries of a folder.
func count(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

func describeCache(info cache.Info, filesets []cache.FilesetInfo) string {
	var names []string
	for _, f := range filesets {
		names = append(names, f.Name)
	}
	return fmt.Sprintf("a cache of InterMezzo in it (uuid %s, filesets: %s)", info.UUID, strings.Join(names, ", "))
}
