package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/daemon"
)

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show filesets, peers, positions and what is pending",
		Long: `status shows the filesets of this host: what they are here, who they are connected
to, how far their logs are, and what is not confirmed yet. It needs neither daemon
nor presto, and touches no mount.

Exit status: 0 all is well; 1 something is wrong, as shown; 2 wrong command line.`,
		Args: positional(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings(cmd)
			if err != nil {
				return err
			}
			status, err := daemon.Collect(cmd.Context(), s.Config, s.Run)
			if err != nil {
				return err
			}
			if s.JSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(status)
			} else {
				err = printStatus(cmd.OutOrStdout(), status)
			}
			if err == nil && status.Wrong() {
				return no()
			}
			return err
		},
	}
	config.AddOutputFlag(cmd.Flags())
	return cmd
}

// printStatus writes s for people.
func printStatus(w io.Writer, s *daemon.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range s.Errors {
		fmt.Fprintf(t, "configuration: %s\n", e)
	}
	if len(s.Daemons) == 0 {
		fmt.Fprintf(t, "daemon\tnone is running\n")
	}
	for _, d := range s.Daemons {
		printDaemon(t, d)
	}
	for _, f := range s.Filesets {
		fmt.Fprintln(t)
		printFileset(t, f)
	}
	for _, p := range s.Prestos {
		fmt.Fprintln(t)
		if p.Error != "" {
			fmt.Fprintf(t, "presto\tchannel %d, process %d: %s\n", p.Channel, p.PID, p.Error)
			continue
		}
		fmt.Fprintf(t, "presto\tchannel %d, process %d, serves %s of %s\n", p.Channel, p.PID, strings.Join(p.Filesets, ", "), p.Source)
		fmt.Fprintf(t, "  bottom\t%s; data by %s, requests by %s\n", p.Bottom, p.Data, p.Link)
	}
	return t.Flush()
}

func printDaemon(w io.Writer, d daemon.DaemonStatus) {
	fmt.Fprintf(w, "daemon\t%s, process %d", d.Tool, d.PID)
	if len(d.Listen) > 0 {
		fmt.Fprintf(w, ", listens on %s", strings.Join(d.Listen, ", "))
	}
	fmt.Fprintln(w)
	if d.Error != "" {
		fmt.Fprintf(w, "  error\t%s\n", d.Error)
	}
}

func printFileset(w io.Writer, f daemon.FilesetStatus) {
	what := string(f.Role)
	switch {
	case f.Role == channel.RoleNone:
		what = "not replicated yet"
	case f.Role == channel.RoleClient && f.Connected:
		what = "client of " + f.Server + ", connected"
	case f.Role == channel.RoleClient:
		what = "client of " + f.Server + ", not connected"
	}
	fmt.Fprintf(w, "fileset %s\t%s\n", f.Name, what)
	if f.Channel >= 0 {
		fmt.Fprintf(w, "  mounted\t%s (%s, channel %d)\n", orNowhere(f.Mountpoint), f.Source, f.Channel)
		fmt.Fprintf(w, "  own log\t%d records, %d confirmed\n", f.Own, f.Confirmed)
		fmt.Fprintf(w, "  pending\t%s\n", pending(f))
		fmt.Fprintf(w, "  order\t%d received, %d applied%s\n", f.Order, f.Applied, behind(f))
		fmt.Fprintf(w, "  being written\t%d files\n", f.Writing)
	}
	if f.BytesIn+f.BytesOut > 0 {
		fmt.Fprintf(w, "  network\t%s in, %s out\n", size(f.BytesIn), size(f.BytesOut))
	}
	for _, t := range f.Transfers {
		printTransfer(w, t)
	}
	for _, p := range f.Peers {
		printPeer(w, p)
	}
	if f.Error != "" {
		fmt.Fprintf(w, "  error\t%s\n", f.Error)
	}
}

func printPeer(w io.Writer, p daemon.PeerReport) {
	state := "not connected"
	if p.Connected {
		state = "connected from " + p.Address
		if p.Since != nil {
			state += " since " + p.Since.Local().Format(time.DateTime)
		}
	}
	fmt.Fprintf(w, "  peer %s\t%s, %s\n", p.Name, p.Rights, state)
}

func orNowhere(dir string) string {
	if dir == "" {
		return "nowhere"
	}
	return dir
}

func pending(f daemon.FilesetStatus) string {
	if f.PendingRecords == 0 {
		return "nothing"
	}
	age := time.Duration(f.PendingAge * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%d records, %s of log, the oldest %s old", f.PendingRecords, size(f.PendingBytes), age)
}

func behind(f daemon.FilesetStatus) string {
	if f.Behind == 0 {
		return ""
	}
	return fmt.Sprintf(", %d on the server: %d groups behind, %s to come", f.ServerEnd, f.Behind, size(f.BehindBytes))
}

func printTransfer(w io.Writer, t daemon.TransferReport) {
	name, way := t.Path, "down"
	if name == "" {
		name = "(a file)"
	}
	if t.Up {
		way = "up"
	}
	fmt.Fprintf(w, "  %s\t%s, %s of %s", way, name, size(t.Done), size(t.Size))
	if t.Rate > 0 {
		fmt.Fprintf(w, ", %s/s, %s left", size(int64(t.Rate)), time.Duration(t.Left*float64(time.Second)).Round(time.Second))
	}
	fmt.Fprintln(w)
}

// size prints a number of bytes with the unit that suits it.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, u := float64(n), 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	if u == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[u])
}
