package config

import (
	"fmt"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// DefaultPort is the port a server listens on where none is given.
const DefaultPort = 370

// Role is what this host is for a fileset. The values are those of
// channel.Role.
type Role string

const (
	RoleServer Role = "server"
	RoleClient Role = "client"
)

// Rights are what a replicator may do with a fileset.
type Rights string

const (
	ReadWrite Rights = "rw" // sends its changes and gets those of others
	ReadOnly  Rights = "ro" // only gets changes
)

// Values of Fileset.Permit, Fileset.Disconnected and Fileset.Mode. The first of
// each is the default, and stands where the file says nothing.
const (
	PermitNone      = "none"
	PermitExclusive = "exclusive"

	DisconnectedWork     = "work"
	DisconnectedReadOnly = "readonly"
	DisconnectedWait     = "wait"

	ModeFull     = "full"
	ModeOnDemand = "on-demand"
)

// Config is the content of the three databases of a host, as Dir.Load reads
// them: valid, with defaults filled in.
type Config struct {
	Sysid    Sysid
	Servers  []Server
	Filesets []Fileset
}

// Sysid says who this host is.
type Sysid struct {
	Name string   // unique among the hosts that meet, not resolved
	UUID kml.UUID // of the host, made with the file
	Bind []string // addresses a server listens on, host:port, ":370" means all
	Key  string   // path of the private key; a relative one begins at the folder
}

// Server is a host that this one may connect to.
type Server struct {
	Name        string      // the Name in its sysid
	Addresses   []string    // host:port each, tried in order
	Fingerprint Fingerprint // of its key, the only one accepted
}

// Fileset is a tree that this host takes part in.
type Fileset struct {
	Name         string
	UUID         kml.UUID // zero until the cache (on a server) or the server (on a client) told
	Server       string   // name of the host that gives the order; our own name: we do
	Mountpoint   string   // "": not mounted by fstab or lento
	Device       string   // device, loop file or folder of the cache; "": not said
	Channel      int      // number of the socket in the run folder
	Permit       string
	Disconnected string
	Mode         string
	Replicators  []Replicator // who was granted it; only a server's are used
}

// Replicator is a host that was granted a fileset.
type Replicator struct {
	Name        string
	UUID        kml.UUID // of that host (its Sysid.UUID)
	Fingerprint Fingerprint
	Rights      Rights
}

// Fileset returns the fileset of that name, nil if there is none. It points
// into c.
func (c *Config) Fileset(name string) *Fileset {
	for i := range c.Filesets {
		if c.Filesets[i].Name == name {
			return &c.Filesets[i]
		}
	}
	return nil
}

// Server returns the server of that name, nil if there is none. It points
// into c.
func (c *Config) Server(name string) *Server {
	for i := range c.Servers {
		if c.Servers[i].Name == name {
			return &c.Servers[i]
		}
	}
	return nil
}

// Role returns what this host is for f.
func (c *Config) Role(f *Fileset) Role {
	if f.Server == c.Sysid.Name {
		return RoleServer
	}
	return RoleClient
}

// Grant returns the replicator of f with that key, nil if the key was not
// granted f. It points into f.
func (f *Fileset) Grant(fp Fingerprint) *Replicator {
	for i := range f.Replicators {
		if f.Replicators[i].Fingerprint.Equal(fp) {
			return &f.Replicators[i]
		}
	}
	return nil
}

// Replicator returns the replicator of that name, nil if there is none. It
// points into f.
func (f *Fileset) Replicator(name string) *Replicator {
	for i := range f.Replicators {
		if f.Replicators[i].Name == name {
			return &f.Replicators[i]
		}
	}
	return nil
}

// Knows reports whether fp was granted any fileset that this host serves. It is
// the hook for ServerTLS where no stranger has business.
func (c *Config) Knows(fp Fingerprint) bool {
	for i := range c.Filesets {
		if f := &c.Filesets[i]; c.Role(f) == RoleServer && f.Grant(fp) != nil {
			return true
		}
	}
	return false
}

// Unsupported returns what the configuration asks for and this version can't
// do, one error for each, nil if there is nothing. A daemon must not start with
// these.
func (c *Config) Unsupported() []error {
	var errs []error
	say := func(f *Fileset, key, value, instead string) {
		errs = append(errs, fmt.Errorf("fileset %s: %s = %q is not built in this version; set %s = %q in fsetdb, or leave it out",
			f.Name, key, value, key, instead))
	}
	for i := range c.Filesets {
		f := &c.Filesets[i]
		if f.Permit != "" && f.Permit != PermitNone {
			say(f, "permit", f.Permit, PermitNone)
		}
		if f.Disconnected != "" && f.Disconnected != DisconnectedWork {
			say(f, "disconnected", f.Disconnected, DisconnectedWork)
		}
		if f.Mode != "" && f.Mode != ModeFull {
			say(f, "mode", f.Mode, ModeFull)
		}
	}
	return errs
}
