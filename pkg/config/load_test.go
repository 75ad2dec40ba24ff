package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	testUUID  = "6b1b36a8-1f0a-4f6e-8a52-0e6d5a0c7a11"
	otherUUID = "00112233-4455-4677-8899-aabbccddeeff"
	testPrint = "SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	otherFP   = "SHA256:/wECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
)

const goodSysid = "name = \"iclientA\"\nuuid = \"" + testUUID + "\"\n"

const goodServerdb = `[[server]]
name = "iserver"
addresses = ["192.0.2.3", "[2001:db8::3]:371", "2001:db8::4", "iserver.example"]
fingerprint = "` + testPrint + `"
`

const goodFsetdb = `[[fileset]]
name = "shared"
server = "iserver"
`

const servedFsetdb = `[[fileset]]
name = "own"
server = "iclientA"
[[fileset.replicator]]
name = "b"
fingerprint = "` + otherFP + `"
rights = "ro"
`

// writeDir makes a configuration folder; an empty text is a missing file.
func writeDir(t testing.TB, sysid, serverdb, fsetdb string) Dir {
	t.Helper()
	d := Dir(t.TempDir())
	for name, text := range map[string]string{SysidFile: sysid, ServerdbFile: serverdb, FsetdbFile: fsetdb} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(d.Path(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestLoad_Good(t *testing.T) {
	d := writeDir(t, goodSysid, goodServerdb, goodFsetdb+servedFsetdb+"uuid = \""+testUUID+"\"\n")
	c, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	fp, other := mustPrint(t, testPrint), mustPrint(t, otherFP)
	id := c.Sysid.UUID
	want := &Config{
		Sysid: Sysid{Name: "iclientA", UUID: id, Bind: []string{":370"}, Key: "key.pem"},
		Servers: []Server{{Name: "iserver", Fingerprint: fp,
			Addresses: []string{"192.0.2.3:370", "[2001:db8::3]:371", "[2001:db8::4]:370", "iserver.example:370"}}},
		Filesets: []Fileset{
			{Name: "shared", Server: "iserver", Permit: "none", Disconnected: "work", Mode: "full"},
			{Name: "own", Server: "iclientA", Permit: "none", Disconnected: "work", Mode: "full",
				Replicators: []Replicator{{Name: "b", Fingerprint: other, Rights: ReadOnly, UUID: id}}},
		},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Fatal(diff)
	}
	if c.Role(c.Fileset("shared")) != RoleClient || c.Role(c.Fileset("own")) != RoleServer {
		t.Error("wrong role")
	}
	if !c.Knows(other) || c.Knows(fp) {
		t.Error("Knows is wrong")
	}
	if errs := c.Unsupported(); len(errs) > 0 {
		t.Error(errs)
	}
}

func mustPrint(t testing.TB, s string) Fingerprint {
	t.Helper()
	fp, err := ParseFingerprint(s)
	if err != nil {
		t.Fatal(err)
	}
	return fp
}

func TestLoad_Missing(t *testing.T) {
	_, err := Dir(filepath.Join(t.TempDir(), "none")).Load()
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "inconfig init") {
		t.Fatalf("got %v", err)
	}
	c, err := writeDir(t, goodSysid, "", "").Load()
	if err != nil || len(c.Servers)+len(c.Filesets) > 0 {
		t.Fatalf("sysid alone: %v, %v", c, err)
	}
}

// Each broken file gives exactly the problems listed, each beginning with
// FILE:LINE:COLUMN and containing the text.
func TestLoad_Broken(t *testing.T) {
	replicator := "[[fileset.replicator]]\nname = \"b\"\nfingerprint = \"" + otherFP + "\"\n"
	own := "[[fileset]]\nname = \"own\"\nserver = \"iclientA\"\n"
	tests := map[string]struct {
		sysid, serverdb, fsetdb string
		want                    []string
	}{
		"sysid no name":            {sysid: "uuid = \"" + testUUID + "\"\n", want: []string{"sysid: the file has no name"}},
		"sysid empty":              {sysid: "\n", want: []string{"sysid: the file has no name"}},
		"sysid no uuid":            {sysid: "name = \"a\"\n", want: []string{"sysid:1:1: the file has no uuid; add the line uuid = "}},
		"sysid bad uuid":           {sysid: "name = \"a\"\n  uuid = \"6b1b\"\n", want: []string{`sysid:2:3: uuid "6b1b"`}},
		"sysid uuid not hex":       {sysid: "name = \"a\"\nuuid = \"zzzzzzzz-1f0a-4f6e-8a52-0e6d5a0c7a11\"\n", want: []string{"sysid:2:1: uuid"}},
		"sysid typo":               {sysid: goodSysid + "bnid = [\":1\"]\n", want: []string{`sysid:3:1: unknown key "bnid" in the file; did you mean "bind"?`}},
		"sysid case":               {sysid: goodSysid + "Bind = [\":1\"]\n", want: []string{`sysid:3:1: unknown key "Bind" in the file; did you mean "bind"?`}},
		"sysid bind text":          {sysid: goodSysid + "bind = \":1\"\n", want: []string{"sysid:3:1: bind must be an array of strings, not a string"}},
		"sysid bind port":          {sysid: goodSysid + "bind = [\":70000\"]\n", want: []string{`sysid:3:1: address ":70000": port "70000"`}},
		"sysid bind twice":         {sysid: goodSysid + "bind = [\":370\", \"\"]\n", want: []string{"sysid:3:1: address \"\" is there twice"}},
		"sysid name with space":    {sysid: "uuid = \"" + testUUID + "\"\nname = \"a b\"\n", want: []string{`sysid:2:1: host name "a b": has ' '`}},
		"sysid name number":        {sysid: "uuid = \"" + testUUID + "\"\nname = 7\n", want: []string{"sysid:2:1: name must be a string, not a whole number"}},
		"sysid syntax":             {sysid: "name = \"a\n", want: []string{"sysid:1:"}},
		"sysid original form":      {sysid: "iclientA /dev/intermezzo0 192.0.2.20\n", want: []string{"sysid:1:"}},
		"sysid key empty":          {sysid: goodSysid + "key = \"\"\n", want: []string{"sysid:3:1: key is empty"}},
		"sysid duplicate key":      {sysid: goodSysid + "name = \"b\"\n", want: []string{"sysid:3:"}},
		"serverdb no table":        {serverdb: "name = \"x\"\n", want: []string{`serverdb:1:1: unknown key "name" in the file`}},
		"serverdb single brackets": {serverdb: "[server]\nname = \"x\"\n", want: []string{"serverdb:1:1: server must be tables headed [[server]]"}},
		"serverdb typo in table":   {serverdb: "[[servers]]\nname = \"x\"\n", want: []string{`serverdb:1:1: unknown key "servers" in the file; write [[server]]`}},
		"serverdb no addresses":    {serverdb: "[[server]]\nname = \"x\"\nfingerprint = \"" + testPrint + "\"\n", want: []string{"serverdb:1:1: server x has no addresses"}},
		"serverdb address":         {serverdb: "[[server]]\nname = \"x\"\naddress = \"h\"\nfingerprint = \"" + testPrint + "\"\n", want: []string{"serverdb:1:1: server x has no addresses", `serverdb:3:1: unknown key "address" in [[server]]; write it as "addresses"`}},
		"serverdb no fingerprint":  {serverdb: "[[server]]\nname = \"x\"\naddresses = [\"h\"]\n", want: []string{"serverdb:1:1: server x has no fingerprint"}},
		"serverdb bad fingerprint": {serverdb: "[[server]]\nname = \"x\"\naddresses = [\"h\"]\nfingerprint = \"SHA256:abc\"\n", want: []string{"serverdb:4:1: fingerprint"}},
		"serverdb MD5 fingerprint": {serverdb: "[[server]]\nname = \"x\"\naddresses = [\"h\"]\nfingerprint = \"MD5:ab:cd\"\n", want: []string{"serverdb:4:1: fingerprint"}},
		"serverdb second of two":   {serverdb: goodServerdb + "\n[[server]]\nname = \"two\"\naddresses = [\"h:x\"]\nfingerprint = \"" + otherFP + "\"\n", want: []string{`serverdb:8:1: address "h:x": port "x"`}},
		"serverdb duplicate":       {serverdb: goodServerdb + goodServerdb, want: []string{`serverdb:6:1: server "iserver" is in the file twice`}},
		"serverdb own name":        {serverdb: strings.Replace(goodServerdb, "iserver\"", "iclientA\"", 1), want: []string{"serverdb:2:1: server \"iclientA\" has the name of this host"}},
		"serverdb path address":    {serverdb: "[[server]]\nname = \"x\"\naddresses = [\"http://h/\"]\nfingerprint = \"" + testPrint + "\"\n", want: []string{"serverdb:3:1: address"}},
		"fsetdb no server":         {fsetdb: "[[fileset]]\nname = \"f\"\n", want: []string{"fsetdb:1:1: [[fileset]] has no server"}},
		"fsetdb no name":           {fsetdb: "[[fileset]]\nserver = \"iclientA\"\n", want: []string{"fsetdb:1:1: [[fileset]] has no name"}},
		"fsetdb servername":        {fsetdb: "[[fileset]]\nname = \"f\"\nservername = \"iclientA\"\n", want: []string{"fsetdb:1:1: [[fileset]] has no server", `unknown key "servername" in [[fileset]]; write it as "server"`}},
		"fsetdb unknown server":    {serverdb: goodServerdb, fsetdb: "[[fileset]]\nname = \"f\"\nserver = \"iservr\"\n", want: []string{`fsetdb:3:1: fileset f: server "iservr" is neither this host (iclientA) nor in serverdb; did you mean "iserver"?`}},
		"fsetdb server nowhere":    {fsetdb: goodFsetdb, want: []string{"fsetdb:3:1: fileset shared: server \"iserver\" is neither"}},
		"fsetdb bad name":          {fsetdb: "[[fileset]]\nname = \"a/b\"\nserver = \"iclientA\"\n", want: []string{`fsetdb:2:1: fileset name "a/b": has '/'`}},
		"fsetdb reserved name":     {fsetdb: "[[fileset]]\nname = \"lock\"\nserver = \"iclientA\"\n", want: []string{"fsetdb:2:1: fileset name \"lock\" is taken"}},
		"fsetdb duplicate":         {fsetdb: own + own + "channel = 1\n", want: []string{`fsetdb:5:1: fileset "own" is in the file twice`}},
		"fsetdb trailing slash":    {fsetdb: own + "mountpoint = \"/mnt/izo/\"\n", want: []string{"fsetdb:4:1: mount point \"/mnt/izo/\": must not have a slash at the end; write /mnt/izo"}},
		"fsetdb relative mount":    {fsetdb: own + "mountpoint = \"mnt\"\n", want: []string{"fsetdb:4:1: mount point \"mnt\": must begin with /"}},
		"fsetdb relative device":   {fsetdb: own + "device = \"hda9\"\n", want: []string{"fsetdb:4:1: device \"hda9\": must begin with /"}},
		"fsetdb channel text":      {fsetdb: own + "channel = \"/dev/intermezzo0\"\n", want: []string{"fsetdb:4:1: channel must be a whole number, not a string"}},
		"fsetdb channel negative":  {fsetdb: own + "channel = -1\n", want: []string{"fsetdb:4:1: channel = -1 is out of range"}},
		"fsetdb permit typo":       {fsetdb: own + "permit = \"exclusiv\"\n", want: []string{`fsetdb:4:1: permit can't be "exclusiv"; did you mean "exclusive"?`}},
		"fsetdb mode typo":         {fsetdb: own + "mode = \"cached\"\n", want: []string{`fsetdb:4:1: mode can't be "cached"; use "full" or "on-demand"`}},
		"fsetdb rights typo":       {fsetdb: own + replicator + "rights = \"wr\"\n", want: []string{`fsetdb:7:1: rights can't be "wr"; did you mean "rw"?`}},
		"fsetdb replicator twice":  {fsetdb: own + replicator + strings.Replace(replicator, otherFP, testPrint, 1), want: []string{`fsetdb:8:1: fileset.replicator "b" is in the file twice`}},
		"fsetdb shared key":        {fsetdb: own + replicator + strings.Replace(replicator, `"b"`, `"c"`, 1), want: []string{"fsetdb:9:1: replicators b and c have the same key"}},
		"fsetdb shared uuid": {fsetdb: own + replicator + "uuid = \"" + otherUUID + "\"\n" + strings.Replace(strings.Replace(replicator, `"b"`, `"c"`, 1), otherFP, testPrint, 1) + "uuid = \"" + otherUUID + "\"\n",
			want: []string{"fsetdb:11:1: replicators b and c have the same uuid"}},
		"fsetdb replicator no key":  {fsetdb: own + "[[fileset.replicator]]\nname = \"b\"\n", want: []string{"fsetdb:4:1: replicator b has no fingerprint"}},
		"fsetdb replicators list":   {fsetdb: own + "replicators = [\"a\"]\n", want: []string{`fsetdb:4:1: unknown key "replicators"`}},
		"fsetdb replicator typo":    {fsetdb: own + replicator + "right = \"ro\"\n", want: []string{`fsetdb:7:1: unknown key "right" in [[fileset.replicator]]; did you mean "rights"?`}},
		"fsetdb channel clash":      {fsetdb: own + "device = \"/dev/x\"\n" + strings.Replace(own, "own", "two", 1) + "device = \"/dev/y\"\n", want: []string{"fsetdb:5:1: filesets own and two both use channel 0"}},
		"fsetdb one cache":          {fsetdb: own + "device = \"/dev/x\"\n" + strings.Replace(own, "own", "two", 1) + "device = \"/dev/x\"\nchannel = 1\n", want: []string{"fsetdb:9:1: filesets own and two lie in one cache (/dev/x) but have channels 0 and 1"}},
		"fsetdb same mount":         {fsetdb: own + "mountpoint = \"/m\"\n" + strings.Replace(own, "own", "two", 1) + "channel = 1\nmountpoint = \"/m\"\n", want: []string{"fsetdb:9:1: filesets own and two have the same mount point /m"}},
		"fsetdb same uuid":          {fsetdb: own + "uuid = \"" + testUUID + "\"\n" + strings.Replace(own, "own", "two", 1) + "channel = 1\nuuid = \"" + testUUID + "\"\n", want: []string{"fsetdb:9:1: filesets own and two have the same uuid"}},
		"fsetdb not built":          {fsetdb: own + "data = \"write\"\n", want: []string{`fsetdb:4:1: unknown key "data" in [[fileset]]; not built in this version`}},
		"fsetdb mtpt":               {fsetdb: own + "mtpt = \"/m\"\n", want: []string{`write it as "mountpoint"`}},
		"all three":                 {sysid: goodSysid + "x = 1\n", serverdb: goodServerdb + "y = 1\n", fsetdb: goodFsetdb + "z = 1\nchannel = 1.5\n", want: []string{"sysid:3:1:", "serverdb:5:1:", "fsetdb:4:1:", "fsetdb:5:1: channel must be a whole number, not a number"}},
		"fsetdb syntax, no sequels": {fsetdb: "[[fileset\n", want: []string{"fsetdb:1:"}},
		"serverdb syntax":           {serverdb: "[[server]]\nname = x\n", fsetdb: goodFsetdb, want: []string{"serverdb:2:"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.sysid == "" {
				test.sysid = goodSysid
			}
			d := writeDir(t, test.sysid, test.serverdb, test.fsetdb)
			c, err := d.Load()
			if c != nil {
				t.Error("a faulty configuration was returned")
			}
			got := Problems(err)
			if len(got) != len(test.want) {
				t.Fatalf("want %d problems, got:\n%v", len(test.want), err)
			}
			for i, p := range got {
				if !strings.Contains(strings.TrimPrefix(p.Error(), string(d)+"/"), test.want[i]) {
					t.Errorf("want %q\n got %v", test.want[i], p)
				}
			}
		})
	}
}

func TestLoad_NotRegular(t *testing.T) {
	d := writeDir(t, goodSysid, "", "")
	if err := os.Mkdir(d.Path(FsetdbFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Fatalf("got %v", err)
	}
}

func TestLoad_TooLarge(t *testing.T) {
	d := writeDir(t, goodSysid, "", strings.Repeat("#\n", maxFileSize/2+1))
	if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Fatalf("got %v", err)
	}
}

func TestUnsupported(t *testing.T) {
	d := writeDir(t, goodSysid, "", "[[fileset]]\nname = \"f\"\nserver = \"iclientA\"\npermit = \"exclusive\"\nmode = \"on-demand\"\ndisconnected = \"wait\"\n")
	c, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	errs := c.Unsupported()
	if len(errs) != 3 || !strings.Contains(errs[0].Error(), `fileset f: permit = "exclusive" is not built`) {
		t.Fatalf("got %v", errs)
	}
}

func TestLocate(t *testing.T) {
	text := "a = 1\n[[t]] # [x]\n  b = '''x\n[[t]]\n'''\n  \"c\" = [ # ]\n 1, \"]\",\n]\r\n[[t.u]]\nd=\"\\\"\" # e = 1\n[[t]]\nß.y = { z = 1 }\n  b=1\n[[t.u]]\nd = 2\n[[t.u]]\nd = 3"
	text = strings.ReplaceAll(text, "ß", "\"ß\"")
	got := locate([]byte(text))
	want := map[string]position{
		"a": {1, 1}, "t[0]": {2, 1}, "t[0].b": {3, 3}, "t[0].c": {6, 3}, "t[0].u[0]": {9, 1}, "t[0].u[0].d": {10, 1},
		"t[1]": {11, 1}, "t[1].ß": {12, 1}, "t[1].ß.y": {12, 1}, "t[1].b": {13, 3}, "t[1].u[0]": {14, 1}, "t[1].u[0].d": {15, 1},
		"t[1].u[1]": {16, 1}, "t[1].u[1].d": {17, 1},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(position{})); diff != "" {
		t.Fatal(diff)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"name", "uuid", "bind", "fingerprint", "mountpoint", "rw", "ro"}
	for in, want := range map[string]string{"nmae": "name", "fingerpirnt": "fingerprint", "UUID": "uuid", "moutpoint": "mountpoint", "wr": "rw", "xyz": "", "": ""} {
		if got := Nearest(in, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestJoinAddress(t *testing.T) {
	for in, want := range map[string]string{
		"h": "h:370", "h:1": "h:1", "192.0.2.1": "192.0.2.1:370", "::1": "[::1]:370", "[::1]": "[::1]:370", "[::1]:9": "[::1]:9",
		"fe80::1%eth0": "[fe80::1%eth0]:370", "": ":370", ":5": ":5", "*:5": ":5", "*": ":370",
	} {
		got, err := JoinAddress(in, DefaultPort, true)
		if err != nil || got != want {
			t.Errorf("JoinAddress(%q) = %q, %v; want %q", in, got, err, want)
		}
		again, err := JoinAddress(got, 9, true)
		if err != nil || again != got {
			t.Errorf("JoinAddress(%q) = %q, %v", got, again, err)
		}
	}
	for _, in := range []string{"h:", "h:0", "h:65536", "h:x", "a:b:c", "[::1", "[::1]x", "[::1]:", "h h", "h/x", "http://h", "a,b", "user@h", "h:+1"} {
		if got, err := JoinAddress(in, DefaultPort, true); err == nil {
			t.Errorf("JoinAddress(%q) = %q", in, got)
		}
	}
	if _, err := JoinAddress(":1", DefaultPort, false); err == nil {
		t.Error("an address without host was accepted")
	}
}
