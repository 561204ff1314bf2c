package store

import (
	"database/sql"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Export is an export of a vault's jobs.
type Export struct {
	// Operation is the ID of the operation that made it.
	Operation string
	// Vault is a key.
	Vault string
	// Account is the name of the storage account that holds it, Key the account's, in base64.
	Account, Key string
	Expires      time.Time
}

// PutExport adds an export.
func (tx *Tx) PutExport(e Export) error {
	if _, err := tx.exec(`INSERT INTO exports (operation, vault, account, key, expires) VALUES ($1, $2, $3, $4, $5)`,
		e.Operation, e.Vault, e.Account, e.Key, micros(e.Expires)); err != nil {
		return fmt.Errorf("export %s: %w", e.Account, err)
	}
	return nil
}

// Export finds an export by its operation: ErrNotFound.
func (tx *Tx) Export(operation string) (Export, error) {
	return tx.export(`WHERE operation = $1`, operation)
}

// ExportIn finds the export that an account holds: ErrNotFound.
func (tx *Tx) ExportIn(account string) (Export, error) {
	return tx.export(`WHERE account = $1`, account)
}

func (tx *Tx) export(where, arg string) (Export, error) {
	found, err := tx.exports(where, arg)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Export{}, fmt.Errorf("export %s: %w", arg, err)
	}
	return found[0], nil
}

// ExpiredExports are those whose time is over.
func (tx *Tx) ExpiredExports() ([]Export, error) {
	found, err := tx.exports(`WHERE expires <= $1 ORDER BY operation`, micros(tx.now))
	if err != nil {
		return nil, fmt.Errorf("expired exports: %w", err)
	}
	return found, nil
}

// ForgetExport removes an export, and notes that its blobs are to be removed.
func (tx *Tx) ForgetExport(e Export) error {
	if _, err := tx.exec(`DELETE FROM exports WHERE operation = $1`, e.Operation); err != nil {
		return fmt.Errorf("export %s: %w", e.Account, err)
	}
	return tx.DoomAccount(e.Account)
}

// forgetExports is ForgetExport for all of a vault.
func (tx *Tx) forgetExports(vault arm.ID) error {
	found, err := tx.exports(`WHERE vault = $1 ORDER BY operation`, vault.Key())
	if err != nil {
		return fmt.Errorf("exports of %s: %w", vault, err)
	}
	for _, e := range found {
		if err := tx.ForgetExport(e); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) exports(where string, args ...any) ([]Export, error) {
	var found []Export
	err := tx.query(func(rows *sql.Rows) error {
		var e Export
		var expires int64
		if err := rows.Scan(&e.Operation, &e.Vault, &e.Account, &e.Key, &expires); err != nil {
			return err
		}
		e.Expires = timeOf(expires)
		found = append(found, e)
		return nil
	}, `SELECT operation, vault, account, key, expires FROM exports `+where, args...)
	return found, err
}
