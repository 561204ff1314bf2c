package store

import (
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Resource is an ARM resource: a document with an ID.
type Resource struct {
	// ID is in its creator's letter case.
	ID arm.ID
	// ETag is empty before the first Put.
	ETag string
	// Body is the document, in the form that its owner stores.
	Body     json.RawMessage
	Created  time.Time
	Modified time.Time
}

// Decode reads the body.
func (r Resource) Decode(v any) error {
	if err := json.Unmarshal(r.Body, v); err != nil {
		return fmt.Errorf("stored resource %s: %w", r.ID, err)
	}
	return nil
}

// Encode sets the body.
func (r *Resource) Encode(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("store resource %s: %w", r.ID, err)
	}
	r.Body = body
	return nil
}

const resourceColumns = `SELECT id, etag, body, created, modified FROM resources `

// Get finds a resource by its ID in any letter case: ErrNotFound.
func (tx *Tx) Get(id arm.ID) (Resource, error) {
	found, err := tx.resources(`WHERE key = $1`, id.Key())
	if err != nil {
		return Resource{}, fmt.Errorf("resource %s: %w", id, err)
	}
	if len(found) == 0 {
		return Resource{}, fmt.Errorf("resource %s: %w", id, ErrNotFound)
	}
	return found[0], nil
}

// Load finds a resource and reads its body.
func Load[T any](tx *Tx, id arm.ID) (T, Resource, error) {
	var v T
	r, err := tx.Get(id)
	if err != nil {
		return v, r, err
	}
	return v, r, r.Decode(&v)
}

// Exists says whether a resource does.
func (tx *Tx) Exists(id arm.ID) (bool, error) {
	_, err := tx.Get(id)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Put stores a resource: one with an empty ETag must not exist yet, one with an ETag must still have it, else ErrConflict.
// It sets the new ETag and the times.
func (tx *Tx) Put(r *Resource) error {
	etag, now := rand.Text(), micros(tx.now)
	var changed int64
	var err error
	if r.ETag == "" {
		changed, err = tx.exec(`INSERT INTO resources (key, id, type, parent, etag, body, created, modified)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT DO NOTHING`,
			r.ID.Key(), string(r.ID), strings.ToLower(r.ID.Type()), r.ID.Parent().Key(), etag, string(r.Body), now)
		r.Created = timeOf(now)
	} else {
		changed, err = tx.exec(`UPDATE resources SET etag = $1, body = $2, modified = $3 WHERE key = $4 AND etag = $5`,
			etag, string(r.Body), now, r.ID.Key(), r.ETag)
	}
	if err != nil {
		return fmt.Errorf("resource %s: %w", r.ID, err)
	}
	if changed == 0 {
		return fmt.Errorf("resource %s: %w", r.ID, ErrConflict)
	}
	r.ETag, r.Modified = etag, timeOf(now)
	tx.touch(r.ID)
	return nil
}

// Save encodes v as the resource's body and puts it.
func (tx *Tx) Save(r *Resource, v any) error {
	if err := r.Encode(v); err != nil {
		return err
	}
	return tx.Put(r)
}

// Delete removes a resource, not what is below it: ErrNotFound.
func (tx *Tx) Delete(id arm.ID) error {
	tx.touch(id)
	changed, err := tx.exec(`DELETE FROM resources WHERE key = $1`, id.Key())
	if err == nil && changed == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("resource %s: %w", id, err)
	}
	return nil
}

// Children are the resources whose parent is the given one, of a type in any letter case ("" for all), in order of ID.
func (tx *Tx) Children(parent arm.ID, typ string) ([]Resource, error) {
	return tx.resources(`WHERE parent = $1 AND ($2 = '' OR type = $2) ORDER BY key`, parent.Key(), strings.ToLower(typ))
}

// CountChildren is how many Children there are.
func (tx *Tx) CountChildren(parent arm.ID, typ string) (int, error) {
	var n int
	if err := tx.row(`SELECT count(*) FROM resources WHERE parent = $1 AND ($2 = '' OR type = $2)`,
		[]any{parent.Key(), strings.ToLower(typ)}, &n); err != nil {
		return 0, fmt.Errorf("resources below %s: %w", parent, err)
	}
	return n, nil
}

// ByType are all resources of a type, in order of ID.
func (tx *Tx) ByType(typ string) ([]Resource, error) {
	return tx.resources(`WHERE type = $1 ORDER BY key`, strings.ToLower(typ))
}

// Under are the resources below a scope at any depth, without the scope itself, of a type ("" for all), in order of ID.
func (tx *Tx) Under(scope arm.ID, typ string) ([]Resource, error) {
	// '0' is the character after '/', so that the range holds all keys that begin with the scope and a slash.
	return tx.resources(`WHERE key >= $1 AND key < $2 AND ($3 = '' OR type = $3) ORDER BY key`,
		scope.Key()+"/", scope.Key()+"0", strings.ToLower(typ))
}

func (tx *Tx) resources(where string, args ...any) ([]Resource, error) {
	var found []Resource
	err := tx.query(func(rows *sql.Rows) error {
		var r Resource
		var id, body string
		var created, modified int64
		if err := rows.Scan(&id, &r.ETag, &body, &created, &modified); err != nil {
			return err
		}
		r.ID, r.Body, r.Created, r.Modified = arm.ID(id), json.RawMessage(body), timeOf(created), timeOf(modified)
		found = append(found, r)
		return nil
	}, resourceColumns+where, args...)
	if err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	return found, nil
}
