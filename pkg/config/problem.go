package config

import (
	"fmt"
	"strings"
)

// Problem is one fault in one of the files of a configuration. Dir.Load joins
// all that it finds.
type Problem struct {
	File   string // path
	Line   int    // from 1; 0: the file as a whole
	Col    int    // from 1, in characters
	Text   string // what is wrong
	Fix    string // what to do about it, "" where Text says so
	Source string // the line as it stands in the file
	Err    error  // what it is for errors.Is, may be nil
}

// Error gives FILE:LINE:COLUMN: what is wrong; what to do.
func (p *Problem) Error() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d:%d", p.Line, p.Col)
	}
	s += ": " + p.Text
	if p.Fix != "" {
		s += "; " + p.Fix
	}
	return s
}

// Unwrap gives what the problem is, for errors.Is.
func (p *Problem) Unwrap() error { return p.Err }

// Problems takes the error of Dir.Load apart: its Problems in the order of the
// files, and an error that is none as one without a place.
func Problems(err error) []*Problem {
	switch e := err.(type) {
	case nil:
		return nil
	case *Problem:
		return []*Problem{e}
	case interface{ Unwrap() []error }:
		var all []*Problem
		for _, one := range e.Unwrap() {
			all = append(all, Problems(one)...)
		}
		return all
	}
	return []*Problem{{Text: err.Error(), Err: err}}
}

// Nearest picks the candidate that word is most likely a slip for, "" if none
// is near.
func Nearest(word string, candidates []string) string {
	best, bestDistance := "", 1+max(1, len(word)/3)
	for _, c := range candidates {
		if strings.EqualFold(c, word) {
			return c
		}
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// didYouMean is the fix for a word that should have been one of candidates.
func didYouMean(word string, candidates []string) string {
	if c := Nearest(word, candidates); c != "" {
		return fmt.Sprintf("did you mean %q?", c)
	}
	return ""
}
