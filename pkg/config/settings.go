package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// Where a host's configuration and its sockets are unless flags or the
// environment say otherwise.
const (
	DefaultDir = "/etc/intermezzo"
	DefaultRun = "/run/intermezzo"
)

// envPrefix begins the environment variables of the tools: INTERMEZZO_CONFIG is
// --config, INTERMEZZO_DRY_RUN is --dry-run.
const envPrefix = "INTERMEZZO"

// Settings are how a tool was asked to behave, from its flags, the environment,
// the file "settings" of the configuration folder and the defaults, in that
// order of precedence. What a tool has no flag for is zero.
type Settings struct {
	Config Dir    // configuration folder
	Run    string // folder of the sockets
	JSON   bool   // print data as JSON
	Quiet  bool   // print no progress
	DryRun bool   // change nothing
}

// settingFlags are the flags that the environment can give too. Only config
// can't stand in the settings file, which lies in that folder.
var settingFlags = []string{"config", "run", "json", "quiet", "dry-run"}

// AddFlags adds the flags that every tool has: --config and --run.
func AddFlags(flags *pflag.FlagSet) {
	flags.String("config", DefaultDir, "configuration folder (INTERMEZZO_CONFIG)")
	flags.String("run", DefaultRun, "folder of the sockets (INTERMEZZO_RUN)")
}

// AddOutputFlag adds --json, for commands that print data.
func AddOutputFlag(flags *pflag.FlagSet) {
	flags.Bool("json", false, "print data as JSON (INTERMEZZO_JSON)")
}

// AddDryRunFlag adds --dry-run, for commands that change something.
func AddDryRunFlag(flags *pflag.FlagSet) {
	flags.Bool("dry-run", false, "show what would change, and change nothing (INTERMEZZO_DRY_RUN)")
}

// SettingsFrom reads the settings after flags was parsed. It reads the settings
// file, so it may block on disk.
func SettingsFrom(flags *pflag.FlagSet) (Settings, error) {
	v := newViper()
	for _, name := range settingFlags {
		flag := flags.Lookup(name)
		if flag == nil {
			continue
		}
		if err := v.BindPFlag(name, flag); err != nil {
			return Settings{}, fmt.Errorf("bind flag --%s: %w", name, err)
		}
		if err := v.BindEnv(name); err != nil {
			return Settings{}, fmt.Errorf("bind environment of --%s: %w", name, err)
		}
	}
	dir, err := absolute("config", v.GetString("config"), DefaultDir)
	if err != nil {
		return Settings{}, err
	}
	s := Settings{Config: Dir(dir)}
	if err := s.Config.readSettings(v); err != nil {
		return Settings{}, err
	}
	if s.Run, err = absolute("run", v.GetString("run"), DefaultRun); err != nil {
		return Settings{}, err
	}
	for name, into := range map[string]*bool{"json": &s.JSON, "quiet": &s.Quiet, "dry-run": &s.DryRun} {
		if *into, err = boolean(v, name); err != nil {
			return Settings{}, err
		}
	}
	return s, nil
}

func absolute(name, path, standard string) (string, error) {
	if path == "" {
		path = standard
	}
	if strings.ContainsRune(path, 0) {
		return "", fmt.Errorf("--%s %q: not a path", name, path)
	}
	return filepath.Abs(path)
}

// boolean is strict where viper takes whatever it doesn't understand for false.
func boolean(v *viper.Viper, name string) (bool, error) {
	switch value := v.Get(name).(type) {
	case nil:
		return false, nil
	case bool:
		return value, nil
	case string:
		switch strings.ToLower(value) {
		case "true", "1", "yes":
			return true, nil
		case "false", "0", "no", "":
			return false, nil
		}
		variable := envPrefix + "_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		return false, fmt.Errorf("%s=%q: use true or false", variable, value)
	}
	return false, fmt.Errorf("setting %s: use true or false", name)
}

// newViper makes a viper that reads TOML with the same package as the
// databases.
func newViper() *viper.Viper {
	codecs := viper.NewCodecRegistry()
	// Never fails: the name is a constant.
	_ = codecs.RegisterCodec("toml", tomlCodec{})
	v := viper.NewWithOptions(viper.WithCodecRegistry(codecs), viper.EnvKeyReplacer(strings.NewReplacer("-", "_")))
	v.SetEnvPrefix(envPrefix)
	v.SetConfigType("toml")
	return v
}

type tomlCodec struct{}

func (tomlCodec) Encode(v map[string]any) ([]byte, error) { return toml.Marshal(v) }

func (tomlCodec) Decode(data []byte, v map[string]any) error { return toml.Unmarshal(data, &v) }

// readSettings reads the settings file into v, if there is one, as strictly as
// the databases.
func (d Dir) readSettings(v *viper.Viper) error {
	doc, err := d.open(SettingsFile)
	if errors.Is(err, fs.ErrNotExist) || (errors.Is(err, fs.ErrPermission)) {
		return nil // who may not read the folder gets the defaults
	}
	if err != nil {
		return d.unreadable(SettingsFile, err)
	}
	if err := errors.Join(doc.problems...); err != nil {
		return err
	}
	checkSettings(doc)
	if err := errors.Join(doc.sorted()...); err != nil {
		return err
	}
	if err := v.MergeConfigMap(doc.root); err != nil {
		return fmt.Errorf("read %s: %w", d.Path(SettingsFile), err)
	}
	return nil
}

func checkSettings(doc *document) {
	t := doc.top(map[string]string{"config": "the folder that holds the settings can't be set in them"})
	t.text("run", "")
	for _, name := range slices.DeleteFunc(slices.Clone(settingFlags), func(s string) bool { return s == "config" || s == "run" }) {
		if v, ok := t.take(name); ok {
			if _, isBool := v.(bool); !isBool {
				t.wrongType(name, "true or false", v)
			}
		}
	}
	t.close()
}
