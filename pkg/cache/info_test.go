package cache

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

func TestCheckFilesetName(t *testing.T) {
	for name, ok := range map[string]bool{
		"rootfset": true, "a": true, "home.2": true, "A_b-c.d": true, strings.Repeat("x", 64): true,
		"": false, ".": false, "..": false, ".hidden": false, "a/b": false, "a b": false, "ä": false, "a\n": false,
		strings.Repeat("x", 65): false, "cache": false, "lock": false, "ids": false, "ids.journal": false, "cache.new": false,
	} {
		if err := CheckFilesetName(name); (err == nil) != ok {
			t.Errorf("name %q: %v, want ok %v", name, err, ok)
		}
	}
}

func genUUID() *rapid.Generator[kml.UUID] {
	return rapid.Custom(func(t *rapid.T) (u kml.UUID) {
		copy(u[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
		return u
	})
}

func genTime() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(0, rapid.Int64Range(0, 1<<62).Draw(t, "ns")).UTC()
	})
}

func TestInfo_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := Info{
			Format: FormatNumber, UUID: genUUID().Filter(func(u kml.UUID) bool { return !u.IsZero() }).Draw(t, "uuid"),
			Label: rapid.String().Draw(t, "label"), Created: genTime().Draw(t, "created"), Bottom: "ext4",
			Place: Place{Control: rapid.String().Draw(t, "control"), RootGeneration: rapid.Uint32().Draw(t, "gen")},
		}
		b, err := encodeInfo(i)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeInfo(b); err != nil || got != i {
			t.Fatalf("wrote %+v\n%s\nread %+v: %v", i, b, got, err)
		}
	})
}

func TestFilesetInfo_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := FilesetInfo{
			Name: "f" + rapid.StringMatching(`[A-Za-z0-9._-]{0,40}`).Draw(t, "name"), UUID: genUUID().Draw(t, "uuid"),
			Role: rapid.SampledFrom([]string{"", "server", "client"}).Draw(t, "role"), Server: rapid.String().Draw(t, "server"),
			Adopt: rapid.Bool().Draw(t, "adopt"), Created: genTime().Draw(t, "created"),
		}
		b, err := encodeFileset(i)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeFileset(b); err != nil || got != i {
			t.Fatalf("wrote %+v\n%s\nread %+v: %v", i, b, got, err)
		}
	})
}

func TestDecodeInfo_NewerBeforeStrict(t *testing.T) {
	if _, err := decodeInfo([]byte("format = 7\nuuid = 3\nshape = [1, 2]\n")); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer format with unknown keys: %v", err)
	}
}

func FuzzDecodeInfo(f *testing.F) {
	good, err := encodeInfo(Info{Format: 1, UUID: kml.UUID{1}, Label: "l", Created: time.Unix(1, 2), Bottom: "xfs"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("format = 2"))
	f.Add([]byte("format = \"x\""))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := decodeInfo(b)
		if err != nil {
			return
		}
		if i.Format < 1 || i.Format > FormatNumber || i.UUID.IsZero() {
			t.Errorf("accepted %+v", i)
		}
	})
}

func FuzzDecodeFileset(f *testing.F) {
	good, err := encodeFileset(FilesetInfo{Name: "rootfset", UUID: kml.UUID{1}, Role: "server"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("name = \"..\""))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := decodeFileset(b)
		if err == nil && CheckFilesetName(i.Name) != nil {
			t.Errorf("accepted the name %q", i.Name)
		}
	})
}
