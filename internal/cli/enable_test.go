package cli_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/cli"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// Each run is killed after the first step that made something, and the next one carries on: nothing is made twice.
func TestEnableCarriesOn(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	home := t.TempDir()
	id, leave, err := join(w, "rg", "aks", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(leave)
	enable := func(ctx context.Context, stderr io.Writer) int {
		return cli.Program{Name: "az", Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: stderr,
			Args: []string{"dataprotection", "enable-backup", "trigger", "--datasource-type", "AzureKubernetesService", "--datasource-id", id, "--yes"},
			Getenv: func(key string) string {
				if key == "HOME" {
					return home
				}
				return w.Env[key]
			}}.Run(ctx)
	}
	runs := 0
	for done := false; !done; runs++ {
		if runs > 30 {
			t.Fatal("it does not end")
		}
		var said bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		made := 0
		code := enable(ctx, writerFunc(func(p []byte) (int, error) {
			if line := strings.TrimSpace(string(p)); strings.HasSuffix(line, ": made") || strings.HasSuffix(line, ": given") || strings.HasSuffix(line, ": installed") {
				made++
				cancel()
			}
			return said.Write(p)
		}))
		cancel()
		if made > 1 {
			t.Fatalf("it went on after it was killed:\n%s", said.String())
		}
		if made == 0 && code != 0 {
			t.Fatalf("it ended with %d:\n%s", code, said.String())
		}
		done = code == 0
	}
	if runs < 10 {
		t.Errorf("it was killed %d times only", runs-1)
	}
	for path, want := range map[string]int{
		id + "/providers/Microsoft.DataProtection/backupInstances":          1,
		id + "/providers/Microsoft.KubernetesConfiguration/extensions":      1,
		id + "/trustedAccessRoleBindings":                                   1,
		w.Subscription + "/providers/Microsoft.DataProtection/backupVaults": 1,
		w.Subscription + "/providers/Microsoft.Storage/storageAccounts":     1,
		w.Subscription + "/resourceGroups/AKSAzureBackup_eastus/providers/Microsoft.DataProtection/backupVaults/AKSAzureBackup-eastus/backupPolicies": 1,
	} {
		if got := len(w.Do("GET", path, nil).Want(200).At("value").([]any)); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
