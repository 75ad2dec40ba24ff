package daemon

import (
	"context"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/replica"
)

// stepEvery is how often a client that somebody waits for is asked whether it is
// in step.
const stepEvery = 50 * time.Millisecond

func (d *Daemon) newClientRole(w *worker) role {
	return &clientRole{d: d, replica: replica.New(replica.Options{
		Fileset: w.job.fileset.Name, UUID: w.job.fileset.UUID, SaveUUID: w.saveUUID,
		Server: w.job.server, Key: d.key, LocalIP: d.opts.LocalIP, Presto: w.presto, Log: d.log,
	})}
}

// clientRole keeps the fileset in step with its server.
type clientRole struct {
	d       *Daemon
	replica *replica.Replica
}

func (c *clientRole) run(ctx context.Context) error {
	if c.d.opts.Once {
		err := c.replica.RunOnce(ctx)
		if err == nil {
			c.d.inStep()
		}
		if ctx.Err() == nil {
			c.d.end(err)
		}
		<-ctx.Done()
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.d.opts.InStep != nil {
		go c.watch(ctx)
	}
	return c.replica.Run(ctx)
}

// watch tells when what was there at the first connection is exchanged.
func (c *clientRole) watch(ctx context.Context) {
	var own, order uint64
	for first := true; ; {
		s := c.replica.Status()
		if s.Connected && first {
			own, order, first = s.Own.Seq, s.ServerEnd.Seq, false
		}
		if s.Connected && !first && s.Confirmed.Seq >= own && s.Applied.Seq >= order {
			c.d.inStep()
			return
		}
		if sleep(ctx, stepEvery) != nil {
			return
		}
	}
}

func (c *clientRole) report(r *FilesetReport) {
	s := c.replica.Status()
	r.Connected, r.Error, r.ServerEnd = s.Connected, s.Error, s.ServerEnd.Seq
	r.BytesIn, r.BytesOut = s.In, s.Out
	r.Behind, r.BehindBytes = s.Behind, s.BehindBytes
	if s.Connected {
		r.Since = &s.Since
	}
	for _, t := range s.Transfers {
		r.Transfers = append(r.Transfers, TransferReport{
			Path: t.Path, Up: t.Up, Size: t.Size, Done: t.Done, Rate: t.Rate, Left: t.Left.Seconds(),
		})
	}
}
