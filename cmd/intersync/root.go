package main

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/detach"
	"github.com/intermezzofs/intermezzo/pkg/version"
)

const help = `intersync looks after the fileset that is mounted on CACHE. Without --server this
host is its server, with it a client of that server. Its key, and the key of the
server that it trusts, are kept in the docroot.

A client needs an invitation, once: on the server,
	inconfig --config DOCROOT invite FILESET NAME
prints a CODE, which is taken by
	intersync --invite CODE --server HOST CACHE

^C ends it. Exit status: 0 done; 1 files to be hoarded are missing, or it runs
already; 2 wrong command line or docroot; 3 it could not be done.`

// options are the original's, and --invite.
type options struct {
	docroot    string
	localIP    string
	localPort  uint16
	server     string
	serverPort uint16
	clientID   string
	fset       string
	hoard      string
	reint      bool
	daemon     bool
	debug      string
	invite     string
	readyFD    int
	lifelineFD int
}

func (o *options) add(f *pflag.FlagSet) {
	f.StringVarP(&o.docroot, "docroot", "d", "", "folder for key, pins and settings of this cache (default /var/intermezzo-CHANNEL)")
	f.StringVarP(&o.localIP, "local-ip", "i", "", "server: address to listen on (default all); client: address to dial from")
	f.Uint16VarP(&o.localPort, "local-port", "p", config.DefaultPort, "server: port to listen on; a client does not listen")
	f.StringVar(&o.server, "server", "", "server to follow; without it this host is the server")
	f.Uint16Var(&o.serverPort, "server-port", config.DefaultPort, "port on that server")
	f.StringVar(&o.clientID, "clientid", "", "name of this host (default: as invited, or the host's name)")
	f.StringVar(&o.fset, "fset", "", "fileset that must be mounted on CACHE (default: whichever is)")
	f.StringVar(&o.hoard, "hoard", "", "file with a list of files that must be here, one a line")
	f.BoolVar(&o.reint, "reint", false, "exit once in step with the server and hoarding is done")
	f.BoolVar(&o.daemon, "daemon", false, "go into the background once it is ready")
	f.StringVar(&o.debug, "debug", "", "log more; any number but 0")
	f.StringVar(&o.invite, "invite", "", "invitation to take to the server first; - reads it from standard input")
	f.IntVar(&o.readyFD, detach.ReadyFlag, -1, "descriptor to report on")
	f.IntVar(&o.lifelineFD, detach.LifelineFlag, -1, "descriptor that closes when the starter lets go")
	f.MarkHidden(detach.ReadyFlag)
	f.MarkHidden(detach.LifelineFlag)
	f.String("run", config.DefaultRun, "folder of the sockets (INTERMEZZO_RUN)")
}

func newRoot() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:           "intersync [options] CACHE",
		Short:         "keep one mounted cache in step with its server, or be its server",
		Long:          help,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			fmt.Fprint(cmd.ErrOrStderr(), cmd.UsageString(), "\n")
			return misuse("name one CACHE, the mount point of a mounted cache")
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return misuse("%w; see intersync --help", err) })
	// Any other word than ours is the CACHE.
	cmd.CompletionOptions.DisableDefaultCmd = true
	o.add(cmd.Flags())
	cmd.AddCommand(newCompletion(cmd))
	return cmd
}

// newCompletion prints completions for a shell.
func newCompletion(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(cmd.OutOrStdout(), true)
			case "zsh":
				return root.GenZshCompletion(cmd.OutOrStdout())
			case "fish":
				return root.GenFishCompletion(cmd.OutOrStdout(), true)
			}
			return misuse("no completions for %q; there are bash, zsh and fish", args[0])
		},
	}
}

// check finds what makes no sense together.
func (o *options) check(f *pflag.FlagSet) error {
	if o.server == "" {
		for _, name := range []string{"server-port", "reint", "invite"} {
			if f.Changed(name) {
				return misuse("--%s is for clients: say --server too", name)
			}
		}
	}
	if o.debug != "" {
		if _, err := strconv.ParseUint(o.debug, 0, 64); err != nil {
			return misuse("--debug=%s: want a number; 0 is off", o.debug)
		}
	}
	if o.localIP == "*" {
		o.localIP = ""
	}
	if o.localIP != "" {
		if _, err := netip.ParseAddr(o.localIP); err != nil {
			return misuse("--local-ip %s: want an address of this host", o.localIP)
		}
	}
	if o.server != "" {
		if _, err := o.serverAddress(); err != nil {
			return misuse("--server: %w", err)
		}
	}
	return nil
}

// serverAddress is host:port of the server.
func (o *options) serverAddress() (string, error) {
	return config.JoinAddress(o.server, int(o.serverPort), false)
}

// bind is what a server listens on by the flags; nil: as the docroot says.
func (o *options) bind(f *pflag.FlagSet) []string {
	if !f.Changed("local-ip") && !f.Changed("local-port") {
		return nil
	}
	return []string{net.JoinHostPort(o.localIP, strconv.Itoa(int(o.localPort)))}
}
