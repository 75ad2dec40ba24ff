package config

import "fmt"

// AcceptOptions say how an accepted fileset is placed on the client.
type AcceptOptions struct {
	// Name of this host where it has none yet. "" takes the name that the
	// invitation has for it.
	Name string
	Placement
}

// PlanAccept shows what accepting an invitation will write. It fails with
// everything that can be known to be wrong before the server is asked, so that
// an invitation isn't used up for nothing.
func (d Dir) PlanAccept(inv Invitation, opts AcceptOptions) ([]Change, error) {
	return d.Plan(acceptEdit(inv, RedeemResult{Fileset: inv.Fileset, ServerName: inv.Server}, opts))
}

// EnsureSysid makes a sysid for the invited host where there is none, and
// returns the one that is in force.
func (d Dir) EnsureSysid(inv Invitation, name string) (Sysid, error) {
	_, sysid, err := d.ensureSysid(inv, name)
	return sysid, err
}

func (d Dir) ensureSysid(inv Invitation, name string) (changes []Change, sysid Sysid, err error) {
	changes, err = d.Edit(func(c *Config) error {
		if err := c.initInvited(inv, name); err != nil {
			return err
		}
		sysid = c.Sysid
		return nil
	})
	return changes, sysid, err
}

// Accept writes what an invitation that the server has taken means: sysid (if
// missing), the server into serverdb, the fileset into fsetdb. Doing it again
// changes nothing.
func (d Dir) Accept(inv Invitation, result RedeemResult, opts AcceptOptions) ([]Change, error) {
	return d.Edit(acceptEdit(inv, result, opts))
}

func (c *Config) initInvited(inv Invitation, name string) error {
	if name == "" && c.Sysid.Name == "" {
		name = inv.Replicator
	}
	if err := c.Init(name, nil); err != nil {
		return err
	}
	if c.Sysid.Name == inv.Server {
		return conflict("this host and the server are both named %s; give this one another name with --name", inv.Server)
	}
	return nil
}

func acceptEdit(inv Invitation, result RedeemResult, opts AcceptOptions) func(*Config) error {
	return func(c *Config) error {
		if result.Fileset != inv.Fileset || result.ServerName != inv.Server {
			return conflict("the invitation is for fileset %s of %s, and the server answered for %s of %s; ask for a new invitation",
				inv.Fileset, inv.Server, result.Fileset, result.ServerName)
		}
		if err := c.initInvited(inv, opts.Name); err != nil {
			return err
		}
		server := Server{Name: inv.Server, Addresses: inv.Addresses, Fingerprint: inv.Fingerprint}
		if err := c.AddServer(server); err != nil {
			return err
		}
		if err := c.AddFileset(inv.Fileset, inv.Server, opts.Placement); err != nil {
			return err
		}
		f := c.Fileset(inv.Fileset)
		if !f.UUID.IsZero() && !result.UUID.IsZero() && f.UUID != result.UUID {
			return fmt.Errorf("fileset %s: %w: here it has the uuid %s, on the server %s", f.Name, ErrOtherFileset, f.UUID, result.UUID)
		}
		if !result.UUID.IsZero() {
			f.UUID = result.UUID
		}
		return nil
	}
}
