package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// migrations are numbered SQL files. One that was released is never changed; a new one is added.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate applies the migrations that are missing, each in a transaction of its own, in order. Several processes may do so at once.
// A database that a newer version has changed is refused: this one would not know what it must keep to.
func (db *DB) migrate(ctx context.Context) error {
	if err := db.update(ctx, false, func(tx *Tx) error {
		_, err := tx.exec(db.engine.schema(`CREATE TABLE IF NOT EXISTS migrations (
			number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied BIGINT NOT NULL)`))
		return err
	}); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	entries, err := fs.ReadDir(migrations, "migrations") // in order of name, which is that of number
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if err := db.View(ctx, func(tx *Tx) error { return tx.known(entries) }); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for _, entry := range entries {
		if err := db.update(ctx, false, func(tx *Tx) error { return tx.apply(entry.Name(), db.engine.schema) }); err != nil {
			return fmt.Errorf("migration %s: %w", entry.Name(), err)
		}
	}
	return nil
}

// known refuses migrations that were applied and are not among the entries.
func (tx *Tx) known(entries []fs.DirEntry) error {
	return tx.query(func(rows *sql.Rows) error {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name }) {
			return fmt.Errorf("a newer version of cairnd has changed the database (%s): use that version, or a newer one", name)
		}
		return nil
	}, `SELECT name FROM migrations ORDER BY number DESC`)
}

// apply runs one migration unless it was run; one that was changed since is refused, because then nobody knows what the
// schema is.
func (tx *Tx) apply(name string, schema func(string) string) error {
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
	if _, err := tx.exec(schema(string(text))); err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO migrations (number, name, checksum, applied) VALUES ($1, $2, $3, $4)`,
		number, name, checksum, micros(tx.now))
	return err
}
