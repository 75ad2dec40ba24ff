package config

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func serverDir(t testing.TB) Dir {
	t.Helper()
	d := Dir(t.TempDir() + "/server")
	_, err := d.Edit(func(c *Config) error {
		return errors.Join(c.Init("iserver", nil), c.AddFileset("shared", "", Placement{}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SetFilesetUUID("shared", NewUUID()); err != nil {
		t.Fatal(err)
	}
	return d
}

func invite(t testing.TB, d Dir, replicator string, valid time.Duration) (string, Invitation) {
	t.Helper()
	code, err := d.Invite("shared", replicator, "", []string{"192.0.2.3", "[2001:db8::3]:99"}, valid)
	if err != nil {
		t.Fatal(err)
	}
	inv, err := ParseInvitation(code)
	if err != nil {
		t.Fatal(err)
	}
	return code, inv
}

func TestInvite_AcceptedByClient(t *testing.T) {
	server, client := serverDir(t), Dir(t.TempDir()+"/client")
	code, inv := invite(t, server, "iclientA", 0)
	if strings.ContainsAny(code, " \n-_/+=\"'$") || !strings.HasPrefix(code, "izo") {
		t.Errorf("code %q is not safe to copy", code)
	}
	key, err := server.Key()
	if err != nil {
		t.Fatal(err)
	}
	want := Invitation{Server: "iserver", Addresses: []string{"192.0.2.3:370", "[2001:db8::3]:99"}, Fingerprint: key.Fingerprint(),
		Fileset: "shared", Replicator: "iclientA", Secret: inv.Secret}
	if diff := cmp.Diff(want, inv); diff != "" || len(inv.Secret) != secretSize {
		t.Fatal(diff, len(inv.Secret))
	}
	stored, err := os.ReadFile(server.Path(InvitationsFile))
	if err != nil || bytes.Contains(stored, inv.Secret) || bytes.Contains(stored, []byte(code)) {
		t.Fatalf("the secret is on disk, or %v", err)
	}
	if info, err := os.Stat(server.Path(InvitationsFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	mountpoint := "/mnt/izo"
	opts := AcceptOptions{Placement: Placement{Mountpoint: &mountpoint}}
	if plan, err := client.PlanAccept(inv, opts); err != nil || len(plan) != 3 {
		t.Fatalf("%v, %v", plan, err)
	}
	sysid, err := client.EnsureSysid(inv, "")
	if err != nil || sysid.Name != "iclientA" {
		t.Fatalf("%v, %v", sysid, err)
	}
	clientKey, err := client.EnsureKey()
	if err != nil {
		t.Fatal(err)
	}
	result, err := server.Redeem(inv.Secret, clientKey.Fingerprint(), sysid.UUID, sysid.Name)
	if err != nil {
		t.Fatal(err)
	}
	if changes, err := client.Accept(inv, result, opts); err != nil || len(changes) != 2 {
		t.Fatalf("%v, %v", changes, err)
	}
	if changes, err := client.Accept(inv, result, opts); err != nil || len(changes) != 0 {
		t.Fatalf("second: %v, %v", changes, err)
	}
	checkJoined(t, server, client, clientKey, result)
}

func checkJoined(t *testing.T, server, client Dir, clientKey Key, result RedeemResult) {
	t.Helper()
	sc, err := server.Load()
	if err != nil {
		t.Fatal(err)
	}
	cc, err := client.Load()
	if err != nil {
		t.Fatal(err)
	}
	want := []Replicator{{Name: "iclientA", UUID: cc.Sysid.UUID, Fingerprint: clientKey.Fingerprint(), Rights: ReadWrite}}
	if diff := cmp.Diff(want, sc.Fileset("shared").Replicators); diff != "" {
		t.Error(diff)
	}
	f := cc.Fileset("shared")
	if f == nil || f.UUID != sc.Fileset("shared").UUID || f.UUID != result.UUID || f.Server != "iserver" || f.Mountpoint != "/mnt/izo" {
		t.Errorf("client has %+v", f)
	}
}

func TestRedeem_ExactlyOnce(t *testing.T) {
	d := serverDir(t)
	_, inv := invite(t, d, "iclientA", time.Hour)
	var wg sync.WaitGroup
	results := make([]error, 8)
	keys := make([]Fingerprint, len(results))
	for i := range results {
		keys[i] = mustKey(t).Fingerprint()
		wg.Go(func() {
			_, results[i] = d.Redeem(inv.Secret, keys[i], NewUUID(), "h")
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range results {
		switch {
		case err == nil && winner < 0:
			winner = i
		case !errors.Is(err, ErrInvitationUsed):
			t.Errorf("host %d: %v", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody got it")
	}
	c, err := d.Load()
	if err != nil || len(c.Filesets[0].Replicators) != 1 {
		t.Fatalf("%v, %v", c, err)
	}
	// The reply was lost: the same key asks again.
	if _, err := d.Redeem(inv.Secret, keys[winner], NewUUID(), "h"); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, err := d.Edit(func(c *Config) error { _, err := c.RemoveReplicator("shared", "iclientA"); return err }); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Redeem(inv.Secret, keys[winner], NewUUID(), "h"); !errors.Is(err, ErrInvitationUsed) {
		t.Errorf("after removal: %v", err)
	}
}

// A crash after fsetdb was written, before the invitation was marked: the same
// host can finish, no other can start.
func TestRedeem_AfterCrash(t *testing.T) {
	d := serverDir(t)
	_, inv := invite(t, d, "iclientA", time.Hour)
	unmarked, err := os.ReadFile(d.Path(InvitationsFile))
	if err != nil {
		t.Fatal(err)
	}
	fp, uuid := mustKey(t).Fingerprint(), NewUUID()
	if _, err := d.Redeem(inv.Secret, fp, uuid, "a"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Path(InvitationsFile), unmarked, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Redeem(inv.Secret, mustKey(t).Fingerprint(), NewUUID(), "b"); err == nil {
		t.Error("a second host got in")
	}
	if _, err := d.Redeem(inv.Secret, fp, uuid, "a"); err != nil {
		t.Error(err)
	}
}

func TestRedeem_Refused(t *testing.T) {
	d := serverDir(t)
	_, inv := invite(t, d, "iclientA", time.Hour)
	_, second := invite(t, d, "iclientA", time.Hour) // withdraws the first
	fp := mustKey(t).Fingerprint()
	own, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string][]byte{"withdrawn": inv.Secret, "none": nil, "short": second.Secret[:5], "other": make([]byte, secretSize)} {
		if _, err := d.Redeem(secret, fp, NewUUID(), "h"); !errors.Is(err, ErrInvitationUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, try := range map[string]func() error{
		"no key":      func() error { _, err := d.Redeem(second.Secret, Fingerprint{}, NewUUID(), "h"); return err },
		"bad name":    func() error { _, err := d.Redeem(second.Secret, fp, NewUUID(), "a/b"); return err },
		"our name":    func() error { _, err := d.Redeem(second.Secret, fp, NewUUID(), "iserver"); return err },
		"our key":     func() error { _, err := d.Redeem(second.Secret, own.Fingerprint(), NewUUID(), "h"); return err },
		"our uuid":    func() error { _, err := d.Redeem(second.Secret, fp, c.Sysid.UUID, "h"); return err },
		"no fileset":  func() error { _, err := d.Invite("sharde", "x", "", []string{"h"}, 0); return err },
		"bad rights":  func() error { _, err := d.Invite("shared", "x", "wr", []string{"h"}, 0); return err },
		"ourselves":   func() error { _, err := d.Invite("shared", "iserver", "", []string{"h"}, 0); return err },
		"bad address": func() error { _, err := d.Invite("shared", "x", "", []string{"h:"}, 0); return err },
		"too long":    func() error { _, err := d.Invite("shared", "x", "", []string{"h"}, MaxValid+1); return err },
		"negative":    func() error { _, err := d.Invite("shared", "x", "", []string{"h"}, -1); return err },
	} {
		if try() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := d.Redeem(second.Secret, fp, NewUUID(), "h"); err != nil {
		t.Errorf("the refusals used it up: %v", err)
	}
	if _, err := d.Invite("shared", "iclientA", "", []string{"h"}, 0); err == nil || !strings.Contains(err.Error(), "replicator remove") {
		t.Errorf("invited twice: %v", err)
	}
}

func TestRedeem_Expiry(t *testing.T) {
	d := serverDir(t)
	synctest.Test(t, func(t *testing.T) {
		_, early := invite(t, d, "early", time.Hour)
		_, late := invite(t, d, "late", time.Hour)
		fp := mustKey(t).Fingerprint()
		time.Sleep(59 * time.Minute)
		if open, err := d.OpenInvitations(); err != nil || len(open) != 2 {
			t.Errorf("%v, %v", open, err)
		}
		if _, err := d.Redeem(early.Secret, fp, NewUUID(), "h"); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := d.Redeem(late.Secret, mustKey(t).Fingerprint(), NewUUID(), "h2"); !errors.Is(err, ErrInvitationExpired) {
			t.Error(err)
		}
		if _, err := d.Redeem(early.Secret, fp, NewUUID(), "h"); err != nil {
			t.Errorf("asking again after the end: %v", err)
		}
		if open, err := d.OpenInvitations(); err != nil || len(open) != 0 {
			t.Errorf("%v, %v", open, err)
		}
		time.Sleep(invitationMemory)
		invite(t, d, "third", time.Hour) // rewrites the file
		if _, err := d.Redeem(late.Secret, fp, NewUUID(), "h"); !errors.Is(err, ErrInvitationUnknown) {
			t.Error(err)
		}
	})
}

func TestWithdraw(t *testing.T) {
	d := serverDir(t)
	_, inv := invite(t, d, "a", 0)
	if n, err := d.Withdraw("shared", "b"); n != 0 || err != nil {
		t.Error(n, err)
	}
	if n, err := d.Withdraw("shared", "a"); n != 1 || err != nil {
		t.Error(n, err)
	}
	if _, err := d.Redeem(inv.Secret, mustKey(t).Fingerprint(), NewUUID(), "h"); !errors.Is(err, ErrInvitationUnknown) {
		t.Error(err)
	}
}

func TestInvite_DefaultAddresses(t *testing.T) {
	s := Sysid{Bind: []string{"192.0.2.9:99", "0.0.0.0:1", ":370"}}
	got, err := s.reachableAt(nil)
	if err != nil || len(got) == 0 || got[0] != "192.0.2.9:99" {
		t.Fatalf("%v, %v", got, err)
	}
	for _, a := range got {
		if strings.HasPrefix(a, "127.") || strings.HasPrefix(a, ":") || strings.HasPrefix(a, "0.0.0.0") {
			t.Errorf("useless address %s", a)
		}
	}
}

func TestAccept_Refused(t *testing.T) {
	server := serverDir(t)
	_, inv := invite(t, server, "iclientA", 0)
	result := RedeemResult{Fileset: "shared", UUID: NewUUID(), ServerName: "iserver"}

	fresh := Dir(t.TempDir())
	if _, err := fresh.PlanAccept(inv, AcceptOptions{Name: "iserver"}); err == nil {
		t.Error("the server's name was taken")
	}
	if _, err := server.PlanAccept(inv, AcceptOptions{}); err == nil {
		t.Error("the server accepted its own invitation")
	}
	pinned := writeDir(t, goodSysid, goodServerdb, "")
	if _, err := pinned.PlanAccept(inv, AcceptOptions{}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another key is pinned: %v", err)
	}
	own := writeDir(t, goodSysid, "", strings.Replace(servedFsetdb, "\"own\"", "\"shared\"", 1))
	if _, err := own.PlanAccept(inv, AcceptOptions{}); err == nil || !strings.Contains(err.Error(), "comes from iclientA") {
		t.Errorf("fileset of another server: %v", err)
	}
	if _, err := fresh.Accept(inv, RedeemResult{Fileset: "other", ServerName: "iserver"}, AcceptOptions{}); err == nil {
		t.Error("another fileset was accepted")
	}
	if _, err := fresh.Accept(inv, result, AcceptOptions{}); err != nil {
		t.Fatal(err)
	}
	result.UUID = NewUUID()
	if _, err := fresh.Accept(inv, result, AcceptOptions{}); !errors.Is(err, ErrOtherFileset) {
		t.Errorf("another uuid: %v", err)
	}
	if _, err := fresh.EnsureSysid(inv, "another"); err == nil {
		t.Error("the host was renamed")
	}
}

func TestParseInvitation_Damage(t *testing.T) {
	d := serverDir(t)
	code, inv := invite(t, d, "iclientA", 0)
	again, err := ParseInvitation(" \n" + strings.ToUpper(code[:40]) + "\r\n\t" + code[40:] + "  \n")
	if err != nil || !bytes.Equal(again.Secret, inv.Secret) {
		t.Errorf("wrapped: %v", err)
	}
	for i := range code {
		for _, c := range []byte{'a', 'b', '7', '1', '!'} {
			bad := []byte(code)
			if bad[i] == c {
				continue
			}
			bad[i] = c
			_, err := ParseInvitation(string(bad))
			if i < len(codePrefix) && !errors.Is(err, ErrNotInvitation) || i >= len(codePrefix) && !errors.Is(err, ErrGarbledInvitation) {
				t.Fatalf("character %d replaced by %c: %v", i, c, err)
			}
		}
		if _, err := ParseInvitation(code[:i]); err == nil {
			t.Fatalf("cut at %d: accepted", i)
		}
	}
	if _, err := ParseInvitation(code + "a"); err == nil {
		t.Error("with one more character: accepted")
	}
}
