package presto

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// load is a mixed load on a mount that ends with the mount.
const load = `
i=0
while :; do
  i=$((i+1)); d=d$((i%7)); mkdir -p $d || exit
  echo $i >$d/f$((i%31)) || exit
  mv $d/f$((i%31)) $d/g$((i%13)) || exit
  ln -f $d/g$((i%13)) l$((i%5)) || exit
  chmod $((600+i%2*40)) l$((i%5)) || exit
  [ $((i%11)) = 0 ] && rm -rf d$((i%3))
  head -c 20000 /dev/zero >>big$((i%3)) || exit
done`

func TestKill_PrestoLosesNothing(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for i := range rounds {
		var out bytes.Buffer
		cmd := exec.Command("bash", "-c", load)
		cmd.Dir, cmd.Stderr = a.mnt, &out
		must(t, cmd.Start())
		timer := time.NewTimer(time.Duration(50+i*37) * time.Millisecond)
		<-timer.C
		a.kill()
		cmd.Process.Kill()
		cmd.Wait()
		a.start()
		if res := pull(a, b); res.Blocked != nil {
			t.Fatalf("blocked: %+v", res.Blocked)
		}
		same(t, a, b)
		if t.Failed() {
			t.Fatalf("after kill %d: %s", i, out.Bytes())
		}
	}
}

func TestKill_UnitIsFinished(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "for i in $(seq 300); do mkdir -p d$((i%9)); echo $i >d$((i%9))/f$i; mv d$((i%9))/f$i d$((i%9))/g$((i%50)); done")
	ends, groups := unit(a, b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.ch.Apply(t.Context(), testFileset, ends, groups) // dies under way
	}()
	timer := time.NewTimer(15 * time.Millisecond)
	<-timer.C
	b.kill()
	<-done
	b.start()
	pull(a, b)
	same(t, a, b)
	for i := range 20 {
		sh(t, a.mnt, fmt.Sprintf("rm -rf d%d; echo %d >again", i%9, i))
	}
	pull(a, b)
	same(t, a, b)
}

func TestKill_DeletedFilesStayDeleted(t *testing.T) {
	a := newHost(t, "a", "")
	f, err := os.Create(a.path("f"))
	must(t, err)
	f.WriteString("x")
	must(t, os.Remove(a.path("f")))
	a.kill()
	f.Close()
	a.start()
	if got := ops(a.records()); got != "CREATE UNLINK" {
		t.Errorf("logged %s", got)
	}
}
