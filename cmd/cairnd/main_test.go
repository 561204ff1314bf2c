package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

func TestServesUntilItIsToldToEnd(t *testing.T) { serves(t) }

// TestDatabaseIsNamedByFlagOrEnvironment starts it as operators do: with the password from libpq's environment, or with all of the URL there.
func TestDatabaseIsNamedByFlagOrEnvironment(t *testing.T) {
	database, err := url.Parse(storetest.PostgreSQL(t))
	if err != nil {
		t.Fatal(err)
	}
	whole := database.String()
	password, _ := database.User.Password()
	database.User = url.User(database.User.Username())
	t.Run("flag", func(t *testing.T) {
		t.Setenv("PGPASSWORD", password)
		serves(t, "--database", database.String())
	})
	t.Run("environment", func(t *testing.T) {
		t.Setenv("CAIRN_DATABASE", storetest.PostgreSQL(t))
		serves(t)
	})
	for _, secret := range []string{whole, database.String() + "&password=" + password} {
		err := run(t.Context(), []string{"--data", t.TempDir(), "--database", secret}, io.Discard)
		if err == nil || strings.Contains(err.Error(), password) || !strings.Contains(err.Error(), "PGPASSFILE") {
			t.Errorf("a password in an argument: %v", err)
		}
	}
}

// serves runs it until it has answered; with a database there is no state in the folder.
func serves(t *testing.T, args ...string) {
	t.Helper()
	data := t.TempDir()
	ctx, end := context.WithCancel(t.Context())
	log, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, append([]string{"--data", data, "--listen", "127.0.0.1:0", "--blob-listen", "127.0.0.1:0"}, args...), out)
		done <- err
		// run has returned; a reader of its log must not wait for more.
		_ = out.Close()
	}()
	first := make([]byte, 1<<16)
	n, err := log.Read(first)
	if err != nil || !strings.Contains(string(first[:n]), filepath.Join(data, "admin.env")) {
		t.Fatalf("%q, %v: the log does not say where the administrator's environment is", first[:n], err)
	}
	go io.Copy(io.Discard, log)
	w := daemontest.Connect(t, data)
	w.Do(http.MethodGet, "/subscriptions", nil).Want(200)
	_, err = os.Stat(filepath.Join(data, "state.db"))
	if inFolder := err == nil; inFolder != (len(args) == 0 && os.Getenv("CAIRN_DATABASE") == "") {
		t.Errorf("state.db is there: %v", inFolder)
	}
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWrongUseIsRefused(t *testing.T) {
	for _, args := range [][]string{{}, {"--data", "x", "more"}, {"--nonsense"}, {"--data", t.TempDir(), "--listen", "nonsense"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
