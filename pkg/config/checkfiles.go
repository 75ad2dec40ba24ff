package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// files checks the databases and who may change them. It reports false where
// there is no configuration to go on with.
func (c *checker) files() bool {
	config, err := c.dir.Load()
	for _, p := range Problems(err) {
		where, at := p.File, ""
		if p.Line > 0 {
			at = fmt.Sprintf(":%d:%d", p.Line, p.Col)
		}
		c.findings = append(c.findings, Finding{SeverityError, where + at, p.Text, p.Fix, p.Source})
	}
	c.owners()
	if err != nil {
		return false
	}
	c.config = config
	for _, err := range config.Unsupported() {
		c.fault(c.dir.Path(FsetdbFile), "", "%v", err)
	}
	c.invitations()
	return c.choose()
}

// choose picks the filesets that were asked for.
func (c *checker) choose() bool {
	var names []string
	for i := range c.config.Filesets {
		f := &c.config.Filesets[i]
		names = append(names, f.Name)
		if len(c.opts.Filesets) == 0 || slices.Contains(c.opts.Filesets, f.Name) {
			c.filesets = append(c.filesets, f)
		}
	}
	ok := true
	for _, asked := range c.opts.Filesets {
		if !slices.Contains(names, asked) {
			c.fault(c.dir.Path(FsetdbFile), orElse(didYouMean(asked, names), "`inconfig fileset list` shows those there are"), "there is no fileset %q", asked)
			ok = false
		}
	}
	if len(names) == 0 {
		c.note(c.dir.Path(FsetdbFile), "`inconfig fileset add NAME` on a server, `inconfig accept CODE` on a client", "this host takes part in no fileset")
	}
	for _, f := range c.filesets {
		if c.config.Role(f) == RoleServer && len(f.Replicators) == 0 {
			c.noReplicator(f)
		}
		if g := f.Replicator(c.config.Sysid.Name); g != nil && c.config.Role(f) == RoleServer {
			c.warn(c.dir.Path(FsetdbFile), "remove that [[fileset.replicator]]", "fileset %s: its server %s is among its replicators", f.Name, g.Name)
		}
	}
	return ok
}

func (c *checker) noReplicator(f *Fileset) {
	open, err := c.dir.OpenInvitations()
	if err == nil && slices.ContainsFunc(open, func(o OpenInvitation) bool { return o.Fileset == f.Name }) {
		c.note(c.dir.Path(FsetdbFile), "", "fileset %s has no replicator yet, and an open invitation", f.Name)
		return
	}
	c.warn(c.dir.Path(FsetdbFile), fmt.Sprintf("`inconfig invite %s HOST` lets one in", f.Name), "fileset %s has no replicator, so nobody gets a copy of it", f.Name)
}

// owners checks that nobody but root decides whom this host trusts.
func (c *checker) owners() {
	for _, name := range []string{"", SysidFile, ServerdbFile, FsetdbFile, InvitationsFile, SettingsFile} {
		path := c.dir.Path(name)
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		mode := info.Mode().Perm()
		if mode&0o022 != 0 {
			c.fault(path, "chmod go-w "+path, "others may write it (mode %04o), and so decide whom this host trusts", mode)
		}
		if name == InvitationsFile && mode&0o077 != 0 {
			c.fault(path, "chmod 600 "+path, "others may read it (mode %04o)", mode)
		}
		if sys, ok := info.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
			c.fault(path, "chown root "+path, "it belongs to user %d, who so decides whom this host trusts", sys.Uid)
		}
	}
}

func (c *checker) invitations() {
	open, err := c.dir.OpenInvitations()
	if errors.Is(err, fs.ErrPermission) {
		return // only root reads it
	}
	for _, p := range Problems(err) {
		c.fault(strings.TrimSuffix(fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col), ":0:0"), "remove the file, and invite again whom you invited", "%s", p.Text)
	}
	for _, o := range open {
		c.note(c.dir.Path(InvitationsFile), "", "an invitation of %s to fileset %s (%s) is open until %s", o.Replicator, o.Fileset, o.Rights, o.Expires.Local().Format("2006-01-02 15:04"))
	}
}

// keyFile checks the host's private key.
func (c *checker) keyFile() {
	path := c.dir.KeyPath(c.config.Sysid)
	key, err := LoadKey(path)
	switch {
	case err == nil:
		c.key = key
	case errors.Is(err, fs.ErrNotExist):
		c.fault(path, "`inconfig key` makes one", "this host has no key")
	case errors.Is(err, fs.ErrPermission):
		c.note(path, "run this as root", "the key can't be read by this user, so servers were not asked")
	case errors.Is(err, ErrKeyMode):
		c.fault(path, "chmod 600 "+path+"; if somebody may have copied it, make a new one", "the private key is readable by others")
	default:
		c.fault(path, "bring it back from a backup; with a new key all other hosts must be told its fingerprint", "%v", err)
	}
	if info, err := os.Stat(path); err == nil && !c.key.IsZero() {
		if sys, ok := info.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
			c.fault(path, "chown root "+path, "the private key belongs to user %d", sys.Uid)
		}
	}
}
