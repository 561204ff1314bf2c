package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Errors to branch on.
var (
	// ErrNotFound is a row that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict is a row that was changed, made or removed by somebody else meanwhile.
	ErrConflict = errors.New("conflict")
	// ErrUnavailable is a database server that cannot be reached, or is too busy. Whether the transaction was committed is not known when its
	// commit met it, and otherwise it was not.
	ErrUnavailable = errors.New("the database cannot be reached")
	// ErrText is text that cannot be stored: it is not UTF-8, or has a NUL.
	ErrText = errors.New("text is not UTF-8, or has a NUL character")
)

// DB is the state. It is safe for concurrent use.
type DB struct {
	engine engine
	writer *sql.DB
	reader *sql.DB
	now    func() time.Time

	mu      sync.Mutex
	changed chan struct{}
}

// engine is what SQLite and PostgreSQL do each in its own way.
type engine interface {
	// limit is how long a transaction may take.
	limit(context.Context) (context.Context, context.CancelFunc)
	// viewing and updating are how transactions begin.
	viewing() *sql.TxOptions
	updating() *sql.TxOptions
	// begun makes a transaction that was begun the one writer, done prepares it for its commit.
	begun(context.Context, *sql.Tx) error
	done(context.Context, *sql.Tx) error
	// schema is a migration as the engine needs it.
	schema(string) string
	// fault makes an error of the engine one to branch on.
	fault(error) error
	close()
}

// Open opens a database and brings its schema up to date. It is the path of a file for SQLite, which is made (mode 0600: it holds secrets)
// when it is absent, or the URL of a database on a PostgreSQL server, postgres://USER@HOST:PORT/NAME, which several processes may use at
// once. Now is the clock for created and modified times.
func Open(ctx context.Context, database string, now func() time.Time) (*DB, error) {
	db, name, err := connect(ctx, database, now)
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", name, err)
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open state %s: %w", name, err), db.Close())
	}
	return db, nil
}

// connect also gives the database's name as it may be shown: a URL can hold a password.
func connect(ctx context.Context, database string, now func() time.Time) (*DB, string, error) {
	if IsURL(database) {
		db, err := openPostgreSQL(ctx, database, now)
		return db, "on PostgreSQL", err
	}
	db, err := openSQLite(database, now)
	return db, database, err
}

// Close waits for what is under way and closes the database.
func (db *DB) Close() error {
	db.engine.close()
	return errors.Join(db.reader.Close(), db.writer.Close())
}

// Update runs f in a transaction that is committed, durably, when f returns nil, and rolled back otherwise. It is the only one of all
// processes that use the database. f must not call Update or View; it may be slow, but then everybody waits.
func (db *DB) Update(ctx context.Context, f func(*Tx) error) error {
	ctx, cancel := db.engine.limit(ctx)
	defer cancel()
	return db.update(ctx, f)
}

func (db *DB) update(ctx context.Context, f func(*Tx) error) error {
	committing := false
	err := db.run(ctx, db.writer, db.engine.updating(), func(tx *Tx) error {
		if err := db.engine.begun(ctx, tx.tx); err != nil {
			return fmt.Errorf("wait for the turn to write: %w", err)
		}
		tx.now = db.now()
		if err := f(tx); err != nil {
			return err
		}
		if err := db.engine.done(ctx, tx.tx); err != nil {
			return fmt.Errorf("tell of the change: %w", err)
		}
		committing = true
		return nil
	})
	if committing { // one whose answer was lost may have been one
		db.fire()
	}
	return err
}

// fire tells those who wait for Changed.
func (db *DB) fire() {
	db.mu.Lock()
	defer db.mu.Unlock()
	close(db.changed)
	db.changed = make(chan struct{})
}

// View runs f in a transaction that sees one instant and changes nothing.
func (db *DB) View(ctx context.Context, f func(*Tx) error) error {
	ctx, cancel := db.engine.limit(ctx)
	defer cancel()
	return db.run(ctx, db.reader, db.engine.viewing(), f)
}

func (db *DB) run(ctx context.Context, pool *sql.DB, options *sql.TxOptions, f func(*Tx) error) (err error) {
	defer func() { err = db.engine.fault(err) }()
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

// Changed gives a channel that is closed by the next Update that commits, in this process or another, and sometimes without one.
// Take it before reading what to wait on:
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
	if err := checkText(args); err != nil {
		return 0, err
	}
	result, err := tx.tx.ExecContext(tx.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// query runs a query; scan is called for each row.
func (tx *Tx) query(scan func(*sql.Rows) error, query string, args ...any) (err error) {
	if err := checkText(args); err != nil {
		return err
	}
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
	if err := checkText(args); err != nil {
		return err
	}
	err := tx.tx.QueryRowContext(tx.ctx, query, args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

// checkText refuses what PostgreSQL could not store, with SQLite too.
func checkText(args []any) error {
	for _, a := range args {
		if text, ok := a.(string); ok && (!utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0) {
			return ErrText
		}
	}
	return nil
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
