package channel

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// plain makes a call without blob or descriptors and reads its result into out,
// which may be nil.
func (c *Client) plain(ctx context.Context, call, fileset string, args, out any) error {
	h := header{Call: call, Fileset: fileset}
	if args != nil {
		h.Args = marshal(args)
	}
	h, r, err := c.call(ctx, h, frame{})
	if err != nil {
		return err
	}
	closeFiles(r.files)
	return result(call, h, out)
}

func result(call string, h header, out any) error {
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(h.Args, out); err != nil {
		return &Error{ErrInternal, fmt.Sprintf("%s: unreadable result: %v", call, err)}
	}
	return nil
}

// Info implements Presto.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	err := c.plain(ctx, callInfo, "", nil, &info)
	return info, err
}

// Attach implements Presto. The caller closes the files of the attachment, of
// which Order is nil on a client that has received nothing yet.
func (c *Client) Attach(ctx context.Context, fileset string, role Role, uuid kml.UUID) (*Attachment, error) {
	h, r, err := c.call(ctx, header{Call: callAttach, Fileset: fileset, Args: marshal(attachArgs{role, uuid})}, frame{})
	if err != nil {
		return nil, err
	}
	var a attachReply
	if err := result(callAttach, h, &a); err != nil {
		closeFiles(r.files)
		return nil, err
	}
	if len(r.files) != len(a.Files) {
		closeFiles(r.files)
		return nil, &Error{ErrInternal, fmt.Sprintf("attach: %d descriptors came, %d were expected", len(r.files), len(a.Files))}
	}
	att := &Attachment{Fileset: a.Fileset, Cache: a.Cache}
	for i, name := range a.Files {
		switch name {
		case fileKML:
			att.KML = r.files[i]
		case fileOrder:
			att.Order = r.files[i]
		case fileStage:
			att.Stage = r.files[i]
		default:
			r.files[i].Close() // of a newer presto
		}
	}
	return att, nil
}

// Sync implements Presto.
func (c *Client) Sync(ctx context.Context, fileset string) error {
	return c.plain(ctx, callSync, fileset, nil, nil)
}

// Contents implements Presto. The caller closes the files.
func (c *Client) Contents(ctx context.Context, fileset string, ids []kml.ObjectID, capture bool) ([]Opened, error) {
	h := header{Call: callContents, Fileset: fileset, Args: marshal(contentsArgs{capture})}
	_, r, err := c.call(ctx, h, frame{blob: encodeObjects(ids)})
	if err != nil {
		return nil, err
	}
	list, hasFile, err := decodeOpened(r.blob)
	if err == nil && len(list) != len(ids) {
		err = fmt.Errorf("%d answers to %d objects", len(list), len(ids))
	}
	if err == nil && count(hasFile) != len(r.files) {
		err = fmt.Errorf("%d descriptors came, %d were expected", len(r.files), count(hasFile))
	}
	if err != nil {
		closeFiles(r.files)
		return nil, &Error{ErrInternal, fmt.Sprintf("contents: %v", err)}
	}
	n := 0
	for i := range list {
		if hasFile[i] {
			list[i].File = r.files[n]
			n++
		}
	}
	return list, nil
}

func count(list []bool) int {
	n := 0
	for _, v := range list {
		if v {
			n++
		}
	}
	return n
}

// Bind implements Presto.
func (c *Client) Bind(ctx context.Context, fileset string, b []Binding) ([]bool, error) {
	_, r, err := c.call(ctx, header{Call: callBind, Fileset: fileset}, frame{blob: encodeBindings(b)})
	if err != nil {
		return nil, err
	}
	closeFiles(r.files)
	held, err := decodeBools(r.blob)
	if err == nil && len(held) != len(b) {
		err = fmt.Errorf("%d answers to %d bindings", len(held), len(b))
	}
	if err != nil {
		return nil, &Error{ErrInternal, fmt.Sprintf("bind: %v", err)}
	}
	return held, nil
}

// Barrier implements Presto.
func (c *Client) Barrier(ctx context.Context, fileset string) (kml.Pos, error) {
	var p kml.Pos
	err := c.plain(ctx, callBarrier, fileset, nil, &p)
	return p, err
}

// Accept implements Presto.
func (c *Client) Accept(ctx context.Context, fileset string, peer kml.UUID, base kml.Pos, groups []kml.Group) (AcceptResult, error) {
	h := header{Call: callAccept, Fileset: fileset, Args: marshal(acceptArgs{peer, base})}
	var res AcceptResult
	blob, err := encodeGroups(nil, groups)
	if err != nil {
		return res, err
	}
	h, r, err := c.call(ctx, h, frame{blob: blob})
	if err != nil {
		return res, err
	}
	closeFiles(r.files)
	return res, result(callAccept, h, &res)
}

// Apply implements Presto.
func (c *Client) Apply(ctx context.Context, fileset string, ends []kml.Pos, groups []kml.Group) (ApplyResult, error) {
	var res ApplyResult
	if len(ends) != len(groups) {
		return res, &Error{ErrInvalid, fmt.Sprintf("apply: %d positions for %d groups", len(ends), len(groups))}
	}
	blob, err := encodeGroups(ends, groups)
	if err != nil {
		return res, err
	}
	h, r, err := c.call(ctx, header{Call: callApply, Fileset: fileset}, frame{blob: blob})
	if err != nil {
		return res, err
	}
	closeFiles(r.files)
	return res, result(callApply, h, &res)
}

// Path implements Presto.
func (c *Client) Path(ctx context.Context, fileset string, id kml.ObjectID) (string, error) {
	h, r, err := c.call(ctx, header{Call: callPath, Fileset: fileset}, frame{blob: encodeObjects([]kml.ObjectID{id})})
	if err != nil {
		return "", err
	}
	closeFiles(r.files)
	var path string
	return path, result(callPath, h, &path)
}

// Control calls a method that presto has beyond Presto: see Backend. The files
// stay the caller's, presto gets duplicates.
func (c *Client) Control(ctx context.Context, verb string, args json.RawMessage, files []*os.File) (json.RawMessage, error) {
	if len(args) > 0 && !json.Valid(args) {
		return nil, &Error{ErrInvalid, fmt.Sprintf("control %s: arguments are not JSON", verb)}
	}
	h, r, err := c.call(ctx, header{Call: callControl, Args: marshal(controlArgs{verb, args})}, frame{files: files})
	if err != nil {
		return nil, err
	}
	closeFiles(r.files)
	return h.Args, nil
}
