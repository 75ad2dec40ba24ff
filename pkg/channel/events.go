package channel

import (
	"sync"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// eventQueue holds at most one event a fileset for a reader that is slower than
// the writer, who never waits.
type eventQueue struct {
	mu      sync.Mutex
	pending map[string]Event
	order   []string
	wake    chan struct{} // has one element while anything is pending
}

func newEventQueue() *eventQueue {
	return &eventQueue{pending: make(map[string]Event), wake: make(chan struct{}, 1)}
}

// put adds e, merged into what is pending for its fileset.
func (q *eventQueue) put(e Event) {
	q.mu.Lock()
	old, ok := q.pending[e.Fileset]
	if ok {
		e = merge(old, e)
	} else {
		q.order = append(q.order, e.Fileset)
	}
	q.pending[e.Fileset] = e
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns everything pending, oldest fileset first.
func (q *eventQueue) take() []Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []Event
	for _, name := range q.order {
		list = append(list, q.pending[name])
	}
	clear(q.pending)
	q.order = q.order[:0]
	return list
}

func merge(a, b Event) Event {
	b.Own, b.Order, b.Confirmed = later(a.Own, b.Own), later(a.Order, b.Order), later(a.Confirmed, b.Confirmed)
	b.Closing = a.Closing || b.Closing
	return b
}

// later returns the position that is further on. An event need not know all
// positions: the zero Pos is behind any other.
func later(a, b kml.Pos) kml.Pos {
	if a.Epoch > b.Epoch || a.Epoch == b.Epoch && a.Seq > b.Seq {
		return a
	}
	return b
}
