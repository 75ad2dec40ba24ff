package config

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// A key that was made once; its fingerprint was computed by other means.
const goldenKey = `-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
`

const goldenPrint = "SHA256:oFCDfYUHBYLM9zlLCYiEfMMSy4glm4lImfbyOc8XkaU"

// A code of version 1, for server "iserver", fileset "shared", replicator
// "iclientA", address 192.0.2.3:370, secret 0..19, and the key above.
const goldenCode = "izoagqfba35qudqlawm644uwcmiqr6mgewlraszxckith3peoopc6i2kaabaibqibiga4eascqlbqgq4dyqcejbgb3jonsxe5tfoidhg2dbojswicdjmnwgszlooraq2mjzgixdalrsfyztumzxganb5ttsjq"

func TestGolden_Key(t *testing.T) {
	path := t.TempDir() + "/key.pem"
	if err := os.WriteFile(path, []byte(goldenKey), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := LoadKey(path)
	if err != nil || key.Fingerprint().String() != goldenPrint {
		t.Fatalf("%v, %v", key, err)
	}
	again, err := key.encode()
	if err != nil || string(again) != goldenKey {
		t.Errorf("%s, %v", again, err)
	}
}

func TestGolden_Invitation(t *testing.T) {
	inv, err := ParseInvitation(goldenCode)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}
	if inv.Fingerprint.String() != goldenPrint || !bytes.Equal(inv.Secret, secret) ||
		strings.Join(append([]string{inv.Server, inv.Fileset, inv.Replicator}, inv.Addresses...), " ") != "iserver shared iclientA 192.0.2.3:370" {
		t.Errorf("got %+v", inv)
	}
	if code, err := inv.encode(); err != nil || code != goldenCode {
		t.Errorf("%s, %v", code, err)
	}
}
