package merge

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tape is dice that can be played again, and cut.
type tape struct {
	rolls []uint16
	at    int
	rng   *rand.Rand // further rolls, nil: zeros
}

func (t *tape) roll(n int) int {
	if t.at == len(t.rolls) {
		if t.rng == nil {
			return 0
		}
		t.rolls = append(t.rolls, uint16(t.rng.Uint32()))
	}
	v := t.rolls[t.at]
	t.at++
	return int(v) % n
}

func runTape(rolls []uint16, rng *rand.Rand, overlap, tracing bool) (f *fleet, t *tape, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			if tracing {
				panic(p)
			}
		}
	}()
	t = &tape{rolls: rolls, rng: rng}
	f = newFleet(t.roll, overlap)
	f.tracing = tracing
	return f, t, f.run(50 + t.roll(251))
}

func runSeed(seed uint64, overlap bool) (*fleet, *tape, error) {
	return runTape(nil, rand.New(rand.NewPCG(77, seed)), overlap, false)
}

// shrink makes a failing tape shorter and plainer while it still fails.
func shrink(rolls []uint16) []uint16 {
	_, _, first := runTape(rolls, nil, true, false)
	stop := time.Now().Add(8 * time.Second)
	fails := func(r []uint16) bool {
		if time.Now().After(stop) {
			return false
		}
		_, _, err := runTape(r, nil, true, false)
		return err != nil && sort(err) == sort(first)
	}
	if first == nil {
		return rolls
	}
	for size := len(rolls) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(rolls); {
			cut := append(append([]uint16{}, rolls[:at]...), rolls[at+size:]...)
			if fails(cut) {
				rolls = cut
			} else {
				at += size
			}
		}
	}
	for i := range rolls {
		if rolls[i] != 0 {
			was := rolls[i]
			if rolls[i] = 0; !fails(rolls) {
				rolls[i] = was
			}
		}
	}
	return rolls
}

// sort is what kind of failure an error is.
func sort(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789abcdef", r) {
			return -1
		}
		return r
	}, text)
}

// history is what happened in a failing run, made short.
func history(seed uint64) string {
	_, t, _ := runSeed(seed, true)
	rolls := shrink(t.rolls)
	f, _, err := runTape(rolls, nil, true, true)
	return fmt.Sprintf("%s\nerror: %v\n(%d rolls)", strings.Join(f.trace, "\n"), err, len(rolls))
}

// TestFleet_Converges runs seeded histories. MERGE_HISTORIES says how many,
// MERGE_FIRST from which seed on, so that a long run can be done in parts.
func TestFleet_Converges(t *testing.T) {
	first, n := uint64(0), uint64(300)
	if testing.Short() {
		n = 60
	}
	if v, err := strconv.ParseUint(os.Getenv("MERGE_HISTORIES"), 10, 64); err == nil {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("MERGE_FIRST"), 10, 64); err == nil {
		first = v
	}
	merges, conflicts, groups := 0, 0, 0
	kinds := map[Kind]int{}
	for seed := first; seed < first+n; seed++ {
		f, _, err := runSeed(seed, true)
		if err != nil {
			t.Fatalf("seed %d: %v\nshrunk:\n%s", seed, err, history(seed))
		}
		merges, conflicts, groups = merges+f.merges, conflicts+f.listed, groups+len(f.order)
		for k, c := range f.stats {
			kinds[k] += c
		}
	}
	t.Logf("seeds %d to %d: %d groups, %d merges, %d conflicts %v", first, first+n-1, groups, merges, conflicts, kinds)
}

// Histories that once went wrong.
func TestFleet_Regressions(t *testing.T) {
	for _, seed := range []uint64{
		59,   // brought back at two hosts, with different bytes
		60,   // an exchange of what two names of ours had become one
		86,   // an heir that was only there because we brought it back
		231,  // bytes that two wrote and one removed
		274,  // a mode that a dropped CLOSE left unknown
		440,  // a successor that inherits an owner loses its set-id bits
		603,  // two directories of ours that are one of theirs
		1657, // renamed onto its own heir, which is not the same content
		927,  // a directory brought back where they have another by now
	} {
		if _, _, err := runSeed(seed, true); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// Without the rule of overlap the same must go wrong, or it says nothing.
func TestFleet_FailsWithoutOverlap(t *testing.T) {
	failed := 0
	for seed := range uint64(30) {
		if _, _, err := runSeed(seed, false); err != nil {
			failed++
		}
	}
	if failed < 25 {
		t.Errorf("only %d of 30 histories went wrong", failed)
	}
}

// What a merge makes of the same input is the same.
func TestFleet_Deterministic(t *testing.T) {
	for seed := range uint64(3) {
		a, _, _ := runTape(nil, rand.New(rand.NewPCG(77, seed)), true, true)
		b, _, _ := runTape(nil, rand.New(rand.NewPCG(77, seed)), true, true)
		if strings.Join(a.trace, "\n") != strings.Join(b.trace, "\n") {
			t.Errorf("seed %d differs", seed)
		}
	}
}
