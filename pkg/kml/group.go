package kml

import "encoding/binary"

// GroupVersion is the version of the encoding of groups. It is the first byte
// of each.
const GroupVersion = 1

const (
	groupHeadSize = 1 + 16 + 4 + 8 + 8 + 16 + 4
	groupItemSize = 4 + 8 // what precedes each record: length and number
)

// Validate reports what makes g unfit to be encoded, its records apart, as an
// *InvalidError with Op NOOP. Numbers of records must grow and lie within First
// to Last.
func (g *Group) Validate() error {
	if what := g.problem(); what != "" {
		return &InvalidError{OpNoop, "Group", what}
	}
	before := g.First - 1
	for i := range g.Records {
		seq := g.Records[i].Seq
		if seq <= before || seq > g.Last {
			return &InvalidError{g.Records[i].Op, "Seq", "is out of the order or the range of its group"}
		}
		before = seq
	}
	return nil
}

// problem says what is wrong with the head of g, or "".
func (g *Group) problem() string {
	switch {
	case g.Origin.IsZero():
		return "has no origin"
	case g.First == 0 || g.Last < g.First:
		return "has no range of numbers"
	case len(g.Records) > MaxGroupRecords:
		return "has more than 65536 records"
	}
	return ""
}

// AppendTo appends the encoding of g to b and returns it. On an error b is
// returned as it was, with an *InvalidError.
func (g *Group) AppendTo(b []byte) ([]byte, error) {
	if err := g.Validate(); err != nil {
		return b, err
	}
	start := len(b)
	b = append(b, GroupVersion)
	b = append(b, g.Origin[:]...)
	b = binary.LittleEndian.AppendUint32(b, g.OriginEpoch)
	b = binary.LittleEndian.AppendUint64(b, g.First)
	b = binary.LittleEndian.AppendUint64(b, g.Last)
	b = append(b, g.Chain[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(g.Records)))
	for i := range g.Records {
		at := len(b)
		b = binary.LittleEndian.AppendUint32(b, 0)
		b = binary.LittleEndian.AppendUint64(b, g.Records[i].Seq)
		var err error
		if b, err = g.Records[i].AppendTo(b); err != nil {
			return b[:start], err
		}
		binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-groupItemSize))
	}
	return b, nil
}

// DecodeGroup reads one group, which must fill b, as strictly as DecodeRecord
// reads a record. The group is a copy; b may be used again. What is allocated is
// bounded by len(b).
func DecodeGroup(b []byte) (Group, error) {
	c := cursor{b: b}
	if v := c.u8("version"); v != GroupVersion {
		c.fail("unknown group version", 0)
	}
	var g Group
	copy(g.Origin[:], c.take(len(g.Origin), "origin"))
	g.OriginEpoch = c.u32("epoch of the origin")
	g.First = c.u64("first number")
	g.Last = c.u64("last number")
	copy(g.Chain[:], c.take(len(g.Chain), "chain value"))
	n := c.u32("number of records")
	if c.what == "" {
		if what := g.problem(); what != "" {
			c.fail("group "+what, 0)
		} else if n > MaxGroupRecords || int(n) > c.left()/groupItemSize {
			c.fail("number of records is too large", groupHeadSize-4)
		}
	}
	if err := c.err(0); err != nil {
		return Group{}, err
	}
	if err := g.takeRecords(&c, int(n)); err != nil {
		return Group{}, err
	}
	return g, nil
}

// takeRecords takes n records, which must end the group.
func (g *Group) takeRecords(c *cursor, n int) error {
	if n > 0 {
		g.Records = make([]Record, 0, min(n, c.left()/smallestItem))
	}
	before := g.First - 1
	for range n {
		at := c.off
		size := c.u32("length of a record")
		seq := c.u64("number of a record")
		if size > MaxRecord {
			c.fail("record is too long", at)
		}
		body := c.take(int(size), "record")
		if c.what == "" && (seq <= before || seq > g.Last) {
			c.fail("number of a record is out of order", at+4)
		}
		if err := c.err(0); err != nil {
			return err
		}
		r, err := DecodeRecord(body)
		if err != nil {
			return shift(err, at+groupItemSize)
		}
		r.Seq, before = seq, seq
		g.Records = append(g.Records, r)
	}
	if c.left() > 0 {
		c.fail("bytes left over", c.off)
	}
	return c.err(0)
}

// smallestItem is the size of the smallest record in a group, a NOOP: version,
// opcode, field word, time and four credentials of a byte each.
const smallestItem = groupItemSize + 1 + 1 + 4 + 8 + 4

// shift makes the offset of a *CorruptError count from by bytes earlier.
func shift(err error, by int) error {
	if bad, ok := err.(*CorruptError); ok {
		bad.Offset += int64(by)
	}
	return err
}
