package mkfs

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Sizes of a file system that Make makes, in bytes.
const (
	MinSize = 16 << 20
	MaxSize = 100 << 30 // with EngineGo; mke2fs has limits of its own
)

const (
	// maxVolumeLabel is the longest label that ext4 holds, in bytes.
	maxVolumeLabel = 16
	maxLabel       = 64
)

// Engine is who makes the file system.
type Engine string

const (
	EngineGo        Engine = "go"        // go-diskfs, built in
	EngineE2fsprogs Engine = "e2fsprogs" // an installed mke2fs
)

// Request says what to make. Target is needed; the zero value of the rest is the
// ordinary way.
type Request struct {
	Target   string   // block device, image file, or folder
	Size     int64    // bytes of an image file to be made, 0: there is one
	Filesets []string // names; empty: cache.DefaultFileset. The first has the root
	Label    string
	UUID     kml.UUID // of the cache and of the ext4; zero: a random one
	Engine   Engine   // empty: EngineGo
	Adopt    bool     // keep the file system and the tree: the first fileset has it
	Add      bool     // add the filesets to the cache that is there
	Force    bool     // overwrite what is there
	DryRun   bool     // find everything out, and change nothing
	// Progress, if it is set, is told from time to time how many bytes of a format
	// are done.
	Progress func(done, total int64)
}

// UsageError is a Request that makes no sense whatever the target is.
type UsageError struct{ Detail string }

// Error gives the detail.
func (e *UsageError) Error() string { return e.Detail }

// Refusal is a target that was left alone.
type Refusal struct {
	Target string
	Found  string // why: "has a GPT partition table"
	Next   string // what to do about it
}

// Error gives "TARGET: found; next".
func (e *Refusal) Error() string { return e.Target + ": " + e.Found + "; " + e.Next }

// FilesetSummary is a fileset that was made.
type FilesetSummary struct {
	Name  string `json:"name"`
	Root  string `json:"root"` // of its tree, below the root of the file system
	Adopt bool   `json:"adopt"`
}

// Summary says what was done, or would be.
type Summary struct {
	Target    string           `json:"target"` // its real path
	Kind      string           `json:"kind"`   // device, image or folder
	Action    string           `json:"action"` // format, prepare, adopt or add
	DryRun    bool             `json:"dry_run"`
	Bottom    string           `json:"bottom"`               // type of the file system
	Engine    Engine           `json:"engine,omitempty"`     // of a format
	SizeBytes int64            `json:"size_bytes,omitempty"` // of the file system of a format
	Inodes    int64            `json:"inodes,omitempty"`     // of a format, about
	UUID      string           `json:"uuid,omitempty"`       // of the cache; empty in a dry run that would choose one
	Label     string           `json:"label"`
	Filesets  []FilesetSummary `json:"filesets"` // that this made
	Destroyed string           `json:"destroyed,omitempty"`
	Steps     []string         `json:"steps"` // in order, each a line for people
}

// check completes r, or says as a *UsageError what is wrong with it.
func (r Request) check() (Request, error) {
	misuse := func(format string, args ...any) (Request, error) {
		return r, &UsageError{Detail: fmt.Sprintf(format, args...)}
	}
	if r.Engine == "" {
		r.Engine = EngineGo
	}
	if len(r.Filesets) == 0 && !r.Add {
		r.Filesets = []string{cache.DefaultFileset}
	}
	switch {
	case r.Target == "":
		return misuse("no target: name a device, an image file or a folder")
	case r.Engine != EngineGo && r.Engine != EngineE2fsprogs:
		return misuse("engine %q: want %s or %s", r.Engine, EngineGo, EngineE2fsprogs)
	case r.Add && r.Adopt:
		return misuse("an existing cache gets only empty filesets: use --add or --adopt, not both")
	case r.Add && len(r.Filesets) == 0:
		return misuse("--add needs the name of the new fileset: --fileset NAME")
	case r.Add && (r.Label != "" || !r.UUID.IsZero()):
		return misuse("--add leaves label and uuid of the cache as they are")
	case r.Size != 0 && (r.Add || r.Adopt):
		return misuse("--size is for making an image file, not with --add or --adopt")
	case r.Size != 0 && r.Size < MinSize:
		return misuse("size %s: at least %s is needed", FormatSize(r.Size), FormatSize(MinSize))
	}
	seen := map[string]bool{}
	for _, n := range r.Filesets {
		if err := cache.CheckFilesetName(n); err != nil {
			return misuse("%v", err)
		}
		if seen[n] {
			return misuse("fileset %q is given twice", n)
		}
		seen[n] = true
	}
	if err := checkLabel(r.Label, maxLabel); err != nil {
		return misuse("%v", err)
	}
	return r, nil
}

func checkLabel(label string, limit int) error {
	if len(label) > limit {
		return fmt.Errorf("label %q: longer than %d bytes", label, limit)
	}
	if !utf8.ValidString(label) || strings.ContainsFunc(label, unicode.IsControl) {
		return fmt.Errorf("label %q: not printable text", label)
	}
	return nil
}
