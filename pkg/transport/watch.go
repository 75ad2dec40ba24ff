package transport

import (
	"sync/atomic"
	"time"
)

const (
	// tick is how long a request may hold up a thread before another one is put to
	// work beside it: far longer than a request that does not wait takes, and as
	// short as a timer is worth.
	tick = time.Millisecond
	// patience is after how many ticks in which nothing happened the watch stops
	// ticking until it is poked.
	patience = 16
)

// watch looks at regular intervals whether somebody is stuck, while there are
// requests. An idle mount costs no wake-ups.
type watch struct {
	look   func() bool // acts on what is stuck; reports whether anything is under way
	asleep atomic.Bool
	wake   chan struct{}
}

func newWatch(look func() bool) *watch {
	w := &watch{look: look, wake: make(chan struct{}, 1)}
	w.asleep.Store(true)
	return w
}

// poke makes the watch look, soon and for a while. It does not block.
func (w *watch) poke() {
	if w.asleep.Load() && w.asleep.CompareAndSwap(true, false) {
		w.wake <- struct{}{} // empty: whoever set asleep has taken what was in it
	}
}

// run looks until done is closed.
func (w *watch) run(done <-chan struct{}) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		timer.Stop()
		select {
		case <-w.wake:
		case <-done:
			return
		}
		timer.Reset(tick)
		for {
			if !w.watchUntilQuiet(timer.C, done) {
				return
			}
			// Who began before this was set has not poked, but is seen.
			w.asleep.Store(true)
			if !w.look() || !w.asleep.CompareAndSwap(true, false) {
				break
			}
		}
	}
}

// watchUntilQuiet reports false when done was closed.
func (w *watch) watchUntilQuiet(ticks <-chan time.Time, done <-chan struct{}) bool {
	for quiet := 0; quiet < patience; quiet++ {
		select {
		case <-ticks:
		case <-done:
			return false
		}
		if w.look() {
			quiet = 0
		}
	}
	return true
}
