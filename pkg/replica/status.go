package replica

import (
	"time"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Status says how a Replica is doing. Applied to positions, the zero Pos means
// not known yet.
type Status struct {
	Fileset   string
	Server    string
	Attached  bool      // to presto
	Connected bool      // to the server
	Since     time.Time // of Connected
	// Error says why it is not connected, or what keeps it from going on; empty:
	// nothing does.
	Error     string
	Blocked   bool    // Error is a change here that meets one made elsewhere
	ServerEnd kml.Pos // of the order, as the server told last
	Applied   kml.Pos // of the order, in the tree here
	Own       kml.Pos // end of the own log
	Pushed    kml.Pos // of the own log: what the server has taken
	Confirmed kml.Pos // of the own log: what came back in the order
	// Behind is how many groups of the order are not applied here, and
	// BehindBytes what is known to be needed for them: groups that were
	// received, and large contents on their way.
	Behind      uint64
	BehindBytes int64
	// WaitsFor says what content keeps received groups from being applied, and for
	// how many of them; empty if nothing does.
	WaitsFor  string
	In, Out   int64 // bytes on the wire since the Replica was made
	Transfers []Transfer
}

// Transfer is a large content on its way.
type Transfer struct {
	Path string // below the fileset's root, empty: not known
	Up   bool   // to the server
	Size int64
	Done int64
	Rate float64 // bytes a second, 0: not known yet
	Left time.Duration
}

// Status returns the state at this moment.
func (r *Replica) Status() Status {
	r.mu.Lock()
	s, c := r.status, r.conn
	s.In, s.Out = r.in, r.out
	if r.client != nil {
		s.In, s.Out = s.In+r.client.Counter().In(), s.Out+r.client.Counter().Out()
	}
	r.mu.Unlock()
	if c != nil {
		c.describe(&s)
	}
	if s.ServerEnd.Seq > s.Applied.Seq {
		s.Behind = s.ServerEnd.Seq - s.Applied.Seq
	}
	return s
}

func (r *Replica) update(change func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.status)
}

// complain notes what keeps the fileset from going on, and logs it when it is
// news. An empty text takes it back.
func (r *Replica) complain(text string, blocked bool) {
	r.mu.Lock()
	news := r.status.Error != text
	r.status.Error, r.status.Blocked = text, blocked
	r.mu.Unlock()
	if news && text != "" {
		r.opts.Log.Warn("can't go on", "reason", text)
	} else if news {
		r.opts.Log.Info("goes on")
	}
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// transfer is a Transfer while it lasts.
type transfer struct {
	path        string
	up          bool
	size        int64
	start, done int64
	began       time.Time
}

func (t *transfer) describe(now time.Time) Transfer {
	out := Transfer{Path: t.path, Up: t.up, Size: t.size, Done: t.done}
	if took := now.Sub(t.began).Seconds(); took > 0.1 && t.done > t.start {
		out.Rate = float64(t.done-t.start) / took
		out.Left = time.Duration(float64(t.size-t.done) / out.Rate * float64(time.Second))
	}
	return out
}
