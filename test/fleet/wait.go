package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// pollPause is the time between two looks at a fleet that is not in step yet.
const pollPause = 30 * time.Millisecond

// Wait returns as soon as everything that was done on any connected host before
// the call is in the tree of all of them, what files open for write had then
// included. ErrNo: not within the limit, and who lacks what. Hosts that are cut or
// stopped are left out and noted.
func (l *Lab) Wait(ctx context.Context, limit time.Duration) error {
	if err := l.load(); err != nil {
		return err
	}
	w := &waiting{lab: l, hosts: l.connected(), lacks: make(map[string]string)}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	err := w.run(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return no("not in step after %v: %s", limit, w.complaint())
	}
	return err
}

// connected gives the hosts that are neither cut nor stopped, and notes the others.
func (l *Lab) connected() []*Host {
	var out []*Host
	for _, h := range l.Hosts {
		var why []string
		if l.state.Links[h.Name].Cut {
			why = append(why, "it is cut")
		}
		for _, p := range []Part{Daemon, Presto} {
			if !h.running(p) {
				why = append(why, "its "+string(p)+" does not run")
			}
		}
		if why == nil {
			out = append(out, h)
			continue
		}
		l.note("%s is left out: %s", h.Name, strings.Join(why, ", "))
	}
	return out
}

// waiting is one Wait.
type waiting struct {
	lab   *Lab
	hosts []*Host
	lacks map[string]string // what each host lacked when it was looked at last
}

func (w *waiting) run(ctx context.Context) error {
	if len(w.hosts) < 2 {
		return nil // nobody to be in step with
	}
	own, err := w.barriers(ctx)
	if err != nil {
		return err
	}
	// First everything becomes part of the order; then the order's end as it is
	// after that is what all hosts must have.
	_, err = w.until(ctx, func(h *Host, s filesetStatus) string {
		if s.Confirmed >= own[h.Name] {
			return ""
		}
		return fmt.Sprintf("%d of its own records are not accepted by the server", own[h.Name]-s.Confirmed)
	})
	if err != nil {
		return err
	}
	last, err := w.until(ctx, func(*Host, filesetStatus) string { return "" })
	if err != nil {
		return err
	}
	end := orderEnd(last)
	_, err = w.until(ctx, func(_ *Host, s filesetStatus) string {
		if s.Applied >= end {
			return ""
		}
		return fmt.Sprintf("it has applied %d of %d", s.Applied, end)
	})
	return err
}

// barriers gives the end of each host's own log.
func (w *waiting) barriers(ctx context.Context) (map[string]uint64, error) {
	ends := make([]uint64, len(w.hosts))
	var g errgroup.Group
	for i, h := range w.hosts {
		g.Go(func() (err error) {
			ends[i], err = h.barrier(ctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := make(map[string]uint64)
	for i, h := range w.hosts {
		out[h.Name] = ends[i]
	}
	return out, nil
}

// orderEnd gives the furthest end of the order that any host knows: the server's,
// if it is one of them.
func orderEnd(all map[string]filesetStatus) uint64 {
	var end uint64
	for _, s := range all {
		end = max(end, s.Order)
	}
	return end
}

// until looks at the hosts until none of them lacks anything.
func (w *waiting) until(ctx context.Context, lack func(*Host, filesetStatus) string) (map[string]filesetStatus, error) {
	for {
		all := make([]filesetStatus, len(w.hosts))
		faults := make([]error, len(w.hosts))
		var g errgroup.Group
		for i, h := range w.hosts {
			g.Go(func() error {
				all[i], faults[i] = h.sharedStatus(ctx)
				return nil
			})
		}
		_ = g.Wait() // the faults are in faults
		out := make(map[string]filesetStatus)
		if ctx.Err() == nil {
			clear(w.lacks)
		}
		done := true
		for i, h := range w.hosts {
			out[h.Name] = all[i]
			if text := describe(lack(h, all[i]), all[i], faults[i]); text != "" {
				done = false
				if ctx.Err() == nil {
					w.lacks[h.Name] = text
				}
			}
		}
		if done {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pollPause):
		}
	}
}

// describe says what a host lacks and why, "" if it lacks nothing.
func describe(lack string, s filesetStatus, fault error) string {
	switch {
	case fault != nil:
		return "it gives no status: " + fault.Error()
	case lack == "":
		return ""
	case s.Error != "":
		return lack + " (" + s.Error + ")"
	case s.Role == "client" && !s.Connected:
		return lack + " (not connected to the server)"
	}
	return lack
}

func (w *waiting) complaint() string {
	var out []string
	for name, lack := range w.lacks {
		out = append(out, name+": "+lack)
	}
	if len(out) == 0 {
		return "the hosts did not answer in time"
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}
