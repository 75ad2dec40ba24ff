package presto

import (
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// TestPresto_Converges is TestReplica_GetsEverything on the bottoms that
// INTERMEZZO_TEST_FS_A and INTERMEZZO_TEST_FS_B name.
func TestPresto_Converges(t *testing.T) {
	a, b := newHost(t, "a", fsFolder(t, "INTERMEZZO_TEST_FS_A")), newHost(t, "b", fsFolder(t, "INTERMEZZO_TEST_FS_B"))
	a.attach(channel.RoleServer)
	sh(t, a.mnt, `
mkdir -p d/e; echo one >d/one; echo two >d/e/two; ln d/one d/three; ln -s d/one sym
mknod null c 1 3; mknod big b 255 200000; mkfifo fifo; truncate -s 1M sparse; echo x | dd of=sparse bs=1 seek=500000 conv=notrunc 2>/dev/null
setfattr -n user.k -v v d/one; chown 7:8 d/e/two; chmod 4755 d/e/two; chmod 1777 d
setfattr -h -n trusted.link -v v sym
setfacl -m u:55:rw d/one; setfacl -d -m u:66:rwx d/e; touch d/e/inherits; mkdir d/e/sub
head -c 300000 /dev/urandom >rnd; touch -d '2001-02-03 04:05:06.789012345' rnd; touch -h -d '1999-01-01 00:00:00.1' sym
touch -d '1960-02-03 04:05:06.789012345' old; ln sym symlink2
n=$(printf 'n%.0s' $(seq 255)); echo x >$n; printf 'bad\377name\nnl' | xargs -0 touch
mv d/e/two moved; echo more >>d/one; rm d/three; touch -d '2011-01-01 00:00:00.5' d/e
`)
	if res := rPull(a, b); res.Blocked != nil {
		t.Fatalf("blocked: %+v", res.Blocked)
	}
	rSame(t, a, b)
	rBottom(t, a)
	rBottom(t, b)
	sh(t, a.mnt, `mv d D2; echo changed >rnd; rm -r D2/e/sub; mkdir q; mv D2/e q/e; mv moved D2/one; chmod 600 rnd; mkdir -p r/s/t; mv r/s q/s; touch -d '1950-01-01' q`)
	if res := rPull(a, b); res.Blocked != nil {
		t.Fatalf("blocked: %+v", res.Blocked)
	}
	rSame(t, a, b)
	rBottom(t, a)
	rBottom(t, b)
	sh(t, b.mnt, "mkdir x; mv q x; echo y >x/y; echo zz >>rnd; truncate -s 5 D2/one; chown 5:6 x/y; mv x/q/e x; python3 -c 'import os; os.rename(\"x/y\",\"sparse\")'")
	if res := rPush(b, a); res.Accepted != 1 {
		t.Fatalf("push: %+v", res)
	}
	rPull(a, b)
	rSame(t, a, b)
	rBottom(t, a)
	rBottom(t, b)
}
