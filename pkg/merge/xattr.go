package merge

import "strings"

const ownXattrs = "trusted.izo" // prefix of what presto keeps for itself

// ReplicatesXattr reports whether the xattr of that name is part of what a
// fileset replicates: user and trusted attributes but our own, POSIX ACLs, and
// security attributes but those that are bound to one host's policy or keys.
// Others are neither logged nor accepted.
func ReplicatesXattr(name string) bool {
	switch name {
	case "system.posix_acl_access", "system.posix_acl_default":
		return true
	case "security.selinux", "security.ima", "security.evm":
		return false
	case "trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT": // XFS shows its ACLs a second time
		return false
	}
	if strings.HasPrefix(name, ownXattrs) {
		return false
	}
	for _, space := range []string{"user.", "trusted.", "security."} {
		if strings.HasPrefix(name, space) {
			return len(name) > len(space)
		}
	}
	return false
}
