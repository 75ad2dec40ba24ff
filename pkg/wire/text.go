package wire

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// ParsePos reads the form that Pos.String writes, and no other.
func ParsePos(s string) (Pos, error) {
	bad := fmt.Errorf("position %.60q: want EPOCH/NUMBER/CHAIN", s)
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return Pos{}, bad
	}
	var p Pos
	epoch, err1 := strconv.ParseUint(parts[0], 10, 32)
	seq, err2 := strconv.ParseUint(parts[1], 10, 64)
	if err1 != nil || err2 != nil || len(parts[2]) != 2*len(p.Chain) {
		return Pos{}, bad
	}
	if _, err := hex.Decode(p.Chain[:], []byte(parts[2])); err != nil {
		return Pos{}, bad
	}
	p.Epoch, p.Seq = uint32(epoch), seq
	if p.String() != s {
		return Pos{}, bad
	}
	return p, nil
}

// formatObject gives the form SPACE.INO.GEN.BIRTH of an object id, numbers in
// hex.
func formatObject(id kml.ObjectID) string {
	return fmt.Sprintf("%x.%x.%x.%x", id.Space[:], id.Ino, id.Gen, uint64(id.Birth))
}

func parseObject(s string) (id kml.ObjectID, err error) {
	bad := fmt.Errorf("object %.100q: want SPACE.INO.GEN.BIRTH", s)
	parts := strings.Split(s, ".")
	if len(parts) != 4 || len(parts[0]) != 2*len(id.Space) {
		return kml.ObjectID{}, bad
	}
	_, err0 := hex.Decode(id.Space[:], []byte(parts[0]))
	ino, err1 := strconv.ParseUint(parts[1], 16, 64)
	gen, err2 := strconv.ParseUint(parts[2], 16, 32)
	birth, err3 := strconv.ParseUint(parts[3], 16, 64)
	for _, err := range []error{err0, err1, err2, err3} {
		if err != nil {
			return kml.ObjectID{}, bad
		}
	}
	id.Ino, id.Gen, id.Birth = ino, uint32(gen), int64(birth)
	return id, nil
}

func parseRoot(s string) (root [32]byte, err error) {
	if len(s) != 2*len(root) {
		return root, fmt.Errorf("root %.100q: want %d hex digits", s, 2*len(root))
	}
	if _, err := hex.Decode(root[:], []byte(s)); err != nil {
		return root, fmt.Errorf("root %q: not hex", s)
	}
	return root, nil
}
