package merge

import (
	"fmt"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/kml"
	"pgregory.net/rapid"
)

func change(name string) *kml.Record {
	r := changes[name]
	return &r
}

func TestTouchSet_OverlapNamesBothSides(t *testing.T) {
	set := NewTouchSet()
	set.AddRecord(17, change("mkdir D/x"))
	met := change("rmdir D")
	met.Seq = 31
	o, ok := set.OverlapsRecord(met)
	want := Overlap{
		Key:  Key{Facet: FacetFate, ID: idD},
		Held: Touch{17, kml.OpMkdir, Need},
		Met:  Touch{31, kml.OpRmdir, Write},
	}
	if !ok || o != want {
		t.Fatalf("got %+v, %v", o, ok)
	}
	const text = "existence of object 09000000:1.0.0: record 17 (MKDIR) needs it, record 31 (RMDIR) writes it"
	if o.String() != text {
		t.Errorf("got %q", o)
	}
}

func TestTouchSet_OverlapsSaysWhichRecord(t *testing.T) {
	set := NewTouchSet()
	set.AddRecord(1, change("edit f"))
	g := kml.Group{Records: []kml.Record{changes["create D/x"], changes["noop"], changes["rm f"]}}
	if o, ok := set.Overlaps(&g); !ok || o.MetIndex != 2 || o.Met.Op != kml.OpUnlink {
		t.Errorf("got %+v, %v", o, ok)
	}
}

func TestTouchSet_OverlapsAfter(t *testing.T) {
	set := NewTouchSet()
	set.AddRecord(5, change("edit f"))
	set.AddRecord(9, change("create D/x"))
	tests := []struct {
		after uint64
		r     string
		want  bool
	}{
		{0, "edit f", true}, {4, "edit f", true}, {5, "edit f", false},
		{8, "rmdir D", true}, {9, "rmdir D", false}, {0, "edit g", false},
	}
	for _, tt := range tests {
		if _, got := set.OverlapsAfter(tt.after, change(tt.r)); got != tt.want {
			t.Errorf("after %d, %s: %v", tt.after, tt.r, got)
		}
	}
}

func TestTouchSet_DirTouched(t *testing.T) {
	tests := []struct {
		change string
		dirs   []kml.ObjectID
	}{
		{"create D/x", []kml.ObjectID{idD}},
		{"rmdir D", []kml.ObjectID{kml.RootID}},
		{"ln f D/z", []kml.ObjectID{idD}},
		{"mv D E/D", []kml.ObjectID{kml.RootID, idE}},
		{"exchange f g", []kml.ObjectID{kml.RootID}},
		{"touch D", []kml.ObjectID{idD}},
		{"chmod D", nil},
		{"edit f", nil},
	}
	for _, tt := range tests {
		set := NewTouchSet()
		set.AddRecord(3, change(tt.change))
		for _, dir := range []kml.ObjectID{kml.RootID, idD, idE} {
			want := false
			for _, d := range tt.dirs {
				want = want || d == dir
			}
			if got := set.DirTouched(dir); got != want {
				t.Errorf("%s: times of %v touched: %v", tt.change, dir, got)
			}
		}
		set.Forget(3)
		if set.DirTouched(idD) || set.DirTouched(kml.RootID) || !set.Empty() {
			t.Errorf("%s: still touched after it was forgotten", tt.change)
		}
	}
}

// A set that forgets is the set of what was not forgotten, whatever the order
// of adding and forgetting.
func TestTouchSet_Forget(t *testing.T) {
	names := make([]string, 0, len(changes))
	for name := range changes {
		names = append(names, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		set := NewTouchSet()
		type added struct {
			seq uint64
			r   *kml.Record
		}
		var all []added
		seq, floor := uint64(rapid.IntRange(0, 1000).Draw(t, "start")), uint64(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
				floor = max(floor, seq-min(seq, uint64(rapid.IntRange(0, 10).Draw(t, "lag"))))
				set.Forget(floor)
				continue
			}
			seq++
			r := change(rapid.SampledFrom(names).Draw(t, "change"))
			set.AddRecord(seq, r)
			all = append(all, added{seq, r})
		}
		fresh := NewTouchSet()
		for _, a := range all {
			if a.seq > floor {
				fresh.AddRecord(a.seq, a.r)
			}
		}
		for _, name := range names {
			o, got := set.OverlapsRecord(change(name))
			if _, want := fresh.OverlapsRecord(change(name)); got != want {
				t.Fatalf("%s: %v (%v), want %v", name, got, o, want)
			}
		}
		for _, dir := range []kml.ObjectID{kml.RootID, idD, idE} {
			if set.DirTouched(dir) != fresh.DirTouched(dir) {
				t.Fatalf("times of %v: %v", dir, set.DirTouched(dir))
			}
		}
	})
}

// Confirmations one by one must not cost more than what they confirm.
func TestTouchSet_ForgetGivesMemoryBack(t *testing.T) {
	set := NewTouchSet()
	const n = 2000
	for i := uint64(1); i <= n; i++ {
		r := change("create D/x")
		r.Object.Ino, r.Where.Name = i, fmt.Sprint(i)
		set.AddRecord(i, r)
	}
	full := len(set.keys)
	for i := uint64(1); i <= n; i++ {
		set.Forget(i)
		if left := int(n - i); len(set.keys) > 2*(full*left/n)+full/n+8 {
			t.Fatalf("%d keys with %d of %d records left", len(set.keys), left, n)
		}
	}
	if len(set.keys) != 0 {
		t.Errorf("%d keys left", len(set.keys))
	}
}

// BenchmarkTouchSet is what the common case costs: a file made and written, then
// looked up by a change from elsewhere.
func BenchmarkTouchSet(b *testing.B) {
	b.ReportAllocs()
	set := NewTouchSet()
	create, edit, look := change("create D/x"), change("edit f"), change("symlink D/y")
	names := make([]string, 1024)
	for i := range names {
		names[i] = fmt.Sprintf("file%d.go", i)
	}
	for i := 0; b.Loop(); i++ {
		create.Object.Ino, edit.Object.Ino, look.Object.Ino = uint64(i)+100, uint64(i)+100, uint64(i)+1<<40
		create.Where.Name, look.Where.Name = names[i%1024], names[i*7%1024]+"x"
		set.AddRecord(uint64(2*i+1), create)
		set.AddRecord(uint64(2*i+2), edit)
		if o, ok := set.OverlapsRecord(look); ok {
			b.Fatal(o)
		}
	}
	b.ReportMetric(float64(len(set.keys))/float64(b.N), "keys/op")
}
