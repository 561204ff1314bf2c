package sealing_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/cairn-backup/cairn/internal/sealing"
)

const secret = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func TestStockAgeReadsWhatTheKeysSeal(t *testing.T) {
	keys, err := sealing.For(secret, strings.Repeat("a", 32))
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := age.ParseX25519Recipient(keys.Recipient)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := age.ParseX25519Identity(keys.Identity)
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, recipient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "a recovery point"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(&sealed, identity)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "a recovery point" {
		t.Fatalf("%q, %v", got, err)
	}
}

// The keys of existing recovery points must never change: this is what the first version derived.
func TestKeysFollowFromSecretAndRecoveryPoint(t *testing.T) {
	keys, err := sealing.For(secret, strings.Repeat("a", 32))
	if err != nil {
		t.Fatal(err)
	}
	const want = "AGE-SECRET-KEY-10YE5THGNYCZ27GLF4G86A6X5HXZ8QWFV2C0F5DY4PKUH4TSGHPMSJL7L7G"
	if keys.Identity != want {
		t.Errorf("identity %s, want %s", keys.Identity, want)
	}
	other, err := sealing.For(secret, strings.Repeat("b", 32))
	if err != nil {
		t.Fatal(err)
	}
	if other == keys {
		t.Error("two recovery points have the same keys")
	}
}

func TestDamagedSecretsAreRefused(t *testing.T) {
	for _, s := range []string{"", "zz", secret[2:]} {
		if _, err := sealing.For(s, "x"); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	made, err := sealing.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sealing.For(made, "x"); err != nil {
		t.Error(err)
	}
}
