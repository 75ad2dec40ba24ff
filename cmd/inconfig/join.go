package main

import (
	"context"
	"errors"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// join takes an invitation over the network, and tells a definite no of the
// server from everything else that can go wrong on the way.
func join(ctx context.Context, inv config.Invitation, key config.Key, sysid config.Sysid) (config.RedeemResult, error) {
	result, err := wire.Join(ctx, inv, key, sysid)
	if e, ok := errors.AsType[*wire.Error](err); ok && definite[e.Code] {
		return result, &refusedError{err}
	}
	return result, err
}

// definite are the answers after which the server does not know our key.
var definite = map[wire.Code]bool{
	wire.CodeInvitation: true, wire.CodeForbidden: true, wire.CodeInvalid: true, wire.CodeVersion: true, wire.CodeTooMany: true, wire.CodeTooLarge: true,
}

// refusedError is an error that is config.ErrJoinRefused.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }

func (e *refusedError) Unwrap() []error { return []error{e.err, config.ErrJoinRefused} }
