package config

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func settings(t *testing.T, args ...string) (Settings, error) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFlags(flags)
	AddOutputFlag(flags)
	AddDryRunFlag(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return SettingsFrom(flags)
}

func TestSettings_Precedence(t *testing.T) {
	for _, name := range []string{"INTERMEZZO_CONFIG", "INTERMEZZO_RUN", "INTERMEZZO_JSON", "INTERMEZZO_DRY_RUN"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	dir := t.TempDir()
	check := func(want Settings, args ...string) {
		t.Helper()
		got, err := settings(t, args...)
		if err != nil || got != want {
			t.Errorf("%v: got %+v, %v; want %+v", args, got, err, want)
		}
	}
	check(Settings{Config: DefaultDir, Run: DefaultRun})
	if err := os.WriteFile(Dir(dir).Path(SettingsFile), []byte("run = \"/from/file\"\njson = true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	check(Settings{Config: Dir(dir), Run: "/from/file", JSON: true}, "--config", dir)
	t.Setenv("INTERMEZZO_CONFIG", dir)
	check(Settings{Config: Dir(dir), Run: "/from/file", JSON: true})
	t.Setenv("INTERMEZZO_RUN", "/from/env")
	t.Setenv("INTERMEZZO_JSON", "0")
	t.Setenv("INTERMEZZO_DRY_RUN", "yes")
	check(Settings{Config: Dir(dir), Run: "/from/env", DryRun: true})
	check(Settings{Config: Dir(dir), Run: "/from/flag", JSON: true}, "--run=/from/flag", "--json", "--dry-run=false")
	t.Setenv("INTERMEZZO_DRY_RUN", "maybe")
	if _, err := settings(t); err == nil || !strings.Contains(err.Error(), `INTERMEZZO_DRY_RUN="maybe"`) {
		t.Errorf("got %v", err)
	}
}

func TestSettings_FileIsStrict(t *testing.T) {
	d := Dir(t.TempDir())
	for text, want := range map[string]string{
		"rnu = \"/x\"\n":   `settings:1:1: unknown key "rnu" in the file; did you mean "run"?`,
		"json = \"yes\"\n": "settings:1:1: json must be true or false, not a string",
		"config = \"/\"\n": "can't be set in them",
		"run = \n":         "settings:1:",
	} {
		if err := os.WriteFile(d.Path(SettingsFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := settings(t, "--config", string(d)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
