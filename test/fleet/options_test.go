package fleet

import (
	"strings"
	"testing"
	"time"
)

func good() Options {
	return Options{Hosts: 2, Size: "1G", Mode: "full", Permit: "none", Bottom: "ext4"}
}

func TestOptions_SayWhatIsWrongOrNotBuilt(t *testing.T) {
	if err := good().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for _, tt := range []struct {
		change func(*Options)
		says   string
	}{
		{func(o *Options) { o.Hosts = 0 }, "--hosts 0"},
		{func(o *Options) { o.Hosts = 51 }, "1 to 50"},
		{func(o *Options) { o.Size = "big" }, "--size"},
		{func(o *Options) { o.Size = "-1" }, "--size"},
		{func(o *Options) { o.Mode = "half" }, "full or on-demand"},
		{func(o *Options) { o.Permit = "all" }, "none or exclusive"},
		{func(o *Options) { o.Bottom = "ntfs" }, "ext4 or xfs or btrfs or dir"},
		{func(o *Options) { o.Mode = "on-demand" }, "not built yet"},
		{func(o *Options) { o.Permit = "exclusive" }, "not built yet"},
		{func(o *Options) { o.Supervise = true }, "not built yet"},
	} {
		o := good()
		tt.change(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: %v, want it to say %q", o, err, tt.says)
		}
	}
}

func TestParse_FiguresWithUnits(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "1024": 1024, "16M": 16 << 20, "1G": 1 << 30, "2g": 2 << 30, "3K": 3 << 10, "1T": 1 << 40} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("size %s is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "G", "0", "-1", "1.5G", "1GB", "1X", "99999999999T", " 1", "1\x0b", "1+"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("size %q is %d", text, got)
		}
	}
	for text, want := range map[string]int64{"0": 0, "9600": 9600, "56k": 56_000, "3M": 3_000_000, "1g": 1e9, "10Mbit": 1e7, "10Mbit/s": 1e7} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("rate %s is %d, %v; want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]time.Duration{"0": 0, "20ms": 20 * time.Millisecond, "1.5s": 1500 * time.Millisecond, "20": 20 * time.Millisecond} {
		if got, err := ParseDelay(text); err != nil || got != want {
			t.Errorf("delay %s is %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]float64{"0": 0, "1": 0.01, "2.5%": 0.025, "100": 1} {
		if got, err := ParseLoss(text); err != nil || got != want {
			t.Errorf("loss %s is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "NaN", "Inf"} {
		if _, err := ParseRate(text); err == nil {
			t.Errorf("rate %q is none", text)
		}
		if _, err := ParseDelay(text); err == nil {
			t.Errorf("delay %q is none", text)
		}
		if _, err := ParseLoss(text); err == nil {
			t.Errorf("loss %q is none", text)
		}
	}
}
