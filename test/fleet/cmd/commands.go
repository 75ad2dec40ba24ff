package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/test/fleet"
	"github.com/intermezzofs/intermezzo/test/netlab"
)

// newRoot makes the command with all its verbs. What verbs answer goes to out.
func newRoot(env fleet.Env, out io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "lab",
		Short: "A small fleet of InterMezzo hosts on one machine",
		Long: `Plays a small fleet of InterMezzo hosts on one machine, each with its own
configuration, key, cache, network address and mount. A lab lives in a folder;
host1 is the server; every host mounts the fileset "shared" on DIR/hostN/mnt.

Exit status of all verbs: 0 done, 1 the answer is no, 2 misuse or failure.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("say what to do; lab help lists the verbs")
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(out)
	root.AddCommand(
		newUp(env, out), newDown(env),
		newCut(env), newHeal(env), newLink(env),
		newPartVerb(env, "stop", "End a host's daemon or presto as an administrator does (presto: unmount)", (*fleet.Lab).Stop),
		newPartVerb(env, "start", "Start a host's daemon or presto, and return when it answers", (*fleet.Lab).Start),
		newPartVerb(env, "kill", "Kill a host's daemon or presto (SIGKILL); it stays dead until start", (*fleet.Lab).Kill),
		newWait(env), newSame(env, out), newExec(env),
		newBytes(env, out), newPID(env, out), newDevice(env, out),
	)
	return root
}

// openHost finds the lab and the host that a verb's first arguments name.
func openHost(env fleet.Env, args []string) (*fleet.Lab, *fleet.Host, error) {
	lab, err := fleet.Open(args[0], env)
	if err != nil {
		return nil, nil, err
	}
	host, err := lab.Host(args[1])
	return lab, host, err
}

func newUp(env fleet.Env, out io.Writer) *cobra.Command {
	var o fleet.Options
	cmd := &cobra.Command{
		Use:   "up DIR",
		Short: "Make a lab in a folder that is empty or does not exist",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lab, err := fleet.Up(cmd.Context(), args[0], o, env)
			if err != nil {
				return err
			}
			for _, h := range lab.Hosts {
				fmt.Fprintln(out, h.Name, h.Prefix.Addr(), h.Mount())
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Hosts, "hosts", 2, "`N` hosts, the server included")
	f.StringVar(&o.Size, "size", "1G", "`size` of each cache")
	f.StringVar(&o.Mode, "mode", "full", "what the clients keep: full or on-demand")
	f.StringVar(&o.Permit, "permit", "none", "none or exclusive")
	f.StringVar(&o.Bottom, "bottom", "ext4", "what the caches lie on: ext4, xfs, btrfs or dir")
	f.BoolVar(&o.IPv6, "ipv6", false, "IPv6 addresses and no others")
	f.BoolVar(&o.Supervise, "supervise", false, "start again what was killed")
	return cmd
}

func newDown(env fleet.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "down DIR",
		Short: "Remove a lab and everything that belongs to it, whatever state it is in",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return fleet.Down(cmd.Context(), args[0], env)
		},
	}
}

func newCut(env fleet.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "cut DIR HOST",
		Short: "Drop everything from and to a host, in silence",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			lab, host, err := openHost(env, args)
			if err != nil {
				return err
			}
			return lab.Cut(cmd.Context(), host)
		},
	}
}

func newHeal(env fleet.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "heal DIR HOST",
		Short: "Undo cut",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			lab, host, err := openHost(env, args)
			if err != nil {
				return err
			}
			return lab.Heal(cmd.Context(), host)
		},
	}
}

func newLink(env fleet.Env) *cobra.Command {
	var rate, delay, loss string
	var seed uint64
	cmd := &cobra.Command{
		Use:   "link DIR HOST",
		Short: "Make a host's link slow, long or lossy; without flags, good again",
		Long: `Make a host's link slow, long or lossy; what is not given is as good as it gets.
Rate, delay and loss hold for each direction, so a ping takes twice the delay.
What is on the way when the link changes is lost.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			link, err := parseLink(rate, delay, loss)
			if err != nil {
				return err
			}
			if !link.IsZero() {
				link.Seed = seed
			}
			lab, host, err := openHost(env, args)
			if err != nil {
				return err
			}
			return lab.Link(cmd.Context(), host, link)
		},
	}
	f := cmd.Flags()
	f.StringVar(&rate, "rate", "0", "`bits` per second, for example 3M (0: no limit)")
	f.StringVar(&delay, "delay", "0", "`time` of a packet on the way, for example 20ms")
	f.StringVar(&loss, "loss", "0", "`percent` of the packets that are lost")
	f.Uint64Var(&seed, "seed", 1, "decides which packets are lost")
	return cmd
}

func parseLink(rate, delay, loss string) (netlab.Link, error) {
	var link netlab.Link
	var rateErr, delayErr, lossErr error
	link.Rate, rateErr = fleet.ParseRate(rate)
	link.Delay, delayErr = fleet.ParseDelay(delay)
	link.Loss, lossErr = fleet.ParseLoss(loss)
	return link, errors.Join(rateErr, delayErr, lossErr)
}

func newWait(env fleet.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "wait DIR [SECONDS]",
		Short: "Wait until what was done so far is on all connected hosts (limit: 60 s)",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			limit := 60.0
			if len(args) == 2 {
				var err error
				if limit, err = strconv.ParseFloat(args[1], 64); err != nil || !(limit > 0 && limit < 1e9) {
					return fmt.Errorf("wait %q: want a number of seconds", args[1])
				}
			}
			lab, err := fleet.Open(args[0], env)
			if err != nil {
				return err
			}
			return lab.Wait(cmd.Context(), time.Duration(limit*float64(time.Second)))
		},
	}
}

func newSame(env fleet.Env, out io.Writer) *cobra.Command {
	var metadata bool
	cmd := &cobra.Command{
		Use:   "same DIR [HOST...]",
		Short: "Compare the mounts of hosts with that of the first, and print the differences",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lab, err := fleet.Open(args[0], env)
			if err != nil {
				return err
			}
			var hosts []*fleet.Host
			for _, name := range args[1:] {
				h, err := lab.Host(name)
				if err != nil {
					return err
				}
				hosts = append(hosts, h)
			}
			return lab.Same(cmd.Context(), hosts, metadata, out)
		},
	}
	cmd.Flags().BoolVar(&metadata, "metadata", false, "leave content out")
	return cmd
}
