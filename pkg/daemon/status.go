package daemon

import (
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
)

// Report is what a process that looks after filesets says about them on its
// status socket.
type Report struct {
	PID      int             `json:"pid"`
	Tool     string          `json:"tool"` // "lento" or "intersync"
	Version  string          `json:"version"`
	Host     string          `json:"host"` // its name in sysid
	Started  time.Time       `json:"started"`
	Listen   []string        `json:"listen,omitempty"` // addresses, where it serves
	Filesets []FilesetReport `json:"filesets"`
	Error    string          `json:"error,omitempty"` // of the whole, as a reload that was refused
}

// FilesetReport is the daemon's side of a fileset.
type FilesetReport struct {
	Name      string       `json:"name"`
	Role      channel.Role `json:"role"`
	Channel   int          `json:"channel"`   // where its cache is, -1: not found yet
	Connected bool         `json:"connected"` // client: follows its server; server: serves its cache
	Server    string       `json:"server,omitempty"`
	ServerEnd uint64       `json:"server_end,omitempty"` // client: end of the order there, as far as heard
	Peers     []PeerReport `json:"peers,omitempty"`      // server: who was granted it
	Error     string       `json:"error,omitempty"`      // what is wrong now
	ErrorTime *time.Time   `json:"error_time,omitempty"`
	Since     *time.Time   `json:"since,omitempty"` // client: it is connected
	BytesIn   int64        `json:"bytes_in"`        // on the wire since the daemon started; a server: of all its filesets
	BytesOut  int64        `json:"bytes_out"`

	// A client: groups of the order that are not applied here, bytes known to be
	// needed for them, and large contents on their way.
	Behind      uint64           `json:"behind,omitempty"`
	BehindBytes int64            `json:"behind_bytes,omitempty"`
	Transfers   []TransferReport `json:"transfers,omitempty"`
}

// TransferReport is a large content on its way.
type TransferReport struct {
	Path string  `json:"path,omitempty"` // below the fileset's root
	Up   bool    `json:"up"`             // to the server
	Size int64   `json:"size"`
	Done int64   `json:"done"`
	Rate float64 `json:"bytes_per_second,omitempty"`
	Left float64 `json:"seconds_left,omitempty"`
}

// PeerReport is one replicator of a fileset that this host serves.
type PeerReport struct {
	Name      string     `json:"name"`
	Rights    string     `json:"rights"`
	Connected bool       `json:"connected"`
	Address   string     `json:"address,omitempty"`
	Since     *time.Time `json:"since,omitempty"` // it is connected
}

// Status is everything that "lento status" knows about a host. It is gathered
// without touching any mount.
type Status struct {
	Host     string          `json:"host,omitempty"`
	Daemons  []DaemonStatus  `json:"daemons"`
	Filesets []FilesetStatus `json:"filesets"`
	Prestos  []PrestoStatus  `json:"presto"`
	Errors   []string        `json:"errors,omitempty"` // of the configuration
}

// DaemonStatus is a process that looks after filesets.
type DaemonStatus struct {
	Tool    string    `json:"tool"`
	PID     int       `json:"pid"`
	Version string    `json:"version,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Listen  []string  `json:"listen,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// FilesetStatus is a fileset that is configured, served by a presto, or both.
// Numbers are those of records: Own is the end of the log of this host's own
// changes, Confirmed how far it is part of the fileset's order, Order the end of
// the order as far as this host has it, Applied how far that is in the tree.
type FilesetStatus struct {
	Name           string       `json:"name"`
	UUID           string       `json:"uuid,omitempty"`
	Role           channel.Role `json:"role"`
	Server         string       `json:"server,omitempty"`
	Channel        int          `json:"channel"` // -1: no presto serves it
	Source         string       `json:"source,omitempty"`
	Mountpoint     string       `json:"mountpoint,omitempty"`
	Connected      bool         `json:"connected"`
	Peers          []PeerReport `json:"peers,omitempty"`
	Own            uint64       `json:"own"`
	Confirmed      uint64       `json:"confirmed"`
	Order          uint64       `json:"order"`
	Applied        uint64       `json:"applied"`
	ServerEnd      uint64       `json:"server_end,omitempty"`
	PendingRecords uint64       `json:"pending_records"`
	PendingBytes   int64        `json:"pending_bytes"`
	PendingAge     float64      `json:"pending_age_seconds"` // of the oldest pending record
	Writing        int          `json:"writing"`             // files being written
	BytesIn        int64        `json:"bytes_in"`
	BytesOut       int64        `json:"bytes_out"`
	Behind         uint64       `json:"behind"`       // groups of the order that are not applied yet
	BehindBytes    int64        `json:"behind_bytes"` // known to be needed for them
	Error          string       `json:"error"`        // what is wrong, empty: nothing

	Transfers []TransferReport `json:"transfers,omitempty"`
}

// PrestoStatus is a running presto.
type PrestoStatus struct {
	Channel  int      `json:"channel"`
	PID      int      `json:"pid"`
	Version  string   `json:"version,omitempty"`
	Cache    string   `json:"cache,omitempty"`
	Source   string   `json:"source,omitempty"`
	Bottom   string   `json:"bottom,omitempty"`
	Data     string   `json:"data,omitempty"` // how data travels: "presto" or "passthrough"
	Link     string   `json:"link,omitempty"` // how requests travel: "dev-fuse" or "io-uring"
	Filesets []string `json:"filesets"`
	Error    string   `json:"error,omitempty"`
}

// Wrong reports whether anything in s needs somebody to look at it.
func (s *Status) Wrong() bool {
	wrong := len(s.Errors) > 0
	for _, d := range s.Daemons {
		wrong = wrong || d.Error != ""
	}
	for _, f := range s.Filesets {
		wrong = wrong || f.Error != ""
	}
	for _, p := range s.Prestos {
		wrong = wrong || p.Error != ""
	}
	return wrong
}

// prestoStatus tells what a survey found.
func prestoStatus(p mount.Presto) PrestoStatus {
	if p.Err != nil {
		return PrestoStatus{Channel: p.Channel, PID: p.PID, Filesets: []string{}, Error: p.Err.Error()}
	}
	s := PrestoStatus{
		Channel: p.Channel, PID: p.PID, Version: p.Info.Version, Cache: p.Info.Cache.String(), Source: p.Info.Source,
		Bottom: p.Info.Bottom, Data: p.Info.Data, Link: p.Info.Link, Filesets: []string{},
	}
	for _, f := range p.Info.Filesets {
		s.Filesets = append(s.Filesets, f.Name)
	}
	return s
}
