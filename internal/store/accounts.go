package store

import (
	"database/sql"
	"fmt"
)

// DoomAccount notes that the blobs of a storage account are to be removed.
func (tx *Tx) DoomAccount(name string) error {
	if _, err := tx.exec(`INSERT INTO doomed_accounts (name) VALUES ($1) ON CONFLICT DO NOTHING`, name); err != nil {
		return fmt.Errorf("blobs of storage account %s: %w", name, err)
	}
	return nil
}

// DoomedAccounts are those whose blobs are still to be removed, in order.
func (tx *Tx) DoomedAccounts() ([]string, error) {
	var names []string
	err := tx.query(func(rows *sql.Rows) error {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		names = append(names, name)
		return nil
	}, `SELECT name FROM doomed_accounts ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("blobs of deleted storage accounts: %w", err)
	}
	return names, nil
}

// ForgetAccount notes that the blobs of a storage account are removed.
func (tx *Tx) ForgetAccount(name string) error {
	if _, err := tx.exec(`DELETE FROM doomed_accounts WHERE name = $1`, name); err != nil {
		return fmt.Errorf("blobs of storage account %s: %w", name, err)
	}
	return nil
}
