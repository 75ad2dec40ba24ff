package config

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

// invitedBy makes an invitation of a server that answers handshakes.
func invitedBy(t *testing.T, d Dir) Invitation {
	t.Helper()
	key, err := d.EnsureKey()
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, key, &reply{status: 200})
	code, err := d.Invite("shared", "laptop", "", []string{address}, 0)
	if err != nil {
		t.Fatal(err)
	}
	inv, err := ParseInvitation(code)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// redeemer is a Joiner that asks the server's folder itself.
func redeemer(d Dir) Joiner {
	return func(_ context.Context, inv Invitation, key Key, sysid Sysid) (RedeemResult, error) {
		return d.Redeem(inv.Secret, key.Fingerprint(), sysid.UUID, sysid.Name)
	}
}

func failing(err error) Joiner {
	return func(context.Context, Invitation, Key, Sysid) (RedeemResult, error) { return RedeemResult{}, err }
}

func TestJoin(t *testing.T) {
	server, client := serverDir(t), Dir(t.TempDir()+"/client")
	inv := invitedBy(t, server)
	changes, err := client.Join(t.Context(), inv, AcceptOptions{Name: "portable"}, redeemer(server))
	if err != nil || len(changes) != 3 {
		t.Fatalf("%v, %v", changes, err)
	}
	c, err := client.Load()
	if err != nil || c.Sysid.Name != "portable" || c.Role(&c.Filesets[0]) != RoleClient {
		t.Fatalf("%+v, %v", c, err)
	}
	if changes, err := client.Join(t.Context(), inv, AcceptOptions{}, redeemer(server)); err != nil || len(changes) > 0 {
		t.Errorf("again: %v, %v", changes, err)
	}
}

func TestJoin_NothingIsLeft(t *testing.T) {
	server := serverDir(t)
	inv := invitedBy(t, server)
	refused := errors.Join(errors.New("used"), ErrJoinRefused)
	absent := inv
	absent.Addresses = []string{"127.0.0.1:" + freePort(t), "127.0.0.1:" + freePort(t)}
	wrong := inv
	wrong.Fingerprint = mustPrint(t, testPrint)
	for name, test := range map[string]struct {
		inv  Invitation
		join Joiner
		want string
	}{
		"refused":   {inv, failing(refused), "used"},
		"absent":    {absent, failing(nil), "connection refused; 127.0.0.1:"},
		"wrong key": {wrong, failing(nil), "the server's key is SHA256:"},
	} {
		client := Dir(t.TempDir() + "/client")
		if _, err := client.Join(t.Context(), test.inv, AcceptOptions{}, test.join); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(string(client)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the folder was made", name)
		}
		present := writeDir(t, goodSysid, "", "")
		if _, err := present.Join(t.Context(), test.inv, AcceptOptions{}, test.join); err == nil {
			t.Errorf("%s: no error", name)
		}
		entries, err := os.ReadDir(string(present))
		if err != nil || len(entries) != 1 || entries[0].Name() != SysidFile {
			t.Errorf("%s: left %v, %v", name, entries, err)
		}
	}
}

// The server took the invitation, and its answer got lost.
func TestJoin_LostAnswer(t *testing.T) {
	server, client := serverDir(t), Dir(t.TempDir()+"/client")
	inv := invitedBy(t, server)
	lossy := func(ctx context.Context, inv Invitation, key Key, sysid Sysid) (RedeemResult, error) {
		if _, err := redeemer(server)(ctx, inv, key, sysid); err != nil {
			t.Error(err)
		}
		return RedeemResult{}, errors.New("connection reset")
	}
	if _, err := client.Join(t.Context(), inv, AcceptOptions{}, lossy); err == nil || !strings.Contains(err.Error(), "run the same command again") {
		t.Fatalf("got %v", err)
	}
	if _, err := client.Join(t.Context(), inv, AcceptOptions{}, redeemer(server)); err != nil {
		t.Error(err)
	}
}
