package merge

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/kml"
	"pgregory.net/rapid"
)

// touched is the plain form of a TouchSet.
type touched map[Key]Mode

// touchesOf collects what records touch. skip leaves touches out, to see what
// happens without them; nil for none.
func touchesOf(log []kml.Record, skip func(Key, Mode) bool) touched {
	t := make(touched)
	for i := range log {
		Touches(&log[i], func(k Key, m Mode) {
			if skip == nil || !skip(k, m) {
				t[k] = max(t[k], m)
			}
		})
	}
	return t
}

func (t touched) meets(o touched) bool {
	for k, m := range t {
		if n, ok := o[k]; ok && m.Meets(n) {
			return true
		}
	}
	return false
}

func replay(base tree, keep func(kml.ObjectID) bool, logs ...[]kml.Record) (tree, error) {
	t := base.clone()
	for _, log := range logs {
		for i := range log {
			if err := t.apply(&log[i], keep); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// checkCommute says what is wrong if two logs on one base do not give the same
// tree in both orders.
func checkCommute(base tree, a, b []kml.Record) error {
	ab, err := replay(base, nil, a, b)
	if err != nil {
		return fmt.Errorf("a then b: %w", err)
	}
	ba, err := replay(base, nil, b, a)
	if err != nil {
		return fmt.Errorf("b then a: %w", err)
	}
	if x, y := ab.text(false), ba.text(false); x != y {
		return fmt.Errorf("a then b:\n%s\nb then a:\n%s", x, y)
	}
	return nil
}

// checkBeneath is R10: records from elsewhere that go beneath pending ones give
// the tree of the log followed by the pending, times of directories included.
func checkBeneath(base tree, foreign, pending []kml.Record) error {
	want, err := replay(base, nil, foreign, pending)
	if err != nil {
		return err
	}
	set := NewTouchSet()
	for i := range pending {
		set.AddRecord(pending[i].Seq, &pending[i])
	}
	got, err := replay(base, nil, pending)
	if err != nil {
		return err
	}
	for i := range foreign {
		if err := got.apply(&foreign[i], set.DirTouched); err != nil {
			return err
		}
	}
	if x, y := got.text(true), want.text(true); x != y {
		return fmt.Errorf("beneath the pending:\n%s\nin order:\n%s", x, y)
	}
	return nil
}

func describe(base tree, a, b []kml.Record) string {
	var s strings.Builder
	fmt.Fprintf(&s, "base:\n%s\n", base.text(true))
	for _, log := range [][]kml.Record{a, b} {
		s.WriteString("log:\n")
		for _, r := range log {
			fmt.Fprintf(&s, "  %v %v where %v to %v replaced %v/%v last %v valid %d attr %+v xattr %s\n", r.Op, r.Object,
				r.Where, r.To, r.Replaced, r.ReplacedLast, r.Last, r.Valid, r.Attr, r.Xattr.Name)
		}
	}
	return s.String()
}

func checkPair(base tree, a, b []kml.Record) error {
	if err := checkCommute(base, a, b); err != nil {
		return err
	}
	if err := checkBeneath(base, a, b); err != nil {
		return err
	}
	return checkBeneath(base, b, a)
}

// Logs that do not overlap commute, and go beneath each other. This is what
// Touches is for.
func TestTouches_NoOverlapCommutes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base, a, b := twoHosts(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "roll") })
		if touchesOf(a.log, nil).meets(touchesOf(b.log, nil)) {
			return
		}
		if err := checkPair(base, a.log, b.log); err != nil {
			t.Fatalf("%v\n%s", err, describe(base, a.log, b.log))
		}
	})
}

// The same with many more histories than rapid would try, and a count of how
// much that says: it must not be that all overlap, or none has to.
func TestTouches_NoOverlapCommutesOften(t *testing.T) {
	tries := 15000
	if testing.Short() {
		tries = 3000
	}
	free, clash := 0, 0
	for seed := range tries {
		base, a, b := twoHosts(rand.New(rand.NewPCG(1, uint64(seed))).IntN)
		if touchesOf(a.log, nil).meets(touchesOf(b.log, nil)) {
			if checkCommute(base, a.log, b.log) != nil {
				clash++
			}
			continue
		}
		free++
		if err := checkPair(base, a.log, b.log); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, describe(base, a.log, b.log))
		}
	}
	t.Logf("%d pairs: %d without overlap; of the others %d really clash", tries, free, clash)
	if free < tries/10 || clash < tries/20 {
		t.Errorf("%d pairs: only %d without overlap and %d that clash say too little", tries, free, clash)
	}
}

// Without any one of its parts the check must fail, or the model is blind to
// what that part is for. Place and Conflict are not in the list: the model has
// no use for them, they are there for the merge that follows.
func TestTouches_EachPartIsNeeded(t *testing.T) {
	facet := func(f Facet, modes ...Mode) func(Key, Mode) bool {
		return func(k Key, m Mode) bool {
			if k.Facet != f {
				return false
			}
			for _, x := range modes {
				if x == m {
					return true
				}
			}
			return len(modes) == 0
		}
	}
	parts := map[string]func(Key, Mode) bool{
		"everything":      func(Key, Mode) bool { return true },
		"needs":           func(_ Key, m Mode) bool { return m == Need },
		"fate, written":   facet(FacetFate, Write),
		"fate, needed":    facet(FacetFate, Need),
		"links":           facet(FacetLinks),
		"content + mtime": func(k Key, _ Mode) bool { return k.Facet == FacetContent || k.Facet == FacetMtime },
		"mode":            facet(FacetMode),
		"owner":           facet(FacetUID),
		"group":           facet(FacetGID),
		"mtime":           facet(FacetMtime),
		"privilege":       facet(FacetPrivilege),
		"xattr":           facet(FacetXattr),
		"name":            facet(FacetName),
		"shape":           facet(FacetShape),
	}
	for name, skip := range parts {
		t.Run(name, func(t *testing.T) {
			for seed := range 400000 {
				base, a, b := twoHosts(rand.New(rand.NewPCG(2, uint64(seed))).IntN)
				if touchesOf(a.log, skip).meets(touchesOf(b.log, skip)) {
					continue
				}
				if err := checkCommute(base, a.log, b.log); err != nil {
					t.Logf("found at seed %d", seed)
					return
				}
			}
			t.Errorf("the model does not notice that %s is missing", name)
		})
	}
}

// Overlap has no direction, and TouchSet says the same as the plain form.
func TestTouchSet_AgreesWithPlainForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, a, b := twoHosts(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "roll") })
		want := touchesOf(a.log, nil).meets(touchesOf(b.log, nil))
		for _, pair := range [][2]*host{{a, b}, {b, a}} {
			set := NewTouchSet()
			set.Add(1, &kml.Group{Records: pair[0].log})
			o, got := set.Overlaps(&kml.Group{Records: pair[1].log})
			if got != want {
				t.Fatalf("set says %v (%v), want %v", got, o, want)
			}
			if got && !o.Held.Mode.Meets(o.Met.Mode) {
				t.Fatalf("overlap %v does not meet", o)
			}
		}
	})
}
