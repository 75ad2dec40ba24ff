package merge

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// world is a fileset with its server and some replicas, without any of what
// lies between them. Where a replica is blocked it gives up its pending changes,
// which is what a merge does better.
type world struct {
	roll     dice
	check    bool // for overlaps; without it things must go wrong
	order    []accepted
	tree     tree // of the server
	taken    map[kml.UUID]uint64
	replicas []*replica
	blocked  int
}

type accepted struct {
	origin kml.UUID
	r      kml.Record
}

type replica struct {
	*host
	base      int // position in the order that the tree is at
	confirmed uint64
	pending   *TouchSet
}

func newWorld(roll dice, check bool) *world {
	w := &world{roll: roll, check: check, taken: make(map[kml.UUID]uint64)}
	seed := &host{tree: newTree(), space: kml.UUID{1}, roll: roll}
	for range 6 {
		seed.grow()
	}
	w.tree = seed.tree.clone()
	for i := range 2 + roll(3) {
		h := &host{tree: seed.tree.clone(), space: kml.UUID{byte(10 + i)}, roll: roll, clock: int64(100 * roll(100))}
		w.replicas = append(w.replicas, &replica{host: h, pending: NewTouchSet()})
	}
	return w
}

// local makes a change on one replica.
func (w *world) local(p *replica) {
	n := p.seq
	p.change()
	if p.seq > n {
		p.pending.AddRecord(p.seq, &p.log[len(p.log)-1])
	}
}

// push sends the first most pending changes of a replica, and the server takes
// those that do not overlap with what others did since.
func (w *world) push(p *replica, most int) error {
	since := NewTouchSet()
	for i, a := range w.order[p.base:] {
		if a.origin != p.space {
			since.AddRecord(uint64(p.base+i+1), &a.r)
		}
	}
	for i := range p.log {
		r := &p.log[i]
		if r.Seq <= w.taken[p.space] {
			continue
		}
		if _, yes := since.Overlaps(&kml.Group{Records: []kml.Record{*r}}); yes && w.check || most == 0 {
			return nil
		}
		if err := w.tree.apply(r, nil); err != nil {
			return fmt.Errorf("server: %w", err)
		}
		w.order, w.taken[p.space] = append(w.order, accepted{p.space, *r}), r.Seq
		most--
	}
	return nil
}

// follow brings a replica forward by at most n records of the order.
func (w *world) follow(p *replica, n int) error {
	for ; n > 0 && p.base < len(w.order); n-- {
		a := &w.order[p.base]
		if a.origin == p.space {
			p.confirmed = a.r.Seq
			for len(p.log) > 0 && p.log[0].Seq <= p.confirmed {
				p.log = p.log[1:]
			}
			p.pending.Forget(p.confirmed)
			p.base++
			continue
		}
		if _, yes := p.pending.OverlapsAfter(p.confirmed, &a.r); yes && w.check {
			w.blocked++
			w.giveUp(p)
			return nil
		}
		if err := p.tree.apply(&a.r, p.pending.DirTouched); err != nil {
			return fmt.Errorf("replica %v: %w", p.space[0], err)
		}
		p.base++
	}
	return nil
}

func (w *world) giveUp(p *replica) {
	p.tree, p.base, p.log = w.tree.clone(), len(w.order), nil
	p.confirmed, p.pending = w.taken[p.space], NewTouchSet()
}

func (w *world) step() error {
	p := w.replicas[w.roll(len(w.replicas))]
	switch w.roll(4) {
	case 0:
		return w.push(p, 1+w.roll(4))
	case 1:
		return w.follow(p, 1+w.roll(6))
	}
	w.local(p)
	return nil
}

// run lets things happen, then lets all come to rest and compares.
func (w *world) run() error {
	for range 60 {
		if err := w.step(); err != nil {
			return err
		}
	}
	for range 2 * len(w.replicas) {
		for _, p := range w.replicas {
			if err := w.follow(p, len(w.order)); err != nil {
				return err
			}
			if err := w.push(p, len(p.log)); err != nil {
				return err
			}
		}
	}
	want := w.tree.text(true)
	for _, p := range w.replicas {
		if got := p.tree.text(true); got != want || len(p.log) != 0 || !p.pending.Empty() {
			return fmt.Errorf("replica %v has %d pending and\n%s\nthe server has\n%s", p.space[0], len(p.log), got, want)
		}
	}
	return nil
}

// Replicas that push and follow as they like end with the tree of the server,
// times of directories included, and no record ever finds a tree that it can't
// be applied to.
func TestSimulation_Converges(t *testing.T) {
	rounds := 1500
	if testing.Short() {
		rounds = 300
	}
	records, blocked := 0, 0
	for seed := range rounds {
		w := newWorld(rand.New(rand.NewPCG(4, uint64(seed))).IntN, true)
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		records, blocked = records+len(w.order), blocked+w.blocked
	}
	t.Logf("%d records accepted, %d times blocked", records, blocked)
	if records < 10*rounds || blocked < rounds/4 {
		t.Errorf("%d records and %d meetings in %d rounds say too little", records, blocked, rounds)
	}
}

// Without the check the same must go wrong, or it says nothing.
func TestSimulation_FailsWithoutCheck(t *testing.T) {
	failed := 0
	for seed := range 100 {
		if newWorld(rand.New(rand.NewPCG(4, uint64(seed))).IntN, false).run() != nil {
			failed++
		}
	}
	if failed < 50 {
		t.Errorf("only %d of 100 rounds went wrong", failed)
	}
}
