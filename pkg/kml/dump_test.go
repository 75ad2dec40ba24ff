package kml

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func dump(t tester, path string, opts DumpOptions) ([]string, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	err = Dump(&out, f, opts)
	s := strings.TrimSuffix(out.String(), "\n")
	if s == "" {
		return nil, err
	}
	return strings.Split(s, "\n"), err
}

// logOf makes a log of these records and gives its path.
func logOf(t tester, dir string, records ...Record) string {
	t.Helper()
	l := newLog(t, dir, testHeader)
	defer l.Close()
	for i := range records {
		b, err := records[i].AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(FrameRecord, 0, 1_790_000_001_000_000_000, b); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "kml")
}

func TestDump_Text(t *testing.T) {
	create := sampleCreate()
	odd := Record{
		Op: OpRename, Object: create.Object, Where: create.Where, To: Name{RootID, "new\nline \xff"},
		Replaced: ObjectID{Ino: 7, Birth: 9}, ReplacedLast: true,
	}
	path := logOf(t, t.TempDir(), create, odd)
	lines, err := dump(t, path, DumpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`1 2026-09-21T14:13:20.123456789Z CREATE 6b1f429e:12d687.deadbeef.18d75b842b4ec92d at 6b1f429e:20001.1234abcd.18d75b830148db15/"document.txt"` +
			` mode=100644 uid=1000 gid=100 size=0 mtime=2026-09-21T14:13:20.123455789Z after=0@2026-09-21T14:13:20.123455789Z` +
			` parent-before=4096@2026-09-21T14:13:15.123456789Z parent-after=4096@2026-09-21T14:13:20.123455789Z` +
			` pid=4242 auid=1000 fsuid=1000 fsgid=100 groups=[24 27 100]`,
		`2 1970-01-01T00:00:00Z RENAME 6b1f429e:12d687.deadbeef.18d75b842b4ec92d at 6b1f429e:20001.1234abcd.18d75b830148db15/"document.txt"` +
			` to root/"new\nline \xff" replaced=00000000:7.0.9 replaced-last pid=0 auid=0 fsuid=0 fsgid=0`,
	}
	for i := range want {
		if i >= len(lines) || lines[i] != want[i] {
			t.Errorf("line %d\n got %s\nwant %s", i, lines[i], want[i])
		}
	}
	if lines, err := dump(t, path, DumpOptions{From: 2}); err != nil || len(lines) != 1 || lines[0] != want[1] {
		t.Errorf("from 2: %q, %v", lines, err)
	}
}

// Every record makes exactly one line, and with JSON one object.
func TestDump_OneLineARecord(t *testing.T) {
	dir := t.TempDir()
	var records []Record
	for i := range 4 * len(allOps) {
		records = append(records, rapid.Custom(func(t *rapid.T) Record { return drawRecord(t, allOps[i%len(allOps)]) }).Example(i))
	}
	path := logOf(t, dir, records...)
	lines, err := dump(t, path, DumpOptions{})
	if err != nil || len(lines) != len(records) {
		t.Fatalf("%d lines for %d records, %v", len(lines), len(records), err)
	}
	objects, err := dump(t, path, DumpOptions{JSON: true})
	if err != nil || len(objects) != len(records) {
		t.Fatalf("%d objects for %d records, %v", len(objects), len(records), err)
	}
	for i, s := range objects {
		var o struct {
			Position uint64
			Record   struct {
				Seq uint64
				Op  string
			}
		}
		if err := json.Unmarshal([]byte(s), &o); err != nil {
			t.Fatal(err)
		}
		if o.Position != uint64(i+1) || o.Record.Seq != o.Position || o.Record.Op != records[i].Op.String() {
			t.Errorf("object %d is %s", i, s)
		}
		if words := strings.Fields(lines[i]); words[2] != o.Record.Op {
			t.Errorf("line %d is %s", i, lines[i])
		}
	}
}

func TestDump_Groups(t *testing.T) {
	dir := t.TempDir()
	h := testHeader
	h.Kind = KindOrder
	l := newLog(t, dir, h)
	defer l.Close()
	name := Name{RootID, "\xfe"}
	for _, g := range []Group{
		{Origin: UUID{0xab}, First: 4, Last: 6, Records: []Record{{Seq: 4, Op: OpNoop}, {Seq: 6, Op: OpUnlink, Object: ObjectID{Ino: 9}, Where: name}}},
		{Origin: UUID{0xab}, First: 7, Last: 8},
	} {
		b, err := g.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(FrameGroup, FlagMore, 0, b); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "kml")
	lines, err := dump(t, path, DumpOptions{})
	if err != nil || len(lines) != 3 {
		t.Fatal(lines, err)
	}
	for i, prefix := range []string{"1 ab000000/4 ", "1 ab000000/6 ", "2 ab000000/7-8 nothing left"} {
		if !strings.HasPrefix(lines[i], prefix) {
			t.Errorf("line %d is %s", i, lines[i])
		}
	}
	objects, err := dump(t, path, DumpOptions{JSON: true})
	if err != nil || len(objects) != 3 {
		t.Fatal(objects, err)
	}
	if !strings.Contains(objects[1], `"name":{"base64":"/g=="}`) || !strings.Contains(objects[1], `"more":true`) {
		t.Error(objects[1])
	}
	if strings.Contains(objects[2], `"record"`) || !strings.Contains(objects[2], `"group":{"origin":"ab`) {
		t.Error(objects[2])
	}
}

func TestDump_TornAndCorrupt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kml")
	b := smallLog(t, dir, 10)
	write := func(b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(b[:len(b)-3])
	var torn *TornError
	lines, err := dump(t, path, DumpOptions{})
	if len(lines) != 9 || !errors.As(err, &torn) || !errors.Is(err, ErrTorn) || torn.Seq != 9 {
		t.Errorf("torn: %d lines, %v", len(lines), err)
	}
	bad := bytes.Clone(b)
	at := headerSize + int(frameSize(len(body(1)))) + 50
	bad[at] ^= 1
	write(bad[:len(b)-3])
	lines, err = dump(t, path, DumpOptions{})
	var corrupt *CorruptError
	if len(lines) != 8 || !errors.As(err, &corrupt) || !errors.Is(err, ErrTorn) || corrupt.Seq != 2 || corrupt.File != path {
		t.Errorf("corrupt: %d lines, %v", len(lines), err)
	}
	write([]byte("this is neither the one nor the other"))
	if _, err := dump(t, path, DumpOptions{}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "no log") {
		t.Errorf("neither: %v", err)
	}
	write(nil)
	if _, err := dump(t, path, DumpOptions{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("empty: %v", err)
	}
	if lines, err := dump(t, path, DumpOptions{Gen2: true}); err != nil || len(lines) != 0 {
		t.Errorf("empty, of the original: %v", err)
	}
}

func TestDump_BodyThatIsNoRecord(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	defer l.Close()
	fill(t, l, 1)
	if _, err := l.Append(FrameRecord, 0, 0, []byte("no record")); err != nil {
		t.Fatal(err)
	}
	fill(t, l, 3)
	lines, err := dump(t, filepath.Join(dir, "kml"), DumpOptions{})
	var bad *CorruptError
	if len(lines) != 2 || !errors.As(err, &bad) || bad.Seq != 2 {
		t.Fatalf("%q, %v", lines, err)
	}
	var problems []error
	end, err := Verify(l.f, func(p error) bool { problems = append(problems, p); return true })
	if err != nil || end != l.End() || len(problems) != 1 || problems[0].Error() != bad.Error() {
		t.Errorf("%v, %v, %v", end, problems, err)
	}
}

func TestDump_Gen2(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kml")
	golden := gen2Golden(t)
	if err := os.WriteFile(path, append(make([]byte, 12), golden[:len(golden)-4]...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []DumpOptions{{}, {Gen2: true}, {JSON: true}} {
		lines, err := dump(t, path, opts)
		if len(lines) != 2 || !errors.Is(err, ErrTorn) {
			t.Fatalf("%q, %v", lines, err)
		}
		if opts.JSON {
			var o map[string]any
			if err := json.Unmarshal([]byte(lines[1]), &o); err != nil || o["path"] != "/hello" || o["op"] != "CLOSE" || o["recno"] != 2.0 {
				t.Errorf("%v, %v", o, err)
			}
		} else if !strings.HasPrefix(lines[0], `1 2002-09-26T00:26:40Z CREATE "/hello" mode=100644 uid=1000 gid=100 after=`) {
			t.Error(lines[0])
		}
	}
	if lines, _ := dump(t, path, DumpOptions{From: 2}); len(lines) != 1 {
		t.Error(lines)
	}
}

func TestDump_ReportsAWriterThatFails(t *testing.T) {
	path := logOf(t, t.TempDir(), sampleCreate())
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Dump(brokenWriter{}, f, DumpOptions{}); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }
