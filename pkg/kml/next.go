package kml

import "crypto/sha256"

// After gives the positions that the log would have after each of bodies, as
// frames of its kind, without appending anything. A replica compares them with
// those of its server before it takes the frames over.
func (l *Log) After(bodies [][]byte) []Pos {
	at := l.End()
	out := make([]Pos, len(bodies))
	for i, body := range bodies {
		b := make([]byte, 32, 32+len(body))
		l.fr.chainHead(b, &at.Chain, at.Seq+1)
		sum := sha256.Sum256(append(b, body...))
		at = Pos{Epoch: l.fr.epoch, Seq: at.Seq + 1, Chain: Chain(sum[:16])}
		out[i] = at
	}
	return out
}
