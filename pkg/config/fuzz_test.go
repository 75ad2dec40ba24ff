package config

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"
)

func FuzzParseInvitation(f *testing.F) {
	inv := Invitation{Server: "s", Addresses: []string{"h:1"}, Fingerprint: Fingerprint{1}, Fileset: "f", Replicator: "r", Secret: make([]byte, secretSize)}
	code, err := inv.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(code)
	f.Add("izo")
	f.Add("")
	f.Fuzz(func(t *testing.T, code string) {
		inv, err := ParseInvitation(code)
		if err != nil {
			if !errors.Is(err, ErrNotInvitation) && !errors.Is(err, ErrGarbledInvitation) && !errors.Is(err, ErrNewerInvitation) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := inv.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseInvitation(again); err != nil || !reflect.DeepEqual(back, inv) {
			t.Fatalf("%+v became %+v, %v", inv, back, err)
		}
	})
}

// What is intact by its checksum may still be made by anybody.
func FuzzDecodeInvitation(f *testing.F) {
	f.Add(append(make([]byte, 31), append([]byte{1}, append(make([]byte, secretSize), "\x01s\x01f\x01r\x03h:1"...)...)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		inv, err := decodeInvitation(raw)
		if err != nil {
			return
		}
		if _, err := inv.encode(); err != nil && len(raw) < 1000 {
			t.Fatal(err)
		}
	})
}

func FuzzParseMountOptions(f *testing.F) {
	f.Add(seedOptions)
	f.Add("rw,fileset=a,channel=7,x-y=,comment=z")
	f.Add("fileset=a,mtpt=//")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := ParseMountOptions(text)
		if err != nil {
			return
		}
		again, err := ParseMountOptions(o.String())
		if err != nil || !reflect.DeepEqual(again, o) {
			t.Fatalf("%q: %+v became %+v, %v", text, o, again, err)
		}
	})
}

func FuzzFingerprint(f *testing.F) {
	f.Add(testPrint)
	f.Fuzz(func(t *testing.T, s string) {
		if fp, err := ParseFingerprint(s); err == nil && fp.String() != s {
			t.Fatalf("%q is read as %q", s, fp)
		}
	})
}

// fuzzFile reads a configuration in which one file is what the fuzzer makes, and
// checks that what is accepted can be written and is read again as the same.
func fuzzFile(f *testing.F, name string, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l := loadTexts(map[string][]byte{SysidFile: []byte(goodSysid), ServerdbFile: []byte(goodServerdb), FsetdbFile: {}, name: data})
		for _, p := range Problems(errors.Join(l.problems...)) {
			if p.File == "" || p.Text == "" {
				t.Fatalf("problem without place: %#v", p)
			}
		}
		if len(l.problems) > 0 {
			return
		}
		d := Dir("/c")
		if changes, err := d.changes(l, l.config.clone()); err != nil || len(changes) > 0 {
			t.Fatalf("an edit that does nothing: %v, %v", changes, err)
		}
		fresh := loadTexts(nil)
		changes, err := d.changes(fresh, &l.config)
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string][]byte{}
		for _, c := range changes {
			texts[filepath.Base(c.Path)] = c.After
		}
		if again := loadTexts(texts); len(again.problems) > 0 || !reflect.DeepEqual(again.config, l.config) {
			t.Fatalf("%+v became %+v, %v", l.config, again.config, again.problems)
		}
	})
}

func loadTexts(texts map[string][]byte) *loaded {
	l := &loaded{docs: map[string]*document{}}
	for _, name := range []string{SysidFile, ServerdbFile, FsetdbFile} {
		l.docs[name] = parseDocument("/c/"+name, texts[name])
	}
	l.decode()
	return l
}

func FuzzSysid(f *testing.F) {
	fuzzFile(f, SysidFile, goodSysid, "name = \"a\"\nuuid = \""+testUUID+"\"\nbind = [\"::1\", \":4\"]\nkey = \"k\"\n")
}

func FuzzServerdb(f *testing.F) { fuzzFile(f, ServerdbFile, goodServerdb, "server = [{name = \"x\"}]") }

func FuzzFsetdb(f *testing.F) { fuzzFile(f, FsetdbFile, goodFsetdb, goodFsetdb+servedFsetdb) }

func FuzzInvitations(f *testing.F) {
	f.Add([]byte("[[invitation]]\nhash = \"00\"\nfileset = \"f\"\nreplicator = \"r\"\nexpires = 2030-01-01T00:00:00Z\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc := parseDocument("invitations", data)
		decodeOffers(doc)
	})
}

func FuzzFstab(f *testing.F) {
	f.Add([]byte("/dev/hda9 /mnt/izo intermezzo " + seedOptions + " 0 0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set := Fileset{Name: "X", Device: "/dev/hda9", Mountpoint: "/mnt/izo"}
		after, err := changeFstab("fstab", data, set, "ext3")
		if err != nil || after == nil {
			return
		}
		if again, err := changeFstab("fstab", after, set, "ext3"); err != nil || again != nil {
			t.Fatalf("%q became %q, then %q, %v", data, after, again, err)
		}
	})
}
