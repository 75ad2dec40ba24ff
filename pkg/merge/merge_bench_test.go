package merge

import (
	"fmt"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// BenchmarkMerge merges long lists of which one record in ten meets another: cost
// for each record must not depend on how many there are.
func BenchmarkMerge(b *testing.B) {
	for _, n := range []int{1000, 10000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			base, theirs, ours := manyChanges(n)
			local := base.clone()
			for i := range ours {
				if err := local.apply(&ours[i], nil); err != nil {
					b.Fatal(err)
				}
			}
			minted := int64(0)
			for b.Loop() {
				_, err := Merge(Input{Own: kml.UUID{3}, Tree: &localTree{tree: local, prefix: base}, Pending: RunsOf(ours), Host: "h", Time: "t",
					Foreign: []kml.Group{{Origin: kml.UUID{2}, First: 1, Last: uint64(n), Records: theirs}},
					Mint:    func() kml.ObjectID { minted++; return kml.ObjectID{Space: kml.UUID{3}, Birth: minted} }})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(2*n), "ns/record")
		})
	}
}

// manyChanges are two lists of n new files in directories of a hundred, every
// tenth of one name at both.
func manyChanges(n int) (base tree, theirs, ours []kml.Record) {
	base = newTree()
	dir := func(i int) kml.ObjectID { return kml.ObjectID{Space: kml.UUID{1}, Ino: uint64(10 + i/100)} }
	for i := 0; i < n; i += 100 {
		r := kml.Record{Op: kml.OpMkdir, Object: dir(i), Where: atRoot(fmt.Sprint(i)), Attr: kml.Attr{Mode: modeDir | 0o755}}
		if err := base.apply(&r, nil); err != nil {
			panic(err)
		}
	}
	for i := range n {
		for _, side := range []struct {
			space byte
			out   *[]kml.Record
		}{{2, &theirs}, {3, &ours}} {
			name := fmt.Sprint(i)
			if i%10 != 0 {
				name += string(rune('a' + side.space))
			}
			*side.out = append(*side.out, kml.Record{Seq: uint64(i + 1), Op: kml.OpCreate, Object: kml.ObjectID{Space: kml.UUID{side.space}, Ino: uint64(i + 1)},
				Where: in(dir(i), name), Attr: kml.Attr{Mode: typeRegular | 0o644, Size: 0}, ParentAfter: kml.Version{Mtime: int64(i + 1)}})
		}
	}
	return base, theirs, ours
}
