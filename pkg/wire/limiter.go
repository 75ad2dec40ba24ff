package wire

import (
	"sync"
	"time"
)

// limiter lets each key do something so many times in a row, and then at a rate.
// It knows a bounded number of keys; when there are more, the oldest are
// forgotten together, in favour of the keys.
type limiter struct {
	perSecond float64
	burst     float64

	mu      sync.Mutex
	buckets map[string]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

const maxBuckets = 10000

func newLimiter(perSecond, burst float64) *limiter {
	return &limiter{perSecond: perSecond, burst: burst, buckets: make(map[string]bucket)}
}

func (l *limiter) allow(key string) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.buckets[key]
	if !ok {
		if len(l.buckets) >= maxBuckets {
			clear(l.buckets)
		}
		b = bucket{l.burst, now}
	}
	b.tokens = min(l.burst, b.tokens+l.perSecond*now.Sub(b.at).Seconds())
	b.at = now
	ok = b.tokens >= 1
	if ok {
		b.tokens--
	}
	l.buckets[key] = b
	return ok
}
