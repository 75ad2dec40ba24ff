package presto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// backend answers the daemon. It is the channel's view of a Presto.
type backend struct{ p *Presto }

var _ channel.Backend = backend{}

func (b backend) fileset(name string) (*fileset, error) {
	fs := b.p.filesets[name]
	if fs == nil {
		return nil, &channel.Error{Code: channel.ErrNoFileset,
			Text: fmt.Sprintf("cache %s has no fileset %q (it has %s)", b.p.cache.Source(), name, strings.Join(b.p.names(), ", "))}
	}
	return fs, nil
}

func (b backend) Info(context.Context) (channel.Info, error) {
	p := b.p
	info := channel.Info{PID: os.Getpid(), Version: p.opts.Version, Cache: p.cache.Info().UUID, Source: p.cache.Source(),
		Bottom: p.cache.BottomType(), Channel: p.opts.Channel, Data: "presto", Link: "dev-fuse"}
	for _, name := range p.names() {
		info.Filesets = append(info.Filesets, p.filesets[name].status())
	}
	return info, nil
}

func (b backend) Attach(_ context.Context, name string, role channel.Role, uuid kml.UUID) (*channel.Attachment, error) {
	fs, err := b.fileset(name)
	if err != nil {
		return nil, err
	}
	if err := fs.attach(role, uuid); err != nil {
		return nil, err
	}
	at := &channel.Attachment{Cache: fs.owner, Fileset: fs.status()}
	files := []struct {
		to   **os.File
		name string
		flag int
	}{{&at.KML, cache.KMLFile, unix.O_RDONLY}, {&at.Order, cache.OrderFile, unix.O_RDONLY}, {&at.Stage, cache.StageDir, unix.O_RDONLY | unix.O_DIRECTORY}}
	for _, f := range files {
		fd, err := openRetry(int(fs.control.Fd()), f.name, f.flag, 0)
		if errors.Is(err, unix.ENOENT) && f.name == cache.OrderFile {
			continue // a client that has received nothing yet
		}
		if err != nil {
			closeAll(at.KML, at.Order, at.Stage)
			return nil, fmt.Errorf("open %s: %w", f.name, err)
		}
		*f.to = os.NewFile(uintptr(fd), f.name)
	}
	return at, nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

func (b backend) Sync(_ context.Context, name string) error {
	if _, err := b.fileset(name); err != nil {
		return err
	}
	return b.p.cache.Sync()
}

func (b backend) Contents(_ context.Context, name string, ids []kml.ObjectID, capture bool) ([]channel.Opened, error) {
	fs, err := b.fileset(name)
	if err != nil {
		return nil, err
	}
	out := make([]channel.Opened, len(ids))
	for i, id := range ids {
		out[i] = fs.content(id, capture)
	}
	return out, nil
}

func (b backend) Bind(_ context.Context, name string, bs []channel.Binding) ([]bool, error) {
	fs, err := b.fileset(name)
	if err != nil {
		return nil, err
	}
	ok := make([]bool, len(bs))
	for i := range bs {
		if ok[i], err = fs.bind(&bs[i]); err != nil {
			return ok, err
		}
	}
	return ok, nil
}

func (b backend) Barrier(_ context.Context, name string) (kml.Pos, error) {
	fs, err := b.fileset(name)
	if err != nil {
		return kml.Pos{}, err
	}
	if err := fs.barrier(); err != nil {
		return kml.Pos{}, err
	}
	return fs.kml.End(), nil
}

func (b backend) Accept(_ context.Context, name string, peer kml.UUID, base kml.Pos, groups []kml.Group) (channel.AcceptResult, error) {
	fs, err := b.fileset(name)
	if err != nil {
		return channel.AcceptResult{}, err
	}
	return fs.accept(peer, base, groups)
}

func (b backend) Apply(_ context.Context, name string, ends []kml.Pos, groups []kml.Group) (channel.ApplyResult, error) {
	fs, err := b.fileset(name)
	if err != nil {
		return channel.ApplyResult{}, err
	}
	return fs.applyUnit(ends, groups)
}

func (b backend) Path(_ context.Context, name string, id kml.ObjectID) (string, error) {
	fs, err := b.fileset(name)
	if err != nil {
		return "", err
	}
	return fs.path(id), nil
}

// mountArgs is what the helper says with a /dev/fuse descriptor.
type mountArgs struct {
	Fileset    string `json:"fileset"`
	Mountpoint string `json:"mountpoint"`
	ReadOnly   bool   `json:"read_only"`
}

func (b backend) Control(_ context.Context, verb string, args json.RawMessage, files []*os.File) (json.RawMessage, error) {
	switch verb {
	case "mount":
		var m mountArgs
		if err := json.Unmarshal(args, &m); err != nil || len(files) != 1 {
			return nil, &channel.Error{Code: channel.ErrInvalid, Text: "mount wants a fileset, a mount point and one descriptor"}
		}
		return json.RawMessage("{}"), b.p.AddMount(m.Fileset, files[0], m.Mountpoint, m.ReadOnly)
	case "quit":
		go b.p.Close()
		return json.RawMessage("{}"), nil
	}
	return nil, &channel.Error{Code: channel.ErrInvalid, Text: fmt.Sprintf("presto does not know the verb %q", verb)}
}
