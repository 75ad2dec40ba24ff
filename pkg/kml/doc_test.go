package kml

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the vectors of docs/LOG-FORMAT.md anew")

const formatDoc = "../../docs/LOG-FORMAT.md"

// docRecords are the records that the document has vectors of, one an opcode.
func docRecords() map[string]Record {
	r := sampleCreate()
	cred := Cred{PID: 4242, AUID: 1000, FSUID: 1000, FSGID: 100}
	now, id, dir, where := r.Time, r.Object, r.Where.Parent, r.Where
	root := func(name string) Name { return Name{RootID, name} }
	version := func(size, late int64) Version { return Version{size, now + late, now + late} }
	old := Attr{Mode: 0o100644, UID: 1000, GID: 100, Size: 5, Mtime: now}
	other := ObjectID{Space: UUID{0xc0, 0xff, 0xee}, Ino: 99, Gen: 1, Birth: now}
	minted := ObjectID{Space: id.Space, Birth: 17}
	content := Content{Root: [32]byte(bytes.Repeat([]byte{0x5a}, 32))}
	records := map[string]Record{
		"noop":     {Op: OpNoop},
		"create":   r,
		"mkdir":    {Op: OpMkdir, Object: dir, Where: root("folder"), Attr: Attr{Mode: 0o042755, UID: 1000, GID: 100, Mtime: now}, Xattrs: []Xattr{{"system.posix_acl_default", []byte{2, 0, 0, 0}}}},
		"unlink":   {Op: OpUnlink, Object: id, Where: where, Last: true, Before: version(5, 0), ParentBefore: version(4096, 0), ParentAfter: version(4096, 1), Old: old},
		"rmdir":    {Op: OpRmdir, Object: dir, Where: root("folder"), Last: true, Old: Attr{Mode: 0o040755}},
		"close":    {Op: OpClose, Object: id, Where: where, Before: version(0, 0), After: version(5, 1), Attr: Attr{Mode: 0o100644}},
		"symlink":  {Op: OpSymlink, Object: id, Where: root("link"), Attr: Attr{Mode: 0o120777, Size: 8, Mtime: now}, Target: "../there"},
		"rename":   {Op: OpRename, Object: id, Where: where, To: root("final.txt"), Attr: Attr{Mode: modeRegular}, Replaced: other, ReplacedLast: true, ParentBefore: version(4096, 0), ParentAfter: version(4096, 1), ToBefore: version(4096, 0), ToAfter: version(4096, 1)},
		"setattr":  {Op: OpSetattr, Object: id, Where: where, Valid: ValidMode | ValidUID, Attr: Attr{Mode: 0o100600}, Old: old},
		"link":     {Op: OpLink, Object: id, Where: where, To: root("second")},
		"mknod":    {Op: OpMknod, Object: id, Where: root("null"), Attr: Attr{Mode: 0o020666, Rdev: 1<<32 | 3}},
		"write":    {Op: OpWrite, Object: id, Where: where, Before: version(5, 0), After: version(10, 1), Offset: 5, Data: []byte("world")},
		"setxattr": {Op: OpSetxattr, Object: id, Where: where, Xattr: Xattr{"user.color", []byte("blue")}, OldXattr: &Xattr{Name: "user.color"}},
		"delxattr": {Op: OpDelxattr, Object: id, Where: where, Xattr: Xattr{Name: "user.color"}, OldXattr: &Xattr{"user.color", []byte("blue")}},
		"manifest": {Op: OpManifest, Object: id, Where: where, After: version(5, 1), CloseSeq: 2, Content: content},
		"exchange": {Op: OpExchange, Object: id, Where: where, To: root("b"), Replaced: minted},
		"conflict": {Op: OpConflict, Object: id, Where: where, To: root("copy"), Replaced: minted, CloseSeq: 7, Content: Content{content.Root, true}},
		"resolved": {Op: OpResolved, Object: id, CloseSeq: 9},
	}
	for name, r := range records {
		r.Time, r.Cred = now, cred
		if name == "create" {
			r.Cred.Groups = []uint32{24, 27, 100}
		}
		records[name] = r
	}
	return records
}

// vectors gives what the document must have: bytes, and records as text.
func vectors(t *testing.T) (map[string][]byte, map[string]string) {
	bin, text := map[string][]byte{}, map[string]string{}
	records := docRecords()
	encode := func(r Record) []byte {
		b, err := r.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, r := range records {
		bin[name] = encode(r)
		text[name] = string(r.appendText(nil))
	}
	one, two := records["noop"], records["resolved"]
	one.Seq, two.Seq = 10, 12
	g := Group{Origin: filled(0x11), OriginEpoch: 1, First: 10, Last: 12, Chain: Chain(filled(0xcc)), Records: []Record{one, two}}
	group, err := g.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	bin["group"] = group

	h := Header{
		Kind: KindKML, Fileset: filled(0xf5), Owner: records["create"].Object.Space, Epoch: 3,
		Base: Pos{Epoch: 2, Seq: 1000, Chain: Chain(filled(0xbb))}, Created: one.Time,
	}
	head := h.encode()
	bin["header"], bin["header-checksum"] = head[:96], head[headerSize-4:]
	fr := newFramer(&h, "")
	first, pos := fr.appendFrame(nil, h.Base, 0, one.Time+1, bin["noop"])
	second, last := fr.appendFrame(nil, pos, FlagMore, one.Time+2, bin["resolved"])
	bin["frame"], bin["frame-more"] = first, second
	hashed := make([]byte, 32)
	fr.chainHead(hashed, &h.Base.Chain, 1001)
	bin["chain-input"] = append(hashed, bin["noop"]...)
	side := newSidecar(nil, &h)
	bin["index-head"] = side.head
	bin["index-entry"] = side.encode(mark{pos: last, off: headerSize + int64(len(first)+len(second))})
	return bin, text
}

// filled is a uuid of one byte.
func filled(b byte) UUID { return UUID(bytes.Repeat([]byte{b}, 16)) }

var docBlock = regexp.MustCompile("(?ms)^```(hex|text) ([a-z-]+)\n(.*?)^```")

// The vectors of the document are what the code writes, and all of them are
// there.
func TestFormatDoc_Vectors(t *testing.T) {
	doc, err := os.ReadFile(formatDoc)
	if err != nil {
		t.Fatal(err)
	}
	bin, text := vectors(t)
	seen := map[string]bool{}
	written := docBlock.ReplaceAllStringFunc(string(doc), func(block string) string {
		m := docBlock.FindStringSubmatch(block)
		kind, name, body := m[1], m[2], m[3]
		seen[kind+" "+name] = true
		want := text[name] + "\n"
		if kind == "hex" {
			want = hexLines(bin[name])
			if got := unhex(t, body); !*update && !bytes.Equal(got, bin[name]) {
				t.Errorf("vector %s is\n%swant\n%s", name, hexLines(got), want)
			}
		} else if !*update && body != want {
			t.Errorf("text %s is\n%swant\n%s", name, body, want)
		}
		return fmt.Sprintf("```%s %s\n%s```", kind, name, want)
	})
	for _, name := range slices.Sorted(maps.Keys(bin)) {
		if !seen["hex "+name] {
			t.Errorf("the document lacks the vector %s", name)
		}
	}
	for name := range text {
		if !seen["text "+name] {
			t.Errorf("the document lacks the text of %s", name)
		}
	}
	if *update {
		if err := os.WriteFile(filepath.Clean(formatDoc), []byte(written), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// hexLines writes bytes as the document does: 32 a line, in groups of 4.
func hexLines(b []byte) string {
	var s strings.Builder
	for line := range slices.Chunk(b, 32) {
		var words []string
		for w := range slices.Chunk(line, 4) {
			words = append(words, hex.EncodeToString(w))
		}
		s.WriteString(strings.Join(words, " ") + "\n")
	}
	return s.String()
}

// The records of the document are read back from its bytes.
func TestFormatDoc_RecordsAreRead(t *testing.T) {
	doc, err := os.ReadFile(formatDoc)
	if err != nil {
		t.Fatal(err)
	}
	records := docRecords()
	for _, m := range docBlock.FindAllStringSubmatch(string(doc), -1) {
		want, ok := records[m[2]]
		if m[1] != "hex" || !ok {
			continue
		}
		got, err := DecodeRecord(unhex(t, m[3]))
		if err != nil {
			t.Errorf("%s: %v", m[2], err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", m[2], d)
		}
	}
	if len(records) != len(allOps) {
		t.Errorf("%d records for %d opcodes", len(records), len(allOps))
	}
}

// The table of fields in the document is the one in the code.
func TestFormatDoc_FieldTable(t *testing.T) {
	doc, err := os.ReadFile(formatDoc)
	if err != nil {
		t.Fatal(err)
	}
	names := func(f field) []string {
		var list []string
		for i, name := range fieldNames {
			if f&(1<<i) != 0 {
				list = append(list, name)
			}
		}
		return list
	}
	row := regexp.MustCompile(`(?m)^\| (\d+) \| ([A-Z]+) \| ([A-Za-z ]*?) ?\| ([A-Za-z ]*?) ?\|$`)
	rows := row.FindAllStringSubmatch(string(doc), -1)
	if len(rows) != len(allOps) {
		t.Fatalf("%d rows for %d opcodes", len(rows), len(allOps))
	}
	for i, op := range allOps {
		may, must, _ := fieldsOf(op)
		want := []string{fmt.Sprint(uint8(op)), op.String(), strings.Join(names(must), " "), strings.Join(names(may&^must), " ")}
		if d := cmp.Diff(want, rows[i][1:]); d != "" {
			t.Errorf("row of %v: %s", op, d)
		}
	}
	bit := regexp.MustCompile(`(?m)^\| (\d+) \| ([A-Za-z]+) \| `)
	var inOrder []string
	for _, m := range bit.FindAllStringSubmatch(string(doc), -1) {
		if slices.Contains(fieldNames[:], m[2]) {
			inOrder = append(inOrder, m[2])
			if m[1] != fmt.Sprint(len(inOrder)-1) {
				t.Errorf("bit of %s is %s", m[2], m[1])
			}
		}
	}
	if d := cmp.Diff(fieldNames[:], inOrder); d != "" {
		t.Error(d)
	}
}
