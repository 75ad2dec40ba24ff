package merge

import (
	"slices"
	"strings"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// The objects of the tables: directories D and E, files f and g, all in the
// root under their own names.
var (
	idD = kml.ObjectID{Space: kml.UUID{9}, Ino: 1}
	idE = kml.ObjectID{Space: kml.UUID{9}, Ino: 2}
	idF = kml.ObjectID{Space: kml.UUID{9}, Ino: 3}
	idG = kml.ObjectID{Space: kml.UUID{9}, Ino: 4}

	newFile = kml.ObjectID{Space: kml.UUID{9}, Ino: 5}
	newDir  = kml.ObjectID{Space: kml.UUID{9}, Ino: 6}
	newLink = kml.ObjectID{Space: kml.UUID{9}, Ino: 7}
	newNode = kml.ObjectID{Space: kml.UUID{9}, Ino: 8}
)

func in(dir kml.ObjectID, name string) kml.Name { return kml.Name{Parent: dir, Name: name} }

func atRoot(name string) kml.Name { return in(kml.RootID, name) }

// changes has one record for each kind of change that differs in what it meets.
var changes = map[string]kml.Record{
	"create D/x":       {Op: kml.OpCreate, Object: newFile, Where: in(idD, "x"), Attr: kml.Attr{Mode: 0o100644}},
	"mkdir D/x":        {Op: kml.OpMkdir, Object: newDir, Where: in(idD, "x"), Attr: kml.Attr{Mode: 0o040755}},
	"symlink D/y":      {Op: kml.OpSymlink, Object: newLink, Where: in(idD, "y"), Attr: kml.Attr{Mode: 0o120777}, Target: "t"},
	"mknod E/y":        {Op: kml.OpMknod, Object: newNode, Where: in(idE, "y"), Attr: kml.Attr{Mode: 0o010644}},
	"ln f D/z":         {Op: kml.OpLink, Object: idF, Where: atRoot("f"), To: in(idD, "z")},
	"rm f":             {Op: kml.OpUnlink, Object: idF, Where: atRoot("f"), Last: true},
	"rm f of two":      {Op: kml.OpUnlink, Object: idF, Where: atRoot("f")},
	"rm f2 of two":     {Op: kml.OpUnlink, Object: idF, Where: atRoot("f2")},
	"rmdir D":          {Op: kml.OpRmdir, Object: idD, Where: atRoot("D")},
	"mv f f3":          {Op: kml.OpRename, Object: idF, Where: atRoot("f"), To: atRoot("f3")},
	"mv f D/f":         {Op: kml.OpRename, Object: idF, Where: atRoot("f"), To: in(idD, "f"), Attr: kml.Attr{Mode: 0o100000}},
	"mv f E/f":         {Op: kml.OpRename, Object: idF, Where: atRoot("f"), To: in(idE, "f"), Attr: kml.Attr{Mode: 0o100000}},
	"mv g E/g untyped": {Op: kml.OpRename, Object: idG, Where: atRoot("g"), To: in(idE, "g")},
	"mv g f":           {Op: kml.OpRename, Object: idG, Where: atRoot("g"), To: atRoot("f"), Replaced: idF, ReplacedLast: true},
	"mv D D3":          {Op: kml.OpRename, Object: idD, Where: atRoot("D"), To: atRoot("D3"), Attr: kml.Attr{Mode: 0o040000}},
	"mv D E/D":         {Op: kml.OpRename, Object: idD, Where: atRoot("D"), To: in(idE, "D"), Attr: kml.Attr{Mode: 0o040000}},
	"mv E D/E":         {Op: kml.OpRename, Object: idE, Where: atRoot("E"), To: in(idD, "E"), Attr: kml.Attr{Mode: 0o040000}},
	"exchange f g":     {Op: kml.OpExchange, Object: idF, Where: atRoot("f"), To: atRoot("g"), Replaced: idG},
	"chmod f":          {Op: kml.OpSetattr, Object: idF, Where: atRoot("f"), Valid: kml.ValidMode, Attr: kml.Attr{Mode: 0o100600}},
	"chmod u+s f":      {Op: kml.OpSetattr, Object: idF, Where: atRoot("f"), Valid: kml.ValidMode, Attr: kml.Attr{Mode: 0o104755}},
	"chown f":          {Op: kml.OpSetattr, Object: idF, Where: atRoot("f"), Valid: kml.ValidUID, Attr: kml.Attr{UID: 1}},
	"chgrp f":          {Op: kml.OpSetattr, Object: idF, Where: atRoot("f"), Valid: kml.ValidGID, Attr: kml.Attr{GID: 1}},
	"touch f":          {Op: kml.OpSetattr, Object: idF, Where: atRoot("f"), Valid: kml.ValidMtime, Attr: kml.Attr{Mtime: 1}},
	"chmod D":          {Op: kml.OpSetattr, Object: idD, Where: atRoot("D"), Valid: kml.ValidMode, Attr: kml.Attr{Mode: 0o040700}},
	"touch D":          {Op: kml.OpSetattr, Object: idD, Where: atRoot("D"), Valid: kml.ValidMtime, Attr: kml.Attr{Mtime: 1}},
	"edit f":           {Op: kml.OpClose, Object: idF, Where: atRoot("f"), After: kml.Version{Size: 1}},
	"edit g":           {Op: kml.OpClose, Object: idG, Where: atRoot("g"), After: kml.Version{Size: 1}},
	"edit suid f":      {Op: kml.OpClose, Object: idF, Where: atRoot("f"), After: kml.Version{Size: 1}, Attr: kml.Attr{Mode: 0o100755}},
	"truncate f":       {Op: kml.OpSetattr, Object: idF, Where: atRoot("f"), Valid: kml.ValidSize},
	"write f":          {Op: kml.OpWrite, Object: idF, Where: atRoot("f"), Data: []byte("x")},
	"setxattr f a":     {Op: kml.OpSetxattr, Object: idF, Where: atRoot("f"), Xattr: kml.Xattr{Name: "user.a"}},
	"delxattr f a":     {Op: kml.OpDelxattr, Object: idF, Where: atRoot("f"), Xattr: kml.Xattr{Name: "user.a"}},
	"setxattr f b":     {Op: kml.OpSetxattr, Object: idF, Where: atRoot("f"), Xattr: kml.Xattr{Name: "user.b"}},
	"setfacl f":        {Op: kml.OpSetxattr, Object: idF, Where: atRoot("f"), Xattr: kml.Xattr{Name: "system.posix_acl_access"}},
	"setcap f":         {Op: kml.OpSetxattr, Object: idF, Where: atRoot("f"), Xattr: kml.Xattr{Name: "security.capability"}},
	"conflict f":       {Op: kml.OpConflict, Object: idF, Where: atRoot("f")},
	"resolved f":       {Op: kml.OpResolved, Object: idF, Where: atRoot("f"), CloseSeq: 1},
	"manifest f":       {Op: kml.OpManifest, Object: idF, CloseSeq: 1},
	"noop":             {Op: kml.OpNoop},
}

// meetings says of each change which it meets, made elsewhere at the same time.
// What is not named must not meet.
var meetings = map[string]string{
	"create D/x":  "create D/x, mkdir D/x, rmdir D",
	"mkdir D/x":   "create D/x, mkdir D/x, rmdir D",
	"symlink D/y": "symlink D/y, rmdir D",
	"mknod E/y":   "mknod E/y",
	"ln f D/z":    "ln f D/z, rm f, rmdir D, mv g f",
	"rm f": "ln f D/z, rm f, rm f of two, rm f2 of two, mv f f3, mv f D/f, mv f E/f, mv g f, " +
		"exchange f g, chmod f, chmod u+s f, chown f, chgrp f, touch f, edit f, edit suid f, " +
		"truncate f, write f, setxattr f a, delxattr f a, setxattr f b, setfacl f, setcap f",
	"rm f of two":  "rm f, rm f of two, rm f2 of two, mv f f3, mv f D/f, mv f E/f, mv g f, exchange f g",
	"rm f2 of two": "rm f, rm f of two, rm f2 of two, mv g f",
	"rmdir D": "create D/x, mkdir D/x, symlink D/y, ln f D/z, rmdir D, mv f D/f, mv D D3, mv D E/D, " +
		"mv E D/E, chmod D, touch D",
	"mv f f3":          "rm f, rm f of two, mv f f3, mv f D/f, mv f E/f, mv g f, exchange f g",
	"mv f D/f":         "rm f, rm f of two, rmdir D, mv f f3, mv f D/f, mv f E/f, mv g f, exchange f g",
	"mv f E/f":         "rm f, rm f of two, mv f f3, mv f D/f, mv f E/f, mv g f, exchange f g",
	"mv g E/g untyped": "mv g E/g untyped, mv g f, mv D E/D, mv E D/E, exchange f g",
	"mv g f": "ln f D/z, rm f, rm f of two, rm f2 of two, mv f f3, mv f D/f, mv f E/f, mv g E/g untyped, " +
		"mv g f, exchange f g, chmod f, chmod u+s f, chown f, chgrp f, touch f, edit f, " +
		"edit suid f, truncate f, write f, setxattr f a, delxattr f a, setxattr f b, setfacl f, " +
		"setcap f",
	"mv D D3":      "rmdir D, mv D D3, mv D E/D",
	"mv D E/D":     "rmdir D, mv g E/g untyped, mv D D3, mv D E/D, mv E D/E",
	"mv E D/E":     "rmdir D, mv g E/g untyped, mv D E/D, mv E D/E",
	"exchange f g": "rm f, rm f of two, mv f f3, mv f D/f, mv f E/f, mv g E/g untyped, mv g f, exchange f g",
	"chmod f":      "rm f, mv g f, chmod f, chmod u+s f, edit suid f, setfacl f",
	"chmod u+s f":  "rm f, mv g f, chmod f, chmod u+s f, chown f, chgrp f, edit suid f, setfacl f, setcap f",
	"chown f":      "rm f, mv g f, chmod u+s f, chown f, edit suid f, setcap f",
	"chgrp f":      "rm f, mv g f, chmod u+s f, chgrp f, edit suid f, setcap f",
	"touch f":      "rm f, mv g f, touch f, edit f, edit suid f, truncate f, write f",
	"chmod D":      "rmdir D, chmod D",
	"touch D":      "rmdir D, touch D",
	"edit f":       "rm f, mv g f, touch f, edit f, edit suid f, truncate f, write f",
	"edit g":       "edit g",
	"edit suid f": "rm f, mv g f, chmod f, chmod u+s f, chown f, chgrp f, touch f, edit f, edit suid f, " +
		"truncate f, write f, setfacl f, setcap f",
	"truncate f":   "rm f, mv g f, touch f, edit f, edit suid f, truncate f, write f",
	"write f":      "rm f, mv g f, touch f, edit f, edit suid f, truncate f, write f",
	"setxattr f a": "rm f, mv g f, setxattr f a, delxattr f a",
	"delxattr f a": "rm f, mv g f, setxattr f a, delxattr f a",
	"setxattr f b": "rm f, mv g f, setxattr f b",
	"setfacl f":    "rm f, mv g f, chmod f, chmod u+s f, edit suid f, setfacl f",
	"setcap f":     "rm f, mv g f, chmod u+s f, chown f, chgrp f, edit suid f, setcap f",
	"conflict f":   "resolved f",
	"resolved f":   "conflict f, resolved f",
	"manifest f":   "",
	"noop":         "",
}

func overlap(a, b kml.Record) (Overlap, bool) {
	set := NewTouchSet()
	set.AddRecord(7, &a)
	return set.OverlapsRecord(&b)
}

func TestTouches_Table(t *testing.T) {
	for name, a := range changes {
		t.Run(name, func(t *testing.T) {
			want := strings.Split(meetings[name], ", ")
			for other, b := range changes {
				o, got := overlap(a, b)
				if got != slices.Contains(want, other) {
					t.Errorf("%s, %s: overlap %v (%v)", name, other, got, o)
				}
			}
			for _, other := range want {
				if _, known := changes[other]; !known && other != "" {
					t.Errorf("the table has %q, which is no change", other)
				}
			}
		})
	}
}

// Overlap is the same from both sides.
func TestTouches_Symmetric(t *testing.T) {
	for name, a := range changes {
		for other, b := range changes {
			_, ab := overlap(a, b)
			_, ba := overlap(b, a)
			if ab != ba {
				t.Errorf("%s then %s: %v, the other way %v", name, other, ab, ba)
			}
		}
	}
}

// The scenarios of which a plain comparison of objects and names is too fine,
// or too coarse.
func TestTouches_Scenarios(t *testing.T) {
	var (
		a, b = kml.ObjectID{Space: kml.UUID{8}, Ino: 1}, kml.ObjectID{Space: kml.UUID{8}, Ino: 2}
		c, d = kml.ObjectID{Space: kml.UUID{8}, Ino: 3}, kml.ObjectID{Space: kml.UUID{8}, Ino: 4}
	)
	tests := []struct {
		name         string
		ours, theirs kml.Record
		want         bool
	}{
		{"rmdir D against a new entry of D", changes["rmdir D"], changes["create D/x"], true},
		{"two new entries of one directory", changes["create D/x"], changes["symlink D/y"], false},
		{"two moves that make a cycle together, deep below",
			kml.Record{Op: kml.OpRename, Object: a, Where: atRoot("a"), To: in(c, "a"), Attr: kml.Attr{Mode: modeDir}},
			kml.Record{Op: kml.OpRename, Object: b, Where: atRoot("b"), To: in(d, "b"), Attr: kml.Attr{Mode: modeDir}}, true},
		{"two files moved elsewhere",
			kml.Record{Op: kml.OpRename, Object: a, Where: atRoot("a"), To: in(c, "a"), Attr: kml.Attr{Mode: typeRegular}},
			kml.Record{Op: kml.OpRename, Object: b, Where: atRoot("b"), To: in(d, "b"), Attr: kml.Attr{Mode: typeRegular}}, false},
		{"two directories renamed in place",
			kml.Record{Op: kml.OpRename, Object: a, Where: atRoot("a"), To: atRoot("a2")},
			kml.Record{Op: kml.OpRename, Object: b, Where: atRoot("b"), To: atRoot("b2")}, false},
		{"a directory moved, an entry made in it", changes["mv D E/D"], changes["create D/x"], false},
		{"a move against an edit", changes["mv f D/f"], changes["edit f"], false},
		{"a move against a change of mode", changes["mv f f3"], changes["chmod f"], false},
		{"removal of one of two names against an edit", changes["rm f of two"], changes["edit f"], false},
		{"removal of the last name against an edit", changes["rm f"], changes["edit f"], true},
		{"removals of both names, neither the last where it was made", changes["rm f of two"], changes["rm f2 of two"], true},
		{"save by rename against a rename of what it replaces", changes["mv g f"], changes["mv f f3"], true},
		{"save by rename against a change of mode of what it replaces", changes["mv g f"], changes["chmod f"], true},
		{"an edit against touch", changes["edit f"], changes["touch f"], true},
		{"an edit against a change of mode", changes["edit f"], changes["chmod f"], false},
		{"times of a directory against a new entry", changes["touch D"], changes["create D/x"], false},
		{"a manifest against the removal", changes["manifest f"], changes["rm f"], false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if o, got := overlap(tt.ours, tt.theirs); got != tt.want {
				t.Errorf("overlap %v (%v), want %v", got, o, tt.want)
			}
			if o, got := overlap(tt.theirs, tt.ours); got != tt.want {
				t.Errorf("the other way: overlap %v (%v), want %v", got, o, tt.want)
			}
		})
	}
}
