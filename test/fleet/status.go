package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
)

// filesetStatus is what "lento status --json" says of a fileset, as far as the
// lab needs it. Numbers count records of this host's own log, or positions in
// the fileset's order.
type filesetStatus struct {
	Name      string `json:"name"`
	Role      string `json:"role"`
	Connected bool   `json:"connected"` // a client to its server
	Own       uint64 `json:"own"`       // end of the host's own log
	Confirmed uint64 `json:"confirmed"` // how much of it is part of the order
	Order     uint64 `json:"order"`     // end of the order, as far as it is here
	Applied   uint64 `json:"applied"`   // how much of the order is in the tree
	Pending   uint64 `json:"pending_records"`
	Error     string `json:"error"`
}

// hostStatus is what "lento status --json" says, as far as the lab needs it. It
// is there without a daemon, too.
type hostStatus struct {
	Daemons []struct {
		PID int `json:"pid"`
	} `json:"daemons"`
	Filesets []filesetStatus `json:"filesets"`
}

// answers reports whether a daemon is among those that answered.
func (s *hostStatus) answers(pid int) bool {
	for _, d := range s.Daemons {
		if d.PID == pid {
			return true
		}
	}
	return false
}

// somethingWrong is the exit status of "lento status" where it has something to
// complain of; it answers nevertheless.
const somethingWrong = 1

// status asks for the state of the host.
func (h *Host) status(ctx context.Context) (hostStatus, error) {
	out, err := h.tool(ctx, false, "lento", h.lentoArgs("status", "--json")...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == somethingWrong && len(out) > 0 {
		err = nil
	}
	if err != nil {
		return hostStatus{}, err
	}
	return readStatus(out)
}

func readStatus(text []byte) (hostStatus, error) {
	var s hostStatus
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read status: %w", err)
	}
	return s, nil
}

// sharedStatus asks for the state of the fileset that all hosts have.
func (h *Host) sharedStatus(ctx context.Context) (filesetStatus, error) {
	s, err := h.status(ctx)
	if err != nil {
		return filesetStatus{}, err
	}
	for _, f := range s.Filesets {
		if f.Name == shared {
			return f, nil
		}
	}
	return filesetStatus{}, errors.New("its status does not know the fileset " + shared)
}

// barrier logs what files that are open for write have so far, and gives the end
// of the host's own log: everything done on it before is a record up to there.
func (h *Host) barrier(ctx context.Context) (uint64, error) {
	out, err := h.tool(ctx, false, "lento", h.lentoArgs("barrier", shared, "--json")...)
	if err != nil {
		return 0, err
	}
	return readBarrier(out)
}

func readBarrier(text []byte) (uint64, error) {
	var answer struct {
		Own *uint64 `json:"own"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return 0, fmt.Errorf("read barrier: %w", err)
	}
	if answer.Own == nil {
		return 0, errors.New("read barrier: it does not say where the log ends")
	}
	return *answer.Own, nil
}
