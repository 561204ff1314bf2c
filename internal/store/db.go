package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver named "sqlite"
)

// Errors to branch on.
var (
	// ErrNotFound is a row that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict is a row that was changed, made or removed by somebody else meanwhile.
	ErrConflict = errors.New("conflict")
)

// DB is the state. It is safe for concurrent use.
type DB struct {
	writer *sql.DB
	reader *sql.DB
	now    func() time.Time

	mu      sync.Mutex
	changed chan struct{}
}

// Open opens the database file, makes it (mode 0600: it holds secrets) when it is absent, and brings its schema up to date.
// Now is the clock for created and modified times.
func Open(ctx context.Context, file string, now func() time.Time) (*DB, error) {
	if err := private(file); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	writer, err := open(file, "immediate", 1)
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", file, err)
	}
	reader, err := open(file, "deferred", 4)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open state %s: %w", file, err), writer.Close())
	}
	db := &DB{writer: writer, reader: reader, now: now, changed: make(chan struct{})}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open state %s: %w", file, err), db.Close())
	}
	return db, nil
}

// private makes the file before SQLite would make it readable for all; its WAL takes over the mode.
func private(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func open(file, lock string, connections int) (*sql.DB, error) {
	q := url.Values{"_txlock": {lock}, "_pragma": {
		"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
	}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath(), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	return db, nil
}

// Close waits for what is under way and closes the file.
func (db *DB) Close() error {
	return errors.Join(db.reader.Close(), db.writer.Close())
}

// Update runs f in a transaction that is committed, durably, when f returns nil, and rolled back otherwise. f must not
// call Update or View; it may be slow, but then everybody waits.
func (db *DB) Update(ctx context.Context, f func(*Tx) error) error {
	if err := db.run(ctx, db.writer, nil, f); err != nil {
		return err
	}
	db.mu.Lock()
	close(db.changed)
	db.changed = make(chan struct{})
	db.mu.Unlock()
	return nil
}

// View runs f in a transaction that sees one instant and changes nothing.
func (db *DB) View(ctx context.Context, f func(*Tx) error) error {
	return db.run(ctx, db.reader, &sql.TxOptions{ReadOnly: true}, f)
}

func (db *DB) run(ctx context.Context, pool *sql.DB, options *sql.TxOptions, f func(*Tx) error) error {
	sqlTx, err := pool.BeginTx(ctx, options)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	tx := &Tx{ctx: ctx, tx: sqlTx, now: db.now()}
	done := false
	defer func() {
		// f failed or panicked: what rolling back says adds nothing to that.
		if !done {
			_ = sqlTx.Rollback()
		}
	}()
	if err := f(tx); err != nil {
		return err
	}
	if err := sqlTx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	done = true
	return nil
}

// Changed gives a channel that is closed by the next Update that commits. Take it before reading what to wait on:
//
//	changed := db.Changed()
//	… View …
//	<-changed
func (db *DB) Changed() <-chan struct{} {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.changed
}

// Tx is a transaction. It belongs to the function that it was given to.
type Tx struct {
	ctx context.Context
	tx  *sql.Tx
	now time.Time
}

// Now is the time of the transaction: the same for all that it writes.
func (tx *Tx) Now() time.Time { return tx.now }

// Context is the caller's.
func (tx *Tx) Context() context.Context { return tx.ctx }

// exec runs a statement and tells how many rows it changed.
func (tx *Tx) exec(query string, args ...any) (int64, error) {
	result, err := tx.tx.ExecContext(tx.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// query runs a query; scan is called for each row.
func (tx *Tx) query(scan func(*sql.Rows) error, query string, args ...any) (err error) {
	rows, err := tx.tx.QueryContext(tx.ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// row runs a query for one row: ErrNotFound without one.
func (tx *Tx) row(query string, args []any, into ...any) error {
	err := tx.tx.QueryRowContext(tx.ctx, query, args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

// micros is how a time is stored: zero as zero.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func timeOf(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
