package fleet

import (
	"os"
	"testing"

	"github.com/intermezzofs/intermezzo/test/netlab"
)

func TestMain(m *testing.M) {
	netlab.Child()
	os.Exit(m.Run())
}
