// Package config is what an administrator says about a host: the three
// databases sysid, serverdb and fsetdb, the host's key, invitations, the fstab
// line, the settings of the tools, and every check that inconfig_chk reports.
//
// A configuration is a folder (Dir):
//
//	sysid        who this host is            TOML, man sysid(5)
//	serverdb     the servers it knows        TOML, man serverdb(5)
//	fsetdb       the filesets it takes part in  TOML, man fsetdb(5)
//	key.pem      its private key             mode 0600, never leaves the host
//	invitations  what it has offered         mode 0600, secrets only as hashes
//	settings     settings of the tools       TOML, optional
//	lock         flock(2)ed while somebody edits
//
// The files are strict: an unknown key, a value of the wrong type or a reference
// to something that is not there is an error with file, line and column, and all
// of them are reported at once. They are written whole, to a temporary name,
// made durable, then renamed, under the lock, so that a tool and a daemon never
// lose each other's edits and a reader never sees half of one.
//
// Trust has no authority behind it: each host has one Ed25519 key, both ends of
// a connection pin the other's Fingerprint, and an invitation carries the
// server's to the client and is good for one client only.
//
// All functions are safe for concurrent use. Those of Dir block on disk, and
// those that edit also on the lock; only Check and the Joiner given to the tools
// touch the network.
package config
