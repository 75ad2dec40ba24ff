package channel

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
)

// MaxContents is how many objects one call of Contents may name.
const MaxContents = 128

func (c *session) control(ctx context.Context, h header, files []*os.File) answer {
	var args controlArgs
	if err := json.Unmarshal(h.Args, &args); err != nil {
		return answer{err: invalid(h.Call, err)}
	}
	res, err := c.backend.Control(ctx, args.Verb, args.Args, files)
	if err == nil && len(res) > 0 && !json.Valid(res) {
		// The files are the backend's already, so this is not an error of the call.
		c.log.Error("result on channel is not JSON", "verb", args.Verb)
		res = nil
	}
	return answer{args: res, err: err}
}

func (c *session) attach(ctx context.Context, h header) answer {
	var args attachArgs
	if err := json.Unmarshal(h.Args, &args); err != nil {
		return answer{err: invalid(h.Call, err)}
	}
	// Before the state is taken, so that no event falls between the two.
	c.want(h.Fileset, 1)
	att, err := c.backend.Attach(ctx, h.Fileset, args.Role, args.UUID)
	if err != nil {
		c.want(h.Fileset, -1)
		return answer{err: err}
	}
	r := attachReply{Fileset: att.Fileset, Cache: att.Cache}
	var a answer
	for _, f := range []struct {
		name string
		file *os.File
	}{{fileKML, att.KML}, {fileOrder, att.Order}, {fileStage, att.Stage}} {
		if f.file != nil {
			r.Files = append(r.Files, f.name)
			a.files = append(a.files, f.file)
		}
	}
	a.args = marshal(r)
	return a
}

func (c *session) want(fileset string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attached[fileset] += n
}

func (c *session) contents(ctx context.Context, h header, blob []byte) answer {
	var args contentsArgs
	if err := json.Unmarshal(h.Args, &args); err != nil {
		return answer{err: invalid(h.Call, err)}
	}
	ids, err := decodeObjects(blob)
	if err == nil && len(ids) > MaxContents {
		err = fmt.Errorf("%d objects in one call, at most %d may be", len(ids), MaxContents)
	}
	if err != nil {
		return answer{err: invalid(h.Call, err)}
	}
	list, err := c.backend.Contents(ctx, h.Fileset, ids, args.Capture)
	if err != nil {
		return answer{err: err}
	}
	a := answer{blob: encodeOpened(list)}
	for _, o := range list {
		if o.File != nil {
			a.files = append(a.files, o.File)
		}
	}
	return a
}

func (c *session) accept(ctx context.Context, h header, blob []byte) answer {
	var args acceptArgs
	if err := json.Unmarshal(h.Args, &args); err != nil {
		return answer{err: invalid(h.Call, err)}
	}
	_, groups, err := decodeGroups(blob)
	if err != nil {
		return answer{err: invalid(h.Call, err)}
	}
	res, err := c.backend.Accept(ctx, h.Fileset, args.Peer, args.Base, groups)
	return answer{args: marshal(res), err: err}
}

func (c *session) apply(ctx context.Context, h header, blob []byte) answer {
	ends, groups, err := decodeGroups(blob)
	if err == nil && len(ends) != len(groups) {
		err = fmt.Errorf("%d positions for %d groups", len(ends), len(groups))
	}
	if err != nil {
		return answer{err: invalid(h.Call, err)}
	}
	res, err := c.backend.Apply(ctx, h.Fileset, ends, groups)
	return answer{args: marshal(res), err: err}
}

func (c *session) bind(ctx context.Context, h header, blob []byte) answer {
	list, err := decodeBindings(blob)
	if err != nil {
		return answer{err: invalid(h.Call, err)}
	}
	held, err := c.backend.Bind(ctx, h.Fileset, list)
	return answer{blob: encodeBools(held), err: err}
}

func (c *session) path(ctx context.Context, h header, blob []byte) answer {
	ids, err := decodeObjects(blob)
	if err == nil && len(ids) != 1 {
		err = fmt.Errorf("%d objects, one is wanted", len(ids))
	}
	if err != nil {
		return answer{err: invalid(h.Call, err)}
	}
	p, err := c.backend.Path(ctx, h.Fileset, ids[0])
	return answer{args: marshal(p), err: err}
}
