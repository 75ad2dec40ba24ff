package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/mkfs"
	"github.com/intermezzofs/intermezzo/pkg/version"
)

const help = `mkizofs makes a cache of InterMezzo at TARGET:

  a device or image file   is formatted with ext4 (with --size the file is made);
                           with --adopt its ext4, XFS or Btrfs and its tree stay
  a folder                 becomes a cache if it is empty, or with --adopt; it may
                           lie on ext4, XFS, Btrfs or tmpfs

A target that has anything on it is refused, and what that is is named; --force
destroys it. A target that is mounted or in use is refused in any case. A folder
is never emptied: there --force only makes an end of an earlier cache.

Exit status: 0 done; 1 refused, or it could not be done; 2 wrong command line.`

const examples = `  mkizofs --fileset shared /dev/sdb1
  mkizofs --size 20G --fileset home --fileset mail /var/cache.img
  mkizofs --adopt --fileset home /srv/home
  mkizofs --add --fileset music /dev/sdb1`

// options are the flags that the settings of all tools do not have.
type options struct {
	filesets []string
	size     string
	label    string
	uuid     string
	engine   string
	adopt    bool
	add      bool
	force    bool
}

func newCommand(name string) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:          name + " [options] TARGET",
		Short:        "make a cache of InterMezzo on a device, image file or folder",
		Long:         help,
		Example:      examples,
		Version:      version.String(),
		SilenceUsage: true,
		// The line says "options" itself.
		DisableFlagsInUseLine: true,
		SilenceErrors:         true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return misuse("name one target, a device, image file or folder; usage: %s", cmd.UseLine())
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return misuse("%v; see %s --help", err, name) })
	f := cmd.Flags()
	f.StringArrayVarP(&o.filesets, "fileset", "r", nil, "name of a fileset (default "+cache.DefaultFileset+"); again for more, the first has the root")
	f.StringVar(&o.size, "size", "", "make the image file TARGET of this many bytes, or K, M, G, T")
	f.StringVarP(&o.label, "label", "L", "", "label of the cache; 16 bytes at most where it is formatted")
	f.StringVarP(&o.uuid, "uuid", "U", "", "uuid of the cache, and of its ext4 (default: a new one)")
	f.StringVar(&o.engine, "engine", string(mkfs.EngineGo), "who makes the ext4: go (built in) or e2fsprogs (an installed mke2fs)")
	f.BoolVar(&o.adopt, "adopt", false, "keep file system and tree; the first fileset has it")
	f.BoolVar(&o.add, "add", false, "add the filesets to the cache that is there")
	f.BoolVarP(&o.force, "force", "f", false, "destroy what is on the target")
	f.BoolP("quiet", "q", false, "print neither progress nor what was made (INTERMEZZO_QUIET)")
	config.AddDryRunFlag(f)
	config.AddOutputFlag(f)
	config.AddFlags(f)
	return cmd
}

func misuse(format string, args ...any) error {
	return &mkfs.UsageError{Detail: fmt.Sprintf(format, args...)}
}

// request is what the command line asks for.
func (o *options) request(target string) (mkfs.Request, error) {
	r := mkfs.Request{
		Target: target, Filesets: o.filesets, Label: o.label, Engine: mkfs.Engine(o.engine),
		Adopt: o.adopt, Add: o.add, Force: o.force,
	}
	var err error
	if o.size != "" {
		if r.Size, err = mkfs.ParseSize(o.size); err != nil {
			return r, misuse("%v", err)
		}
	}
	if o.uuid == "" {
		return r, nil
	}
	if r.UUID, err = kml.ParseUUID(o.uuid); err != nil {
		return r, misuse("%v", err)
	}
	if r.UUID.IsZero() {
		return r, misuse("uuid %s: zero names nothing", o.uuid)
	}
	return r, nil
}

func (o *options) run(cmd *cobra.Command, target string) error {
	settings, err := config.SettingsFrom(cmd.Flags())
	if err != nil {
		return misuse("%v", err)
	}
	r, err := o.request(target)
	if err != nil {
		return err
	}
	r.DryRun = settings.DryRun
	var p *progress
	if !settings.Quiet && !r.DryRun {
		p = newProgress(cmd.ErrOrStderr())
		r.Progress = p.show
	}
	s, err := mkfs.Make(cmd.Context(), r)
	p.end()
	if err != nil {
		return err
	}
	switch {
	case settings.JSON:
		return printJSON(cmd.OutOrStdout(), s)
	case settings.Quiet:
		return nil
	}
	return printText(cmd.OutOrStdout(), s)
}
