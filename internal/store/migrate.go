package store

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// migrations are numbered SQL files. One that was released is never changed; a new one is added.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate applies the migrations that are missing, each in a transaction of its own, in order.
func (db *DB) migrate(ctx context.Context) error {
	if err := db.Update(ctx, func(tx *Tx) error {
		_, err := tx.exec(`CREATE TABLE IF NOT EXISTS migrations (
			number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied BIGINT NOT NULL)`)
		return err
	}); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	entries, err := fs.ReadDir(migrations, "migrations") // in order of name, which is that of number
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for _, entry := range entries {
		if err := db.Update(ctx, func(tx *Tx) error { return tx.apply(entry.Name()) }); err != nil {
			return fmt.Errorf("migration %s: %w", entry.Name(), err)
		}
	}
	return nil
}

// apply runs one migration unless it was run; one that was changed since is refused, because then nobody knows what the
// schema is.
func (tx *Tx) apply(name string) error {
	digits, _, _ := strings.Cut(name, "_")
	number, err := strconv.Atoi(digits)
	if err != nil {
		return fmt.Errorf("its name does not begin with a number: %w", err)
	}
	text, err := migrations.ReadFile("migrations/" + name)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	checksum := hex.EncodeToString(sum[:])
	var applied int
	var before string
	if err := tx.row(`SELECT count(*), coalesce(max(checksum), '') FROM migrations WHERE number = $1`, []any{number}, &applied, &before); err != nil {
		return err
	}
	if applied > 0 {
		if before != checksum {
			return fmt.Errorf("the database was made with another text of it: use the version of cairnd that made the database, or a newer one")
		}
		return nil
	}
	if _, err := tx.exec(string(text)); err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO migrations (number, name, checksum, applied) VALUES ($1, $2, $3, $4)`,
		number, name, checksum, micros(tx.now))
	return err
}
