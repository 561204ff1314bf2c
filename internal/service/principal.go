package service

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/store"
)

// The kinds of principals.
const (
	// KindServicePrincipal is a person's or a program's application.
	KindServicePrincipal = "ServicePrincipal"
	// KindUser is somebody whom the external OpenID Connect issuer vouches for; it is in no table here.
	KindUser = "User"
	// KindManagedIdentity belongs to a vault, a cluster or an extension, which is its owner; it has no secret.
	KindManagedIdentity = "ManagedIdentity"
	// KindConnector is a cluster's connector: it may call /link/v1 for its owner, the cluster, and nothing else.
	KindConnector = "Connector"
)

// connectorOverlap is how long a connector's old secret stays good when a new one was given out and is not used.
const connectorOverlap = time.Hour

// AddPrincipal makes a service principal with a secret, which is not kept and cannot be read again.
func (s *Service) AddPrincipal(tx *store.Tx, name string) (store.Principal, string, error) {
	p := store.Principal{ID: newID(), Client: newID(), Kind: KindServicePrincipal, Name: name}
	if err := tx.PutPrincipal(p); err != nil {
		return p, "", err
	}
	secret, err := addSecret(tx, p.ID, time.Time{})
	return p, secret, err
}

// AddIdentity makes the managed identity of a resource, or finds it. Its object ID is Principal.ID.
func (s *Service) AddIdentity(tx *store.Tx, owner arm.ID) (store.Principal, error) {
	return addOwned(tx, owner, KindManagedIdentity, owner.Name())
}

func addOwned(tx *store.Tx, owner arm.ID, kind, name string) (store.Principal, error) {
	p, err := tx.PrincipalOf(owner, kind)
	if !errors.Is(err, store.ErrNotFound) {
		return p, err
	}
	p = store.Principal{ID: newID(), Client: newID(), Kind: kind, Name: name, Owner: owner.Key()}
	return p, tx.PutPrincipal(p)
}

// addSecret makes a secret of 256 random bits; being random it needs no slow hash. Without an end it is good for ever.
func addSecret(tx *store.Tx, principal string, end time.Time) (string, error) {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("new secret: %w", err)
	}
	secret := base64.RawURLEncoding.EncodeToString(raw)
	return secret, tx.PutSecret(principal, hashed(secret), end)
}

func hashed(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Authenticate is auth.Directory's. A connector that shows its new secret loses its old ones.
func (s *Service) Authenticate(ctx context.Context, clientID, secret string) (auth.Caller, error) {
	var p store.Principal
	var superseded bool
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		if p, err = tx.PrincipalByClient(clientID); errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%w: %s", auth.ErrUnknownClient, clientID)
		} else if err != nil {
			return err
		}
		valid, others, err := tx.SecretValid(p.ID, hashed(secret))
		if err == nil && !valid {
			err = fmt.Errorf("%w: %s", auth.ErrWrongSecret, clientID)
		}
		superseded = others && p.Kind == KindConnector
		return err
	})
	if err == nil && superseded {
		err = s.DB.Update(ctx, func(tx *store.Tx) error { return tx.DeleteOlderSecrets(p.ID, hashed(secret)) })
	}
	if err != nil {
		return auth.Caller{}, err
	}
	return caller(p), nil
}

func caller(p store.Principal) auth.Caller {
	return auth.Caller{ObjectID: p.ID, ClientID: p.Client, Kind: p.Kind, Name: p.Name, Owner: p.Owner}
}

// Verify checks a token for the audiences, and that its principal still exists: auth.ErrToken. A token of the external issuer has an audience of its
// own, and a caller that is in no table: auth.ErrIssuer too. With an error, the caller says whose token it was as far as that is proven.
func (s *Service) Verify(ctx context.Context, token string, audiences ...string) (auth.Caller, error) {
	if s.External != nil && s.External.Issued(token) {
		return s.verifyExternal(ctx, token)
	}
	claims, err := s.Issuer.Verify(token, audiences...)
	was := auth.Caller{ObjectID: claims.ObjectID, ClientID: claims.ClientID}
	if err != nil {
		return was, err
	}
	var p store.Principal
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		p, err = tx.PrincipalByID(claims.ObjectID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return was, fmt.Errorf("%w: its principal %s does not exist anymore", auth.ErrToken, claims.ObjectID)
	}
	return caller(p), err
}

// verifyExternal checks a token of the external issuer, who vouches for its own people only: it must not speak for a principal of this service.
func (s *Service) verifyExternal(ctx context.Context, token string) (auth.Caller, error) {
	c, err := s.External.Verify(ctx, token)
	if err != nil {
		return auth.Caller{}, err
	}
	c.Kind = KindUser
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		_, err := tx.PrincipalByID(c.ObjectID)
		return err
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return c, nil
	case err == nil:
		err = fmt.Errorf("%w: its object ID %s is that of a principal of this service", auth.ErrToken, c.ObjectID)
	}
	return auth.Caller{}, err
}

// Allowed says whether a principal's roles give it an action at a scope.
func (s *Service) Allowed(ctx context.Context, principal, action string, scope arm.ID) (bool, error) {
	var ok bool
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		ok, err = s.HasAction(tx, principal, action, scope)
		return err
	})
	return ok, err
}

// HasAction is Allowed within a transaction.
func (s *Service) HasAction(tx *store.Tx, principal, action string, scope arm.ID) (bool, error) {
	grants, err := grantsOf(tx, principal)
	return auth.Allowed(grants, action, scope, false), err
}

func grantsOf(tx *store.Tx, principal string) ([]auth.Grant, error) {
	found, err := tx.Grants(principal)
	grants := make([]auth.Grant, len(found))
	for i, g := range found {
		grants[i] = auth.Grant{Role: g.Role, Scope: g.Scope}
	}
	return grants, err
}
