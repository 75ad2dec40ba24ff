package transport

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkLinks measures both links and go-fuse's own server with the same file
// system, in interleaved rounds of one run, so that only ratios are compared:
//
//	go test -run '^$' -bench Links -benchtime 1x ./pkg/transport
func BenchmarkLinks(b *testing.B) {
	allowURing(b)
	configs := []serveConfig{{GoFuse: true}, {Force: LinkDevFuse}, {Force: LinkURing}}
	names := []string{"go-fuse", LinkDevFuse, LinkURing}
	var mounts []*mounted
	for i, c := range configs {
		c.Root = shmDir(b, names[i])
		c.Cache = 0
		mounts = append(mounts, newMount(b, c))
	}
	for b.Loop() {
		table := newTable(names)
		for range 5 {
			for i, m := range mounts {
				measure(b, m.dir, func(work string, v float64) { table.add(work, i, v) })
			}
		}
		fmt.Printf("\n%s\n", table)
	}
}

func shmDir(t testing.TB, name string) string {
	dir, err := os.MkdirTemp("/dev/shm", "transport-"+name+"-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// measure reports microseconds of the middle operation and of the mean one, or
// MB/s.
func measure(b *testing.B, dir string, report func(string, float64)) {
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		b.Fatal(err)
	}
	fd, err := unix.Open(file, unix.O_RDONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	latency := func(work string, n int, op func(i int) error) {
		p50, mean := clock(b, n, op)
		report(work+" p50 us", p50)
		report(work+" mean us", mean)
	}
	stat := func(int) error { var st unix.Stat_t; return unix.Fstat(fd, &st) }
	latency("getattr", 2000, stat)
	latency("create+close", 400, func(i int) error { return createAndClose(fmt.Sprintf("%s/c%d", dir, i)) })
	latency("unlink", 400, func(i int) error { return unix.Unlink(fmt.Sprintf("%s/c%d", dir, i)) })
	latency("mkdir", 200, func(i int) error { return unix.Mkdir(fmt.Sprintf("%s/d%d", dir, i), 0o755) })
	latency("rmdir", 200, func(i int) error { return unix.Rmdir(fmt.Sprintf("%s/d%d", dir, i)) })
	for _, clients := range []int{1, 2} {
		report(fmt.Sprintf("getattr %d client 1000/s", clients), throughput(clients, 3000, func(int) func() error {
			return func() error { return stat(0) }
		}))
		report(fmt.Sprintf("create+close+unlink %d client 1000/s", clients), throughput(clients, 300, func(c int) func() error {
			name := fmt.Sprintf("%s/t%d", dir, c)
			return func() error {
				if err := createAndClose(name); err != nil {
					return err
				}
				return unix.Unlink(name)
			}
		}))
	}
	sequential(b, filepath.Join(dir, "big"), report)
}

func createAndClose(name string) error {
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func clock(b *testing.B, n int, op func(int) error) (p50, mean float64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	took := make([]time.Duration, n)
	begin := time.Now()
	for i := range n {
		t := time.Now()
		if err := op(i); err != nil {
			b.Fatal(err)
		}
		took[i] = time.Since(t)
	}
	all := time.Since(begin)
	slices.Sort(took)
	return micros(took[n/2]), micros(all) / float64(n)
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// throughput returns thousands of operations a second, of all clients together.
func throughput(clients, n int, client func(int) func() error) float64 {
	var wg sync.WaitGroup
	begin := time.Now()
	for c := range clients {
		op := client(c)
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for range n {
				if err := op(); err != nil {
					panic(err)
				}
			}
		})
	}
	wg.Wait()
	return float64(clients*n) / time.Since(begin).Seconds() / 1e3
}

// sequential writes and reads in units of 128 KiB, past the page cache.
func sequential(b *testing.B, name string, report func(string, float64)) {
	const unit, total = 128 << 10, 64 << 20
	buf, err := unix.Mmap(-1, 0, unit, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Munmap(buf)
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	for _, way := range []string{"write", "read"} {
		begin := time.Now()
		for off := int64(0); off < total; off += unit {
			var err error
			if way == "write" {
				_, err = unix.Pwrite(fd, buf, off)
			} else {
				_, err = unix.Pread(fd, buf, off)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		report(way+" 128k MB/s", total/1e6/time.Since(begin).Seconds())
	}
}

// table has medians of rounds, and their ratio to the first column.
type table struct {
	columns []string
	rows    []string
	values  map[string][][]float64
}

func newTable(columns []string) *table {
	return &table{columns: columns, values: map[string][][]float64{}}
}

func (t *table) add(row string, column int, v float64) {
	if t.values[row] == nil {
		t.rows = append(t.rows, row)
		t.values[row] = make([][]float64, len(t.columns))
	}
	t.values[row][column] = append(t.values[row][column], v)
}

func (t *table) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%-38s", "")
	for _, c := range t.columns {
		fmt.Fprintf(&s, "%10s %6s", c, "ratio")
	}
	for _, row := range t.rows {
		fmt.Fprintf(&s, "\n%-38s", row)
		first := 0.0
		for i, v := range t.values[row] {
			slices.Sort(v)
			m := v[len(v)/2]
			if i == 0 {
				first = m
			}
			fmt.Fprintf(&s, "%10.1f %6.2f", m, m/first)
		}
	}
	return s.String()
}
