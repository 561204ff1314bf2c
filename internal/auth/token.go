package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

// Lifetime is how long an access token is good for. What was taken away from a principal meanwhile is taken away at
// once all the same: roles are read for every call.
const Lifetime = time.Hour

// ErrToken is a token that is not good; the error that wraps it says why.
var ErrToken = errors.New("token not accepted")

// Claims are what a token says, in Entra's names.
type Claims struct {
	Issuer   string           `json:"iss"`
	Audience string           `json:"aud"`
	IssuedAt *jwt.NumericDate `json:"iat"`
	NotAfter *jwt.NumericDate `json:"exp"`
	NotYet   *jwt.NumericDate `json:"nbf"`
	// ObjectID is the principal's ID, ClientID its application's.
	ObjectID string `json:"oid"`
	Subject  string `json:"sub"`
	ClientID string `json:"appid"`
	TenantID string `json:"tid"`
	// Type is "app": there are no users.
	Type    string `json:"idtyp"`
	Version string `json:"ver"`
	TokenID string `json:"uti"`
}

// Caller is an authenticated principal.
type Caller struct {
	// ObjectID is what roles are assigned to; ClientID is the application's.
	ObjectID string
	ClientID string
	// Kind is the Directory's.
	Kind string
	// Name is for people.
	Name string
	// Owner is the ID of the resource that the principal belongs to, or empty.
	Owner string
}

// Issuer makes tokens and checks them.
type Issuer struct {
	// URL is the issuer's name in tokens: the service's public URL.
	URL string
	// Tenant is the directory's ID.
	Tenant string
	Now    func() time.Time

	signer jose.Signer
	public jose.JSONWebKey
}

// NewIssuer reads the signing key (ECDSA P-256, PKCS #8 PEM) from the file, or makes it, with mode 0600.
func NewIssuer(file, url, tenant string, now func() time.Time) (*Issuer, error) {
	key, err := signingKey(file)
	if err != nil {
		return nil, fmt.Errorf("token signing key %s: %w", file, err)
	}
	public := jose.JSONWebKey{Key: key.Public(), Algorithm: string(jose.ES256), Use: "sig"}
	print, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("token signing key %s: %w", file, err)
	}
	public.KeyID = base64.RawURLEncoding.EncodeToString(print)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: public.KeyID}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("token signing key %s: %w", file, err)
	}
	return &Issuer{URL: url, Tenant: tenant, Now: now, signer: signer, public: public}, nil
}

func signingKey(file string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return makeSigningKey(file)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not PEM: put the right file back, or remove it to have a new key made, after which everybody must log in again")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, not an ECDSA key", parsed)
	}
	return key, nil
}

func makeSigningKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	return key, WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// WriteFile writes a file whole or not at all, and durably: under another name first, which is then renamed.
func WriteFile(file string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	_, writing := f.Write(content)
	if err := errors.Join(f.Chmod(mode), writing, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(filepath.Dir(file))
}

// syncFolder makes a renaming last.
func syncFolder(folder string) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Mint makes a token for an audience.
func (i *Issuer) Mint(c Caller, audience string) (string, error) {
	now := i.Now()
	token, err := jwt.Signed(i.signer).Claims(Claims{
		Issuer: i.issuer(), Audience: audience,
		IssuedAt: jwt.NewNumericDate(now), NotYet: jwt.NewNumericDate(now), NotAfter: jwt.NewNumericDate(now.Add(Lifetime)),
		ObjectID: c.ObjectID, Subject: c.ObjectID, ClientID: c.ClientID, TenantID: i.Tenant,
		Type: "app", Version: "1.0", TokenID: uuid.NewString(),
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("token for %s: %w", c.ObjectID, err)
	}
	return token, nil
}

func (i *Issuer) issuer() string { return i.URL + "/" + i.Tenant + "/v2.0" }

// skew is how far the clocks of two processes may differ.
const skew = 2 * time.Minute

// Verify checks a token's signature, time, issuer and audience: ErrToken, with the claims if the service has signed them.
func (i *Issuer) Verify(token string, audiences ...string) (Claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return Claims{}, fmt.Errorf("%w: it is not a token of this service", ErrToken)
	}
	var claims Claims
	if err := parsed.Claims(i.public, &claims); err != nil {
		return Claims{}, fmt.Errorf("%w: its signature is not this service's", ErrToken)
	}
	now := i.Now()
	switch {
	case claims.Issuer != i.issuer():
		return claims, fmt.Errorf("%w: its issuer is %s, not %s", ErrToken, claims.Issuer, i.issuer())
	case claims.NotAfter == nil || now.After(claims.NotAfter.Time()):
		return claims, fmt.Errorf("%w: it has expired", ErrToken)
	case claims.NotYet != nil && now.Before(claims.NotYet.Time().Add(-skew)):
		return claims, fmt.Errorf("%w: it is not valid yet", ErrToken)
	case !slices.ContainsFunc(audiences, func(a string) bool { return SameAudience(a, claims.Audience) }):
		return claims, fmt.Errorf("%w: its audience is %s", ErrToken, claims.Audience)
	}
	return claims, nil
}

// SameAudience compares audiences as Entra does: case and slashes at the end do not count.
func SameAudience(a, b string) bool {
	return strings.EqualFold(strings.TrimRight(a, "/"), strings.TrimRight(b, "/"))
}

// Keys is the JSON Web Key Set with the public key.
func (i *Issuer) Keys() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{i.public}}
}
