package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Change is what an edit does to one file. Before is nil where the file is new.
type Change struct {
	Path          string
	Before, After []byte
}

// Diff shows the change as text, in the manner of diff -u.
func (c Change) Diff() string { return unifiedDiff(c.Path, c.Before, c.After) }

// ErrInvalidEdit is what an edit fails with that would leave a configuration
// that can't be loaded.
var ErrInvalidEdit = errors.New("the result would not be a valid configuration")

// Edit changes the databases: fn gets the present configuration under the lock
// and changes it; what differs then is written, durably, and returned. With no
// difference nothing is written and no Change returned. fn may be called with a
// zero Sysid where there is no sysid yet, and must fill it in or fail.
//
// A configuration that has faults is not edited: the error has them all. One
// that fn makes invalid is ErrInvalidEdit. fn must not call Edit, and may be
// called more than once, each time with what is there.
func (d Dir) Edit(fn func(*Config) error) ([]Change, error) {
	if _, err := os.Stat(string(d)); errors.Is(err, fs.ErrNotExist) {
		// The lock would make the folder, which an edit that fails must not.
		if changes, err := d.Plan(fn); err != nil || len(changes) == 0 {
			return nil, err
		}
	}
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	changes, err := d.Plan(fn)
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		if err := writeDurably(c.Path, c.After, 0o644); err != nil {
			return nil, fmt.Errorf("write configuration: %w", err)
		}
	}
	return changes, nil
}

// Plan is Edit without the writing.
func (d Dir) Plan(fn func(*Config) error) ([]Change, error) {
	l := d.read()
	for _, p := range l.problems {
		if l.noSysid && errors.Is(p, fs.ErrNotExist) {
			continue // the edit may be the one that makes it
		}
		return nil, errors.Join(l.problems...)
	}
	after := l.config.clone()
	if err := fn(after); err != nil {
		return nil, err
	}
	if after.Sysid.Name == "" {
		return nil, d.unreadable(SysidFile, fs.ErrNotExist)
	}
	return d.changes(l, after)
}

// changes gives the files to write, in the order in which each of them only
// refers to what is there already.
func (d Dir) changes(l *loaded, after *Config) ([]Change, error) {
	wanted := []struct {
		name    string
		content any
	}{{SysidFile, after.Sysid.file()}, {ServerdbFile, after.serverdb()}, {FsetdbFile, after.fsetdb()}}
	docs := map[string]*document{}
	var changes []Change
	for _, w := range wanted {
		present := l.docs[w.name].data
		text, err := encodeFile(w.name, present, w.content)
		if err != nil {
			return nil, err
		}
		docs[w.name] = parseDocument(d.Path(w.name), text)
		same := sameContent(w.name, l.docs[w.name], docs[w.name])
		if missing := present == nil; same && !(missing && w.name == SysidFile) {
			continue
		}
		changes = append(changes, Change{Path: d.Path(w.name), Before: present, After: text})
	}
	return changes, checkDocuments(docs)
}

// checkDocuments reads what is about to be written as Load will.
func checkDocuments(docs map[string]*document) error {
	l := &loaded{docs: docs}
	l.decode()
	var texts []error
	for _, p := range Problems(errors.Join(l.problems...)) { // their places are in a text nobody sees
		texts = append(texts, &Problem{File: p.File, Text: p.Text, Fix: p.Fix})
	}
	if len(texts) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInvalidEdit, errors.Join(texts...))
}

// sameContent reports whether two texts of a database mean the same, however
// they are written.
func sameContent(name string, a, b *document) bool {
	if bytes.Equal(a.data, b.data) {
		return true
	}
	a, b = parseDocument(a.path, a.data), parseDocument(b.path, b.data)
	switch name {
	case SysidFile:
		return reflect.DeepEqual(decodeSysid(a), decodeSysid(b))
	case ServerdbFile:
		return reflect.DeepEqual(decodeServerdb(a), decodeServerdb(b))
	}
	return reflect.DeepEqual(decodeFsetdb(a), decodeFsetdb(b))
}

func (c *Config) clone() *Config {
	out := *c
	out.Sysid.Bind = slices.Clone(c.Sysid.Bind)
	out.Servers = slices.Clone(c.Servers)
	for i := range out.Servers {
		out.Servers[i].Addresses = slices.Clone(out.Servers[i].Addresses)
	}
	out.Filesets = slices.Clone(c.Filesets)
	for i := range out.Filesets {
		out.Filesets[i].Replicators = slices.Clone(out.Filesets[i].Replicators)
	}
	return &out
}

// SetFilesetUUID notes the uuid of a fileset that had none: a server's daemon
// has it from the cache, a client's from the server. Setting the same again
// changes nothing; another one is an error.
func (d Dir) SetFilesetUUID(name string, uuid kml.UUID) error {
	_, err := d.Edit(func(c *Config) error {
		f := c.Fileset(name)
		if f == nil {
			return d.noFileset(c, name)
		}
		if !f.UUID.IsZero() && f.UUID != uuid {
			return conflict("fileset %s: its uuid is %s in %s, and %s in fact: this is another fileset of the same name", name, f.UUID, d.Path(FsetdbFile), uuid)
		}
		f.UUID = uuid
		return nil
	})
	return err
}

// noFileset is the error for a fileset name that fsetdb hasn't.
func (d Dir) noFileset(c *Config, name string) error {
	var names []string
	for _, f := range c.Filesets {
		names = append(names, f.Name)
	}
	p := &Problem{File: d.Path(FsetdbFile), Text: fmt.Sprintf("there is no fileset %q", name), Err: ErrNoFileset}
	if p.Fix = didYouMean(name, names); p.Fix == "" {
		p.Fix = "`inconfig fileset list` shows those there are"
	}
	return p
}

// Find returns the fileset of that name, or ErrNoFileset with a hint at the
// name that was probably meant.
func (d Dir) Find(c *Config, name string) (*Fileset, error) {
	if f := c.Fileset(name); f != nil {
		return f, nil
	}
	return nil, d.noFileset(c, name)
}
