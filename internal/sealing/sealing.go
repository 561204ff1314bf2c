// Package sealing derives the keys that recovery points are encrypted with. A vault has one secret, which never leaves the
// service; each recovery point has an age X25519 key pair of its own that follows from it. The public half goes out with a
// backup, the private one with a restore of that one recovery point.
//
// It encrypts nothing itself: the extension does, with age.
package sealing

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"filippo.io/age"
	"github.com/btcsuite/btcd/btcutil/bech32"
)

// secretSize is a vault secret's and an X25519 key's, in bytes.
const secretSize = 32

// NewSecret makes a vault's secret: 256 random bits, hexadecimal.
func NewSecret() (string, error) {
	secret := make([]byte, secretSize)
	if _, err := rand.Read(secret); err != nil {
		return "", fmt.Errorf("new vault secret: %w", err)
	}
	return hex.EncodeToString(secret), nil
}

// Keys are what one recovery point is encrypted with, as age writes them.
type Keys struct {
	// Recipient is public: "age1…".
	Recipient string
	// Identity is private: "AGE-SECRET-KEY-1…".
	Identity string
}

// For derives a recovery point's keys from its vault's secret. The same arguments always give the same keys.
func For(secret, recoveryPointID string) (Keys, error) {
	raw, err := hex.DecodeString(secret)
	if err != nil || len(raw) != secretSize {
		return Keys{}, fmt.Errorf("keys of recovery point %s: the vault's secret is damaged", recoveryPointID)
	}
	key, err := hkdf.Key(sha256.New, raw, nil, "cairn recovery point "+recoveryPointID, secretSize)
	if err != nil {
		return Keys{}, fmt.Errorf("keys of recovery point %s: %w", recoveryPointID, err)
	}
	text, err := bech32.EncodeFromBase256("age-secret-key-", key)
	if err != nil {
		return Keys{}, fmt.Errorf("keys of recovery point %s: %w", recoveryPointID, err)
	}
	identity, err := age.ParseX25519Identity(strings.ToUpper(text))
	if err != nil {
		return Keys{}, fmt.Errorf("keys of recovery point %s: %w", recoveryPointID, err)
	}
	return Keys{Recipient: identity.Recipient().String(), Identity: identity.String()}, nil
}
