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

	"github.com/cairn-backup/cairn/internal/arm"
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
	// urgent is a connection of its own for ViewFirst.
	urgent *sql.DB
	now    func() time.Time

	turns turns
	// prepared are the statements of each pool that are kept; nil when the engine keeps them itself.
	prepared map[*sql.DB]*prepared

	mu      sync.Mutex
	changed chan struct{}
	// watched are the channels of Watch, by topic.
	watched map[string]chan struct{}
	// holds is how many want Watch to wait, held what has been held up.
	holds int
	held  topics
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
	done(context.Context, *sql.Tx, topics) error
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
	var errs []error
	for _, p := range db.prepared {
		errs = append(errs, p.close())
	}
	return errors.Join(append(errs, db.reader.Close(), db.urgent.Close(), db.writer.Close())...)
}

// Update runs f in a transaction that is committed, durably, when f returns nil, and rolled back otherwise. It is the only one of all
// processes that use the database. f must not call Update or View; it may be slow, but then everybody waits.
func (db *DB) Update(ctx context.Context, f func(*Tx) error) error {
	ctx, cancel := db.engine.limit(ctx)
	defer cancel()
	return db.update(ctx, false, f)
}

// UpdateFirst is Update for what must be done in time: it goes before all Updates of this process that wait for their turn.
func (db *DB) UpdateFirst(ctx context.Context, f func(*Tx) error) error {
	ctx, cancel := db.engine.limit(ctx)
	defer cancel()
	return db.update(ctx, true, f)
}

func (db *DB) update(ctx context.Context, first bool, f func(*Tx) error) error {
	if err := db.turns.take(ctx, first); err != nil {
		return db.engine.fault(fmt.Errorf("wait for the turn to write: %w", err))
	}
	defer db.turns.give()
	var touched topics
	committing := false
	err := db.run(ctx, db.writer, db.engine.updating(), func(tx *Tx) error {
		if err := db.engine.begun(ctx, tx.tx); err != nil {
			return fmt.Errorf("wait for the turn to write: %w", err)
		}
		tx.now = db.now()
		if err := f(tx); err != nil {
			return err
		}
		if tx.silent {
			return nil
		}
		touched = tx.touched
		if err := db.engine.done(ctx, tx.tx, touched); err != nil {
			return fmt.Errorf("tell of the change: %w", err)
		}
		committing = true
		return nil
	})
	if committing { // one whose answer was lost may have been one
		db.fire(touched)
	}
	return err
}

// fire tells those who wait for Changed, and those who Watch one of the topics.
func (db *DB) fire(t topics) {
	db.mu.Lock()
	defer db.mu.Unlock()
	close(db.changed)
	db.changed = make(chan struct{})
	if db.holds > 0 {
		db.held.all = db.held.all || t.all
		db.held.names = append(db.held.names, t.names...)
		return
	}
	db.wake(t)
}

// wake closes the channels of Watch that topics concern. The lock is held.
func (db *DB) wake(t topics) {
	if t.all {
		for _, watched := range db.watched {
			close(watched)
		}
		clear(db.watched)
	}
	for _, topic := range t.names {
		if watched := db.watched[topic]; watched != nil {
			close(watched)
			delete(db.watched, topic)
		}
	}
}

// Hold lets nobody who Watches be woken until release is called: so that many transactions in a row are done before a thousand clusters ask at once.
func (db *DB) Hold() (release func()) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.holds++
	return func() {
		db.mu.Lock()
		defer db.mu.Unlock()
		if db.holds--; db.holds == 0 {
			db.wake(db.held)
			db.held = topics{}
		}
	}
}

// View runs f in a transaction that sees one instant and changes nothing.
func (db *DB) View(ctx context.Context, f func(*Tx) error) error {
	ctx, cancel := db.engine.limit(ctx)
	defer cancel()
	return db.run(ctx, db.reader, db.engine.viewing(), f)
}

// ViewFirst is View for what must be done in time: it does not wait behind a thousand others.
func (db *DB) ViewFirst(ctx context.Context, f func(*Tx) error) error {
	ctx, cancel := db.engine.limit(ctx)
	defer cancel()
	return db.run(ctx, db.urgent, db.engine.viewing(), f)
}

func (db *DB) run(ctx context.Context, pool *sql.DB, options *sql.TxOptions, f func(*Tx) error) (err error) {
	defer func() { err = db.engine.fault(err) }()
	sqlTx, err := pool.BeginTx(ctx, options)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	tx := &Tx{ctx: ctx, tx: sqlTx, now: db.now(), prepared: db.prepared[pool]}
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
	if len(tx.fresh) > 0 {
		tx.prepared.keep(ctx, tx.fresh)
	}
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

// Watch gives a channel that is closed by the next Update that may have changed what a cluster should have: its resource and what is below it, its
// requests, and the storage accounts; it is used like Changed. So a thousand clusters that wait do not look at every change of one.
func (db *DB) Watch(cluster arm.ID) <-chan struct{} {
	db.mu.Lock()
	defer db.mu.Unlock()
	topic := topicOf(cluster.Key())
	if db.watched[topic] == nil {
		if db.watched == nil {
			db.watched = map[string]chan struct{}{}
		}
		db.watched[topic] = make(chan struct{})
	}
	return db.watched[topic]
}

// Tx is a transaction. It belongs to the function that it was given to.
type Tx struct {
	ctx        context.Context
	tx         *sql.Tx
	now        time.Time
	touched    topics
	statements int
	prepared   *prepared
	// fresh are the queries that are not prepared yet.
	fresh []string
	// silent transactions are not told to those who wait for Changed.
	silent bool
}

// Statements is how many statements the transaction has run so far.
func (tx *Tx) Statements() int { return tx.statements }

// Now is the time of the transaction: the same for all that it writes.
func (tx *Tx) Now() time.Time { return tx.now }

// Silently says that nobody waits for what this transaction changes: Changed will not tell of it.
func (tx *Tx) Silently() { tx.silent = true }

// Context is the caller's.
func (tx *Tx) Context() context.Context { return tx.ctx }

// exec runs a statement and tells how many rows it changed.
func (tx *Tx) exec(query string, args ...any) (int64, error) {
	if err := checkText(args); err != nil {
		return 0, err
	}
	var result sql.Result
	var err error
	if statement := tx.statement(query); statement != nil {
		result, err = statement.ExecContext(tx.ctx, args...)
	} else {
		result, err = tx.tx.ExecContext(tx.ctx, query, args...)
	}
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
	var rows *sql.Rows
	if statement := tx.statement(query); statement != nil {
		rows, err = statement.QueryContext(tx.ctx, args...)
	} else {
		rows, err = tx.tx.QueryContext(tx.ctx, query, args...)
	}
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
	var err error
	if statement := tx.statement(query); statement != nil {
		err = statement.QueryRowContext(tx.ctx, args...).Scan(into...)
	} else {
		err = tx.tx.QueryRowContext(tx.ctx, query, args...).Scan(into...)
	}
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
