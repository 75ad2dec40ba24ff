package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/version"
)

// Exit statuses, documented in the help text and the manual page.
const (
	exitClean    = 0
	exitWarnings = 1
	exitErrors   = 2
	exitMisuse   = 3 // nothing was checked: wrong command line, or the output can't be written
)

const rootHelp = `inconfig_chk looks at everything that has to be right for InterMezzo to work on
this host: the files of the configuration, the lines in fstab, devices and the
caches on them, mount points, /dev/fuse, the run folder and its channels, ports,
keys, servers and clocks. It changes nothing. For each fault it says what to do.

With names of filesets it looks only at what these need.

Exit status: 0 nothing is wrong; 1 there are warnings; 2 there are errors; 3 wrong
command line, nothing was checked.`

// flags are what the command was asked for.
type flags struct {
	fstab   string
	offline bool
	timeout time.Duration
}

// newRoot makes the command. It stores the exit status of a check in status.
func newRoot(status *int) *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:           "inconfig_chk [--json] [FILESET...]",
		Short:         "check how this host is set up for InterMezzo",
		Long:          rootHelp,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,

		DisableFlagsInUseLine: true,

		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			*status, err = runCheck(cmd, args, f)
			return err
		},
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; see inconfig_chk --help", err)
	})
	config.AddFlags(cmd.Flags())
	config.AddOutputFlag(cmd.Flags())
	cmd.Flags().StringVar(&f.fstab, "fstab", config.DefaultFstab, "the fstab to look at")
	cmd.Flags().BoolVar(&f.offline, "offline", false, "leave out ports, servers and clocks")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Second, "how long to wait for each address of a server")
	cmd.CompletionOptions.DisableDefaultCmd = true // any other word is a fileset
	cmd.AddCommand(newCompletion(cmd))
	return cmd
}

// newCompletion prints completions for a shell.
func newCompletion(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch w := cmd.OutOrStdout(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(w, true)
			case "zsh":
				return root.GenZshCompletion(w)
			case "fish":
				return root.GenFishCompletion(w, true)
			}
			return fmt.Errorf("no completions for %q; there are bash, zsh and fish", args[0])
		},
	}
}

// report is the JSON of a check.
type report struct {
	Worst    config.Severity  `json:"worst"` // "" if there is nothing to report
	Findings []config.Finding `json:"findings"`
}

func runCheck(cmd *cobra.Command, filesets []string, f flags) (int, error) {
	s, err := config.SettingsFrom(cmd.Flags())
	if err != nil {
		return exitMisuse, err
	}
	if f.timeout <= 0 {
		return exitMisuse, errors.New("--timeout must be longer than 0")
	}
	if c, err := s.Config.Load(); err == nil {
		for _, name := range filesets {
			if _, err := s.Config.Find(c, name); err != nil {
				return exitMisuse, err
			}
		}
	}
	findings := config.Check(cmd.Context(), s.Config, config.CheckOptions{
		Filesets: filesets, Fstab: f.fstab, Run: s.Run, Offline: f.offline, Timeout: f.timeout,
		LookInside: lookInside, Channels: channels, Mounts: mounts,
	})
	r := report{Worst: config.Worst(findings), Findings: slices.Concat([]config.Finding{}, findings)}
	if s.JSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		err = enc.Encode(r)
	} else {
		err = printFindings(cmd.OutOrStdout(), findings)
	}
	if err != nil {
		return exitMisuse, err
	}
	return map[config.Severity]int{config.SeverityError: exitErrors, config.SeverityWarning: exitWarnings}[r.Worst], nil
}

// printFindings prints each finding as a line, and below it the line of the file
// and what to do.
func printFindings(w io.Writer, findings []config.Finding) error {
	errorCount, warnings := 0, 0
	for _, f := range findings {
		switch f.Severity {
		case config.SeverityError:
			errorCount++
		case config.SeverityWarning:
			warnings++
		}
		if _, err := fmt.Fprintf(w, "%s: %s: %s\n", f.Severity, f.Where, f.Text); err != nil {
			return err
		}
		if f.Source != "" {
			fmt.Fprintf(w, "    | %s\n", f.Source)
		}
		if f.Fix != "" {
			fmt.Fprintf(w, "    %s\n", f.Fix)
		}
	}
	_, err := fmt.Fprintf(w, "%s, %s\n", count(errorCount, "error"), count(warnings, "warning"))
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
