package store

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Deletion is an entry of the ledger: what is left of a recovery point that is to be deleted.
type Deletion struct {
	// Point is the recovery point's name.
	Point string
	// Vault, Instance and Cluster are keys. The first two may be gone.
	Vault, Instance, Cluster string
	// GUID is that of the instance which made it.
	GUID string
	// Made is the recovery point's time.
	Made time.Time
	// Container and Prefix are as in RecoveryPoint.
	Container, Prefix string
	// Snapshots are the storage snapshots: a list of v1alpha1.VolumeSnapshotRecord.
	Snapshots json.RawMessage
	// Blobs says that there may be blobs left.
	Blobs bool
	// Why is a code.
	Why string
	// Since is when it was put into the ledger.
	Since time.Time
	// Request is the name of the DeleteBackup that is under way, or empty.
	Request string
	// Attempts is how many have failed, Error why the last one did.
	Attempts int
	Error    *arm.Error
	// Due is when to try next, zero while a request is under way.
	Due time.Time
}

// Discard moves a recovery point into the ledger, from which it is to be deleted at once. Why is a code.
func (tx *Tx) Discard(p RecoveryPoint, why string) error {
	if err := tx.DeleteRecoveryPoint(p.Name); err != nil {
		return err
	}
	_, err := tx.exec(`INSERT INTO deletions (point, vault, instance, guid, cluster, made, container, prefix, snapshots, blobs, why, since, request, attempts, error, due)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, $11, '', 0, '', $11) ON CONFLICT (point) DO NOTHING`,
		p.Name, p.Vault, p.Instance, p.GUID, p.Cluster, micros(p.Time), p.Container, p.Prefix, string(p.Snapshots), why, micros(tx.now))
	if err != nil {
		return fmt.Errorf("deletion of recovery point %s: %w", p.Name, err)
	}
	return nil
}

// PutDeletion stores how far an entry is. One that is not in the ledger any more stays away.
func (tx *Tx) PutDeletion(d Deletion) error {
	text := ""
	if d.Error != nil {
		body, err := json.Marshal(d.Error)
		if err != nil {
			return fmt.Errorf("deletion of recovery point %s: %w", d.Point, err)
		}
		text = string(body)
	}
	blobs := 0
	if d.Blobs {
		blobs = 1
	}
	if _, err := tx.exec(`UPDATE deletions SET blobs = $1, request = $2, attempts = $3, error = $4, due = $5 WHERE point = $6`,
		blobs, d.Request, d.Attempts, text, micros(d.Due), d.Point); err != nil {
		return fmt.Errorf("deletion of recovery point %s: %w", d.Point, err)
	}
	return nil
}

// Deleted takes an entry out of the ledger, if it is there: nothing is left of the recovery point.
func (tx *Tx) Deleted(point string) error {
	if _, err := tx.exec(`DELETE FROM deletions WHERE point = $1`, point); err != nil {
		return fmt.Errorf("deletion of recovery point %s: %w", point, err)
	}
	return nil
}

// Deletion finds an entry: ErrNotFound.
func (tx *Tx) Deletion(point string) (Deletion, error) {
	found, err := tx.deletions(`WHERE point = $1`, point)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Deletion{}, fmt.Errorf("deletion of recovery point %s: %w", point, err)
	}
	return found[0], nil
}

// DueDeletions are up to n entries that are to be tried now, those that are due longest first.
func (tx *Tx) DueDeletions(n int) ([]Deletion, error) {
	found, err := tx.deletions(`WHERE due > 0 AND due <= $1 ORDER BY due, point LIMIT $2`, micros(tx.now), n)
	if err != nil {
		return nil, fmt.Errorf("due deletions: %w", err)
	}
	return found, nil
}

// NextDeletion is when an entry is to be tried next; zero when none is.
func (tx *Tx) NextDeletion() (time.Time, error) { return tx.first("deletions", "due") }

// DeletionsAsked is how many entries of a cluster have a request under way.
func (tx *Tx) DeletionsAsked(cluster string) (n int, err error) {
	if err := tx.row(`SELECT count(*) FROM deletions WHERE cluster = $1 AND request <> ''`, []any{cluster}, &n); err != nil {
		return 0, fmt.Errorf("deletions of %s: %w", cluster, err)
	}
	return n, nil
}

// RetryDeletions lets all entries that wait be tried now: when the service starts, and when the clock went back.
func (tx *Tx) RetryDeletions() error {
	if _, err := tx.exec(`UPDATE deletions SET due = $1 WHERE due > $1`, micros(tx.now)); err != nil {
		return fmt.Errorf("deletions: %w", err)
	}
	return nil
}

// AbandonDeletions lets the entries of a cluster that is gone be tried in another way: its requests will not be answered.
func (tx *Tx) AbandonDeletions(cluster arm.ID) error {
	if _, err := tx.exec(`UPDATE deletions SET request = '', due = $2 WHERE cluster = $1`, cluster.Key(), micros(tx.now)); err != nil {
		return fmt.Errorf("deletions of %s: %w", cluster, err)
	}
	return nil
}

// Deletions are a vault's entries, oldest first.
func (tx *Tx) Deletions(vault arm.ID) ([]Deletion, error) {
	found, err := tx.deletions(`WHERE vault = $1 ORDER BY since, point`, vault.Key())
	if err != nil {
		return nil, fmt.Errorf("deletions of %s: %w", vault, err)
	}
	return found, nil
}

func (tx *Tx) deletions(where string, args ...any) ([]Deletion, error) {
	var found []Deletion
	err := tx.query(func(rows *sql.Rows) error {
		var d Deletion
		var made, since, due int64
		var blobs int
		var snapshots, text string
		if err := rows.Scan(&d.Point, &d.Vault, &d.Instance, &d.GUID, &d.Cluster, &made, &d.Container, &d.Prefix, &snapshots, &blobs, &d.Why,
			&since, &d.Request, &d.Attempts, &text, &due); err != nil {
			return err
		}
		d.Made, d.Since, d.Due, d.Blobs, d.Snapshots = timeOf(made), timeOf(since), timeOf(due), blobs == 1, json.RawMessage(snapshots)
		if text != "" {
			if err := json.Unmarshal([]byte(text), &d.Error); err != nil {
				return err
			}
		}
		found = append(found, d)
		return nil
	}, `SELECT point, vault, instance, guid, cluster, made, container, prefix, snapshots, blobs, why, since, request, attempts, error, due FROM deletions `+where, args...)
	return found, err
}
