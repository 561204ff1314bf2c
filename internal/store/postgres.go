package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// What keeps a replica that has died, or does not go on, from holding up the others. The server ends a transaction whose replica says nothing
// for patience, whoever waits for its turn does so for longer, and a transaction that has taken limit is given up by its own replica.
const (
	patience = 30 * time.Second
	turn     = 45 * time.Second
	limit    = time.Minute
)

const (
	// writerLock is the advisory lock that the one writer of a database holds.
	writerLock = 0x636169726e // "cairn"
	// channel is what commits are told on; the payload is the replica that committed, and the topics or * for all.
	channel = "cairn_changed"
	// readers are the connections of a replica that read. It has three more: the writer's, that of what is urgent, and the one that listens.
	readers = 8
	// reconnect is the pause between attempts to listen again.
	reconnect = time.Second
)

// IsURL says whether a database's name is the URL of a PostgreSQL server, and not a file.
func IsURL(database string) bool {
	return strings.HasPrefix(database, "postgres://") || strings.HasPrefix(database, "postgresql://")
}

// openPostgreSQL connects to a database on a server. What the URL leaves out is taken from libpq's environment: PGPASSWORD, PGPASSFILE,
// PGSSLROOTCERT and so on. No error has the password in it.
func openPostgreSQL(ctx context.Context, url string, now func() time.Time) (*DB, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		// What the driver says of it may quote the URL, and with it the password.
		return nil, errors.New("the database's URL is not understood: it must be postgres://USER@HOST:PORT/DATABASE, with what is special in a name or password " +
			"percent-encoded; what it leaves out comes from PGPASSWORD, PGPASSFILE, PGSSLMODE and the rest of libpq's environment")
	}
	for name, value := range map[string]string{
		"application_name":                    "cairnd",
		"idle_in_transaction_session_timeout": milliseconds(patience), "lock_timeout": milliseconds(turn),
		"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3", "tcp_user_timeout": milliseconds(patience),
	} {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
	config.ConnectTimeout = 10 * time.Second
	config.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}).DialContext
	// A standby would be read as it was a while ago. After a failover the server that is the primary now is found.
	config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	pool := func(connections int) *sql.DB {
		db := stdlib.OpenDB(*config)
		db.SetMaxOpenConns(connections)
		db.SetMaxIdleConns(connections)
		db.SetConnMaxLifetime(10 * time.Minute)
		return db
	}
	listening, stop := context.WithCancel(context.WithoutCancel(ctx))
	db := &DB{now: now, writer: pool(1), reader: pool(readers), urgent: pool(1), changed: make(chan struct{})}
	p := &postgres{replica: rand.Text(), config: config, fire: db.fire, stop: stop, stopped: make(chan struct{})}
	db.engine = p
	go p.listen(listening)
	var encoding string
	if err := db.reader.QueryRowContext(ctx, `SHOW server_encoding`).Scan(&encoding); err != nil {
		return nil, errors.Join(p.fault(err), db.Close())
	}
	if encoding != "UTF8" {
		return nil, errors.Join(fmt.Errorf("its encoding is %s: make the database with ENCODING 'UTF8' TEMPLATE template0", encoding), db.Close())
	}
	return db, nil
}

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// postgres is the state on a server, which several replicas share.
type postgres struct {
	// replica tells this DB's commits from others'.
	replica string
	config  *pgx.ConnConfig
	fire    func(topics)
	stop    func()
	stopped chan struct{}
}

func (p *postgres) close() {
	p.stop()
	<-p.stopped
}

func (p *postgres) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, limit)
}

// viewing is one instant: PostgreSQL's default sees what others commit between two statements.
func (p *postgres) viewing() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
}

// updating sees at each statement what is committed, which is everything as soon as the transaction is the only writer.
func (p *postgres) updating() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelReadCommitted}
}

// begun waits until the transaction is the only one that writes.
func (p *postgres) begun(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(writerLock))
	return err
}

// done tells the other replicas, when the transaction commits.
func (p *postgres) done(ctx context.Context, tx *sql.Tx, t topics) error {
	_, err := tx.ExecContext(ctx, `SELECT pg_notify($1, $2)`, channel, payload(p.replica, t))
	return err
}

// longestPayload is how many topics a notification has room for, which is 8,000 bytes.
const longestPayload = 800

func payload(replica string, t topics) string {
	if t.all || len(t.names) > longestPayload {
		return replica + " *"
	}
	return strings.Join(append([]string{replica}, t.names...), " ")
}

func parsePayload(text string) (replica string, t topics) {
	replica, rest, _ := strings.Cut(text, " ")
	if rest == "*" {
		return replica, topics{all: true}
	}
	return replica, topics{names: strings.Fields(rest)}
}

var textType = regexp.MustCompile(`\bTEXT\b`)

// schema is a migration's text for this engine. Text is compared byte by byte, as SQLite does, whatever the database's own collation
// is: ranges of keys and orders depend on it.
func (p *postgres) schema(text string) string {
	return textType.ReplaceAllString(text, `TEXT COLLATE "C"`)
}

// listen fires at every commit of another replica, until ctx ends. While the connection was away some may have been missed: then it fires
// once at its return.
func (p *postgres) listen(ctx context.Context) {
	defer close(p.stopped)
	for ctx.Err() == nil {
		p.session(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(reconnect):
		}
	}
}

// session listens on one connection until it breaks. Why it broke is of no use to anybody: whoever reads or writes meets the same.
func (p *postgres) session(ctx context.Context) {
	connection, err := pgx.ConnectConfig(ctx, p.config.Copy())
	if err != nil {
		return
	}
	defer connection.Close(context.WithoutCancel(ctx))
	if _, err := connection.Exec(ctx, `LISTEN `+channel); err != nil {
		return
	}
	p.fire(topics{all: true})
	for {
		n, err := connection.WaitForNotification(ctx)
		if err != nil {
			return
		}
		if replica, t := parsePayload(n.Payload); replica != p.replica {
			p.fire(t)
		}
	}
}

// fault is ErrUnavailable for an error that says that the server could not be asked, and the error itself otherwise.
func (p *postgres) fault(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) || !unavailable(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func unavailable(err error) bool {
	if state := (*pgconn.PgError)(nil); errors.As(err, &state) {
		switch code := state.Code; {
		case strings.HasPrefix(code, "08"), // connection exceptions
			strings.HasPrefix(code, "57P"), // the server ends or starts, or has ended the session
			strings.HasPrefix(code, "28"),  // a password that was changed: it may come right
			code == "53300",                // too many connections
			code == "55P03",                // the lock was not to be had in time
			code == "25P03",                // idle in a transaction for too long
			code == "57014":                // cancelled by an administrator
			return true
		}
		return false
	}
	if connecting := (*pgconn.ConnectError)(nil); errors.As(err, &connecting) {
		return true
	}
	if network := net.Error(nil); errors.As(err, &network) {
		return true
	}
	for _, e := range []error{driver.ErrBadConn, sql.ErrConnDone, pgconn.ErrConnClosed, io.EOF, io.ErrUnexpectedEOF, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
