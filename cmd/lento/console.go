package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// console is a slog.Handler for somebody at a terminal: a line of plain words for
// each message.
type console struct {
	w     io.Writer
	name  string // of the program
	level slog.Level
	attrs []slog.Attr
}

// talker logs to w: warnings, and with verbose everything.
func talker(w io.Writer, name string, verbose bool) *slog.Logger {
	c := console{w: w, name: name, level: slog.LevelWarn}
	if verbose {
		c.level = slog.LevelDebug
	}
	return slog.New(c)
}

// Enabled implements slog.Handler.
func (c console) Enabled(_ context.Context, level slog.Level) bool { return level >= c.level }

// Handle implements slog.Handler.
func (c console) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", c.name, r.Message)
	for _, a := range c.attrs {
		fmt.Fprintf(&b, ", %s %s", a.Key, a.Value)
	}
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, ", %s %s", a.Key, a.Value)
		return true
	})
	_, err := fmt.Fprintln(c.w, b.String())
	return err
}

// WithAttrs implements slog.Handler.
func (c console) WithAttrs(attrs []slog.Attr) slog.Handler {
	c.attrs = append(c.attrs[:len(c.attrs):len(c.attrs)], attrs...)
	return c
}

// WithGroup implements slog.Handler. Groups are of no use on a line.
func (c console) WithGroup(string) slog.Handler { return c }
