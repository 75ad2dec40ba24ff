package config

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// Joiner takes an invitation to its server and gives the answer: wire.Join. A
// definite no of the server is ErrJoinRefused; after any other error the server
// may have taken the invitation, and the same key may ask again.
type Joiner func(ctx context.Context, inv Invitation, key Key, sysid Sysid) (RedeemResult, error)

// ErrJoinRefused is what a Joiner fails with where the server said no.
var ErrJoinRefused = errors.New("the server refused the invitation")

// probeTime is how long an address of a server is waited for.
const probeTime = 10 * time.Second

// Join does everything that accepting an invitation takes: it checks what it
// will write, reaches the server and its key, makes sysid and key where they are
// missing, has join take the invitation, and writes serverdb and fsetdb. When it
// can't, nothing is left of that; only where the answer of the server got lost
// do sysid and key stay, because the server may know the key by then.
func (d Dir) Join(ctx context.Context, inv Invitation, opts AcceptOptions, join Joiner) ([]Change, error) {
	if _, err := d.PlanAccept(inv, opts); err != nil {
		return nil, err
	}
	if err := probe(ctx, inv); err != nil {
		return nil, err
	}
	undo, err := d.remember()
	if err != nil {
		return nil, err
	}
	changes, sysid, err := d.ensureSysid(inv, opts.Name)
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	key, err := d.EnsureKey()
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	result, err := join(ctx, inv, key, sysid)
	if errors.Is(err, ErrJoinRefused) {
		return nil, errors.Join(err, undo())
	}
	if err != nil {
		return nil, fmt.Errorf("%w; run the same command again", err)
	}
	more, err := d.Accept(inv, result, opts)
	return append(changes, more...), err
}

// probe looks whether the invited server answers at one of its addresses. The
// key it shows ours by is made for this alone: ours may not exist yet.
func probe(ctx context.Context, inv Invitation) error {
	key, err := NewKey()
	if err != nil {
		return err
	}
	var failures []error
	for _, address := range inv.Addresses {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, probeTime)
			defer cancel()
			d := tls.Dialer{NetDialer: &net.Dialer{}, Config: ClientTLS(key, inv.Fingerprint)}
			conn, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			return conn.Close()
		}()
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrWrongKey) {
			err = errors.New(dialText(err))
		}
		failures = append(failures, fmt.Errorf("%s: %w", address, err))
	}
	return fmt.Errorf("reach server %s: %w; check that lento runs there, and accept the invitation again", inv.Server, lineError(failures))
}

// remember notes whether folder, sysid and key are there, and gives what removes
// those that have been made since.
func (d Dir) remember() (undo func() error, err error) {
	path, err := d.keyPath()
	if err != nil {
		return nil, err
	}
	var made []string
	for _, p := range []string{d.Path(SysidFile), path, d.Path(LockFile), string(d)} {
		if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
			made = append(made, p)
		}
	}
	return func() error {
		unlock, err := d.lock()
		if err != nil {
			return err
		}
		defer unlock()
		for _, p := range made {
			if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
				return fmt.Errorf("undo: %w", err)
			}
		}
		return nil
	}, nil
}

// lineError is several errors printed on one line.
type lineError []error

func (e lineError) Error() string {
	text := ""
	for i, err := range e {
		if i > 0 {
			text += "; "
		}
		text += err.Error()
	}
	return text
}

func (e lineError) Unwrap() []error { return e }
