package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
)

// Names under which this binary is a helper of mount(8) and umount(8).
const (
	mountHelper  = "mount.intermezzo"
	umountHelper = "umount.fuse.intermezzo"
)

func newMount() *cobra.Command {
	var options []string
	var fake, verbose bool
	cmd := &cobra.Command{
		Use:   "mount SOURCE DIR -o fileset=NAME[,OPTION...]",
		Short: "mount a fileset of the cache SOURCE on DIR",
		Long: `mount mounts a fileset of the cache SOURCE, a device, loop file or folder, on DIR.
It starts the cache's presto unless that runs already. The options are those of
mount.intermezzo(8), which is the same behind mount -t intermezzo.`,
		Args: positional(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := settings(cmd)
			if err != nil {
				return err
			}
			return doMount(cmd, args, strings.Join(options, ","), mount.Options{Run: s.Run, Fake: fake, Log: talker(cmd.ErrOrStderr(), cmd.Root().Name(), verbose)})
		},
	}
	cmd.Flags().StringArrayVarP(&options, "options", "o", nil, "mount options, separated by commas")
	cmd.Flags().BoolVarP(&fake, "fake", "f", false, "check everything, but mount nothing")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "say what is done")
	return cmd
}

// newMountHelper is what mount(8) calls, by the contract of util-linux.
func newMountHelper() *cobra.Command {
	var options []string
	var fake, verbose, readOnly, readWrite bool
	var fstype, namespace string
	cmd := helper(mountHelper+" SOURCE DIR [-sfnvrw] [-o OPTIONS] [-t TYPE]", "mount a fileset; called by mount -t intermezzo")
	cmd.Args = positional(cobra.ExactArgs(2))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if namespace != "" {
			return misuse(fmt.Errorf("-N %s: enter the namespace with nsenter -m and mount there", namespace))
		}
		if fstype != "" && fstype != config.FSType {
			return misuse(fmt.Errorf("type %q is not ours; it is %s", fstype, config.FSType))
		}
		if readOnly {
			options = append(options, "ro")
		}
		if readWrite {
			options = append(options, "rw")
		}
		s, err := settings(cmd)
		if err != nil {
			return err
		}
		return doMount(cmd, args, strings.Join(options, ","), mount.Options{Run: s.Run, Fake: fake, Log: talker(cmd.ErrOrStderr(), cmd.Root().Name(), verbose)})
	}
	f := cmd.Flags()
	config.AddFlags(f)
	f.StringArrayVarP(&options, "options", "o", nil, "mount options, separated by commas")
	f.BoolVarP(&fake, "fake", "f", false, "check everything, but mount nothing")
	f.BoolVarP(&verbose, "verbose", "v", false, "say what is done")
	f.BoolVarP(&readOnly, "read-only", "r", false, "mount read-only")
	f.BoolVarP(&readWrite, "rw", "w", false, "mount read-write")
	f.StringVarP(&fstype, "types", "t", "", "type of the file system")
	f.StringVarP(&namespace, "namespace", "N", "", "mount namespace")
	f.BoolP("sloppy", "s", false, "accepted; unknown options are refused all the same")
	f.BoolP("no-mtab", "n", false, "accepted; there is no mtab")
	return cmd
}

// helper is a command of the contract of util-linux.
func helper(use, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, SilenceUsage: true, SilenceErrors: true, DisableFlagsInUseLine: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return misuse(fmt.Errorf("%w; usage: %s", err, use))
	})
	return cmd
}

// doMount completes o by the words of a command line and mounts.
func doMount(cmd *cobra.Command, args []string, options string, o mount.Options) error {
	words := strings.Split(options, ",")
	// Not an option of a mount but another thing to do; mount(8) puts it among them.
	if i := slices.Index(words, "remount"); i >= 0 {
		o.Remount = true
		words = slices.Delete(words, i, i+1)
	}
	var err error
	if o.Want, err = config.ParseMountOptions(strings.Join(words, ",")); err != nil {
		return misuse(err)
	}
	o.Source, o.Mountpoint = args[0], args[1]
	return mount.Mount(cmd.Context(), o)
}
