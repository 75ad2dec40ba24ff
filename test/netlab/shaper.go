package netlab

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// shaper decides for one direction of a link which packets get through, and
// when. It is a line that sends one packet after the other at its rate, behind a
// queue that drops what does not fit, as a router does; then the delay.
type shaper struct {
	link     Link
	random   *rand.Rand
	free     time.Time    // when the line has sent all it was given
	queue    int64        // bytes that may wait for the line
	inFlight atomic.Int64 // bytes admitted and not delivered
}

const (
	queueTime   = 200 * time.Millisecond // what the queue holds, at the link's rate
	minQueue    = 64 << 10               // bytes, so that a slow line holds a few packets
	maxInFlight = 64 << 20               // bytes, so that a long line needs no more memory
)

func newShaper(link Link, direction uint64) *shaper {
	s := &shaper{link: link, random: rand.New(rand.NewPCG(link.Seed, direction))}
	s.queue = max(minQueue, int64(float64(link.Rate)/8*queueTime.Seconds()))
	return s
}

// admit says when a packet that arrives now is to be delivered, or that it is
// lost. Calls are in order of time, from one goroutine.
func (s *shaper) admit(now time.Time, size int) (due time.Time, ok bool) {
	if s.link.Loss > 0 && s.random.Float64() < s.link.Loss {
		return due, false
	}
	if s.inFlight.Load()+int64(size) > maxInFlight {
		return due, false
	}
	due = now
	if s.link.Rate > 0 {
		if s.free.Before(now) {
			s.free = now
		}
		if backlog := s.free.Sub(now).Seconds() * float64(s.link.Rate) / 8; int64(backlog)+int64(size) > s.queue {
			return due, false
		}
		s.free = s.free.Add(time.Duration(int64(size) * 8 * int64(time.Second) / s.link.Rate))
		due = s.free
	}
	s.inFlight.Add(int64(size))
	return due.Add(s.link.Delay), true
}

// delivered tells that a packet is no longer in flight. It may be called from
// any goroutine.
func (s *shaper) delivered(size int) { s.inFlight.Add(-int64(size)) }
