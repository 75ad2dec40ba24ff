package config

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Limits of the time for which an invitation is good.
const (
	DefaultValid = 24 * time.Hour
	MaxValid     = 30 * 24 * time.Hour
)

// Errors of Redeem.
var (
	// ErrInvitationUnknown: nobody made it here, it was withdrawn, or its end is
	// long past.
	ErrInvitationUnknown = errors.New("this server does not know the invitation; make a new one with `inconfig invite`")
	// ErrInvitationExpired: its time has passed.
	ErrInvitationExpired = errors.New("the invitation has expired; make a new one with `inconfig invite`")
	// ErrInvitationUsed: another host took it.
	ErrInvitationUsed = errors.New("the invitation has been used by another host; make a new one with `inconfig invite`")
)

// RedeemResult is what a client learns when its invitation was taken.
type RedeemResult struct {
	Fileset    string
	UUID       kml.UUID // of the fileset; zero if the server does not know it yet
	Rights     Rights
	ServerName string
	Replicator string // the name the server has for the client
}

// Invite makes an invitation for a fileset that this host serves, to become its
// replicator of that name, and returns the code for it. It is good for one host
// and until valid has passed (0: DefaultValid). An earlier one for the same
// replicator that nobody has used is withdrawn. addresses are where the client
// finds this host; without any, they are taken from sysid and the network
// interfaces. The host's key is made if there is none.
func (d Dir) Invite(fileset, replicator string, rights Rights, addresses []string, valid time.Duration) (code string, err error) {
	if valid == 0 {
		valid = DefaultValid
	}
	if valid < 0 || valid > MaxValid {
		return "", valueError("invitation: valid for %s is not possible; use up to %s", valid, MaxValid)
	}
	if _, err := d.CheckInvite(fileset, replicator, rights, addresses); err != nil {
		return "", err // before there is a key
	}
	key, err := d.EnsureKey()
	if err != nil {
		return "", err
	}
	unlock, err := d.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	c, err := d.Load()
	if err != nil {
		return "", err
	}
	if rights, err = d.checkInvite(c, fileset, replicator, rights); err != nil {
		return "", err
	}
	if addresses, err = c.Sysid.reachableAt(addresses); err != nil {
		return "", err
	}
	inv := Invitation{
		Server: c.Sysid.Name, Addresses: addresses, Fingerprint: key.Fingerprint(),
		Fileset: fileset, Replicator: replicator, Secret: make([]byte, secretSize),
	}
	rand.Read(inv.Secret) // never fails
	if code, err = inv.encode(); err != nil {
		return "", err
	}
	return code, d.addOffer(offer{
		hash: sha256.Sum256(inv.Secret), fileset: fileset, replicator: replicator, rights: rights, expires: time.Now().Add(valid),
	})
}

// CheckInvite reports why Invite would fail, and changes nothing. It gives the
// addresses that the invitation would have.
func (d Dir) CheckInvite(fileset, replicator string, rights Rights, addresses []string) ([]string, error) {
	c, err := d.Load()
	if err != nil {
		return nil, err
	}
	if _, err := d.checkInvite(c, fileset, replicator, rights); err != nil {
		return nil, err
	}
	return c.Sysid.reachableAt(addresses)
}

// checkInvite reports why an invitation can't be made. It gives the rights that
// are meant.
func (d Dir) checkInvite(c *Config, fileset, replicator string, rights Rights) (Rights, error) {
	if _, err := d.Find(c, fileset); err != nil {
		return "", err
	}
	f, err := c.served(fileset)
	if err != nil {
		return "", err
	}
	if have := f.Replicator(replicator); have != nil {
		return "", conflict("fileset %s: replicator %s has it already, with key %s; to give it to a new key run `inconfig replicator remove --force %s %s` first",
			fileset, replicator, have.Fingerprint, fileset, replicator)
	}
	// Any key will do to ask whether the rest is in order.
	probe := Replicator{Name: replicator, Rights: rights, Fingerprint: Fingerprint{1}}
	if err := c.clone().AddReplicator(fileset, probe); err != nil {
		return "", err
	}
	if rights == "" {
		rights = ReadWrite
	}
	return rights, nil
}

func (d Dir) addOffer(o offer) error {
	offers, err := d.readOffers()
	if err != nil {
		return err
	}
	offers = slices.DeleteFunc(offers, func(old offer) bool {
		return old.usedBy.IsZero() && old.fileset == o.fileset && old.replicator == o.replicator
	})
	return d.writeOffers(append(offers, o))
}

// Redeem takes an invitation on the server: the host with the key fp, which it
// must have proved, becomes a replicator. Exactly one key can have an
// invitation; it may ask again and gets the same answer, because the first may
// have been lost. Errors are ErrInvitationUnknown, ErrInvitationExpired and
// ErrInvitationUsed, or tell why the host can't be added.
func (d Dir) Redeem(secret []byte, fp Fingerprint, uuid kml.UUID, hostName string) (RedeemResult, error) {
	if fp.IsZero() || uuid.IsZero() {
		return RedeemResult{}, errors.New("redeem invitation: the host must show a key and have a uuid")
	}
	if err := CheckHostName(hostName); err != nil {
		return RedeemResult{}, fmt.Errorf("redeem invitation: %w", err)
	}
	unlock, err := d.lock()
	if err != nil {
		return RedeemResult{}, err
	}
	defer unlock()
	offers, err := d.readOffers()
	if err != nil {
		return RedeemResult{}, err
	}
	o := findOffer(offers, secret)
	if o == nil {
		return RedeemResult{}, ErrInvitationUnknown
	}
	return d.redeem(offers, o, Replicator{Name: o.replicator, UUID: uuid, Fingerprint: fp, Rights: o.rights}, hostName)
}

// redeem is called with the lock held. fsetdb is written before the invitation
// is marked as used: a crash between the two leaves it usable for the same key
// only, because the name is taken then.
func (d Dir) redeem(offers []offer, o *offer, r Replicator, hostName string) (RedeemResult, error) {
	again := o.usedBy.Equal(r.Fingerprint)
	if !o.usedBy.IsZero() && !again {
		return RedeemResult{}, ErrInvitationUsed
	}
	if !again && !time.Now().Before(o.expires) {
		return RedeemResult{}, ErrInvitationExpired
	}
	var result RedeemResult
	changes, err := d.Plan(func(c *Config) error {
		f, err := c.served(o.fileset)
		if err != nil {
			return err
		}
		if hostName == c.Sysid.Name {
			return conflict("this server has the name %s too; give the client another one", hostName)
		}
		if own, err := d.Key(); r.UUID == c.Sysid.UUID || (err == nil && own.Fingerprint().Equal(r.Fingerprint)) {
			return conflict("that host has the key or the uuid of this server; a host that was copied from another needs its own: remove its sysid and key")
		}
		if again && f.Grant(r.Fingerprint) == nil {
			return ErrInvitationUsed // and taken away since
		}
		result = RedeemResult{Fileset: f.Name, UUID: f.UUID, Rights: o.rights, ServerName: c.Sysid.Name, Replicator: o.replicator}
		if again {
			return nil
		}
		return c.AddReplicator(f.Name, r)
	})
	if err != nil {
		return RedeemResult{}, err
	}
	for _, c := range changes {
		if err := writeDurably(c.Path, c.After, 0o644); err != nil {
			return RedeemResult{}, fmt.Errorf("write configuration: %w", err)
		}
	}
	if again {
		return result, nil
	}
	o.usedBy = r.Fingerprint
	return result, d.writeOffers(offers)
}

// OpenInvitation is an invitation that nobody has used yet.
type OpenInvitation struct {
	Fileset    string
	Replicator string
	Rights     Rights
	Expires    time.Time
}

// OpenInvitations lists what can still be redeemed.
func (d Dir) OpenInvitations() ([]OpenInvitation, error) {
	offers, err := d.readOffers()
	if err != nil {
		return nil, err
	}
	var open []OpenInvitation
	for _, o := range offers {
		if o.usedBy.IsZero() && time.Now().Before(o.expires) {
			open = append(open, OpenInvitation{o.fileset, o.replicator, o.rights, o.expires})
		}
	}
	return open, nil
}

// Withdraw makes the unused invitations of a replicator worthless. It reports
// how many there were.
func (d Dir) Withdraw(fileset, replicator string) (int, error) {
	unlock, err := d.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	offers, err := d.readOffers()
	if err != nil {
		return 0, err
	}
	before := len(offers)
	offers = slices.DeleteFunc(offers, func(o offer) bool {
		return o.usedBy.IsZero() && o.fileset == fileset && o.replicator == replicator
	})
	if len(offers) == before {
		return 0, nil
	}
	return before - len(offers), d.writeOffers(offers)
}
