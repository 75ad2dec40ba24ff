package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"sync"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// origin is what is known of a cache that pushed: how far its log is part of the
// order, and whose it is.
type origin struct {
	At   kml.Pos // in its own log; chain zero: a group was taken in part, up to there
	Key  config.Fingerprint
	Host kml.UUID // the replicator's, that has the key
}

// origins is what a server must know to take each change once: a summary of the
// order log, and which key a cache belongs to, which is kept in the stage.
type origins struct {
	mu   sync.Mutex
	all  map[kml.UUID]origin
	upTo kml.Pos // of the order: what is summed up
	own  kml.UUID

	saving    sync.Mutex // one save at a time, the later one with the later state
	following sync.Mutex // upTo is changed only under it and mu
}

// originsFile lies in the stage folder, beside the contents.
const originsFile = "origins"

// savedOrigins is the file: JSON.
type savedOrigins struct {
	UpTo wire.Pos               `json:"up_to"`
	All  map[string]savedOrigin `json:"origins"`
}

type savedOrigin struct {
	At   wire.Pos           `json:"at"`
	Key  config.Fingerprint `json:"key"`
	Host string             `json:"host,omitempty"`
}

// loadOrigins reads the file, and the order log from there on.
func loadOrigins(p *ship.Port) (*origins, error) {
	o := &origins{all: make(map[kml.UUID]origin), own: p.Cache}
	if err := o.read(p); err != nil {
		return nil, fmt.Errorf("read who pushed what: %w", err)
	}
	return o, o.follow(p)
}

// follow reads what is new in the order log. Nobody else is asked what became of
// a push: presto may have taken it in part, or have taken one that an earlier
// daemon had handed it when that was killed.
func (o *origins) follow(p *ship.Port) error {
	o.following.Lock()
	defer o.following.Unlock()
	r, err := p.Order.ReadFrom(o.upTo.Seq)
	if err != nil {
		return fmt.Errorf("read order log: %w", err)
	}
	for {
		f, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read order log: %w", err)
		}
		g, err := f.Group()
		if err != nil {
			return fmt.Errorf("read order log at %v: %w", f.Pos, err)
		}
		o.took(&g, f.Pos)
	}
}

func (o *origins) read(p *ship.Port) error {
	data, err := p.ReadNote(originsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var saved savedOrigins
	if err := json.Unmarshal(data, &saved); err != nil {
		return fmt.Errorf("%s: %w", originsFile, err)
	}
	// If the log is not the one that was summed up, only the keys still hold.
	fits := p.Order.Check(kml.Pos(saved.UpTo)) == nil
	if fits {
		o.upTo = kml.Pos(saved.UpTo)
	}
	for name, s := range saved.All {
		uuid, err := kml.ParseUUID(name)
		if err != nil {
			return fmt.Errorf("%s: %w", originsFile, err)
		}
		e := origin{Key: s.Key}
		if fits {
			e.At = kml.Pos(s.At)
		}
		if s.Host != "" {
			if e.Host, err = kml.ParseUUID(s.Host); err != nil {
				return fmt.Errorf("%s: %w", originsFile, err)
			}
		}
		o.all[uuid] = e
	}
	return nil
}

// save writes the file. It is durable with the next Sync.
func (o *origins) save(p *ship.Port) error {
	o.saving.Lock()
	defer o.saving.Unlock()
	o.mu.Lock()
	saved := savedOrigins{UpTo: wire.Pos(o.upTo), All: make(map[string]savedOrigin)}
	for uuid, e := range o.all {
		s := savedOrigin{At: wire.Pos(e.At), Key: e.Key}
		if !e.Host.IsZero() {
			s.Host = e.Host.String()
		}
		saved.All[uuid.String()] = s
	}
	o.mu.Unlock()
	data, err := json.MarshalIndent(saved, "", "  ")
	if err != nil {
		return err
	}
	return p.WriteNote(originsFile, append(data, '\n'))
}

// took notes a group of the order.
func (o *origins) took(g *kml.Group, at kml.Pos) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.upTo = at
	if g.Origin == o.own {
		return
	}
	e := o.all[g.Origin]
	e.At = kml.Pos{Epoch: g.OriginEpoch, Seq: g.Last, Chain: g.Chain}
	o.all[g.Origin] = e
}

// fits reports whether at is what is known as e.
func (e origin) fits(at kml.Pos) bool {
	if e.At.Chain == (kml.Chain{}) {
		at.Chain = kml.Chain{}
	}
	return at == e.At
}

// get returns what is known of a cache; ok only if something of it is in the
// order.
func (o *origins) get(uuid kml.UUID) (origin, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.all[uuid]
	return e, e.At.Seq > 0
}

// claim makes sure that the cache belongs to the peer's key. The first key that
// pushes for a cache has it; another one of the same host may take it over, and
// anybody's once the grant of the first is gone. changed: save it.
func (o *origins) claim(peer wire.Peer, granted func(config.Fingerprint) bool) (changed bool, err error) {
	if peer.Cache == o.own {
		return false, wire.Errorf(wire.CodeOrigin, "cache %v is the server's own", peer.Cache)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.all[peer.Cache]
	switch {
	case e.Key.Equal(peer.Fingerprint):
		return false, nil
	case e.Key.IsZero():
	case !e.Host.IsZero() && e.Host == peer.UUID:
	case granted != nil && !granted(e.Key):
	default:
		return false, wire.Errorf(wire.CodeOrigin,
			"cache %v belongs to another key, %s: if it was moved to this host, take the other one's grant away on the server", peer.Cache, e.Key)
	}
	e.Key, e.Host = peer.Fingerprint, peer.UUID
	o.all[peer.Cache] = e
	return true, nil
}

// splitStageName is the other direction of channel.StageName.
func splitStageName(name string) (origin kml.UUID, seq uint64, ok bool) {
	u, n, found := strings.Cut(name, ".")
	if !found {
		return origin, 0, false
	}
	origin, err := kml.ParseUUID(u)
	if err != nil {
		return origin, 0, false
	}
	seq, err = strconv.ParseUint(n, 10, 64)
	return origin, seq, err == nil
}
