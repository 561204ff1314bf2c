package store

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Async is a long-running operation of a neighbour: what its client polls.
type Async struct {
	ID string
	// Resource is what it works on.
	Resource arm.ID
	// Status is one of arm's.
	Status  string
	Error   *arm.Error
	Started time.Time
	Ended   time.Time
}

// asyncKept is how long an operation can be asked for after it has ended.
const asyncKept = 7 * 24 * time.Hour

// PutAsync adds an operation, or stores how it has ended. Operations that ended long ago are removed on this occasion.
func (tx *Tx) PutAsync(a Async) error {
	text := ""
	if a.Error != nil {
		body, err := json.Marshal(a.Error)
		if err != nil {
			return fmt.Errorf("operation %s: %w", a.ID, err)
		}
		text = string(body)
	}
	if _, err := tx.exec(`INSERT INTO async_operations (id, resource, status, error, started, ended) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET status = excluded.status, error = excluded.error, ended = excluded.ended`,
		a.ID, string(a.Resource), a.Status, text, micros(a.Started), micros(a.Ended)); err != nil {
		return fmt.Errorf("operation %s: %w", a.ID, err)
	}
	if _, err := tx.exec(`DELETE FROM async_operations WHERE ended > 0 AND ended < $1`, micros(tx.now.Add(-asyncKept))); err != nil {
		return fmt.Errorf("old operations: %w", err)
	}
	return nil
}

// Async finds an operation: ErrNotFound.
func (tx *Tx) Async(id string) (Async, error) {
	found, err := tx.asyncs(`WHERE id = $1`, id)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Async{}, fmt.Errorf("operation %s: %w", id, err)
	}
	return found[0], nil
}

// AsyncsOf are the operations on a resource that have not ended, oldest first.
func (tx *Tx) AsyncsOf(resource arm.ID) ([]Async, error) {
	found, err := tx.asyncs(`WHERE lower(resource) = $1 AND ended = 0 ORDER BY started, id`, resource.Key())
	if err != nil {
		return nil, fmt.Errorf("operations of %s: %w", resource, err)
	}
	return found, nil
}

func (tx *Tx) asyncs(where string, args ...any) ([]Async, error) {
	var found []Async
	err := tx.query(func(rows *sql.Rows) error {
		var a Async
		var text string
		var started, ended int64
		if err := rows.Scan(&a.ID, &a.Resource, &a.Status, &text, &started, &ended); err != nil {
			return err
		}
		a.Started, a.Ended = timeOf(started), timeOf(ended)
		if text != "" {
			if err := json.Unmarshal([]byte(text), &a.Error); err != nil {
				return err
			}
		}
		found = append(found, a)
		return nil
	}, `SELECT id, resource, status, error, started, ended FROM async_operations `+where, args...)
	return found, err
}
