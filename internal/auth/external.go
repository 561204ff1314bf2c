package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

// ErrIssuer is a token of the external issuer that cannot be checked because the issuer does not tell its keys.
var ErrIssuer = errors.New("the external issuer cannot be asked")

// The pace of asking the external issuer. Neither tokens that name unknown keys nor an outage may make a caller of this service hammer it.
const (
	// issuerPause is between two requests for the same document.
	issuerPause = 10 * time.Second
	// issuerTimeout is how long one request may take.
	issuerTimeout = 10 * time.Second
	// issuerRefresh is when all is learned anew, so that a key that the issuer has taken back is refused after that long at the latest.
	issuerRefresh = time.Hour
)

// External accepts the tokens of one OpenID Connect issuer beside the service's own. It asks the issuer when the first of its tokens comes, not before,
// and keeps what it has learned through an outage. Make it with NewExternal.
type External struct {
	// URL is the issuer's, exactly as it stands in its tokens; Audience must be among a token's.
	URL      string
	Audience string

	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	known   *signing
	learned time.Time
}

// signing is what the issuer says of how it signs.
type signing struct {
	keys       *oidc.RemoteKeySet
	algorithms []string
}

// signatures are the algorithms of tokens that the issuer may use: those with a public key.
var signatures = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}

// NewExternal makes it; nothing is asked yet. The transport reaches the issuer.
func NewExternal(url, audience string, transport http.RoundTripper, now func() time.Time, log *slog.Logger) *External {
	return &External{URL: url, Audience: audience, now: now, log: log,
		client: &http.Client{Timeout: issuerTimeout, Transport: &patient{next: transport, now: now, last: map[string]time.Time{}}}}
}

// Issued says whether a token claims to be the issuer's.
func (e *External) Issued(token string) bool {
	parsed, err := jwt.ParseSigned(token, signatures)
	if err != nil {
		return false
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	return parsed.UnsafeClaimsWithoutVerification(&claims) == nil && claims.Issuer == e.URL
}

// Verify checks a token and says who calls: ErrToken, ErrIssuer. The caller has neither a kind nor an owner.
func (e *External) Verify(ctx context.Context, token string) (Caller, error) {
	known, err := e.ask()
	if err != nil {
		return Caller{}, fmt.Errorf("%w: %w", ErrIssuer, err)
	}
	keys := &keySet{set: known.keys}
	good, err := oidc.NewVerifier(e.URL, keys, &oidc.Config{ClientID: e.Audience, Now: e.now, SupportedSigningAlgs: known.algorithms}).Verify(ctx, token)
	if silent := (*silence)(nil); errors.As(keys.err, &silent) {
		e.log.ErrorContext(ctx, "the external issuer's keys could not be read", "issuer", e.URL, "error", keys.err)
		return Caller{}, fmt.Errorf("%w: %w", ErrIssuer, keys.err)
	}
	if err != nil {
		return Caller{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	var claims struct {
		ObjectID string `json:"oid"`
		User     string `json:"preferred_username"`
		Email    string `json:"email"`
		Name     string `json:"name"`
	}
	if err := good.Claims(&claims); err != nil {
		return Caller{}, fmt.Errorf("%w: its claims cannot be read: %w", ErrToken, err)
	}
	caller := Caller{Name: good.Subject}
	for _, name := range []string{claims.Name, claims.Email, claims.User} {
		if name != "" {
			caller.Name = name
		}
	}
	id := good.Subject
	if claims.ObjectID != "" {
		id = claims.ObjectID
	}
	if id == "" {
		return Caller{}, fmt.Errorf("%w: it has neither oid nor sub, so that nobody can be given a role", ErrToken)
	}
	caller.ObjectID = ExternalID(e.URL, id)
	return caller, nil
}

// ExternalID is the object ID of somebody whom an issuer knows by an ID: the ID itself if it is a GUID, else a GUID that follows from issuer and
// ID: the UUID version 5 of "issuer#ID" in the namespace of URLs.
func ExternalID(issuer, id string) string {
	if guid, err := uuid.Parse(id); err == nil && len(id) == len(guid.String()) {
		return guid.String()
	}
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(issuer+"#"+id)).String()
}

// keySet keeps the error of looking for the key, which the verifier only quotes.
type keySet struct {
	set *oidc.RemoteKeySet
	err error
}

// VerifySignature is oidc.KeySet's.
func (k *keySet) VerifySignature(ctx context.Context, token string) (payload []byte, err error) {
	payload, k.err = k.set.VerifySignature(ctx, token)
	return payload, k.err
}

// ask learns how the issuer signs, when that is not known or was learned long ago. Of callers at the same time one asks, and the others wait for it.
func (e *External) ask() (*signing, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known != nil && e.now().Sub(e.learned) < issuerRefresh {
		return e.known, nil
	}
	learned, err := e.discover()
	if err == nil {
		e.known, e.learned = learned, e.now()
	} else if !errors.Is(err, errTooSoon) {
		e.log.Error("the external issuer could not be asked", "issuer", e.URL, "error", err)
	}
	if e.known != nil {
		return e.known, nil
	}
	return nil, err
}

func (e *External) discover() (*signing, error) {
	// What is learned is everybody's: it does not end with the request that asked. The client has a timeout.
	ctx := oidc.ClientContext(context.Background(), e.client)
	provider, err := oidc.NewProvider(ctx, e.URL)
	if err != nil {
		return nil, err
	}
	var document struct {
		Keys       string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := provider.Claims(&document); err != nil {
		return nil, err
	}
	s := &signing{keys: oidc.NewRemoteKeySet(ctx, document.Keys)}
	for _, name := range document.Algorithms {
		if slices.Contains(signatures, jose.SignatureAlgorithm(name)) {
			s.algorithms = append(s.algorithms, name)
		}
	}
	return s, nil
}

// silence is an issuer that does not answer, or answers with something else than 200.
type silence struct{ cause error }

func (s *silence) Error() string { return s.cause.Error() }

func (s *silence) Unwrap() error { return s.cause }

var errTooSoon = errors.New("it was asked a moment ago")

// patient asks for each document at most once in a while.
type patient struct {
	next http.RoundTripper
	now  func() time.Time

	mu   sync.Mutex
	last map[string]time.Time
}

// RoundTrip is http.RoundTripper's.
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	last, asked := p.last[r.URL.String()]
	soon := asked && p.now().Sub(last) < issuerPause
	if !soon {
		p.last[r.URL.String()] = p.now()
	}
	p.mu.Unlock()
	if soon {
		return nil, &silence{errTooSoon}
	}
	response, err := p.next.RoundTrip(r)
	if err != nil {
		return nil, &silence{err}
	}
	if response.StatusCode != http.StatusOK {
		// What is in the body helps nobody.
		_ = response.Body.Close()
		return nil, &silence{fmt.Errorf("%s answered %s", r.URL, response.Status)}
	}
	return response, nil
}
