package merge

import "github.com/intermezzofs/intermezzo/pkg/kml"

// Renumber prepares the pending list of a merge for the log: the runs before the
// first changed one stay, and all records from there on get the numbers from
// next on, which must be the first free one of our log. The range of the first
// of them begins where the unchanged ones end, so that it stands for everything
// that was logged before; each record then is a run of its own, unless its run
// had several. A run without records becomes a NOOP.
//
// None of the result is Changed: it is what the caller logs. CLOSEs keep their bytes under their new numbers: closes has, for each, the old
// one. It is nil if nothing changed.
func Renumber(runs []Run, next uint64) (out []Run, closes map[uint64]uint64) {
	i := 0
	for i < len(runs) && !runs[i].Changed {
		i++
	}
	out = runs[:i:i]
	if i == len(runs) {
		return out, nil
	}
	first := runs[i].First
	closes = make(map[uint64]uint64)
	numbers := make(map[uint64]uint64)
	for _, run := range runs[i:] {
		n := Run{First: first, Records: make([]kml.Record, 0, max(len(run.Records), 1))}
		for _, r := range run.Records {
			if r.Op == kml.OpClose {
				closes[next], numbers[r.Seq] = r.Seq, next
			}
			if r.Op == kml.OpManifest {
				if seq, ok := numbers[r.CloseSeq]; ok {
					r.CloseSeq = seq
				}
			}
			r.Seq = next
			n.Records, next = append(n.Records, r), next+1
		}
		if len(n.Records) == 0 {
			n.Records, next = append(n.Records, kml.Record{Seq: next, Op: kml.OpNoop}), next+1
		}
		n.Last = next - 1
		first = next
		out = append(out, n)
	}
	return out, closes
}
