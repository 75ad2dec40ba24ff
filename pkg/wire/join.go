package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

const joinPath = "/v1/join"

// joinRequest is the body of POST /v1/join.
type joinRequest struct {
	Secret []byte `json:"secret"`
	Host   string `json:"host"`
	UUID   string `json:"uuid"`
}

// joinAnswer is config.RedeemResult on the wire.
type joinAnswer struct {
	Fileset    string        `json:"fileset"`
	UUID       string        `json:"uuid,omitempty"`
	Rights     config.Rights `json:"rights"`
	Server     string        `json:"server"`
	Replicator string        `json:"replicator"`
}

// join takes an invitation. It is the only request for which a key is let in
// that was granted nothing.
func (h *Host) join(w http.ResponseWriter, r *http.Request, fp config.Fingerprint) {
	if h.opts.Join == nil || r.Method != http.MethodPost {
		h.stranger(w, r, fp)
		return
	}
	w.Header().Set("Connection", "close")
	// All strangers together have a budget too, so that many addresses help nobody.
	if !h.joins.allow(hostOf(r.RemoteAddr)) || !h.joins.allow("") {
		writeError(w, Errorf(CodeTooMany, "too many attempts to join: try again in a minute"))
		return
	}
	res, err := h.redeem(w, r, fp)
	if err != nil {
		h.opts.Log.Warn("invitation refused", "address", r.RemoteAddr, "key", fp.String(), "error", err)
		writeError(w, joinError(err))
		return
	}
	h.opts.Log.Info("invitation taken", "address", r.RemoteAddr, "key", fp.String(), "fileset", res.Fileset, "replicator", res.Replicator)
	ans := joinAnswer{Fileset: res.Fileset, Rights: res.Rights, Server: res.ServerName, Replicator: res.Replicator}
	if !res.UUID.IsZero() {
		ans.UUID = res.UUID.String()
	}
	if err := writeJSON(w, http.StatusOK, ans); err != nil {
		h.opts.Log.Warn("answer to an invitation was lost; it can be taken again by the same host", "address", r.RemoteAddr, "error", err)
	}
}

func (h *Host) redeem(w http.ResponseWriter, r *http.Request, fp config.Fingerprint) (config.RedeemResult, error) {
	var req joinRequest
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxJoinBytes))
	if err != nil {
		return config.RedeemResult{}, Errorf(CodeInvalid, "read request: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return config.RedeemResult{}, Errorf(CodeInvalid, "read request: %v", err)
	}
	uuid, err := kml.ParseUUID(req.UUID)
	if err != nil {
		return config.RedeemResult{}, Errorf(CodeInvalid, "read request: %v", err)
	}
	return h.opts.Join(req.Secret, fp, uuid, req.Host)
}

// joinError is what the invited host is told. Trouble of the server's own disk
// is its own business.
func joinError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return Errorf(CodeInternal, "the server met an error of its own; its log says which")
	}
	return Errorf(CodeInvitation, "%v", err)
}

// Join takes an invitation to its server, as the host sysid with key. The
// server may be asked again by the same key, if an answer was lost. Errors of
// the server are *Error, another key than the invitation's config.ErrWrongKey.
func Join(ctx context.Context, inv config.Invitation, key config.Key, sysid config.Sysid) (config.RedeemResult, error) {
	var none config.RedeemResult
	c := NewClient(ClientOptions{
		Server: config.Server{Name: inv.Server, Addresses: inv.Addresses, Fingerprint: inv.Fingerprint},
		Key:    key,
	})
	defer c.Close()
	body, err := json.Marshal(joinRequest{Secret: inv.Secret, Host: sysid.Name, UUID: sysid.UUID.String()})
	if err != nil {
		return none, fmt.Errorf("encode invitation: %w", err)
	}
	var ans joinAnswer
	if err := c.ask(ctx, http.MethodPost, joinPath, body, &ans); err != nil {
		return none, fmt.Errorf("take invitation to %s: %w", inv.Server, err)
	}
	res := config.RedeemResult{Fileset: ans.Fileset, Rights: ans.Rights, ServerName: ans.Server, Replicator: ans.Replicator}
	if ans.UUID != "" {
		if res.UUID, err = kml.ParseUUID(ans.UUID); err != nil {
			return none, fmt.Errorf("take invitation to %s: read answer: %w", inv.Server, err)
		}
	}
	return res, nil
}
