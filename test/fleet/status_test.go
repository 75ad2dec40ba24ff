package fleet

import (
	"errors"
	"testing"
)

func TestReadStatus_AsTheDaemonWritesIt(t *testing.T) {
	s, err := readStatus([]byte(`{"host":"host2","daemons":[{"tool":"lento","pid":77}],"filesets":[{"name":"shared","role":"client",
		"connected":true,"own":12,"confirmed":10,"order":30,"applied":29,"pending_records":2,"error":""}],"presto":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := filesetStatus{Name: "shared", Role: "client", Connected: true, Own: 12, Confirmed: 10, Order: 30, Applied: 29, Pending: 2}
	if len(s.Filesets) != 1 || s.Filesets[0] != want || !s.answers(77) || s.answers(78) {
		t.Errorf("read %+v", s)
	}
	if _, err := readStatus([]byte("lento: no")); err == nil {
		t.Error("text is a status")
	}
}

func TestReadBarrier_NeedsTheNumber(t *testing.T) {
	if n, err := readBarrier([]byte(`{"own":41}`)); err != nil || n != 41 {
		t.Errorf("read %d, %v", n, err)
	}
	for _, text := range []string{"", "{}", "41"} {
		if _, err := readBarrier([]byte(text)); err == nil {
			t.Errorf("%q is a barrier", text)
		}
	}
}

func TestDescribe_SaysWhy(t *testing.T) {
	client := filesetStatus{Role: "client"}
	for _, tt := range []struct {
		lack  string
		s     filesetStatus
		fault error
		want  string
	}{
		{"", client, nil, ""},
		{"lacks 3", filesetStatus{Role: "client", Connected: true}, nil, "lacks 3"},
		{"lacks 3", client, nil, "lacks 3 (not connected to the server)"},
		{"lacks 3", filesetStatus{Role: "client", Error: "port taken"}, nil, "lacks 3 (port taken)"},
		{"lacks 3", filesetStatus{Role: "server"}, nil, "lacks 3"},
		{"", client, errors.New("gone"), "it gives no status: gone"},
	} {
		if got := describe(tt.lack, tt.s, tt.fault); got != tt.want {
			t.Errorf("describe(%q, %+v, %v) = %q, want %q", tt.lack, tt.s, tt.fault, got, tt.want)
		}
	}
}
