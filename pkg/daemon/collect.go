package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
)

// Collect gathers the status of a host: what is configured in dir, what the
// prestos and daemons of the run folder say. Whatever is missing of these is left
// out, or is an Error in the status. It blocks some seconds if one of them does
// not answer.
func Collect(ctx context.Context, dir config.Dir, run string) (*Status, error) {
	s := &Status{Daemons: []DaemonStatus{}, Filesets: []FilesetStatus{}, Prestos: []PrestoStatus{}}
	cfg, err := dir.Load()
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.Errors = append(s.Errors, err.Error())
		}
		cfg = &config.Config{}
	}
	s.Host = cfg.Sysid.Name
	prestos, err := mount.Survey(ctx, run)
	if err != nil {
		return nil, err
	}
	for _, p := range prestos {
		s.Prestos = append(s.Prestos, prestoStatus(p))
	}
	reports, err := Reports(ctx, run)
	if err != nil {
		return nil, err
	}
	for _, r := range reports {
		s.Daemons = append(s.Daemons, DaemonStatus{Tool: r.Tool, PID: r.PID, Version: r.Version, Started: r.Started, Listen: r.Listen, Error: r.Error})
	}
	table, err := mount.Table()
	if err != nil {
		return nil, err
	}
	c := collector{cfg: cfg, prestos: prestos, reports: reports, table: table, now: time.Now()}
	c.filesets(s)
	return s, nil
}

type collector struct {
	cfg     *config.Config
	prestos []mount.Presto
	reports []Report
	table   []mount.Point
	now     time.Time
}

// dead finds a mount of a fileset that no presto serves.
func (c *collector) dead(f *config.Fileset) (mount.Point, bool) {
	i := slices.IndexFunc(c.table, func(p mount.Point) bool {
		return p.Ours() && (p.Dir == f.Mountpoint || f.Mountpoint == "" && p.Source == f.Device)
	})
	if i < 0 {
		return mount.Point{}, false
	}
	return c.table[i], true
}

// filesets adds what is configured, and then what prestos serve besides.
func (c *collector) filesets(s *Status) {
	seen := map[[2]string]bool{}
	for i := range c.cfg.Filesets {
		f := &c.cfg.Filesets[i]
		st := FilesetStatus{Name: f.Name, Role: channel.Role(c.cfg.Role(f)), Channel: -1}
		if st.Role == channel.RoleClient {
			st.Server = f.Server
		}
		p, served, err := locate(c.prestos, f.Name, f.UUID, f.Channel)
		if err == nil {
			c.fromPresto(&st, p, served)
			seen[[2]string{p.Socket, f.Name}] = true
		} else if p, dead := c.dead(f); dead {
			st.Mountpoint, st.Source = p.Dir, p.Source
			st.Error = fmt.Sprintf("its presto has died; take the dead mount away with lento umount %s, and mount it again", p.Dir)
		} else {
			st.Error = err.Error()
		}
		c.fromDaemon(&st, true)
		s.Filesets = append(s.Filesets, st)
	}
	for _, p := range c.prestos {
		for _, served := range p.Info.Filesets {
			if seen[[2]string{p.Socket, served.Name}] {
				continue
			}
			st := FilesetStatus{Name: served.Name, Role: served.Role}
			c.fromPresto(&st, p, served)
			c.fromDaemon(&st, false)
			s.Filesets = append(s.Filesets, st)
		}
	}
}

func (c *collector) fromPresto(st *FilesetStatus, p mount.Presto, f channel.Fileset) {
	st.Channel, st.Source, st.Mountpoint = p.Channel, p.Info.Source, f.Mountpoint
	if st.Role == channel.RoleNone {
		st.Role = f.Role
	}
	if !f.UUID.IsZero() {
		st.UUID = f.UUID.String()
	}
	st.Own, st.Confirmed, st.Order, st.Applied = f.Own.Seq, f.Confirmed.Seq, f.Order.Seq, f.Applied.Seq
	st.PendingRecords, st.PendingBytes, st.Writing = f.PendingRecords, f.PendingBytes, f.Writing
	if f.OldestPending != 0 {
		st.PendingAge = max(0, c.now.Sub(time.Unix(0, f.OldestPending)).Seconds())
	}
	if f.Damage != "" {
		st.Error = f.Damage
	}
}

// fromDaemon adds what the process that looks after the fileset says. wanted: it
// is an error if there is none.
func (c *collector) fromDaemon(st *FilesetStatus, wanted bool) {
	for _, r := range c.reports {
		i := slices.IndexFunc(r.Filesets, func(f FilesetReport) bool {
			return f.Name == st.Name && (f.Channel == st.Channel || f.Channel < 0 || st.Channel < 0)
		})
		if i < 0 {
			continue
		}
		f := r.Filesets[i]
		st.Connected, st.Peers, st.ServerEnd = f.Connected, f.Peers, f.ServerEnd
		st.BytesIn, st.BytesOut = f.BytesIn, f.BytesOut
		st.Behind, st.BehindBytes, st.Transfers = f.Behind, f.BehindBytes, f.Transfers
		if st.Server == "" {
			st.Server = f.Server
		}
		if st.Error == "" {
			st.Error = f.Error
		}
		return
	}
	if wanted && st.Error == "" {
		st.Error = "no daemon looks after it; start lento"
	}
}

// locate finds the presto that serves a fileset: the one on its channel, or else
// the only one that has it at all.
func locate(prestos []mount.Presto, name string, uuid kml.UUID, number int) (mount.Presto, channel.Fileset, error) {
	type match struct {
		p mount.Presto
		f channel.Fileset
	}
	var found []match
	for _, p := range prestos {
		for _, f := range p.Info.Filesets {
			if f.Name != name || !uuid.IsZero() && !f.UUID.IsZero() && f.UUID != uuid {
				continue
			}
			if p.Channel == number {
				return p, f, nil
			}
			found = append(found, match{p, f})
		}
	}
	switch len(found) {
	case 0:
		return mount.Presto{}, channel.Fileset{}, &NotMounted{Fileset: name, Channel: number}
	case 1:
		return found[0].p, found[0].f, nil
	}
	return mount.Presto{}, channel.Fileset{}, fmt.Errorf("fileset %s is not on its channel %d, but in %d other caches; correct its channel in fsetdb", name, number, len(found))
}

// NotMounted says that no presto serves a fileset.
type NotMounted struct {
	Fileset string
	Channel int
}

func (e *NotMounted) Error() string {
	return fmt.Sprintf("fileset %s is not mounted (nothing on channel %d has it); mount it", e.Fileset, e.Channel)
}
