package presto

import (
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

func openTestIndex(t interface {
	Fatal(...any)
	Helper()
}, dir, boot string) (*index, bool) {
	t.Helper()
	j, err := os.OpenFile(filepath.Join(dir, "ids.journal"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ix, complete, err := openIndex(filepath.Join(dir, "ids"), j, boot)
	if err != nil {
		t.Fatal(err)
	}
	return ix, complete
}

func TestIndex_IsAMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		ix, _ := openTestIndex(rt, dir, "b")
		model := map[kml.ObjectID]handle{}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			id := kml.ObjectID{Ino: rapid.Uint64Range(1, 9).Draw(rt, "id")}
			h := handle{rapid.Uint64Range(1, 5).Draw(rt, "ino"), 1}
			switch rapid.IntRange(0, 4).Draw(rt, "op") {
			case 0, 1:
				must2(rt, ix.put(id, h))
				model[id] = h
			case 2:
				must2(rt, ix.remove(id, h))
				if model[id] == h {
					delete(model, id)
				}
			case 3: // killed: nothing is written any more
				must2(rt, ix.db.Close())
				must2(rt, ix.journal.Close())
				var complete bool
				if ix, complete = openTestIndex(rt, dir, "b"); !complete {
					rt.Fatal("incomplete after a kill")
				}
			case 4:
				must2(rt, ix.close())
				ix, _ = openTestIndex(rt, dir, "b")
			}
			for k := uint64(1); k < 10; k++ {
				got, ok, err := ix.get(kml.ObjectID{Ino: k})
				must2(rt, err)
				if want, has := model[kml.ObjectID{Ino: k}]; ok != has || got != want {
					rt.Fatalf("id %d: %v %v, want %v %v", k, got, ok, want, has)
				}
			}
		}
		must2(rt, ix.close())
	})
}

func must2(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestIndex_PowerLossMakesItIncomplete(t *testing.T) {
	dir := t.TempDir()
	ix, complete := openTestIndex(t, dir, "boot one")
	if complete {
		t.Error("a new index is complete")
	}
	must(t, ix.db.Close())
	if ix, complete = openTestIndex(t, dir, "boot two"); complete {
		t.Error("complete after the machine went down with it open")
	}
	must(t, ix.close())
	if _, complete = openTestIndex(t, dir, "boot three"); !complete {
		t.Error("incomplete after it was closed")
	}
}

func TestIndex_DamagedIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "ids"), []byte("not a table at all, not even nearly"), 0o600))
	if _, complete := openTestIndex(t, dir, "b"); complete {
		t.Error("complete")
	}
}

func TestIndex_DeletedIsRebuilt(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "mkdir -p d/e; echo 1 >d/e/f; ln d/e/f g; ln -s x s")
	pull(a, b)
	b.stop()
	must(t, os.Remove(filepath.Join(b.source, cache.ControlDir, cache.IndexFile)))
	must(t, os.Remove(filepath.Join(b.source, cache.ControlDir, cache.JournalFile)))
	b.start()
	sh(t, a.mnt, "echo 2 >d/e/f; mv d D; rm s; touch D/e/new")
	pull(a, b)
	same(t, a, b)
}

func TestAdopt_LogsTheTree(t *testing.T) {
	needRoot(t)
	source := filepath.Join(t.TempDir(), "tree")
	must(t, os.Mkdir(source, 0o750))
	sh(t, source, "mkdir -p d/e; echo 1 >d/one; ln d/one two; ln -s d s; mkfifo p; truncate -s 100000 d/e/sparse; head -c 70000 /dev/urandom >big; setfattr -n user.a -v b big; touch -d 2001-01-01 d")
	a, b := newAdopted(t, "a", source), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	pull(a, b)
	if a.info().Own.Seq == 0 {
		t.Fatal("nothing was logged")
	}
	same(t, a, b)
	sh(t, a.mnt, "mv d/e x; echo more >>two")
	pull(a, b)
	same(t, a, b)
	n := a.info().Own
	a.stop()
	a.start()
	if got := a.info().Own; got != n {
		t.Errorf("adopted again: log ends at %v, was %v", got, n)
	}
}
