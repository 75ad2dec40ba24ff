package config

import (
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// NewUUID makes a random uuid (version 4).
func NewUUID() kml.UUID {
	var u kml.UUID
	rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// Init makes this host one of that name, which may be "" where it has one
// already, listening on bind, which may be nil to leave that as it is. A host
// that has another name keeps it: that is an error.
func (c *Config) Init(name string, bind []string) error {
	s := &c.Sysid
	if name == "" {
		name = s.Name
	}
	if err := CheckHostName(name); err != nil {
		return err
	}
	if s.Name != "" && s.Name != name {
		return conflict("this host is %q already, and other hosts know it by that name; to change it all the same, edit sysid and everything that names %s", s.Name, s.Name)
	}
	s.Name = name
	if s.UUID.IsZero() {
		s.UUID = NewUUID()
	}
	if s.Key == "" {
		s.Key = DefaultKeyFile
	}
	if bind != nil {
		s.Bind = nil
	}
	for _, b := range bind {
		full, err := JoinAddress(b, DefaultPort, true)
		if err != nil {
			return err
		}
		if !slices.Contains(s.Bind, full) {
			s.Bind = append(s.Bind, full)
		}
	}
	if len(s.Bind) == 0 {
		s.Bind = []string{DefaultBind}
	}
	return nil
}

// AddServer adds a server, or adds addresses to one that is there with the same
// key. A pinned key is never replaced: ErrWrongKey.
func (c *Config) AddServer(s Server) error {
	if err := CheckHostName(s.Name); err != nil {
		return err
	}
	if s.Name == c.Sysid.Name {
		return conflict("server %s: that is the name of this host", s.Name)
	}
	have := c.Server(s.Name)
	if have == nil {
		if s.Fingerprint.IsZero() {
			return valueError("server %s: its key's fingerprint is needed; `inconfig key` on it prints that", s.Name)
		}
		c.Servers = append(c.Servers, Server{Name: s.Name, Fingerprint: s.Fingerprint})
		have = &c.Servers[len(c.Servers)-1]
	}
	if !s.Fingerprint.IsZero() && !have.Fingerprint.Equal(s.Fingerprint) {
		return &pinnedError{s.Name, have.Fingerprint, s.Fingerprint}
	}
	for _, a := range s.Addresses {
		full, err := JoinAddress(a, DefaultPort, false)
		if err != nil {
			return fmt.Errorf("server %s: %w", s.Name, err)
		}
		if !slices.Contains(have.Addresses, full) {
			have.Addresses = append(have.Addresses, full)
		}
	}
	return nil
}

// pinnedError refuses to replace a key. It is ErrWrongKey.
type pinnedError struct {
	server      string
	pinned, new Fingerprint
}

func (e *pinnedError) Error() string {
	return fmt.Sprintf("server %s: its key is pinned as %s, and this one is %s; if the server really has a new key, run `inconfig server remove --force %s` first",
		e.server, e.pinned, e.new, e.server)
}

func (e *pinnedError) Is(target error) bool { return target == ErrWrongKey }

// RemoveServer removes a server. It reports false where there is none of that
// name. One that filesets come from stays: ErrConflict.
func (c *Config) RemoveServer(name string) (bool, error) {
	at := slices.IndexFunc(c.Servers, func(s Server) bool { return s.Name == name })
	if at < 0 {
		return false, nil
	}
	for _, f := range c.Filesets {
		if f.Server == name {
			return false, conflict("server %s: fileset %s comes from it; remove that first with `inconfig fileset remove --force %s`", name, f.Name, f.Name)
		}
	}
	c.Servers = slices.Delete(c.Servers, at, at+1)
	return true, nil
}

// Placement says where a fileset is on this host. A nil field leaves what is
// there, or what is the default.
type Placement struct {
	Mountpoint, Device *string
	Channel            *int
}

// AddFileset adds a fileset that comes from server ("": this host serves it), or
// changes the placement of one that is there and has the same server.
func (c *Config) AddFileset(name, server string, p Placement) error {
	if err := CheckFilesetName(name); err != nil {
		return err
	}
	if server == "" {
		server = c.Sysid.Name
	}
	f := c.Fileset(name)
	if f == nil {
		c.Filesets = append(c.Filesets, Fileset{
			Name: name, Server: server, Channel: -1,
			Permit: PermitNone, Disconnected: DisconnectedWork, Mode: ModeFull,
		})
		f = &c.Filesets[len(c.Filesets)-1]
	}
	if f.Server != server {
		return conflict("fileset %s: it comes from %s here already, not from %s; remove it first with `inconfig fileset remove --force %s`", name, f.Server, server, name)
	}
	return c.Place(name, p)
}

// Place changes where a fileset is on this host. Where no channel is given, a
// fileset that has none gets that of its cache, or the first free one.
func (c *Config) Place(name string, p Placement) error {
	f := c.Fileset(name)
	if f == nil {
		return fmt.Errorf("fileset %s: %w", name, ErrNoFileset)
	}
	if p.Mountpoint != nil {
		if err := checkUnless("", *p.Mountpoint, CheckMountpoint); err != nil {
			return fmt.Errorf("fileset %s: %w", name, err)
		}
		f.Mountpoint = *p.Mountpoint
	}
	if p.Device != nil {
		if err := checkUnless("", *p.Device, CheckDevicePath); err != nil {
			return fmt.Errorf("fileset %s: %w", name, err)
		}
		f.Device = *p.Device
	}
	switch {
	case p.Channel != nil:
		if *p.Channel < 0 || *p.Channel > MaxChannel {
			return valueError("fileset %s: channel %d is out of range; use 0 to %d", name, *p.Channel, MaxChannel)
		}
		f.Channel = *p.Channel
	case f.Channel < 0:
		f.Channel = c.freeChannel(f)
	}
	return nil
}

func checkUnless(empty, value string, check func(string) error) error {
	if value == empty {
		return nil
	}
	return check(value)
}

// freeChannel gives the channel of the cache that f lies in where another
// fileset lies there too, else the lowest that nobody has.
func (c *Config) freeChannel(f *Fileset) int {
	taken := map[int]bool{}
	for i := range c.Filesets {
		other := &c.Filesets[i]
		if other == f || other.Channel < 0 {
			continue
		}
		if f.Device != "" && other.Device == f.Device {
			return other.Channel
		}
		taken[other.Channel] = true
	}
	n := 0
	for taken[n] {
		n++
	}
	return n
}

// RemoveFileset takes a fileset out of fsetdb, with its replicators. Nothing in
// the cache is touched. It reports false where there is none of that name.
func (c *Config) RemoveFileset(name string) bool {
	before := len(c.Filesets)
	c.Filesets = slices.DeleteFunc(c.Filesets, func(f Fileset) bool { return f.Name == name })
	return len(c.Filesets) < before
}

// served gives a fileset that this host serves.
func (c *Config) served(name string) (*Fileset, error) {
	f := c.Fileset(name)
	if f == nil {
		return nil, fmt.Errorf("fileset %s: %w", name, ErrNoFileset)
	}
	if c.Role(f) != RoleServer {
		return nil, fmt.Errorf("fileset %s: %w; run this on %s", name, ErrNotServer, f.Server)
	}
	return f, nil
}

// AddReplicator grants a fileset that this host serves to the holder of a key.
// One that is there with the same key gets the new rights; a key is never
// replaced.
func (c *Config) AddReplicator(fileset string, r Replicator) error {
	f, err := c.served(fileset)
	if err != nil {
		return err
	}
	if err := CheckHostName(r.Name); err != nil {
		return err
	}
	if r.Name == c.Sysid.Name {
		return conflict("fileset %s: %s is this host, which serves it", fileset, r.Name)
	}
	if r.Rights == "" {
		r.Rights = ReadWrite
	}
	if r.Rights != ReadWrite && r.Rights != ReadOnly {
		return valueError("rights %q: use %s or %s", r.Rights, ReadWrite, ReadOnly)
	}
	if r.Fingerprint.IsZero() {
		return valueError("replicator %s: its key's fingerprint is needed; `inconfig key` on it prints that", r.Name)
	}
	if other := f.Grant(r.Fingerprint); other != nil && other.Name != r.Name {
		return conflict("fileset %s: that key has it already, as replicator %s", fileset, other.Name)
	}
	have := f.Replicator(r.Name)
	if have == nil {
		f.Replicators = append(f.Replicators, r)
		return nil
	}
	if !have.Fingerprint.Equal(r.Fingerprint) {
		return conflict("fileset %s: replicator %s has it with another key, %s; if that host has a new one, run `inconfig replicator remove --force %s %s` first",
			fileset, r.Name, have.Fingerprint, fileset, r.Name)
	}
	have.Rights = r.Rights
	if !r.UUID.IsZero() {
		have.UUID = r.UUID
	}
	return nil
}

// RemoveReplicator takes a fileset away from a replicator. The server refuses it
// from its next connection on. It reports false where there is none of that
// name.
func (c *Config) RemoveReplicator(fileset, name string) (bool, error) {
	f, err := c.served(fileset)
	if err != nil {
		return false, err
	}
	before := len(f.Replicators)
	f.Replicators = slices.DeleteFunc(f.Replicators, func(r Replicator) bool { return r.Name == name })
	return len(f.Replicators) < before, nil
}
