package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/intermezzofs/intermezzo/pkg/mkfs"
)

// printJSON prints the summary as one object on one line.
func printJSON(w io.Writer, s mkfs.Summary) error { return json.NewEncoder(w).Encode(s) }

// printText prints the summary for people: what would be done, or what there is.
func printText(w io.Writer, s mkfs.Summary) error {
	var b strings.Builder
	if s.DryRun {
		fmt.Fprintf(&b, "%s: nothing was changed; this would be done:\n", s.Target)
		for _, step := range s.Steps {
			fmt.Fprintf(&b, "  %s\n", step)
		}
		_, err := io.WriteString(w, b.String())
		return err
	}
	fmt.Fprintf(&b, "%s: cache %s on %s", s.Target, s.UUID, s.Bottom)
	if s.SizeBytes > 0 {
		fmt.Fprintf(&b, " of %s", mkfs.FormatSize(s.SizeBytes))
	}
	if s.Label != "" {
		fmt.Fprintf(&b, ", label %q", s.Label)
	}
	b.WriteString("\n")
	for _, f := range s.Filesets {
		note := ""
		if f.Adopt {
			note = ", adopted: its tree is logged at the first mount"
		}
		fmt.Fprintf(&b, "  fileset %s, tree in %s%s\n", f.Name, f.Root, note)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

const (
	// quietTime is how long a format goes on before anything is said about it.
	quietTime = 500 * time.Millisecond
	// A terminal has one line that changes; a file gets a new one now and then.
	terminalPause = 100 * time.Millisecond
	filePause     = 10 * time.Second
)

// progress prints how far formatting is. A nil one prints nothing.
type progress struct {
	w        io.Writer
	terminal bool
	begin    time.Time
	next     time.Time
	shown    bool
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	p := &progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd())), begin: time.Now()}
	p.next = p.begin.Add(quietTime)
	return p
}

// show is told that done bytes of total are done.
func (p *progress) show(done, total int64) {
	now := time.Now()
	if now.Before(p.next) || total <= 0 || done <= 0 {
		return
	}
	took := now.Sub(p.begin)
	left := time.Duration(float64(took) * float64(total-done) / float64(done))
	line := fmt.Sprintf("formatting: %d%%, %s/s, %s left", done*100/total,
		mkfs.FormatSize(int64(float64(done)/took.Seconds())), left.Round(time.Second))
	p.shown = true
	if p.terminal {
		fmt.Fprintf(p.w, "\r%-60s", line)
		p.next = now.Add(terminalPause)
		return
	}
	fmt.Fprintln(p.w, line)
	p.next = now.Add(filePause)
}

// end clears the line of a terminal.
func (p *progress) end() {
	if p != nil && p.shown && p.terminal {
		fmt.Fprintf(p.w, "\r%-60s\r", "")
	}
}
