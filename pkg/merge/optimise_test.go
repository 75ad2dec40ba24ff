package merge

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// optimiseRun makes a history on one host and compares what it leads to with what
// its optimised list does. It returns the numbers of records before and after.
func optimiseRun(roll dice) (before, after int, err error) {
	f := newFleet(roll, true)
	m := f.members[0]
	for range 5 + roll(60) {
		if m.local(); roll(4) == 0 {
			m.write()
		}
	}
	base := m.prefix
	want, got := base.clone(), base.clone()
	runs := Optimise(m.pending)
	next := uint64(1)
	for _, run := range m.pending {
		for i := range run.Records {
			before++
			if err := want.apply(&run.Records[i], nil); err != nil {
				return 0, 0, fmt.Errorf("before: %w", err)
			}
		}
	}
	for _, run := range runs {
		if run.First != next || run.Last < run.First {
			return 0, 0, fmt.Errorf("range %d-%d after %d", run.First, run.Last, next-1)
		}
		next = run.Last + 1
		seq := run.First - 1
		for i := range run.Records {
			r := &run.Records[i]
			if r.Seq <= seq || r.Seq > run.Last {
				return 0, 0, fmt.Errorf("number %d in %d-%d after %d", r.Seq, run.First, run.Last, seq)
			}
			seq, after = r.Seq, after+1
			if err := got.apply(r, nil); err != nil {
				return 0, 0, fmt.Errorf("optimised: %w\n%s\nof\n%s", err, describeRuns(runs), describeRuns(m.pending))
			}
		}
	}
	if n := len(m.pending); n > 0 && next != m.pending[n-1].Last+1 {
		return 0, 0, fmt.Errorf("covered to %d of %d", next-1, m.pending[n-1].Last)
	}
	if a, b := got.text(true), want.text(true); a != b {
		return 0, 0, fmt.Errorf("optimised against plain:\n%s\n%s\nof\n%s", difference(a, b), describeRuns(runs), describeRuns(m.pending))
	}
	return before, after, nil
}

// The optimised list gives the tree that the whole list gives, and covers its
// numbers.
func TestOptimise_SameTree(t *testing.T) {
	n := 400
	if testing.Short() {
		n = 100
	}
	before, after := 0, 0
	for seed := range n {
		b, a, err := optimiseRun(rand.New(rand.NewPCG(5, uint64(seed))).IntN)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		before, after = before+b, after+a
	}
	t.Logf("%d records become %d", before, after)
	if after > before*9/10 {
		t.Errorf("%d of %d records are left: that says too little", after, before)
	}
}

// What a build makes and its clean removes is not shipped.
func TestOptimise_BuildAndClean(t *testing.T) {
	var list []kml.Record
	add := func(r kml.Record) {
		r.Seq, r.ParentAfter = uint64(len(list)+1), kml.Version{Mtime: int64(1000 + len(list))}
		list = append(list, r)
	}
	dir := kml.ObjectID{Space: pid, Ino: 5}
	add(kml.Record{Op: kml.OpMkdir, Object: dir, Where: atRoot("obj"), Attr: kml.Attr{Mode: modeDir}})
	for i := range uint64(500) {
		id := kml.ObjectID{Space: pid, Ino: 100 + i}
		n := in(dir, fmt.Sprint(i, ".o"))
		add(kml.Record{Op: kml.OpCreate, Object: id, Where: n, Attr: kml.Attr{Mode: typeRegular}})
		list = append(list, kml.Record{Seq: uint64(len(list) + 1), Op: kml.OpClose, Object: id, After: kml.Version{Size: 9}})
	}
	for i := range uint64(500) {
		add(kml.Record{Op: kml.OpUnlink, Object: kml.ObjectID{Space: pid, Ino: 100 + i}, Where: in(dir, fmt.Sprint(i, ".o")), Last: true})
	}
	add(kml.Record{Op: kml.OpRmdir, Object: dir, Where: atRoot("obj")})
	runs := Optimise(RunsOf(list))
	if len(runs) != 1 || len(runs[0].Records) != 1 || runs[0].First != 1 || runs[0].Last != uint64(len(list)) {
		t.Fatalf("got %s", describeRuns(runs))
	}
	if r := runs[0].Records[0]; r.Op != kml.OpSetattr || r.Object != kml.RootID || r.Attr.Mtime != int64(1000+len(list)-1) {
		t.Errorf("got %s, want the time of the root", line(&r))
	}
}

var pid = kml.UUID{40}
