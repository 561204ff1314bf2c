package main

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

func TestServesUntilItIsToldToEnd(t *testing.T) {
	data := t.TempDir()
	ctx, end := context.WithCancel(t.Context())
	log, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"--data", data, "--listen", "127.0.0.1:0", "--blob-listen", "127.0.0.1:0"}, out)
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
