package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/store"
)

// Blobs is what the service needs of the blob endpoint: containers are made from the management side too.
type Blobs interface {
	CreateContainer(account, container string) (created bool, err error)
	DeleteContainer(account, container string) error
	Containers(account string) ([]string, error)
	// DeleteBlobs removes the blobs whose names begin with a prefix: those named first before all others.
	DeleteBlobs(account, container, prefix string, first ...string) error
	DeleteAccount(account string) error
	// Put makes a blob of what write writes, or replaces it; if write fails, nothing is made.
	Put(account, container, blob, contentType string, write func(io.Writer) error) error
	// Exclusive runs a function that no other process and nobody else in this one runs meanwhile.
	Exclusive(func() error) error
}

// Service is the product. All fields are set by the daemon before its first use.
type Service struct {
	DB     *store.DB
	Issuer *auth.Issuer
	// External is whose tokens are accepted beside Issuer's; nil for nobody's.
	External *auth.External
	Blobs    Blobs
	Now      func() time.Time
	Log      *slog.Logger
	// PublicURL is the service's own address, BlobURL the blob endpoint's, both https and without a slash at the end.
	PublicURL string
	BlobURL   string
	// CABundle is the PEM of the authority that signed both endpoints' certificates; empty for a public one.
	CABundle string
	// Closing is closed when the daemon is about to end: a call that is held open should answer then.
	Closing <-chan struct{}
	// Limits are those of jobs.
	Limits Limits
	// ScheduleJitter spreads the starts of scheduled backups: each slot begins by up to that much later.
	ScheduleJitter time.Duration
	// TenantID and SubscriptionID are the only ones there are.
	TenantID       string
	SubscriptionID string
	// forgot is when keepHouse forgot old requests.
	forgot time.Time
	audit  audit
}

// Ref is who asks, for system data and audit.
type Ref struct {
	ObjectID string
	// Type is Application, ManagedIdentity or User.
	Type string
	// Second is the object ID of a second token that was sent along, or empty: its rights on a resource guard count as the caller's.
	Second string
	// GuardRequests are the IDs of a resource guard's requests that the caller names.
	GuardRequests []string
}

// By is the reference of a caller.
func By(c auth.Caller) Ref {
	if c.Kind == KindManagedIdentity || c.Kind == KindUser {
		return Ref{ObjectID: c.ObjectID, Type: c.Kind}
	}
	return Ref{ObjectID: c.ObjectID, Type: "Application"}
}

// newID is a GUID for whatever needs one.
func newID() string { return uuid.NewString() }

// Load finds a resource for a caller: a missing one is the ARM error.
func Load[T any](tx *store.Tx, id arm.ID) (T, store.Resource, error) {
	v, r, err := store.Load[T](tx, id)
	if errors.Is(err, store.ErrNotFound) {
		return v, r, arm.NotFound(id)
	}
	return v, r, err
}

// read finds a resource for a caller, with its version, which is not part of the document, where etag says.
func read[T any](ctx context.Context, db *store.DB, id arm.ID, etag func(*T) *string) (T, error) {
	var out T
	err := db.View(ctx, func(tx *store.Tx) error {
		v, row, err := Load[T](tx, id)
		out = v
		*etag(&out) = weak(row.ETag)
		return err
	})
	return out, err
}

// Change finds a resource, lets f change its document, and stores it, in one transaction. An error of f leaves it as it
// was.
func Change[T any](ctx context.Context, db *store.DB, id arm.ID, f func(*store.Tx, *T, store.Resource) error) (T, error) {
	var out T
	err := db.Update(ctx, func(tx *store.Tx) error {
		v, r, err := Load[T](tx, id)
		if err != nil {
			return err
		}
		if err := f(tx, &v, r); err != nil {
			return err
		}
		out = v
		return tx.Save(&r, v)
	})
	return out, err
}

// Documents reads the bodies of resources.
func Documents[T any](found []store.Resource, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	out := make([]T, len(found))
	for i, r := range found {
		if err := r.Decode(&out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// inVault is a page of a vault's resources of a type, in order of name.
func inVault[T any](ctx context.Context, s *Service, vault arm.ID, typ string, page store.Page) (found []T, next string, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		if _, _, err := Load[backup.VaultResource](tx, vault); err != nil {
			return err
		}
		var rows []store.Resource
		if rows, next, err = tx.ChildrenPage(vault, typ, page); err != nil {
			return err
		}
		found, err = Documents[T](rows, nil)
		return err
	})
	return found, next, err
}

// CheckScope says whether the subscription and the resource group that an ID lies in exist: SubscriptionNotFound,
// ResourceGroupNotFound.
func (s *Service) CheckScope(ctx context.Context, id arm.ID) error {
	if sub := id.Subscription(); sub != "" && !arm.Subscription(sub).Equal(arm.Subscription(s.SubscriptionID)) {
		return &arm.Error{Status: 404, Code: "SubscriptionNotFound", Message: fmt.Sprintf("The subscription '%s' could not be found.", sub)}
	}
	group := id.ResourceGroupID()
	if group == "" {
		return nil
	}
	return s.DB.View(ctx, func(tx *store.Tx) error {
		exists, err := tx.Exists(group)
		if err == nil && !exists {
			err = arm.NotFound(group)
		}
		return err
	})
}
