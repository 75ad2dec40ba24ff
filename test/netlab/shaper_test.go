package netlab

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestShaper_NeverSendsFasterThanItsRateNorKeepsTooMuch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		link := Link{
			Rate:  rapid.Int64Range(minRate, 1_000_000_000).Draw(t, "rate"),
			Delay: time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "delay")),
		}
		s := newShaper(link, 0)
		start := time.Unix(0, 0)
		now, last, sent := start, start, int64(0)
		for range rapid.IntRange(1, 300).Draw(t, "packets") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Millisecond)).Draw(t, "gap")))
			size := rapid.IntRange(60, 1514).Draw(t, "size")
			due, ok := s.admit(now, size)
			if !ok {
				continue
			}
			sent += int64(size)
			if due.Before(last) {
				t.Fatal("a packet overtakes another")
			}
			last = due
			if due.Before(now.Add(link.Delay)) {
				t.Fatal("a packet is faster than the delay")
			}
			least := float64(sent) * 8 / float64(link.Rate)
			if took := due.Sub(start).Seconds() - link.Delay.Seconds(); took < least-1e-6*float64(sent) {
				t.Fatalf("%d bytes were sent in %v s, want at least %v", sent, took, least)
			}
			if waits := due.Sub(now) - link.Delay; waits.Seconds() > float64(s.queue)*8/float64(link.Rate)+1e-3 {
				t.Fatalf("a packet waits for %v in a queue of %d bytes", waits, s.queue)
			}
		}
	})
}

func TestShaper_LossIsTheSameForTheSameSeed(t *testing.T) {
	lost := func(seed uint64) (out []int) {
		s := newShaper(Link{Loss: 0.1, Seed: seed}, 0)
		for i := range 10_000 {
			if _, ok := s.admit(time.Unix(0, int64(i)), 100); !ok {
				out = append(out, i)
			}
			s.delivered(100)
		}
		return out
	}
	a, b, c := lost(1), lost(1), lost(2)
	if math.Abs(float64(len(a))-1000) > 150 {
		t.Errorf("%d of 10,000 packets lost at 10 %%", len(a))
	}
	same := func(x, y []int) bool {
		for i := range min(len(x), len(y)) {
			if x[i] != y[i] {
				return false
			}
		}
		return len(x) == len(y)
	}
	if !same(a, b) || same(a, c) {
		t.Error("the seed does not decide which packets are lost")
	}
}

func TestShaper_BoundsWhatIsInFlight(t *testing.T) {
	s := newShaper(Link{Delay: time.Minute}, 0)
	n := 0
	for ; n < 1<<20; n++ {
		if _, ok := s.admit(time.Unix(0, 0), 1500); !ok {
			break
		}
	}
	if n*1500 > maxInFlight || n*1500 < maxInFlight-1500 {
		t.Errorf("%d packets of 1500 bytes in flight", n)
	}
	s.delivered(1500)
	if _, ok := s.admit(time.Unix(0, 0), 1500); !ok {
		t.Error("nothing is admitted after a delivery")
	}
}
