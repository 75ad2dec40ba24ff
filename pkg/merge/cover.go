package merge

// cover counts, for each group of a run, what stands in the way of a cut after
// it. It is a tree of minima in an array (children of i: 2i and 2i+1), so that
// changing a range and finding the last 0 take logarithmic time. The zero cover
// is that of an empty run.
type cover struct {
	n    int   // groups
	room int   // leaves: 0 or a power of two
	low  []int // minimum below a node, without what was added above it
	plus []int // what was added to all below a node, itself included
}

// unused is the count of leaves beyond the end, never 0 and never reached.
const unused = 1 << 40

// push appends a group with count v.
func (c *cover) push(v int) {
	if c.n == c.room {
		c.build(c.counts(0), max(2*c.room, 16))
	}
	c.n++
	c.change(1, 0, c.room, c.n-1, c.n, v-unused)
}

// add changes the counts of the groups from index from to before index to.
func (c *cover) add(from, to, delta int) {
	if from < to {
		c.change(1, 0, c.room, from, to, delta)
	}
}

func (c *cover) change(node, lo, hi, from, to, delta int) {
	if to <= lo || hi <= from {
		return
	}
	if from <= lo && hi <= to {
		c.low[node] += delta
		c.plus[node] += delta
		return
	}
	mid := (lo + hi) / 2
	c.change(2*node, lo, mid, from, to, delta)
	c.change(2*node+1, mid, hi, from, to, delta)
	c.low[node] = c.plus[node] + min(c.low[2*node], c.low[2*node+1])
}

// lastZero returns the last index with count 0, -1 if there is none.
func (c *cover) lastZero() int {
	if c.n == 0 || c.low[1] != 0 {
		return -1
	}
	node, above := 1, 0
	for node < c.room {
		above += c.plus[node]
		node = 2*node + 1
		if above+c.low[node] != 0 {
			node--
		}
	}
	return node - c.room
}

// at returns the count at index i.
func (c *cover) at(i int) int {
	sum := 0
	for node := c.room + i; node > 0; node /= 2 {
		sum += c.plus[node]
	}
	return sum
}

// drop takes the first n groups out.
func (c *cover) drop(n int) {
	counts := c.counts(n)
	room := 16
	for room < len(counts) {
		room *= 2
	}
	c.n = len(counts)
	c.build(counts, room)
}

// counts returns the counts from index from on.
func (c *cover) counts(from int) []int {
	out := make([]int, 0, c.n-from)
	for i := from; i < c.n; i++ {
		out = append(out, c.at(i))
	}
	return out
}

// build makes the tree anew with the given counts.
func (c *cover) build(counts []int, room int) {
	c.room = room
	c.low, c.plus = make([]int, 2*room), make([]int, 2*room)
	for i := range room {
		v := unused
		if i < len(counts) {
			v = counts[i]
		}
		c.low[room+i], c.plus[room+i] = v, v
	}
	for node := room - 1; node > 0; node-- {
		c.low[node] = min(c.low[2*node], c.low[2*node+1])
	}
}
