// Package storetest gives tests databases of both kinds that the service can keep its state in: files for SQLite, and databases on a
// real PostgreSQL server, which is started once for each test program and goes with it. It is for tests only.
//
// The server is Debian's, as `make setup` unpacks it for the test cluster's images. A machine without it fails the tests.
package storetest

import (
	"bufio"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cairn-backup/cairn/internal/store"
)

// Each runs a test on each engine, with the name of a new database for store.Open, which several processes may open.
func Each(t *testing.T, f func(t *testing.T, database string)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) { f(t, SQLite(t)) })
	t.Run("PostgreSQL", func(t *testing.T) { f(t, PostgreSQL(t)) })
}

// EachOpen is Each with the database opened. It is closed when the test ends.
func EachOpen(t *testing.T, now func() time.Time, f func(t *testing.T, db *store.DB)) {
	t.Helper()
	Each(t, func(t *testing.T, database string) { f(t, Open(t, database, now)) })
}

// Open opens a database until the test ends.
func Open(t testing.TB, database string, now func() time.Time) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), database, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// SQLite is a file that does not exist yet.
func SQLite(t testing.TB) string { return filepath.Join(t.TempDir(), "state.db") }

// Dump is everything in a database, but in some tables: lines by the names of tables.
func Dump(t testing.TB, database string, except ...string) map[string][]string {
	t.Helper()
	driver, tables := "sqlite", `SELECT name FROM sqlite_master WHERE type = 'table'`
	if store.IsURL(database) {
		driver, tables = "pgx", `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'`
	}
	db, err := sql.Open(driver, database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	out := map[string][]string{}
	for _, table := range lines(t, db, tables) {
		if !slices.Contains(except, table) {
			out[table] = lines(t, db, `SELECT * FROM `+table)
		}
	}
	return out
}

// lines are a query's rows, in order.
func lines(t testing.TB, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.Trim(fmt.Sprint(values), "[]"))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// Engine is the environment variable that says which engine Database uses: PostgreSQL, or SQLite if it is empty. `make unit` runs the tests of
// the service with both.
const Engine = "CAIRN_TEST_ENGINE"

// Database is a new database of the engine that the tests are run with; the file, if it is one, is in the folder.
func Database(t testing.TB, folder string) string {
	t.Helper()
	switch engine := os.Getenv(Engine); engine {
	case "":
		return filepath.Join(folder, "state.db")
	case "PostgreSQL":
		return PostgreSQL(t)
	default:
		t.Fatalf("%s is %q: leave it empty, or set it to PostgreSQL", Engine, engine)
		return ""
	}
}

// shared is the program's server.
var shared = sync.OnceValues(start)

// PostgreSQL is the URL, with its password, of a new database. It is dropped when the test ends.
func PostgreSQL(t testing.TB) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s.Database(t)
}

// Server is a PostgreSQL server.
type Server struct {
	dir      string
	programs string
	password string
}

// Start starts a server for one test, which may end it.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Database is the URL of a new database, as PostgreSQL's.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := "cairn_" + strings.ToLower(rand.Text()[:12])
	// Not in the order of bytes, as databases are on most servers.
	s.sql(t, `CREATE DATABASE `+name+` TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'`)
	t.Cleanup(func() { s.sql(t, `DROP DATABASE `+name+` WITH (FORCE)`) })
	return s.url(name)
}

// Password is what the URLs have in them and nothing else may show.
func (s *Server) Password() string { return s.password }

// Restart ends the server as a power cut would, and starts it again; down is called in between.
func (s *Server) Restart(t testing.TB, down func()) {
	t.Helper()
	if err := s.run("pg_ctl", "--pgdata", s.data(), "--silent", "--wait", "--mode", "immediate", "stop"); err != nil {
		t.Fatal(err)
	}
	down()
	if err := s.up(); err != nil {
		t.Fatal(err)
	}
}

// url leads through the server's socket, in its folder.
func (s *Server) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("cairn", s.password), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}
	return u.String()
}

// sql runs a statement that concerns the whole server.
func (s *Server) sql(t testing.TB, statement string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	connection, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = connection.Exec(ctx, statement)
	if err := errors.Join(err, connection.Close(ctx)); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// start makes a server in a folder of its own. It listens on a socket there, asks for a password, and does not wait for the disk.
func start() (*Server, error) {
	programs, err := find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cairn-pg-") // short: a socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, programs: programs, password: rand.Text()}
	if err := s.cleanUp(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	file := filepath.Join(dir, "password")
	if err := os.WriteFile(file, []byte(s.password+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := s.run("initdb", "--pgdata", s.data(), "--username", "cairn", "--pwfile", file, "--auth", "md5", // hundreds of connections are made, and scram means to be slow

		"--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"); err != nil {
		return nil, err
	}
	settings := fmt.Sprintf("listen_addresses = ''\nunix_socket_directories = '%s'\nmax_connections = 400\nlog_min_messages = fatal\njit = off\n"+
		"fsync = off\nfull_page_writes = off\nwal_level = minimal\nmax_wal_senders = 0\nmax_wal_size = 4GB\ncheckpoint_timeout = 1h\nautovacuum = off\n", dir)
	if err := os.WriteFile(filepath.Join(s.data(), "postgresql.auto.conf"), []byte(settings), 0o600); err != nil {
		return nil, err
	}
	return s, s.up()
}

func (s *Server) up() error {
	return s.run("pg_ctl", "--pgdata", s.data(), "--silent", "--wait", "--log", filepath.Join(s.dir, "log"), "start")
}

// cleanUp leaves a process behind that ends the server and removes its folder as soon as this process is gone, in whatever way that happens:
// it reads from a pipe whose other end nobody else holds.
func (s *Server) cleanUp() error {
	end, hold, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := s.command("sh", "-c", `echo; while read -r _; do :; done; "$1" --pgdata "$2/data" --silent --wait --mode immediate stop; rm -rf "$2"`,
		"sh", filepath.Join(s.programs, "pg_ctl"), s.dir)
	cmd.Stdin = end
	cmd.SysProcAttr.Setpgid = true // an interrupt of the tests is not meant for it
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := errors.Join(cmd.Start(), end.Close()); err != nil {
		return fmt.Errorf("start a shell in a user namespace, since PostgreSQL does not run as root: %w", err)
	}
	held = append(held, hold)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("the shell that cleans up has ended: %w", err)
	}
	return nil
}

// held are the pipes that end with the process; the collector of garbage would close them.
var held []io.Closer

// run runs one of the server's programs to its end.
func (s *Server) run(program string, args ...string) error {
	cmd := s.command(filepath.Join(s.programs, program), args...)
	// The server inherits what pg_ctl has: a file, since a pipe would be read until the server ends.
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	err = errors.Join(cmd.Run(), log.Close())
	if err != nil {
		text, reading := os.ReadFile(log.Name())
		return errors.Join(fmt.Errorf("%s: %w\n%s", program, err, text), reading)
	}
	return nil
}

// command is a program in a user namespace when the tests run as root, which PostgreSQL refuses to run as: there the same user has
// another number, and may read the same files.
func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = s.dir
	root := filepath.Join(s.programs, "..", "..", "..", "..", "..")
	libraries, _ := filepath.Glob(filepath.Join(root, "usr", "lib", "*-linux-gnu")) // the pattern is well-formed
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":"), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 0, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// find gives the folder of the server's programs.
func find() (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	pattern := filepath.Join(root, ".cache", "cluster", "postgresql", "usr", "lib", "postgresql", "*", "bin", "postgres")
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("this test needs PostgreSQL, and there is no %s: run `make setup`", pattern)
	}
	bin, err := filepath.EvalSymlinks(filepath.Dir(found[len(found)-1]))
	if err != nil {
		return "", err
	}
	return bin, nil
}

// repository is the folder above that has go.mod.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("there is no go.mod above the working folder")
}
