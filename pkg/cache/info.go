package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// DefaultFileset is the name of a cache's fileset if nobody says otherwise.
const DefaultFileset = "rootfset"

// Info describes a cache. It is the file "cache" of the control folder.
type Info struct {
	Format  int      // of the layout, FormatNumber
	UUID    kml.UUID // of the cache: its id space, and the origin of its log
	Label   string   // for people
	Created time.Time
	Bottom  string // type of the bottom file system: ext4, xfs, btrfs or tmpfs
	Place   Place  // where it was made, by which a copy is noticed
}

// Place says which inodes of which file system a cache is. A cache whose place
// is not the recorded one was copied, or its file system was given a new uuid.
type Place struct {
	Control        string // file handle of the control folder, "TYPE:HEX"
	Root           string // file handle of the folder that is the bottom's root
	RootGeneration uint32 // of that folder's inode; 0 where the file system tells none
	Filesystem     string // uuid of the bottom file system, empty where it tells none
}

// FilesetInfo describes a fileset of a cache. It is the file "fileset" of the
// fileset's control folder.
type FilesetInfo struct {
	Name    string
	UUID    kml.UUID // of the fileset; zero until a daemon attached to it
	Role    string   // "", "server" or "client"; see channel.Role
	Server  string   // for a client: its server, as told by the daemon
	Adopt   bool     // the tree was there before: presto logs it at the first mount, then clears this
	Created time.Time
	// Root is the fileset's tree relative to the bottom's root: "." for the first
	// fileset. It is found in the layout and not written to the file.
	Root string
}

type infoFile struct {
	Format  int       `toml:"format"`
	UUID    string    `toml:"uuid"`
	Label   string    `toml:"label"`
	Created time.Time `toml:"created"`
	Bottom  string    `toml:"bottom"`
	Place   placeFile `toml:"place"`
}

type placeFile struct {
	Control        string `toml:"control"`
	Root           string `toml:"root"`
	RootGeneration uint32 `toml:"root_generation"`
	Filesystem     string `toml:"filesystem"`
}

type filesetFile struct {
	Name    string    `toml:"name"`
	UUID    string    `toml:"uuid"`
	Role    string    `toml:"role"`
	Server  string    `toml:"server"`
	Adopt   bool      `toml:"adopt"`
	Created time.Time `toml:"created"`
}

// reserved are names in the control folder that no fileset can have.
var reserved = [...]string{InfoFile, LockFile, IndexFile, JournalFile}

// MaxFilesetName is the longest name of a fileset, in bytes.
const MaxFilesetName = 64

// CheckFilesetName says why name cannot be the name of a fileset in a cache, or
// nil: 1 to 64 letters, digits, dots, underscores and hyphens of ASCII, not
// beginning with a dot, and not a name that the control folder has itself.
func CheckFilesetName(name string) error {
	if name == "" || len(name) > MaxFilesetName {
		return fmt.Errorf("fileset name %q: want 1 to %d characters", name, MaxFilesetName)
	}
	if name[0] == '.' || name[0] == '-' {
		return fmt.Errorf("fileset name %q: must not begin with a dot or a hyphen", name)
	}
	for _, r := range name {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)) {
			return fmt.Errorf("fileset name %q: %q is not allowed; use letters, digits, '.', '_' and '-'", name, r)
		}
	}
	for _, r := range reserved {
		if name == r || name == r+".new" {
			return fmt.Errorf("fileset name %q: the cache needs this name itself; choose another", name)
		}
	}
	return nil
}

// decodeStrict decodes TOML into v; a key that v does not have is an error.
// Errors begin with the line where that is known.
func decodeStrict(b []byte, v any) error {
	md, err := toml.Decode(string(b), v)
	if err != nil {
		if perr := (toml.ParseError{}); errors.As(err, &perr) {
			return fmt.Errorf("line %d: %s", perr.Position.Line, perr.Message)
		}
		return err
	}
	if keys := md.Undecoded(); len(keys) > 0 {
		return fmt.Errorf("unknown key %q", keys[0].String())
	}
	return nil
}

// decodeInfo reads an Info. A format newer than ours is reported as ErrNewer
// before anything else is looked at, because its other keys may be unknown.
func decodeInfo(b []byte) (Info, error) {
	var head struct {
		Format int `toml:"format"`
	}
	if _, err := toml.Decode(string(b), &head); err != nil {
		return Info{}, decodeStrict(b, &infoFile{})
	}
	if head.Format > FormatNumber {
		return Info{Format: head.Format}, ErrNewer
	}
	var f infoFile
	if err := decodeStrict(b, &f); err != nil {
		return Info{}, err
	}
	if f.Format < 1 {
		return Info{}, fmt.Errorf("format %d is not a format number", f.Format)
	}
	id, err := kml.ParseUUID(f.UUID)
	if err != nil {
		return Info{}, err
	}
	if id.IsZero() {
		return Info{}, errors.New("uuid is zero")
	}
	return Info{
		Format: f.Format, UUID: id, Label: f.Label, Created: f.Created, Bottom: f.Bottom,
		Place: Place(f.Place),
	}, nil
}

func encodeInfo(i Info) ([]byte, error) {
	return encode("# A cache of InterMezzo. Written by mkizofs; do not edit.\n", infoFile{
		Format: i.Format, UUID: i.UUID.String(), Label: i.Label, Created: i.Created.UTC(), Bottom: i.Bottom,
		Place: placeFile(i.Place),
	})
}

func decodeFileset(b []byte) (FilesetInfo, error) {
	var f filesetFile
	if err := decodeStrict(b, &f); err != nil {
		return FilesetInfo{}, err
	}
	if err := CheckFilesetName(f.Name); err != nil {
		return FilesetInfo{}, err
	}
	if f.Role != "" && f.Role != "server" && f.Role != "client" {
		return FilesetInfo{}, fmt.Errorf("role %q: want \"server\", \"client\" or nothing", f.Role)
	}
	i := FilesetInfo{Name: f.Name, Role: f.Role, Server: f.Server, Adopt: f.Adopt, Created: f.Created}
	if f.UUID == "" {
		return i, nil
	}
	var err error
	i.UUID, err = kml.ParseUUID(f.UUID)
	return i, err
}

func encodeFileset(i FilesetInfo) ([]byte, error) {
	f := filesetFile{Name: i.Name, Role: i.Role, Server: i.Server, Adopt: i.Adopt, Created: i.Created.UTC()}
	if !i.UUID.IsZero() {
		f.UUID = i.UUID.String()
	}
	return encode("# A fileset of this cache. Written by mkizofs and presto; do not edit.\n", f)
}

func encode(head string, v any) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(head)
	e := toml.NewEncoder(&b)
	e.Indent = ""
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode description: %w", err)
	}
	return b.Bytes(), nil
}

// WriteFilesetInfo makes info the description of the fileset whose control
// folder is control, atomically and durably. It blocks on the disk. The name
// must be the folder's.
func WriteFilesetInfo(control *os.File, info FilesetInfo) error {
	if err := CheckFilesetName(info.Name); err != nil {
		return err
	}
	b, err := encodeFileset(info)
	if err != nil {
		return err
	}
	if _, err := decodeFileset(b); err != nil { // never write what we would refuse
		return fmt.Errorf("describe fileset %s: %w", info.Name, err)
	}
	return replaceAt(control, FilesetFile, b)
}

// RootPath is where the tree of a further fileset lies below the bottom's root.
func RootPath(name string) string { return path.Join(ControlDir, name, RootName) }
