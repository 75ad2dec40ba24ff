package merge

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// shell makes records from commands on a model, as an application would.
type shell struct {
	*host
	t *testing.T
}

func newShell(t *testing.T, base tree, space byte) *shell {
	return &shell{t: t, host: &host{tree: base.clone(), space: kml.UUID{space}, clock: int64(space) * 100}}
}

func (s *shell) at(path string) (kml.Name, kml.ObjectID) {
	n := kml.Name{Parent: kml.RootID, Name: path}
	for {
		first, rest, more := strings.Cut(n.Name, "/")
		if !more {
			return n, s.tree[n.Parent].entries[n.Name]
		}
		n = kml.Name{Parent: s.tree[n.Parent].entries[first], Name: rest}
	}
}

func (s *shell) do(commands string) *shell {
	for _, c := range strings.Split(commands, ";") {
		if c = strings.TrimSpace(c); c != "" {
			s.one(strings.Fields(c))
		}
	}
	return s
}

func (s *shell) one(w []string) {
	s.t.Helper()
	s.clock++
	n, id := s.at(w[1])
	r := kml.Record{Seq: s.seq + 1, Object: id, Where: n, Time: s.clock, ParentAfter: kml.Version{Mtime: s.clock}}
	o := s.tree[id]
	switch w[0] {
	case "mkdir", "touch", "symlink":
		s.born++
		r.Op, r.Attr.Mode = kml.OpMkdir, modeDir|0o755
		if w[0] == "touch" {
			r.Op, r.Attr.Mode = kml.OpCreate, typeRegular|0o644
		} else if w[0] == "symlink" {
			r.Op, r.Attr.Mode, r.Target = kml.OpSymlink, typeLink|0o777, w[2]
		}
		r.Object, r.Attr.Mtime = kml.ObjectID{Space: s.space, Ino: s.born}, s.clock
	case "write":
		if o == nil {
			s.one([]string{"touch", w[1]})
			s.one(w)
			return
		}
		r.Op, r.ParentAfter = kml.OpClose, kml.Version{}
		r.Before = kml.Version{Size: o.attr.Size, Mtime: o.attr.Mtime}
		r.After = kml.Version{Size: int64(len(w[2])), Mtime: s.clock}
		copy(r.Content.Root[:], w[2])
	case "rm":
		r.Op, r.Last, r.Old = kml.OpUnlink, len(o.names) == 1, o.attr
	case "rmdir":
		r.Op, r.Old = kml.OpRmdir, o.attr
	case "mv", "ln", "swap":
		s.move(&r, w)
	case "chmod":
		r.Op, r.Valid, r.Attr.Mode, r.Old.Mode, r.ParentAfter = kml.OpSetattr, kml.ValidMode, o.attr.Mode, o.attr.Mode, kml.Version{}
		var m uint32
		fmt.Sscanf(w[2], "%o", &m)
		r.Attr.Mode = r.Attr.Mode&modeType | m
	case "chown":
		r.Op, r.Valid, r.Old.UID, r.ParentAfter = kml.OpSetattr, kml.ValidUID, o.attr.UID, kml.Version{}
		fmt.Sscan(w[2], &r.Attr.UID)
	case "xattr":
		r.Op, r.ParentAfter = kml.OpSetxattr, kml.Version{}
		r.Xattr = kml.Xattr{Name: "user." + w[2], Value: []byte(w[3])}
	}
	if err := s.tree.apply(&r, nil); err != nil {
		s.t.Fatalf("%v: %v", w, err)
	}
	s.log, s.seq = append(s.log, r), r.Seq
}

func (s *shell) move(r *kml.Record, w []string) {
	r.ToAfter = r.ParentAfter
	to, over := s.at(w[2])
	r.To, r.Replaced = to, over
	switch w[0] {
	case "mv":
		r.Op = kml.OpRename
		if p := s.tree[over]; p != nil {
			r.ReplacedLast = len(p.names) == 1
		}
	case "ln":
		r.Op, r.ParentAfter = kml.OpLink, kml.Version{}
	case "swap":
		r.Op = kml.OpExchange
	}
}

// list is the tree as people see it: names with content, and mode, owner and
// xattrs where they are not the usual.
func (t tree) list() string {
	var out []string
	var walk func(id kml.ObjectID, path string)
	walk = func(id kml.ObjectID, path string) {
		o := t[id]
		for name, child := range o.entries {
			c := t[child]
			p := path + name
			switch c.attr.Mode & modeType {
			case modeDir:
				out = append(out, p+"/")
				walk(child, p+"/")
				continue
			case typeLink:
				p += "->" + c.target
			default:
				p += "=" + strings.TrimRight(string(c.bytes[:]), "\x00")
			}
			if m := c.attr.Mode & 0o7777; m != 0o644 && m != 0o777 {
				p += fmt.Sprintf(",%o", m)
			}
			if c.attr.UID != 0 {
				p += fmt.Sprintf(",uid%d", c.attr.UID)
			}
			for x, v := range c.xattrs {
				p += fmt.Sprintf(",%s:%s", x, v)
			}
			out = append(out, p)
		}
	}
	walk(kml.RootID, "")
	slices.Sort(out)
	return strings.Join(out, " ")
}

const tableBase = "mkdir D; mkdir E; write f one; write g two; write D/x three; ln g E/g2; mkdir D/S"

// plain is the base as list shows it, without the names given.
const plain = "D/ D/S/ D/x=three E/ E/g2=two f=one g=two"

// rows are the examples of docs/MERGE.md. theirs and ours are commands; want is
// what both hosts see in the end, kinds the conflicts.
var rows = []struct{ name, theirs, ours, want, kinds string }{
	{"nothing in common", "write f A", "write g B", "D/ D/S/ D/x=three E/ E/g2=B f=A g=B", ""},
	{"same content", "write f A", "write f A", "D/ D/S/ D/x=three E/ E/g2=two f=A g=two", ""},
	{"different content", "write f A", "write f B", "D/ D/S/ D/x=three E/ E/g2=two f (conflict here now)=B f=A g=two", "both changed the content"},
	{"same directory", "mkdir N; write N/a A", "mkdir N; write N/b B", plain2("N/ N/a=A N/b=B"), ""},
	{"same new file, same bytes", "write n A", "write n A", plain2("n=A"), ""},
	{"same new file, different bytes", "write n.txt A", "write n.txt B", plain2("n (conflict here now).txt=B n.txt=A"), "both made the name"},
	{"same symlink", "symlink n t", "symlink n t", plain2("n->t"), ""},
	{"symlink against file", "symlink n t", "write n B", plain2("n (conflict here now)=B n->t"), "both made the name"},
	{"file against directory", "write n A", "mkdir n; write n/b B", plain2("n (conflict here now)/ n (conflict here now)/b=B n=A"), "both made the name"},
	{"move against edit", "mv f D/f", "write f B", "D/ D/S/ D/f=B D/x=three E/ E/g2=two g=two", ""},
	{"edit against move", "write f A", "mv f D/f", "D/ D/S/ D/f=A D/x=three E/ E/g2=two g=two", ""},
	{"move against chmod", "mv f f2", "chmod f 600", "D/ D/S/ D/x=three E/ E/g2=two f2=one,600 g=two", ""},
	{"removal against edit", "rm f", "write f B", "D/ D/S/ D/x=three E/ E/g2=two f=B g=two", "changed here, removed there"},
	{"edit against removal", "write f A", "rm f", "D/ D/S/ D/x=three E/ E/g2=two f=A g=two", "removed here, changed there"},
	{"both removed", "rm f", "rm f", "D/ D/S/ D/x=three E/ E/g2=two g=two", ""},
	{"one name of two removed against edit", "rm g", "write E/g2 B", "D/ D/S/ D/x=three E/ E/g2=B f=one", ""},
	{"each removed one of two names", "rm g", "rm E/g2", "D/ D/S/ D/x=three E/ E/g2=two f=one", "each removed a name, together the last"},
	{"both moved", "mv f a", "mv f b", "D/ D/S/ D/x=three E/ E/g2=two a=one g=two", "both moved it"},
	{"both moved to one place", "mv f a", "mv f a", "D/ D/S/ D/x=three E/ E/g2=two a=one g=two", ""},
	{"move against removal", "mv f a", "rm f", "D/ D/S/ D/x=three E/ E/g2=two a=one g=two", "removed here, changed there"},
	{"removal against move", "rm f", "mv f b", "D/ D/S/ D/x=three E/ E/g2=two b=one g=two", "changed here, removed there"},
	{"link against removal", "ln f a", "rm f", "D/ D/S/ D/x=three E/ E/g2=two a=one g=two", "removed here, changed there"},
	{"removal against link", "rm f", "ln f b", "D/ D/S/ D/x=three E/ E/g2=two b=one g=two", "changed here, removed there"},
	{"tree removed against new file in it", "rm D/x; rmdir D/S; rmdir D", "write D/S/y B", "D/ D/S/ D/S/y=B E/ E/g2=two f=one g=two", "changed here, removed there; changed here, removed there"},
	{"tree removed against move out of it", "rm D/x; rmdir D/S; rmdir D", "mv D/x y", "E/ E/g2=two f=one g=two y=three", "changed here, removed there"},
	{"tree removed against move into it", "rm D/x; rmdir D/S; rmdir D", "mv f D/f", "D/ D/f=one E/ E/g2=two g=two", "changed here, removed there"},
	{"new file against tree removed", "write D/S/y A", "rm D/x; rmdir D/S; rmdir D", "D/ D/S/ D/S/y=A E/ E/g2=two f=one g=two", "removed here, changed there"},
	{"edit against tree removed", "write D/x A", "rm D/x; rmdir D/S; rmdir D", "D/ D/x=A E/ E/g2=two f=one g=two", "removed here, changed there"},
	{"directory moved against new file in it", "mv D E/D", "write D/y B", "E/ E/D/ E/D/S/ E/D/x=three E/D/y=B E/g2=two f=one g=two", ""},
	{"moves into each other", "mv D E/D", "mv E D/E", "E/ E/D/ E/D/S/ E/D/x=three E/g2=two f=one g=two", "moves into each other"},
	{"modes differ", "chmod f 600", "chmod f 640", "D/ D/S/ D/x=three E/ E/g2=two f=one,600 g=two", ""},
	{"mode against owner", "chmod f 600", "chown f 7", "D/ D/S/ D/x=three E/ E/g2=two f=one,600,uid7 g=two", ""},
	{"xattrs differ", "xattr f a 1", "xattr f a 2", "D/ D/S/ D/x=three E/ E/g2=two f=one,user.a:1 g=two", ""},
	{"other xattrs", "xattr f a 1", "xattr f b 2", "", ""},
	{"exchange against edit", "swap f D/x", "write f B", "D/ D/S/ D/x=B E/ E/g2=two f=three g=two", ""},
	{"edit against exchange", "write f A", "swap f D/x", "D/ D/S/ D/x=A E/ E/g2=two f=three g=two", ""},
	{"move against exchange", "mv f a", "swap f D/x", "D/ D/S/ D/x=three E/ E/g2=two a=one g=two", "exchange of what was moved or removed"},
	{"rename against save", "mv f final", "write t B; mv t f", "D/ D/S/ D/x=three E/ E/g2=two final=B g=two", ""},
	{"save against rename", "write t A; mv t f", "mv f final", "D/ D/S/ D/x=three E/ E/g2=two final=A g=two", ""},
	{"chmod against save", "chmod f 600", "write t B; mv t f", "D/ D/S/ D/x=three E/ E/g2=two f=B,600 g=two", ""},
	{"save against chmod", "write t A; mv t f", "chmod f 600", "D/ D/S/ D/x=three E/ E/g2=two f=A,600 g=two", ""},
	{"both saved", "write t A; mv t f", "write t B; mv t f", "D/ D/S/ D/x=three E/ E/g2=two f (conflict here now)=B f=A g=two", "both changed the content"},
	{"both saved the same", "write t A; mv t f", "write t A; mv t f", "D/ D/S/ D/x=three E/ E/g2=two f=A g=two", ""},
	{"save against edit", "write t A; mv t f", "write f B", "D/ D/S/ D/x=three E/ E/g2=two f (conflict here now)=B f=A g=two", "both changed the content"},
	{"edit against save", "write f A", "write t B; mv t f", "D/ D/S/ D/x=three E/ E/g2=two f (conflict here now)=B f=A g=two", "both changed the content"},
	{"removal against save", "rm f", "write t B; mv t f", "D/ D/S/ D/x=three E/ E/g2=two f=B g=two", "changed here, removed there"},
	{"type change", "rm f; mkdir f", "write f B", "D/ D/S/ D/x=three E/ E/g2=two f (conflict here now)=B f/ g=two", "both made the name; changed here, removed there"},
	{"temporary names collide", "write t A", "write t B; mv t u", plain2("t=A u=B"), ""},
	{"the same object as git makes it", "write t A; ln t o; rm t", "write t2 A; ln t2 o; rm t2", plain2("o=A"), ""},
}

// plain2 is the base with more names.
func plain2(more string) string {
	list := strings.Split(plain, " ")
	for _, m := range splitNames(more) {
		list = append(list, m)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// splitNames splits at spaces that are not within parentheses.
func splitNames(s string) (out []string) {
	for _, w := range strings.Split(strings.NewReplacer(" (conflict here now)", "@").Replace(s), " ") {
		out = append(out, strings.Replace(w, "@", " (conflict here now)", 1))
	}
	return out
}

func TestMerge_Table(t *testing.T) {
	base := newShell(t, newTree(), 1).do(tableBase)
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			theirs, ours := newShell(t, base.tree, 2).do(tt.theirs), newShell(t, base.tree, 3).do(tt.ours)
			got, conflicts := mergeShells(t, base.tree, theirs, ours)
			if tt.want != "" && got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			var kinds []string
			for _, c := range conflicts {
				kinds = append(kinds, c.Kind.String())
			}
			slices.Sort(kinds)
			if k := strings.Join(kinds, "; "); k != tt.kinds {
				t.Errorf("conflicts %q, want %q", k, tt.kinds)
			}
		})
	}
}

// mergeShells merges, checks R10, and returns what is seen in the end.
func mergeShells(t *testing.T, base tree, theirs, ours *shell) (string, []Conflict) {
	t.Helper()
	for i := range ours.log {
		ours.log[i].Cred.FSUID = 1
	}
	minted := int64(0)
	in := Input{Own: ours.space, Tree: &localTree{tree: ours.tree, prefix: base}, Pending: RunsOf(ours.log), Host: "here", Time: "now",
		Foreign: []kml.Group{{Origin: theirs.space, First: 1, Last: theirs.seq, Records: theirs.log}},
		Mint:    func() kml.ObjectID { minted++; return kml.ObjectID{Space: ours.space, Birth: minted} }}
	res, err := Merge(in)
	if err != nil {
		t.Fatal(err)
	}
	st := &store{closes: map[closeName][32]byte{}, prefix: base}
	for _, s := range []*shell{theirs, ours} {
		for _, r := range s.log {
			st.closes[closeName{s.space, r.Seq}] = r.Content.Root
		}
	}
	if err := ours.tree.walk(res.Steps, st, func() int { return 0 }); err != nil {
		t.Fatal(err)
	}
	want, bound := theirs.tree.clone(), map[kml.ObjectID]bool{}
	runs, _ := Renumber(res.Pending, ours.seq+1)
	for _, run := range runs {
		for i := range run.Records {
			r := &run.Records[i]
			if err := r.Validate(); err != nil {
				t.Errorf("%s: %v", line(r), err)
			}
			if r.Op == kml.OpClose && r.Content.IsZero() {
				r.Content.Root = ours.tree[r.Object].bytes
				bound[r.Object] = true
			}
			if err := want.apply(r, nil); err != nil {
				t.Fatalf("%v\n%s", err, describeRuns(runs))
			}
		}
	}
	if a, b := ours.tree.text(true), want.text(true); a != b {
		t.Fatalf("here against theirs with pending:\n%s\n%s%v", difference(a, b), describeRuns(runs), res.Steps)
	}
	return ours.tree.list(), res.Conflicts
}
