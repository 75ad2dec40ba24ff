package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// speak makes the hosts of a lab on paper answer as told: what lento says is in
// files of the run folder.
func speak(t *testing.T, l *Lab, host int, own uint64, s filesetStatus) {
	t.Helper()
	run := l.Hosts[host].Run()
	write := func(name, text string, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name+".new", []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	// Once only: a program that is open for writing can't be run.
	if _, err := os.Lstat(filepath.Join(l.Bin, "lento")); err != nil {
		write(filepath.Join(l.Bin, "lento"), "#!/bin/sh\nfor a; do [ -f \"$INTERMEZZO_RUN/$a\" ] && exec cat \"$INTERMEZZO_RUN/$a\"; done\nexit 3\n", 0o755)
	}
	write(filepath.Join(run, "barrier"), fmt.Sprintf(`{"own":%d}`, own), 0o644)
	write(filepath.Join(run, "status"), fmt.Sprintf(`{"filesets":[{"name":"shared","role":%q,"connected":%v,"confirmed":%d,"order":%d,"applied":%d}]}`,
		s.Role, s.Connected, s.Confirmed, s.Order, s.Applied), 0o644)
}

func (l *Lab) waitFor(t *testing.T, limit time.Duration) (*waiting, error) {
	t.Helper()
	w := &waiting{lab: l, hosts: l.Hosts, lacks: make(map[string]string)}
	ctx, stop := context.WithTimeout(t.Context(), limit)
	defer stop()
	return w, w.run(ctx)
}

func TestWait_UntilAllIsAcceptedAndApplied(t *testing.T) {
	l := paper(t, good())
	speak(t, l, 0, 7, filesetStatus{Role: "server", Confirmed: 7, Order: 20, Applied: 20})
	speak(t, l, 1, 5, filesetStatus{Role: "client", Connected: true, Confirmed: 5, Order: 20, Applied: 20})
	if w, err := l.waitFor(t, time.Minute); err != nil {
		t.Errorf("in step: %v, %s", err, w.complaint())
	}

	speak(t, l, 1, 5, filesetStatus{Role: "client", Confirmed: 3, Order: 20, Applied: 20})
	w, err := l.waitFor(t, 2*time.Second)
	if want := "host2: 2 of its own records are not accepted by the server (not connected to the server)"; err == nil || w.complaint() != want {
		t.Errorf("pending: %v, %q; want %q", err, w.complaint(), want)
	}

	speak(t, l, 1, 5, filesetStatus{Role: "client", Connected: true, Confirmed: 5, Order: 20, Applied: 19})
	w, err = l.waitFor(t, 2*time.Second)
	if want := "host2: it has applied 19 of 20"; err == nil || w.complaint() != want {
		t.Errorf("behind: %v, %q; want %q", err, w.complaint(), want)
	}

	done := make(chan error, 1)
	go func() { _, err := l.waitFor(t, time.Minute); done <- err }()
	speak(t, l, 1, 5, filesetStatus{Role: "client", Connected: true, Confirmed: 5, Order: 20, Applied: 20})
	if err := <-done; err != nil {
		t.Errorf("in step at last: %v", err)
	}
}

func TestWait_LeavesOutWhoIsCutOrStopped(t *testing.T) {
	l := paper(t, good())
	l.state.Links = map[string]linkState{"host2": {Cut: true}}
	if err := l.save(); err != nil {
		t.Fatal(err)
	}
	var notes strings.Builder
	l.Notes = &notes
	if err := l.Wait(t.Context(), time.Minute); err != nil {
		t.Error(err)
	}
	for _, want := range []string{
		"host1 is left out: its daemon does not run, its presto does not run",
		"host2 is left out: it is cut, its daemon",
	} {
		if !strings.Contains(notes.String(), want) {
			t.Errorf("notes %q do not say %q", notes.String(), want)
		}
	}
}

func TestAnswer_IsANo(t *testing.T) {
	if err := no("%d of %d", 1, 2); !errors.Is(err, ErrNo) || err.Error() != "1 of 2" {
		t.Errorf("%v", err)
	}
}
