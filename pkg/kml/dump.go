package kml

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// DumpOptions says what Dump prints and how.
type DumpOptions struct {
	JSON bool   // one object a line, instead of text
	From uint64 // leave out what has a lower number
	Gen2 bool   // f is a KML of the original, whatever it looks like
}

// maxProblems is how many bad places Dump reports.
const maxProblems = 16

// Dump prints the records of the log in f to w, one a line, those of a group one
// after another. A file without our magic number is read as a KML of the
// original's second generation. It reads on past bad frames, and returns what
// was wrong after everything that could be read is printed: *CorruptError and
// *TornError, joined. Blocks on disk and on w.
func Dump(w io.Writer, f *os.File, opts DumpOptions) error {
	magic := make([]byte, len(logMagic))
	n, err := f.ReadAt(magic, 0)
	if err != nil && err != io.EOF {
		return fmt.Errorf("dump log: %w", err)
	}
	buffer := bufio.NewWriterSize(w, 64<<10)
	d := &dumper{w: buffer, opts: opts}
	if ours := string(magic[:n]) == logMagic; opts.Gen2 || !ours && n > 0 {
		err = d.gen2(f)
	} else {
		err = d.log(f)
	}
	if flushed := buffer.Flush(); flushed != nil && d.failed == nil {
		d.failed = fmt.Errorf("dump log %s: %w", f.Name(), flushed)
	}
	return errors.Join(d.failed, err)
}

// dumper prints lines.
type dumper struct {
	w      *bufio.Writer
	opts   DumpOptions
	line   []byte
	failed error // of the writer
}

// log prints a log of ours.
func (d *dumper) log(f *os.File) error {
	w, err := newWalk(f)
	if err != nil {
		return fmt.Errorf("dump log: %w", err)
	}
	var problems []error
	for d.failed == nil && len(problems) < maxProblems {
		fr, err := w.next()
		if err == errEnd {
			break
		}
		if err == nil && fr.Pos.Seq >= d.opts.From {
			err = w.located(d.frame(&fr), &fr)
		}
		if err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// frame prints the records of a frame. The error says why they can't be read.
func (d *dumper) frame(f *Frame) error {
	if f.Kind == FrameRecord {
		r, err := f.Record()
		if err != nil {
			return err
		}
		d.print(&dumpLine{Frame: f, Record: &r})
		return nil
	}
	g, err := f.Group()
	if err != nil {
		return err
	}
	for i := range g.Records {
		d.print(&dumpLine{Frame: f, Group: &g, Record: &g.Records[i]})
	}
	if len(g.Records) == 0 {
		d.print(&dumpLine{Frame: f, Group: &g})
	}
	return nil
}

// gen2 prints a log of the original.
func (d *dumper) gen2(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("dump log: %w", err)
	}
	r := NewGen2Reader(io.NewSectionReader(f, 0, st.Size()), f.Name())
	for first := true; d.failed == nil; first = false {
		rec, err := r.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil && first && !d.opts.Gen2:
			return fmt.Errorf("%s is no log of this format, which begins with a magic number, and none of the original: %w", f.Name(), err)
		case err != nil:
			return err
		}
		if uint64(rec.Recno) >= d.opts.From {
			d.print(&rec)
		}
	}
	return nil
}

// line is what can be printed: as JSON by its own MarshalJSON, or as text.
type line interface {
	json.Marshaler
	appendText(b []byte) []byte
}

func (d *dumper) print(l line) {
	var err error
	if d.opts.JSON {
		d.line, err = l.MarshalJSON()
	} else {
		d.line = l.appendText(d.line[:0])
	}
	if err == nil {
		_, err = d.w.Write(append(d.line, '\n'))
	}
	if err != nil {
		d.failed = fmt.Errorf("print record: %w", err)
	}
}
