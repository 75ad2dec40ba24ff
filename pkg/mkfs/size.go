package mkfs

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

var units = [...]struct {
	letter string
	bytes  int64
}{{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}}

// ParseSize reads a number of bytes, which may end in K, M, G or T (of 1024), with
// or without "iB" after it.
func ParseSize(s string) (int64, error) {
	number, factor := strings.ToUpper(strings.TrimSpace(s)), int64(1)
	number = strings.TrimSuffix(strings.TrimSuffix(number, "B"), "I")
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.letter); ok {
			number, factor = rest, u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/factor {
		return 0, fmt.Errorf("size %q: want a number of bytes, or one with K, M, G or T", s)
	}
	return n * factor, nil
}

// FormatSize writes a number of bytes for people: exact where it is a
// whole number of a unit, else with one decimal.
func FormatSize(n int64) string {
	for _, u := range units {
		if n >= u.bytes {
			if n%u.bytes == 0 {
				return fmt.Sprintf("%d %siB", n/u.bytes, u.letter)
			}
			return fmt.Sprintf("%.1f %siB", float64(n)/float64(u.bytes), u.letter)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
