//go:build ignore

// Report reads what "go test -json" prints and tells people: a line for each
// package as soon as it is done, the whole output of every test that failed, and
// at the end what was skipped and why. The whole output of all goes to the file
// that is named on the command line. Exit status: 0 all passed, 1 not.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// event is a line of "go test -json".
type event struct {
	Action     string
	Package    string
	ImportPath string // of what was built
	Test       string
	Elapsed    float64
	Output     string
}

// result is what is known of a package.
type result struct {
	output  map[string]*strings.Builder // by test; "": what belongs to none
	running []string                    // tests that have not ended, in order
	failed  []string
	skipped int
	ran     int
}

type report struct {
	log      *bufio.Writer
	packages map[string]*result
	skipped  []string
	failed   int
	passed   int
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go test -json ./... | go run report.go LOG")
		os.Exit(2)
	}
	f, err := os.Create(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(2)
	}
	r := &report{log: bufio.NewWriter(f), packages: map[string]*result{}}
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			r.take(line)
		}
		if err != nil {
			break
		}
	}
	r.finish()
	if err := r.log.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
	}
	if r.failed > 0 {
		os.Exit(1)
	}
}

func (r *report) take(line string) {
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		fmt.Print(line) // not of a test: what go itself has to say
		return
	}
	if e.Output != "" {
		r.log.WriteString(e.Output)
	}
	switch e.Action {
	case "build-output":
		fmt.Print(e.Output)
	case "build-fail":
		fmt.Println("does not build:", e.ImportPath)
	default:
		r.test(&e)
	}
}

func (r *report) test(e *event) {
	p := r.packages[e.Package]
	if p == nil {
		p = &result{output: map[string]*strings.Builder{}}
		r.packages[e.Package] = p
	}
	switch {
	case e.Action == "output":
		b := p.output[e.Test]
		if b == nil {
			b = &strings.Builder{}
			p.output[e.Test] = b
		}
		b.WriteString(e.Output)
	case e.Action == "run":
		p.running = append(p.running, e.Test)
	case e.Test != "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
		p.ended(e.Test)
		switch e.Action {
		case "fail":
			p.failed = append(p.failed, e.Test)
		case "skip":
			p.skipped++
			r.skipped = append(r.skipped, fmt.Sprintf("%s %s: %s", short(e.Package), e.Test, reason(p.output[e.Test])))
		}
		if e.Action != "fail" {
			delete(p.output, e.Test)
		}
	case e.Test == "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
		r.done(e, p)
		delete(r.packages, e.Package)
	}
}

func (p *result) ended(test string) {
	p.ran++
	for i, t := range p.running {
		if t == test {
			p.running = append(p.running[:i], p.running[i+1:]...)
			return
		}
	}
}

// done tells how a package went.
func (r *report) done(e *event, p *result) {
	if e.Action != "fail" {
		r.passed++
		if p.ran > 0 {
			fmt.Printf("ok      %-28s %5d tests, %d skipped, %.1f s\n", short(e.Package), p.ran, p.skipped, e.Elapsed)
		}
		return
	}
	r.failed++
	fmt.Printf("FAILED  %-28s %5d tests, %d failed, %d skipped, %.1f s\n", short(e.Package), p.ran, len(p.failed), p.skipped, e.Elapsed)
	// What was running when the process ended is what ended it.
	for _, t := range append(p.failed, p.running...) {
		if b := p.output[t]; b != nil {
			fmt.Print(indent(b.String()))
		}
	}
	if b := p.output[""]; b != nil && len(p.failed) == 0 {
		fmt.Print(indent(b.String()))
	}
}

// finish is for the end of the input.
func (r *report) finish() {
	for name, p := range r.packages {
		r.failed++
		fmt.Printf("FAILED  %-28s the tests ended without a result; running: %s\n", short(name), strings.Join(p.running, " "))
	}
	fmt.Printf("\n%d packages passed, %d failed; %d tests were skipped\n", r.passed, r.failed, len(r.skipped))
	for _, s := range r.skipped {
		fmt.Println("  SKIPPED", s)
	}
	if r.passed == 0 {
		r.failed++ // nothing was tested
	}
}

// reason is what a skipped test said last.
func reason(b *strings.Builder) string {
	say := "no reason given"
	if b == nil {
		return say
	}
	for line := range strings.Lines(b.String()) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			say = line
		}
	}
	if at := strings.Index(say, ".go:"); at >= 0 {
		if _, rest, ok := strings.Cut(say[at:], ": "); ok {
			say = rest
		}
	}
	say = strings.TrimPrefix(say, "SKIPPED")
	return strings.TrimLeft(say, ": ")
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    ") + "\n"
}

// short leaves the module's name out.
func short(pkg string) string {
	if _, rest, ok := strings.Cut(pkg, "/intermezzo/"); ok {
		return rest
	}
	return pkg
}
