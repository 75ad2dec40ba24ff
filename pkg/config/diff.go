package config

import (
	"fmt"
	"strings"
)

// maxDiffCells bounds the memory of a diff, at some 2,000 lines replaced.
const maxDiffCells = 4 << 20

// unifiedDiff shows how one small text became another, with all of its lines:
// the files of a configuration are short enough to be seen whole.
func unifiedDiff(path string, before, after []byte) string {
	a, b := splitLines(before), splitLines(after)
	var out strings.Builder
	from := path
	if before == nil {
		from = "/dev/null"
	}
	fmt.Fprintf(&out, "--- %s\n+++ %s\n", from, path)
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		fmt.Fprintf(&out, " %s\n", a[0])
		a, b = a[1:], b[1:]
	}
	if len(a)*len(b) > maxDiffCells { // too much to compare; all of it is shown as replaced
		for _, line := range a {
			fmt.Fprintf(&out, "-%s\n", line)
		}
		a = nil
	}
	common := commonLines(a, b)
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			fmt.Fprintf(&out, " %s\n", a[i])
			i, j = i+1, j+1
		case j == len(b) || (i < len(a) && common[i+1][j] >= common[i][j+1]):
			fmt.Fprintf(&out, "-%s\n", a[i])
			i++
		default:
			fmt.Fprintf(&out, "+%s\n", b[j])
			j++
		}
	}
	return out.String()
}

// commonLines gives, for each pair of tails of a and b, how many lines they
// have in common in order.
func commonLines(a, b []string) [][]int {
	n := make([][]int, len(a)+1)
	for i := range n {
		n[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				n[i][j] = n[i+1][j+1] + 1
			} else {
				n[i][j] = max(n[i+1][j], n[i][j+1])
			}
		}
	}
	return n
}

func splitLines(text []byte) []string {
	if len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}
