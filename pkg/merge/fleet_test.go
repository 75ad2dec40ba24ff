package merge

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// fleet is a server and some members that change one fileset apart, with all
// that can happen to what they send each other, and the merge that settles it.
type fleet struct {
	roll    dice
	overlap bool // the rule; without it things must go wrong
	order   []pushed
	tree    tree // of the server
	taken   map[kml.UUID]uint64
	members []*member
	mail    []message
	store   *store
	inodes  int
	written uint32
	seen    map[[32]byte]bool // contents ever acknowledged: true when superseded
	trace   []string
	tracing bool
	merges  int
	listed  int
	stats   map[Kind]int
}

// pushed is a group in the order.
type pushed struct {
	origin kml.UUID
	run    Run
}

// message is a push on its way.
type message struct {
	from kml.UUID
	base int
	runs []Run
}

// member is a replica.
type member struct {
	*host
	fleet   *fleet
	base    int
	prefix  tree // what the order up to base makes
	pending []Run
	minted  uint64
	writers []*openFile
}

// openFile is a file that somebody writes.
type openFile struct {
	inode int
	dirty bool
}

func newFleet(roll dice, overlap bool) *fleet {
	f := &fleet{roll: roll, overlap: overlap, taken: map[kml.UUID]uint64{}, seen: map[[32]byte]bool{}, stats: map[Kind]int{},
		store: &store{closes: map[closeName][32]byte{}}}
	seed := &host{tree: newTree(), space: kml.UUID{1}, roll: roll, clock: 1}
	for range 3 + roll(12) {
		seed.grow()
	}
	f.tree = seed.tree.clone()
	for _, o := range f.tree {
		if o.attr.Mode&modeType == typeRegular && o.attr.Size > 0 {
			f.seen[o.bytes] = false
		}
	}
	for i := range 2 + roll(4) {
		m := &member{fleet: f, prefix: f.tree.clone()}
		m.host = &host{tree: f.tree.clone(), space: kml.UUID{byte(10 + i)}, roll: roll, clock: int64(1000 * roll(100))}
		m.number()
		f.members = append(f.members, m)
	}
	return f
}

func (f *fleet) inode() int { f.inodes++; return f.inodes }

// number gives new objects of the local tree an inode.
func (m *member) number() {
	for _, id := range m.sorted(func(_ kml.ObjectID, o *object) bool { return o.inode == 0 }) {
		m.tree[id].inode = m.fleet.inode()
	}
}

func (f *fleet) say(format string, args ...any) {
	if f.tracing {
		f.trace = append(f.trace, fmt.Sprintf(format, args...))
	}
}

// send puts pending runs on their way: they may be lost, come twice, or late.
func (m *member) send(most int) {
	f := m.fleet
	runs := m.pending
	if len(runs) > most {
		runs = runs[:most]
	}
	if len(runs) == 0 {
		return
	}
	msg := message{m.space, m.base, slices.Clone(runs)}
	for range []int{1, 1, 1, 2, 0}[f.roll(5)] {
		f.mail = append(f.mail, msg)
	}
}

// deliver lets the server take one message.
func (f *fleet) deliver(i int) error {
	msg := f.mail[i]
	f.mail = slices.Delete(f.mail, i, i+1)
	since := NewTouchSet()
	for k, p := range f.order[msg.base:] {
		if p.origin != msg.from {
			since.Add(uint64(msg.base+k+1), &kml.Group{Records: p.run.Records})
		}
	}
	for _, run := range msg.runs {
		taken := f.taken[msg.from]
		if run.Last <= taken {
			continue
		}
		if o, yes := since.Overlaps(&kml.Group{Records: run.Records}); yes && f.overlap {
			f.say("server: %d of %d refused: %v", run.First, msg.from[0], o)
			return nil
		}
		if run.First != taken+1 {
			return fmt.Errorf("server has %d of %v and is sent %d-%d", taken, msg.from[0], run.First, run.Last)
		}
		next := f.tree.clone()
		for j := range run.Records {
			if err := next.apply(&run.Records[j], nil); err != nil {
				return fmt.Errorf("server: group %d-%d of %v: %w", run.First, run.Last, msg.from[0], err)
			}
		}
		f.tree = next
		f.order = append(f.order, pushed{msg.from, run})
		f.taken[msg.from] = run.Last
		f.say("server: position %d is %d-%d of %d", len(f.order), run.First, run.Last, msg.from[0])
	}
	return nil
}

// follow brings a member forward by at most n groups.
func (m *member) follow(n int) error {
	f := m.fleet
	for n > 0 && m.base < len(f.order) {
		if p := f.order[m.base]; p.origin == m.space {
			if err := m.confirm(&p); err != nil {
				return err
			}
			n--
			continue
		}
		var groups []kml.Group
		for len(groups) < n && m.base+len(groups) < len(f.order) && f.order[m.base+len(groups)].origin != m.space {
			p := f.order[m.base+len(groups)]
			groups = append(groups, kml.Group{Origin: p.origin, First: p.run.First, Last: p.run.Last, Records: p.run.Records})
		}
		if err := m.take(groups); err != nil {
			return fmt.Errorf("member %d at %d: %w", m.space[0], m.base, err)
		}
		n -= len(groups)
	}
	return nil
}

func (m *member) confirm(p *pushed) error {
	for len(m.pending) > 0 && m.pending[0].Last <= p.run.Last {
		m.pending = m.pending[1:]
	}
	if len(m.pending) > 0 && m.pending[0].First <= p.run.Last {
		return fmt.Errorf("member %d: %d is confirmed in the middle of %d-%d", m.space[0], p.run.Last, m.pending[0].First, m.pending[0].Last)
	}
	for i := range p.run.Records {
		if err := m.prefix.apply(&p.run.Records[i], nil); err != nil {
			return fmt.Errorf("member %d: own group: %w", m.space[0], err)
		}
	}
	m.base++
	return m.check("confirm")
}

// take puts foreign groups beneath what is pending: plainly if nothing meets.
func (m *member) take(groups []kml.Group) error {
	prefix := m.prefix.clone()
	for i := range groups {
		for j := range groups[i].Records {
			if err := prefix.apply(&groups[i].Records[j], nil); err != nil {
				return fmt.Errorf("prefix: %w", err)
			}
		}
	}
	if !m.fleet.overlap || !m.meets(groups) && m.roll(2) == 0 {
		set := m.pendingSet()
		for i := range groups {
			for j := range groups[i].Records {
				if err := m.tree.apply(&groups[i].Records[j], set.DirTouched); err != nil {
					return err
				}
			}
		}
		m.number()
	} else if err := m.merge(groups, prefix); err != nil {
		return err
	}
	m.prefix, m.base = prefix, m.base+len(groups)
	return m.check("take")
}

func (m *member) pendingSet() *TouchSet {
	set := NewTouchSet()
	for i := range m.pending {
		for j := range m.pending[i].Records {
			set.AddRecord(m.pending[i].Last, &m.pending[i].Records[j])
		}
	}
	return set
}

// meets reports whether groups overlap with what is pending or being written.
func (m *member) meets(groups []kml.Group) bool {
	set := m.pendingSet()
	for _, w := range m.writers {
		if id, _ := m.byInode(w.inode); w.dirty && !id.IsZero() {
			set.AddRecord(1<<40, &kml.Record{Op: kml.OpClose, Object: id})
		}
	}
	for i := range groups {
		if _, yes := set.Overlaps(&groups[i]); yes {
			return true
		}
	}
	return false
}

func (m *member) writing() []kml.ObjectID {
	var ids []kml.ObjectID
	for _, w := range m.writers {
		if id, _ := m.byInode(w.inode); w.dirty && !id.IsZero() {
			ids = append(ids, id)
		}
	}
	return ids
}

func (m *member) merge(groups []kml.Group, prefix tree) error {
	in := Input{Own: m.space, Foreign: groups, Pending: m.pending, Host: fmt.Sprint("h", m.space[0]), Time: fmt.Sprint(m.clock),
		Mint: func() kml.ObjectID {
			m.minted++
			return kml.ObjectID{Space: m.space, Birth: int64(m.minted)}
		}}
	var res *Result
	for try := 0; ; try++ {
		in.Tree, in.Pending, in.Writing = &localTree{tree: m.tree, prefix: m.prefix, rootless: m.roll(2) == 0}, m.pending, m.writing()
		var err error
		if res, err = Merge(in); err == nil {
			break
		}
		need, ok := errors.AsType[*NeedError](err)
		if !ok || try > 3 || len(need.Close) == 0 {
			return fmt.Errorf("%w\npending:\n%sforeign:\n%s", err, describeRuns(m.pending), describeGroups(groups))
		}
		for _, w := range m.writers {
			if id, _ := m.byInode(w.inode); slices.Contains(need.Close, id) {
				m.interim(w)
			}
		}
	}
	return m.adopt(res, groups)
}

// adopt does what a merge says, with a crash in between now and then.
func (m *member) adopt(res *Result, groups []kml.Group) error {
	f := m.fleet
	f.merges++
	f.listed += len(res.Conflicts)
	for _, c := range res.Conflicts {
		f.stats[c.Kind]++
	}
	f.store.prefix = m.prefix
	f.say("%d merges %d groups:\n%sours:\n%sbecomes:\n%ssteps: %v", m.space[0], len(groups), describeGroups(groups), describeRuns(m.pending), describeRuns(res.Pending), res.Steps)
	if m.roll(4) == 0 && len(res.Steps) > 0 {
		if err := m.tree.walk(res.Steps[:m.roll(len(res.Steps))], f.store, f.inode); err != nil {
			return err
		}
	}
	if err := m.tree.walk(res.Steps, f.store, f.inode); err != nil {
		return fmt.Errorf("%w\n%v\npending:\n%sforeign:\n%s", err, res.Steps, describeRuns(m.pending), describeGroups(groups))
	}
	runs, closes := Renumber(res.Pending, m.seq+1)
	for _, run := range runs {
		m.seq = max(m.seq, run.Last)
	}
	for now, was := range closes {
		f.store.closes[closeName{m.space, now}] = f.store.closes[closeName{m.space, was}]
	}
	m.pending = runs
	m.bindNew()
	return nil
}

// bindNew gives CLOSEs without a root theirs, from the file.
func (m *member) bindNew() {
	bound := map[uint64]bool{}
	for _, run := range m.pending {
		for _, r := range run.Records {
			if r.Op == kml.OpManifest {
				bound[r.CloseSeq] = true
			}
		}
	}
	last := map[kml.ObjectID]*kml.Record{}
	for i := range m.pending {
		for j := range m.pending[i].Records {
			if r := &m.pending[i].Records[j]; r.Op == kml.OpClose {
				last[r.Object] = r
			}
		}
	}
	for id, r := range last {
		if o := m.tree[id]; o != nil && r.Content.IsZero() && !bound[r.Seq] && r.After.Size > 0 {
			r.Content.Root = o.bytes
		}
		if o := m.tree[id]; o != nil {
			m.fleet.store.closes[closeName{m.space, r.Seq}] = o.bytes
		}
	}
}

func describeGroups(groups []kml.Group) string {
	var out string
	for _, g := range groups {
		for i := range g.Records {
			out += fmt.Sprintf("    of %d: %s\n", g.Origin[0], line(&g.Records[i]))
		}
	}
	return out
}

// check is R10: the tree is the prefix with the pending records in order.
func (m *member) check(when string) error {
	want := m.prefix.clone()
	for i := range m.pending {
		for j := range m.pending[i].Records {
			if err := want.apply(&m.pending[i].Records[j], nil); err != nil {
				return fmt.Errorf("member %d, after %s: pending: %w\n%s", m.space[0], when, err, describeRuns(m.pending))
			}
		}
	}
	if got, want := m.tree.text(true), want.text(true); got != want {
		return fmt.Errorf("member %d, after %s: the tree against prefix and pending:\n%s", m.space[0], when, difference(got, want))
	}
	return nil
}

func (f *fleet) step() error {
	m := f.members[f.roll(len(f.members))]
	switch f.roll(12) {
	case 0, 1:
		m.send(1 + f.roll(6))
	case 2, 3, 4:
		if len(f.mail) > 0 {
			return f.deliver(f.roll(len(f.mail)))
		}
	case 5, 6:
		return m.follow(1 + f.roll(8))
	case 7:
		m.write()
	default:
		for range 1 + f.roll(4) {
			if err := m.local(); err != nil {
				return err
			}
		}
	}
	return nil
}

// run lets things happen, heals, and looks at the result.
func (f *fleet) run(steps int) error {
	for range steps {
		if err := f.step(); err != nil {
			return err
		}
	}
	for _, m := range f.members {
		for _, w := range m.writers {
			m.interim(w)
			if w.dirty {
				return fmt.Errorf("member %d: a writer lost its file", m.space[0])
			}
		}
		m.writers = nil
	}
	f.mail = nil
	for range 3*len(f.members) + 3 {
		for _, m := range f.members {
			if err := m.follow(len(f.order)); err != nil {
				return err
			}
			if len(m.pending) > 0 {
				f.mail = []message{{m.space, m.base, m.pending}}
				if err := f.deliver(0); err != nil {
					return err
				}
			}
		}
	}
	return f.verify()
}

// verify is invariants 3 and 4.
func (f *fleet) verify() error {
	want := f.tree.text(true)
	for _, m := range f.members {
		if len(m.pending) > 0 {
			return fmt.Errorf("member %d is stuck with\n%s", m.space[0], describeRuns(m.pending))
		}
		if got := m.tree.text(true); got != want {
			return fmt.Errorf("member %d against the server:\n%s", m.space[0], difference(got, want))
		}
	}
	current := map[[32]byte]bool{}
	for _, o := range f.tree {
		current[o.bytes] = true
	}
	for root, superseded := range f.seen {
		if !superseded && !current[root] {
			return fmt.Errorf("the bytes %x are lost; the tree is\n%s", root[:4], want)
		}
	}
	return nil
}

// difference has the lines of two texts that are not in both.
func difference(a, b string) string {
	var out []string
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range x {
		if !slices.Contains(y, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range y {
		if !slices.Contains(x, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}
