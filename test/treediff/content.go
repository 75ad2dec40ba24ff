package treediff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// contentJob is a pair of open files of one size. Who takes it closes them.
type contentJob struct {
	path   string
	files  [2]*os.File
	size   int64
	blocks [2]int64 // of 512 bytes, as stat gave them
}

// sendContent opens a pair of files and hands it to the readers of content. It
// blocks while all of them are busy.
func (c *comparer) sendContent(ctx context.Context, path, name string, dirs [2]*os.File, a, b *entry) error {
	job := contentJob{path: path, size: a.st.Size, blocks: [2]int64{a.st.Blocks, b.st.Blocks}}
	for i, dir := range dirs {
		fd, err := openat(int(dir.Fd()), name, 0)
		if err != nil {
			job.close()
			return c.fault(i, path, err)
		}
		job.files[i] = os.NewFile(uintptr(fd), path)
	}
	select {
	case c.jobs <- job:
		return nil
	case <-ctx.Done():
		job.close()
		return context.Cause(ctx)
	}
}

func (j *contentJob) close() {
	for _, f := range j.files {
		if f != nil {
			f.Close()
		}
	}
}

// compareContents compares the files it is sent, until there are no more.
func (c *comparer) compareContents(ctx context.Context) error {
	bufs := [2][]byte{make([]byte, 256<<10), make([]byte, 256<<10)}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case job, more := <-c.jobs:
			if !more {
				return nil
			}
			err := c.compareFile(ctx, job, bufs)
			job.close()
			if err != nil {
				return err
			}
		}
	}
}

// compareFile reads only where at least one of the files has data: what both
// have as holes is the same.
func (c *comparer) compareFile(ctx context.Context, job contentJob, bufs [2][]byte) error {
	var maps [2][]extent
	for i, f := range job.files {
		var err error
		if maps[i], err = dataMap(int(f.Fd()), job.size); err != nil {
			return c.fault(i, job.path, err)
		}
	}
	for _, e := range union(maps[0], maps[1]) {
		same, err := c.compareRange(ctx, job, e, bufs)
		if err != nil || !same {
			return err
		}
	}
	if c.opts.IgnoreHoles || !tellsHoles(maps[0], job.size, job.blocks[0]) || !tellsHoles(maps[1], job.size, job.blocks[1]) {
		return nil
	}
	if at, differ := firstHoleDifference(maps[0], maps[1]); differ {
		c.report(Difference{job.path, Holes, holeText(maps[0], at), holeText(maps[1], at)})
	}
	return nil
}

// compareRange compares one range of two files, and reports the first byte that
// differs.
func (c *comparer) compareRange(ctx context.Context, job contentJob, e extent, bufs [2][]byte) (same bool, err error) {
	for at := e.start; at < e.end; {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		n := min(e.end-at, int64(len(bufs[0])))
		var got [2][]byte
		for i, f := range job.files {
			r, err := f.ReadAt(bufs[i][:n], at)
			if err != nil && !errors.Is(err, io.EOF) {
				return false, c.fault(i, job.path, fmt.Errorf("read: %w", err))
			}
			got[i] = bufs[i][:r]
		}
		if !bytes.Equal(got[0], got[1]) {
			i := firstByte(got[0], got[1])
			c.report(Difference{job.path, Content, byteText(got[0], i, at), byteText(got[1], i, at)})
			return false, nil
		}
		at += n
	}
	return true, nil
}

func firstByte(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func byteText(got []byte, i int, at int64) string {
	if i >= len(got) {
		return fmt.Sprintf("ends at byte %d", at+int64(i))
	}
	return fmt.Sprintf("0x%02x at byte %d", got[i], at+int64(i))
}

// holeBlock is the granularity at which holes are compared: file systems whose
// blocks are smaller can't keep what happens below it, and need not.
const holeBlock = 4096

// extent is a range of a file that has data.
type extent struct{ start, end int64 }

// dataMap gives the ranges of a file that are not holes, in whole blocks apart
// from the end of the file. A file system that can't tell has data everywhere.
func dataMap(fd int, size int64) ([]extent, error) {
	var out []extent
	for at := int64(0); at < size; {
		start, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return out, nil
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
			return []extent{{0, size}}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("seek data: %w", err)
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) { // cut off while we looked
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("seek hole: %w", err)
		}
		out = appendExtent(out, extent{start / holeBlock * holeBlock, min(size, (end+holeBlock-1)/holeBlock*holeBlock)})
		at = max(end, at+1)
	}
	return out, nil
}

// appendExtent adds an extent that starts no earlier than those before it.
func appendExtent(to []extent, e extent) []extent {
	if e.start >= e.end {
		return to
	}
	if n := len(to); n > 0 && e.start <= to[n-1].end {
		to[n-1].end = max(to[n-1].end, e.end)
		return to
	}
	return append(to, e)
}

// union gives the ranges that at least one map has.
func union(a, b []extent) []extent {
	var out []extent
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].start <= b[0].start {
			out, a = appendExtent(out, a[0]), a[1:]
		} else {
			out, b = appendExtent(out, b[0]), b[1:]
		}
	}
	return out
}

// tellsHoles says whether a map can be believed: data everywhere, in far fewer
// blocks than that takes, is the answer of a file system that does not know.
func tellsHoles(m []extent, size, blocks int64) bool {
	full := len(m) == 1 && m[0] == extent{0, size}
	return !full || blocks*512 >= size-2*holeBlock
}

// firstHoleDifference gives the first offset that is data in one map only.
func firstHoleDifference(a, b []extent) (at int64, differ bool) {
	for i := 0; i < len(a) || i < len(b); i++ {
		switch {
		case i >= len(a):
			return b[i].start, true
		case i >= len(b):
			return a[i].start, true
		case a[i].start != b[i].start:
			return min(a[i].start, b[i].start), true
		case a[i].end != b[i].end:
			return min(a[i].end, b[i].end), true
		}
	}
	return 0, false
}

func holeText(m []extent, at int64) string {
	for _, e := range m {
		if e.start <= at && at < e.end {
			return fmt.Sprintf("data at byte %d", at)
		}
	}
	return fmt.Sprintf("a hole at byte %d", at)
}
