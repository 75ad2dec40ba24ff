package presto

import (
	"slices"
	"sync"
)

// stripes are the locks of objects: an object shares one with a few others, so
// that there is no table of them.
type stripes [256]sync.Mutex

func stripeOf(h handle) int {
	x := h.ino*0x9e3779b97f4a7c15 ^ uint64(h.gen)
	return int(x >> 56)
}

// lock takes the locks of all objects given, in order, each stripe once. The
// function that it returns gives them back.
func (s *stripes) lock(hs ...handle) (unlock func()) {
	idx := make([]int, 0, 4)
	for _, h := range hs {
		if h != (handle{}) {
			idx = append(idx, stripeOf(h))
		}
	}
	slices.Sort(idx)
	idx = slices.Compact(idx)
	for _, i := range idx {
		s[i].Lock()
	}
	return func() {
		for _, i := range idx {
			s[i].Unlock()
		}
	}
}
