package config

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MountOptions are the options behind mount's -o, in fstab and on the command
// line.
type MountOptions struct {
	Fileset   string   // fileset=
	Mtpt      string   // mtpt=; "" if not said
	CacheType string   // cache_type=; "" if not said
	Channel   int      // prestodev=/dev/intermezzoN or channel=N; -1 if not said
	ReadOnly  bool     // ro
	VFS       []string // what the kernel is told in general, in order: nosuid, noatime, ...
	Extra     []string // what only mount(8) and systemd look at: noauto, _netdev, x-...
}

// cacheTypes are the bottoms that cache_type= names. The ext ones are all
// served by the ext4 driver.
var cacheTypes = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"}

// vfsOptions are those of mount(8) that mean the same on every file system.
var vfsOptions = []string{
	"defaults", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync",
	"atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
	"lazytime", "nolazytime", "nosymfollow", "symfollow", "iversion", "noiversion", "silent", "loud",
}

// extraOptions are not for the file system; x- and X- ones are let through too.
var extraOptions = []string{"auto", "noauto", "nofail", "_netdev", "nouser"}

// userOptions let anybody mount. A cache is opened as root only.
var userOptions = []string{"user", "users", "owner", "group"}

const prestoPrefix = "/dev/intermezzo"

// Driver gives the type of file system that the kernel is asked for: ext4 for
// all of the ext family, "" where cache_type was not said.
func (o MountOptions) Driver() string {
	if strings.HasPrefix(o.CacheType, "ext") {
		return "ext4"
	}
	return o.CacheType
}

// ParseMountOptions reads a comma separated list of mount options. What it
// doesn't know is refused by name. fileset= must be there.
func ParseMountOptions(text string) (MountOptions, error) {
	o := MountOptions{Channel: -1}
	seen := map[string]bool{}
	for _, option := range strings.Split(text, ",") {
		if option == "" {
			continue // mount(8) makes ",," of what it takes out
		}
		key, value, hasValue := strings.Cut(option, "=")
		if hasValue && seen[key] && !isExtra(key) {
			return o, valueError("mount option %s is given twice", key)
		}
		seen[key] = true
		var err error
		if hasValue {
			err = o.set(key, value)
		} else {
			err = o.flag(key)
		}
		if err != nil {
			return o, err
		}
	}
	if seen["channel"] && seen["prestodev"] {
		return o, valueError("mount options channel= and prestodev= say the same thing; give only one")
	}
	if o.Fileset == "" {
		return o, valueError("mount option fileset=NAME is missing: it says which fileset of the cache to mount")
	}
	return o, nil
}

func isExtra(key string) bool {
	return strings.HasPrefix(key, "x-") || strings.HasPrefix(key, "X-") || key == "comment"
}

func (o *MountOptions) set(key, value string) error {
	switch {
	case isExtra(key):
		o.Extra = append(o.Extra, key+"="+value)
		return nil
	case key == "fileset":
		o.Fileset = value
		return CheckFilesetName(value)
	case key == "mtpt":
		o.Mtpt = value
		return checkMtpt(value)
	case key == "cache_type":
		if !slices.Contains(cacheTypes, value) {
			return valueError("mount option cache_type=%s: %s", value, orElse(didYouMean(value, cacheTypes), "use "+strings.Join(cacheTypes, ", ")))
		}
		o.CacheType = value
		return nil
	case key == "prestodev", key == "channel":
		return o.setChannel(key, value)
	case slices.Contains(vfsOptions, key) || slices.Contains(extraOptions, key) || key == "ro":
		return valueError("mount option %s takes no value, and has %q", key, value)
	}
	return unknownOption(key + "=" + value)
}

func checkMtpt(value string) error {
	if value != "/" && strings.HasSuffix(value, "/") {
		return valueError("mount option mtpt=%s: must not have a slash at the end; write mtpt=%s", value, filepath.Clean(value))
	}
	if err := CheckMountpoint(value); err != nil {
		return valueError("mount option mtpt=: %v", err)
	}
	return nil
}

func (o *MountOptions) setChannel(key, value string) error {
	number := value
	if key == "prestodev" {
		var ok bool
		if number, ok = strings.CutPrefix(value, prestoPrefix); !ok {
			return valueError("mount option prestodev=%s: write %sN, N being the number of the channel", value, prestoPrefix)
		}
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n > MaxChannel || strconv.Itoa(n) != number {
		return valueError("mount option %s=%s: the channel must be a number from 0 to %d", key, value, MaxChannel)
	}
	o.Channel = n
	return nil
}

func (o *MountOptions) flag(key string) error {
	switch {
	case key == "ro":
		o.ReadOnly = true
	case key == "rw":
		o.ReadOnly = false // the later one counts, as for mount(8)
	case slices.Contains(vfsOptions, key):
		o.VFS = append(o.VFS, key)
	case slices.Contains(extraOptions, key), isExtra(key):
		o.Extra = append(o.Extra, key)
	case slices.Contains(userOptions, key):
		return valueError("mount option %s: only root can mount a cache; leave it out", key)
	case slices.Contains(valueOptions, key):
		return valueError("mount option %s needs a value: %s=...", key, key)
	default:
		return unknownOption(key)
	}
	return nil
}

var valueOptions = []string{"fileset", "mtpt", "cache_type", "prestodev", "channel"}

func unknownOption(option string) error {
	key, _, _ := strings.Cut(option, "=")
	known := slices.Concat(valueOptions, vfsOptions, extraOptions, []string{"ro"})
	hint := didYouMean(key, known)
	if hint == "" {
		hint = "intermezzo's own are " + strings.Join(valueOptions, "=, ") + "="
	}
	return valueError("unknown mount option %q; %s", option, hint)
}

// CheckMountpoint reports whether mtpt= contradicts the folder that is being
// mounted on. mount(8) gives the latter with symbolic links resolved.
func (o MountOptions) CheckMountpoint(folder string) error {
	if o.Mtpt == "" || o.Mtpt == filepath.Clean(folder) {
		return nil
	}
	a, errA := filepath.EvalSymlinks(o.Mtpt)
	b, errB := filepath.EvalSymlinks(folder)
	if errA == nil && errB == nil && a == b {
		return nil
	}
	return valueError("mount option mtpt=%s: the mount point is %s; the two must be the same", o.Mtpt, folder)
}

// String gives the options in the order of an fstab line. Parsing it gives o
// again.
func (o MountOptions) String() string {
	parts := []string{"fileset=" + o.Fileset}
	if o.Mtpt != "" {
		parts = append(parts, "mtpt="+o.Mtpt)
	}
	if o.CacheType != "" {
		parts = append(parts, "cache_type="+o.CacheType)
	}
	if o.Channel >= 0 {
		parts = append(parts, "prestodev="+prestoPrefix+strconv.Itoa(o.Channel))
	}
	if o.ReadOnly {
		parts = append(parts, "ro")
	}
	return strings.Join(slices.Concat(parts, o.VFS, o.Extra), ",")
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
