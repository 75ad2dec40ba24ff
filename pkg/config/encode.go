package config

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// The databases as they are written: in this order of keys, defaults left out.
type (
	sysidFile struct {
		Name string   `toml:"name" json:"name"`
		UUID string   `toml:"uuid" json:"uuid"`
		Bind []string `toml:"bind,omitempty" json:"bind,omitempty"`
		Key  string   `toml:"key,omitempty" json:"key,omitempty"`
	}
	serverdbFile struct {
		Server []serverTable `toml:"server,omitempty" json:"server,omitempty"`
	}
	serverTable struct {
		Name        string   `toml:"name" json:"name"`
		Addresses   []string `toml:"addresses" json:"addresses"`
		Fingerprint string   `toml:"fingerprint" json:"fingerprint"`
	}
	fsetdbFile struct {
		Fileset []filesetTable `toml:"fileset,omitempty" json:"fileset,omitempty"`
	}
	filesetTable struct {
		Name         string            `toml:"name" json:"name"`
		UUID         string            `toml:"uuid,omitempty" json:"uuid,omitempty"`
		Server       string            `toml:"server" json:"server"`
		Mountpoint   string            `toml:"mountpoint,omitempty" json:"mountpoint,omitempty"`
		Device       string            `toml:"device,omitempty" json:"device,omitempty"`
		Channel      int               `toml:"channel" json:"channel"`
		Permit       string            `toml:"permit,omitempty" json:"permit,omitempty"`
		Disconnected string            `toml:"disconnected,omitempty" json:"disconnected,omitempty"`
		Mode         string            `toml:"mode,omitempty" json:"mode,omitempty"`
		Replicator   []replicatorTable `toml:"replicator,omitempty" json:"replicator,omitempty"`
	}
	replicatorTable struct {
		Name        string `toml:"name" json:"name"`
		UUID        string `toml:"uuid,omitempty" json:"uuid,omitempty"`
		Fingerprint string `toml:"fingerprint" json:"fingerprint"`
		Rights      string `toml:"rights" json:"rights"`
	}
)

// heads are the comments at the head of a new file.
var heads = map[string]string{
	SysidFile:       "# sysid: who this host is. Syntax: man 5 sysid.\n",
	ServerdbFile:    "# serverdb: the servers this host connects to. Syntax: man 5 serverdb.\n",
	FsetdbFile:      "# fsetdb: the filesets this host takes part in. Syntax: man 5 fsetdb.\n",
	InvitationsFile: "# invitations: what this server has offered. Written by inconfig and the daemon only.\n",
}

const headRewritten = "# inconfig(8) rewrites this file: comments up here are kept, others are not.\n"

func headOf(name string) string {
	if name == InvitationsFile {
		return heads[name]
	}
	return heads[name] + headRewritten
}

// leadingComments gives the comments and blank lines that a file begins with,
// so that they survive when the file is written anew.
func leadingComments(data []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		trimmed := strings.TrimSpace(line)
		if trimmed != "" && !strings.HasPrefix(trimmed, "#") {
			break
		}
		b.WriteString(line)
	}
	head := strings.TrimRight(b.String(), "\n")
	if head == "" {
		return ""
	}
	return head + "\n"
}

// encodeFile gives the text of a database, below the comments that the present
// file begins with.
func encodeFile(name string, present []byte, content any) ([]byte, error) {
	head := leadingComments(present)
	if len(present) == 0 {
		head = headOf(name)
	}
	var body bytes.Buffer
	enc := toml.NewEncoder(&body)
	enc.Indent = ""
	if err := enc.Encode(content); err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	text := strings.TrimLeft(body.String(), "\n")
	if head != "" && text != "" {
		head += "\n"
	}
	return []byte(head + text), nil
}

func (s *Sysid) file() sysidFile {
	f := sysidFile{Name: s.Name, UUID: uuidText(s.UUID), Bind: s.Bind, Key: s.Key}
	if f.Key == DefaultKeyFile {
		f.Key = ""
	}
	return f
}

func (c *Config) serverdb() serverdbFile {
	var out serverdbFile
	for _, s := range c.Servers {
		out.Server = append(out.Server, serverTable{s.Name, s.Addresses, s.Fingerprint.String()})
	}
	return out
}

func (c *Config) fsetdb() fsetdbFile {
	var out fsetdbFile
	for i := range c.Filesets {
		f := &c.Filesets[i]
		t := filesetTable{
			Name: f.Name, UUID: uuidText(f.UUID), Server: f.Server, Mountpoint: f.Mountpoint, Device: f.Device, Channel: f.Channel,
			Permit: unless(f.Permit, PermitNone), Disconnected: unless(f.Disconnected, DisconnectedWork), Mode: unless(f.Mode, ModeFull),
		}
		for _, r := range f.Replicators {
			t.Replicator = append(t.Replicator, replicatorTable{r.Name, uuidText(r.UUID), r.Fingerprint.String(), string(r.Rights)})
		}
		out.Fileset = append(out.Fileset, t)
	}
	return out
}

func uuidText(u kml.UUID) string {
	if u.IsZero() {
		return ""
	}
	return u.String()
}

func unless(value, standard string) string {
	if value == standard {
		return ""
	}
	return value
}

// Effective is a configuration as it is in force, for printing as JSON: the keys
// are those of the files.
type Effective struct {
	Sysid    any `json:"sysid"`
	Servers  any `json:"server"`
	Filesets any `json:"fileset"`
}

// Effective gives c with all defaults written out.
func (c *Config) Effective() Effective {
	sysid := c.Sysid.file()
	sysid.Key = c.Sysid.Key
	servers, filesets := c.serverdb().Server, c.fsetdb().Fileset
	if servers == nil {
		servers = []serverTable{}
	}
	if filesets == nil {
		filesets = []filesetTable{}
	}
	for i := range filesets {
		f := &c.Filesets[i]
		filesets[i].Permit, filesets[i].Disconnected, filesets[i].Mode = f.Permit, f.Disconnected, f.Mode
	}
	return Effective{sysid, servers, filesets}
}
