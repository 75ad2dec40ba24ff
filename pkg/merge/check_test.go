package merge_test

import (
	"math"
	"strings"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
)

var (
	pusher = kml.UUID{7}
	file   = kml.ObjectID{Space: pusher, Ino: 20}
	other  = kml.ObjectID{Space: pusher, Ino: 21}
	folder = kml.ObjectID{Space: pusher, Ino: 22}
)

func name(dir kml.ObjectID, n string) kml.Name { return kml.Name{Parent: dir, Name: n} }

func top(n string) kml.Name { return name(kml.RootID, n) }

func attr(mode uint32) kml.Attr { return kml.Attr{Mode: mode} }

func xattrs(names ...string) (out []kml.Xattr) {
	for _, n := range names {
		out = append(out, kml.Xattr{Name: n, Value: []byte("v")})
	}
	return out
}

func TestCheckGroup_Records(t *testing.T) {
	root := [32]byte{1}
	tests := []struct {
		name string
		r    kml.Record
		want string // part of the error, empty: accepted
	}{
		{"create", kml.Record{Op: kml.OpCreate, Object: file, Where: top("f"), Attr: attr(0o100644), Xattrs: xattrs("user.a", "system.posix_acl_access")}, ""},
		{"mkdir", kml.Record{Op: kml.OpMkdir, Object: folder, Where: top("d"), Attr: attr(0o041777)}, ""},
		{"symlink", kml.Record{Op: kml.OpSymlink, Object: file, Where: top("l"), Attr: attr(0o120777), Target: "../x"}, ""},
		{"device", kml.Record{Op: kml.OpMknod, Object: file, Where: top("n"), Attr: kml.Attr{Mode: 0o020666, Rdev: 1<<32 | 3}}, ""},
		{"fifo", kml.Record{Op: kml.OpMknod, Object: file, Where: top("n"), Attr: attr(0o010666)}, ""},
		{"link", kml.Record{Op: kml.OpLink, Object: file, Where: top("f"), To: name(folder, "g")}, ""},
		{"link without a hint", kml.Record{Op: kml.OpLink, Object: file, To: name(folder, "g")}, ""},
		{"unlink", kml.Record{Op: kml.OpUnlink, Object: file, Where: top("f"), Last: true}, ""},
		{"rmdir", kml.Record{Op: kml.OpRmdir, Object: folder, Where: top("d")}, ""},
		{"rename", kml.Record{Op: kml.OpRename, Object: file, Where: top("f"), To: top("g"), Replaced: other, ReplacedLast: true}, ""},
		{"exchange", kml.Record{Op: kml.OpExchange, Object: file, Where: top("f"), To: top("g"), Replaced: other}, ""},
		{"chmod of the root", kml.Record{Op: kml.OpSetattr, Object: kml.RootID, Valid: kml.ValidMode, Attr: attr(0o040755)}, ""},
		{"chmod without type", kml.Record{Op: kml.OpSetattr, Object: file, Valid: kml.ValidMode, Attr: attr(0o644)}, ""},
		{"touch long ago", kml.Record{Op: kml.OpSetattr, Object: file, Valid: kml.ValidMtime, Attr: kml.Attr{Mtime: -2e18}}, ""},
		{"setxattr", kml.Record{Op: kml.OpSetxattr, Object: file, Xattr: kml.Xattr{Name: "trusted.other", Value: []byte("v")}}, ""},
		{"delxattr", kml.Record{Op: kml.OpDelxattr, Object: file, Xattr: kml.Xattr{Name: "security.capability"}}, ""},
		{"close", kml.Record{Op: kml.OpClose, Object: file, After: kml.Version{Size: 3}, Attr: attr(0o100644)}, ""},
		{"close without a mode", kml.Record{Op: kml.OpClose, Object: file, After: kml.Version{Size: 3}}, ""},
		{"manifest", kml.Record{Op: kml.OpManifest, Object: file, CloseSeq: 2, Content: kml.Content{Root: root}}, ""},
		{"conflict", kml.Record{Op: kml.OpConflict, Object: file}, ""},
		{"noop", kml.Record{Op: kml.OpNoop}, ""},
		{"the control folder's name further down", kml.Record{Op: kml.OpMkdir, Object: folder, Where: name(other, ".intermezzo"), Attr: attr(0o040755)}, ""},

		{"unknown opcode", kml.Record{Op: 99}, "no such record"},
		{"dot-dot", kml.Record{Op: kml.OpUnlink, Object: file, Where: top("..")}, "not a name"},
		{"slash", kml.Record{Op: kml.OpUnlink, Object: file, Where: top("a/b")}, "slash"},
		{"slash in a hint", kml.Record{Op: kml.OpClose, Object: file, Where: top("a/b")}, "slash"},
		{"long name", kml.Record{Op: kml.OpUnlink, Object: file, Where: top(strings.Repeat("x", 256))}, "255"},
		{"control folder made", kml.Record{Op: kml.OpMkdir, Object: folder, Where: top(".intermezzo"), Attr: attr(0o040755)}, "reserved"},
		{"control folder removed", kml.Record{Op: kml.OpRmdir, Object: folder, Where: top(".intermezzo")}, "reserved"},
		{"moved to the control folder", kml.Record{Op: kml.OpRename, Object: folder, Where: top("d"), To: top(".intermezzo")}, "reserved"},
		{"linked as the control folder", kml.Record{Op: kml.OpLink, Object: file, To: top(".intermezzo")}, "reserved"},
		{"control folder as a hint", kml.Record{Op: kml.OpClose, Object: file, Where: top(".intermezzo")}, "reserved"},
		{"root made", kml.Record{Op: kml.OpMkdir, Object: kml.RootID, Where: name(folder, "x"), Attr: attr(0o040755)}, "root"},
		{"root moved", kml.Record{Op: kml.OpRename, Object: kml.RootID, Where: top("f"), To: top("g")}, "root"},
		{"root removed", kml.Record{Op: kml.OpRmdir, Object: kml.RootID, Where: name(folder, "x")}, "root"},
		{"root replaced", kml.Record{Op: kml.OpRename, Object: file, Where: top("f"), To: name(folder, "g"), Replaced: kml.RootID}, "root"},
		{"root exchanged", kml.Record{Op: kml.OpExchange, Object: file, Where: top("f"), To: name(folder, "g"), Replaced: kml.RootID}, "root"},
		{"content for the root", kml.Record{Op: kml.OpClose, Object: kml.RootID}, "root"},
		{"an object of no cache", kml.Record{Op: kml.OpClose, Object: kml.ObjectID{Ino: 5}}, "no cache"},
		{"a parent of no cache", kml.Record{Op: kml.OpUnlink, Object: file, Where: name(kml.ObjectID{Ino: 2}, "x")}, "no cache"},
		{"no object", kml.Record{Op: kml.OpClose}, "Object"},
		{"in itself", kml.Record{Op: kml.OpMkdir, Object: folder, Where: name(folder, "d"), Attr: attr(0o040755)}, "in itself"},
		{"moved into itself", kml.Record{Op: kml.OpRename, Object: folder, Where: top("d"), To: name(folder, "d")}, "in itself"},
		{"exchanged with its parent", kml.Record{Op: kml.OpExchange, Object: file, Where: name(folder, "d"), To: top("e"), Replaced: folder}, "in itself"},
		{"exchanged with itself", kml.Record{Op: kml.OpExchange, Object: file, Where: top("f"), To: top("g"), Replaced: file}, "itself"},
		{"renamed to itself", kml.Record{Op: kml.OpRename, Object: file, Where: top("f"), To: top("f")}, "both names"},
		{"create of a folder", kml.Record{Op: kml.OpCreate, Object: file, Where: top("f"), Attr: attr(0o040755)}, "mode"},
		{"mkdir of a file", kml.Record{Op: kml.OpMkdir, Object: file, Where: top("f"), Attr: attr(0o100755)}, "mode"},
		{"node of no type", kml.Record{Op: kml.OpMknod, Object: file, Where: top("f"), Attr: attr(0o030755)}, "type"},
		{"chmod to no type", kml.Record{Op: kml.OpSetattr, Object: file, Valid: kml.ValidMode, Attr: attr(0o170644)}, "type"},
		{"content of a folder", kml.Record{Op: kml.OpClose, Object: file, Attr: attr(0o040755)}, "mode"},
		{"fifo with a device number", kml.Record{Op: kml.OpMknod, Object: file, Where: top("f"), Attr: kml.Attr{Mode: 0o010644, Rdev: 5}}, "device"},
		{"device out of range", kml.Record{Op: kml.OpMknod, Object: file, Where: top("f"), Attr: kml.Attr{Mode: 0o020644, Rdev: 1 << 44}}, "device"},
		{"no owner", kml.Record{Op: kml.OpSetattr, Object: file, Valid: kml.ValidUID, Attr: kml.Attr{UID: math.MaxUint32}}, "owner"},
		{"no group", kml.Record{Op: kml.OpCreate, Object: file, Where: top("f"), Attr: kml.Attr{Mode: 0o100644, GID: math.MaxUint32}}, "group"},
		{"negative size", kml.Record{Op: kml.OpClose, Object: file, After: kml.Version{Size: -1}}, "negative"},
		{"time out of range", kml.Record{Op: kml.OpSetattr, Object: file, Valid: kml.ValidMtime, Attr: kml.Attr{Mtime: math.MinInt64}}, "time"},
		{"parent's time out of range", kml.Record{Op: kml.OpUnlink, Object: file, Where: top("f"), ParentAfter: kml.Version{Mtime: math.MaxInt64}}, "time"},
		{"our own xattr", kml.Record{Op: kml.OpSetxattr, Object: file, Xattr: kml.Xattr{Name: "trusted.izo", Value: []byte("v")}}, "does not replicate"},
		{"our own xattr removed", kml.Record{Op: kml.OpDelxattr, Object: file, Xattr: kml.Xattr{Name: "trusted.izo.pos"}}, "does not replicate"},
		{"born with our own xattr", kml.Record{Op: kml.OpCreate, Object: file, Where: top("f"), Attr: attr(0o100644), Xattrs: xattrs("user.a", "trusted.izo")}, "does not replicate"},
		{"label", kml.Record{Op: kml.OpSetxattr, Object: file, Xattr: kml.Xattr{Name: "security.selinux", Value: []byte("v")}}, "does not replicate"},
		{"xattr twice", kml.Record{Op: kml.OpCreate, Object: file, Where: top("f"), Attr: attr(0o100644), Xattrs: xattrs("user.a", "user.a")}, "twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.r.Seq = 5
			err := merge.CheckGroup(&kml.Group{Origin: pusher, First: 4, Last: 6, Records: []kml.Record{tt.r}}, pusher)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && err == nil:
				t.Error("accepted")
			case tt.want != "" && !strings.Contains(err.Error(), tt.want):
				t.Errorf("error %q does not say %q", err, tt.want)
			case tt.want != "" && !strings.Contains(err.Error(), "record 5"):
				t.Errorf("error %q does not say which record", err)
			}
		})
	}
}

func TestCheckGroup_Range(t *testing.T) {
	at := func(seqs ...uint64) (out []kml.Record) {
		for _, s := range seqs {
			out = append(out, kml.Record{Seq: s, Op: kml.OpNoop})
		}
		return out
	}
	tests := []struct {
		name string
		g    kml.Group
		want string
	}{
		{"one record", kml.Group{Origin: pusher, First: 1, Last: 1, Records: at(1)}, ""},
		{"some left out", kml.Group{Origin: pusher, First: 3, Last: 9, Records: at(4, 8)}, ""},
		{"all left out", kml.Group{Origin: pusher, First: 3, Last: 9}, ""},
		{"another's", kml.Group{Origin: kml.UUID{8}, First: 1, Last: 1, Records: at(1)}, "origin"},
		{"nobody's", kml.Group{First: 1, Last: 1, Records: at(1)}, "origin"},
		{"from 0", kml.Group{Origin: pusher, First: 0, Last: 1, Records: at(1)}, "range"},
		{"backwards", kml.Group{Origin: pusher, First: 3, Last: 2}, "range"},
		{"before the range", kml.Group{Origin: pusher, First: 3, Last: 4, Records: at(2)}, "range"},
		{"beyond the range", kml.Group{Origin: pusher, First: 3, Last: 4, Records: at(3, 5)}, "range"},
		{"twice", kml.Group{Origin: pusher, First: 3, Last: 4, Records: at(3, 3)}, "order"},
		{"too many", kml.Group{Origin: pusher, First: 1, Last: 1, Records: make([]kml.Record, kml.MaxGroupRecords+1)}, "records"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := merge.CheckGroup(&tt.g, pusher)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if err := merge.CheckGroup(&kml.Group{First: 1, Last: 1}, kml.UUID{}); err == nil {
		t.Error("accepted a pusher without a name")
	}
}

// What a cache keeps for itself is what nobody may push.
func TestCheckGroup_WhatACacheKeepsForItself(t *testing.T) {
	for what, r := range map[string]kml.Record{
		"control folder": {Op: kml.OpMkdir, Object: folder, Where: top(cache.ControlDir), Attr: attr(0o040755)},
		"id":             {Op: kml.OpSetxattr, Object: file, Xattr: kml.Xattr{Name: cache.XattrID, Value: []byte("v")}},
		"position":       {Op: kml.OpSetxattr, Object: kml.RootID, Xattr: kml.Xattr{Name: cache.XattrPos, Value: []byte("v")}},
		"any other":      {Op: kml.OpDelxattr, Object: file, Xattr: kml.Xattr{Name: cache.XattrPrefix + ".x"}},
	} {
		r.Seq = 1
		if err := merge.CheckGroup(&kml.Group{Origin: pusher, First: 1, Last: 1, Records: []kml.Record{r}}, pusher); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func TestReplicatesXattr(t *testing.T) {
	for n, want := range map[string]bool{
		"user.a": true, "user.": false, "user": false, "trusted.x": true, "trusted.izo": false, "trusted.izo.pos": false,
		"trusted.izomorph": false, "security.capability": true, "security.selinux": false, "security.ima": false,
		"security.evm": false, "security.apparmor": true, "system.posix_acl_access": true,
		"system.posix_acl_default": true, "system.nfs4_acl": false, "btrfs.compression": false, "": false,
	} {
		if got := merge.ReplicatesXattr(n); got != want {
			t.Errorf("%q: %v", n, got)
		}
	}
}
