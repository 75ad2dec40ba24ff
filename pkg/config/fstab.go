package config

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// DefaultFstab is the table that mount(8) reads.
const DefaultFstab = "/etc/fstab"

// FSType is the type of file system in fstab and for mount -t.
const FSType = "intermezzo"

// FstabEntry is a line of fstab.
type FstabEntry struct {
	Line    int // from 1
	Device  string
	Dir     string
	Type    string
	Options string
}

// FstabLine gives the line of fstab for a fileset whose cache has the given
// type (cache_type=), "" leaving that out. The fileset must have a mount point
// and a device.
func FstabLine(f Fileset, cacheType string) (string, error) {
	switch {
	case f.Device == "":
		return "", conflict("fileset %s: its device is not known; run `inconfig fileset set %s --device DEVICE`", f.Name, f.Name)
	case f.Mountpoint == "":
		return "", conflict("fileset %s: it has no mount point; run `inconfig fileset set %s --mountpoint DIR`", f.Name, f.Name)
	}
	options := MountOptions{Fileset: f.Name, Mtpt: f.Mountpoint, CacheType: cacheType, Channel: f.Channel, Extra: []string{"noauto"}}.String()
	if _, err := ParseMountOptions(options); err != nil {
		return "", fmt.Errorf("fileset %s: %w", f.Name, err)
	}
	return strings.Join([]string{escapeFstab(f.Device), escapeFstab(f.Mountpoint), FSType, escapeFstab(options), "0 0"}, " "), nil
}

// fstabEscapes are the characters that a field of fstab can't hold as they are.
var fstabEscapes = []struct{ plain, escaped string }{{`\`, `\134`}, {" ", `\040`}, {"\t", `\011`}, {"\n", `\012`}, {"#", `\043`}}

func escapeFstab(s string) string {
	for _, e := range fstabEscapes {
		s = strings.ReplaceAll(s, e.plain, e.escaped)
	}
	return s
}

func unescapeFstab(s string) string {
	for _, e := range slices.Backward(fstabEscapes) {
		s = strings.ReplaceAll(s, e.escaped, e.plain)
	}
	return s
}

// ParseFstab reads the entries of an fstab. Lines that are no entries are
// passed over, as mount(8) does.
func ParseFstab(data []byte) []FstabEntry {
	var entries []FstabEntry
	for i, line := range strings.Split(string(data), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 4 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		entries = append(entries, FstabEntry{
			Line: i + 1, Device: unescapeFstab(fields[0]), Dir: unescapeFstab(fields[1]), Type: fields[2], Options: unescapeFstab(fields[3]),
		})
	}
	return entries
}

// ReadFstab reads the entries of the fstab at path. One that is missing has
// none.
func ReadFstab(path string) ([]FstabEntry, error) {
	data, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read fstab: %w", err)
	}
	return ParseFstab(data), nil
}

// PlanFstab shows what WriteFstab will do; nil: nothing.
func PlanFstab(path string, f Fileset, cacheType string) (*Change, error) {
	before, err := readSmall(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read fstab: %w", err)
	}
	after, err := changeFstab(path, before, f, cacheType)
	if err != nil || after == nil {
		return nil, err
	}
	return &Change{Path: path, Before: before, After: after}, nil
}

// changeFstab gives the text of an fstab with the line for f in it, nil where
// it has the right one.
func changeFstab(path string, before []byte, f Fileset, cacheType string) ([]byte, error) {
	line, err := FstabLine(f, cacheType)
	if err != nil {
		return nil, err
	}
	old, err := fstabEntryOf(path, before, f)
	if err != nil {
		return nil, err
	}
	lines := strings.SplitAfter(string(before), "\n")
	if old == nil {
		if n := len(lines) - 1; lines[n] != "" {
			lines[n] += "\n"
		}
		return []byte(strings.Join(append(lines, line+"\n"), "")), nil
	}
	fields := mergeFstab(strings.Fields(lines[old.Line-1]), *old, f, cacheType)
	if fields == nil {
		return nil, nil
	}
	lines[old.Line-1] = strings.Join(fields, " ") + "\n"
	return []byte(strings.Join(lines, "")), nil
}

// mergeFstab gives the fields of a line that is there, corrected as far as they
// are about f; options that somebody added stay. nil: they are right.
func mergeFstab(fields []string, old FstabEntry, f Fileset, cacheType string) []string {
	options, err := ParseMountOptions(old.Options)
	if err != nil {
		options = MountOptions{Extra: []string{"noauto"}}
	}
	wanted := options
	wanted.Fileset, wanted.Mtpt, wanted.Channel = f.Name, f.Mountpoint, f.Channel
	if named := (MountOptions{CacheType: cacheType}); named.Driver() != options.Driver() && cacheType != "" {
		wanted.CacheType = cacheType
	}
	if old.Device == f.Device && old.Dir == f.Mountpoint && wanted.String() == options.String() {
		return nil
	}
	merged := slices.Clone(fields)
	merged[0], merged[1], merged[3] = escapeFstab(f.Device), escapeFstab(f.Mountpoint), escapeFstab(wanted.String())
	return merged
}

// fstabEntryOf finds the line that is to be replaced: that of the same fileset.
// A mount point that something else has in fstab is an error.
func fstabEntryOf(path string, data []byte, f Fileset) (*FstabEntry, error) {
	var found *FstabEntry
	for _, e := range ParseFstab(data) {
		options, err := ParseMountOptions(e.Options)
		ours := e.Type == FSType && err == nil && options.Fileset == f.Name
		switch {
		case ours && found != nil:
			return nil, conflict("%s:%d: fileset %s is in the file a second time (line %d); remove one of the lines", path, e.Line, f.Name, found.Line)
		case ours:
			found = &e
		case e.Dir == f.Mountpoint:
			return nil, conflict("%s:%d: the mount point %s is taken by %s (%s); remove that line or choose another with `inconfig fileset set %s --mountpoint DIR`",
				path, e.Line, e.Dir, e.Device, e.Type, f.Name)
		}
	}
	return found, nil
}

// WriteFstab puts the line for a fileset into the fstab at path, or replaces the
// one that is there for it. Nothing else in the file changes; with the right
// line there already, nothing does, and the Change is nil.
func WriteFstab(path string, f Fileset, cacheType string) (*Change, error) {
	change, err := PlanFstab(path, f, cacheType)
	if err != nil || change == nil {
		return nil, err
	}
	mode := fs.FileMode(0o777) // whatever the file has
	if change.Before == nil {
		mode = 0o644
	}
	if err := writeDurably(path, change.After, mode); err != nil {
		return nil, fmt.Errorf("write fstab: %w", err)
	}
	return change, nil
}
