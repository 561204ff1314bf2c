package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the driver named "sqlite"
)

// openSQLite opens the file, or makes it.
func openSQLite(file string, now func() time.Time) (*DB, error) {
	if err := private(file); err != nil {
		return nil, err
	}
	writer, err := pool(file, "immediate", 1)
	if err != nil {
		return nil, err
	}
	reader, err := pool(file, "deferred", 4)
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	urgent, err := pool(file, "deferred", 1)
	if err != nil {
		return nil, errors.Join(err, writer.Close(), reader.Close())
	}
	return &DB{engine: sqlite{}, writer: writer, reader: reader, urgent: urgent, now: now, changed: make(chan struct{}),
		prepared: map[*sql.DB]*prepared{writer: newPrepared(writer), reader: newPrepared(reader), urgent: newPrepared(urgent)}}, nil
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

func pool(file, lock string, connections int) (*sql.DB, error) {
	q := url.Values{"_txlock": {lock}, "_pragma": {
		"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
	}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath(), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	db.SetMaxOpenConns(connections)
	return db, nil
}

// sqlite is the state in a file, which one process uses: its writer's pool has one connection, so that there is one writer.
type sqlite struct{}

func (sqlite) close() {}

func (sqlite) limit(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }

func (sqlite) viewing() *sql.TxOptions { return &sql.TxOptions{ReadOnly: true} }

func (sqlite) updating() *sql.TxOptions { return nil }

func (sqlite) begun(context.Context, *sql.Tx) error { return nil }

func (sqlite) done(context.Context, *sql.Tx, topics) error { return nil }

func (sqlite) schema(text string) string { return text }

func (sqlite) fault(err error) error { return err }
