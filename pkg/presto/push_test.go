package presto

import (
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// push sends the client's pending records to the server, one group a record, the
// way a daemon would.
func push(client, server *host) channel.AcceptResult {
	t := client.t
	t.Helper()
	ctx := t.Context()
	cat, sat := client.attach(channel.RoleClient), server.attach(channel.RoleServer)
	if _, err := client.ch.Barrier(ctx, testFileset); err != nil {
		t.Fatal(err)
	}
	state := client.info()
	v, err := kml.NewView(cat.KML)
	if err != nil {
		t.Fatal(err)
	}
	v.SetEnd(state.Own)
	rd, err := v.ReadFrom(max(state.Confirmed.Seq, client.pushed))
	if err != nil {
		t.Fatal(err)
	}
	var groups []kml.Group
	for {
		f, err := rd.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err := f.Record()
		if err != nil {
			t.Fatal(err)
		}
		r.Seq = f.Pos.Seq
		groups = append(groups, kml.Group{Origin: cat.Cache, OriginEpoch: f.Pos.Epoch, First: r.Seq, Last: r.Seq, Chain: f.Pos.Chain, Records: []kml.Record{r}})
	}
	// One group of all, as a daemon makes it where content is superseded.
	if len(groups) > 1 {
		for _, g := range groups[1:] {
			groups[0].Records = append(groups[0].Records, g.Records...)
			groups[0].Last, groups[0].Chain = g.Last, g.Chain
		}
		groups = groups[:1]
	}
	stageContents(client, sat, groups, server.info())
	res, err := server.ch.Accept(ctx, testFileset, cat.Cache, state.Applied, groups)
	if err != nil {
		t.Fatal(err)
	}
	if res.Accepted == len(groups) {
		client.pushed = state.Own.Seq
	}
	return res
}

func TestServer_TakesPush(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "mkdir d; echo 1 >d/one; echo 2 >two; ln two tre")
	pull(a, b)
	same(t, a, b)
	sh(t, b.mnt, "mv d e; echo new >e/new; echo changed >e/one; rm two; chmod 700 e; mkdir -p x/y/z; cp -a e x/y; echo >>tre")
	res := push(b, a)
	if res.Accepted != 1 {
		t.Fatalf("accepted %+v", res)
	}
	same(t, a, b)
	if r := pull(a, b); r.Blocked != nil || r.Confirmed.Seq != b.info().Own.Seq {
		t.Fatalf("confirmed %+v of %v", r, b.info().Own)
	}
	if n := b.info().PendingRecords; n != 0 {
		t.Errorf("%d records still pending", n)
	}
	same(t, a, b)
}

func TestServer_RefusesOverlap(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "echo 1 >f; mkdir d")
	pull(a, b)
	sh(t, a.mnt, "echo a >f; echo x >d/a")
	sh(t, b.mnt, "echo b >f; echo y >d/b")
	if res := push(b, a); res.Accepted != 0 || res.OverlapAt == 0 {
		t.Errorf("push over a foreign change: %+v", res)
	}
	res := pull(a, b)
	if res.Blocked == nil {
		t.Fatal("a foreign change went over a pending one")
	}
	if got := read(t, b.path("f")); got != "b\n" {
		t.Errorf("our change is gone: %q", got)
	}
	if got := read(t, a.path("f")); got != "a\n" {
		t.Errorf("the server's change is gone: %q", got)
	}
}

func TestServer_BothSidesInOneDirectory(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "mkdir d; touch d/old")
	pull(a, b)
	for i := range 5 {
		sh(t, a.mnt, fmt.Sprintf("echo a >d/a%d", i))
		sh(t, b.mnt, fmt.Sprintf("echo b >d/b%d", i))
		if i%2 == 0 {
			if res := pull(a, b); res.Blocked != nil {
				t.Fatalf("blocked: %+v", res.Blocked)
			}
		}
		if res := push(b, a); res.Accepted != 1 {
			t.Fatalf("push: %+v", res)
		}
	}
	pull(a, b)
	same(t, a, b)
}

func TestReplica_FileBeingWrittenBlocks(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	write(t, a.path("f"), "one")
	pull(a, b)
	f, err := os.OpenFile(b.path("f"), os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	write(t, a.path("f"), "theirs")
	_, err = f.WriteString("mine")
	must(t, err)
	if res := pull(a, b); res.Blocked == nil {
		t.Error("content came over a file that is being written")
	}
	if got := read(t, b.path("f")); got != "mine" {
		t.Errorf("content is %q", got)
	}
}

func TestReplica_OpenReaderKeepsItsVersion(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	write(t, a.path("f"), "the old version")
	pull(a, b)
	f, err := os.Open(b.path("f"))
	must(t, err)
	defer f.Close()
	write(t, a.path("f"), "the new")
	pull(a, b)
	got, err := io.ReadAll(f)
	must(t, err)
	if string(got) != "the old version" {
		t.Errorf("open reader sees %q", got)
	}
	if got := read(t, b.path("f")); got != "the new" {
		t.Errorf("new reader sees %q", got)
	}
}
