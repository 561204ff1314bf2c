package compat_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"modernc.org/sqlite"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

// smallDisk is in the name of a folder whose database may grow to 1 MiB only. SQLite says the same of it as of a full disk.
const smallDisk = "small-disk"

func init() {
	sqlite.RegisterConnectionHook(func(connection sqlite.ExecQuerierContext, dsn string) error {
		if !strings.Contains(dsn, smallDisk) {
			return nil
		}
		_, err := connection.ExecContext(context.Background(), "PRAGMA max_page_count = 256", nil)
		return err
	})
}

// TestFullDisk fills the database: what does not fit is refused with what to do, changes nothing, and does not keep anybody from reading
// and from making room.
func TestFullDisk(t *testing.T) {
	t.Setenv(storetest.Engine, "")
	data := filepath.Join(t.TempDir(), smallDisk)
	w := daemontest.Start(t, daemon.Config{Data: data})
	body := map[string]any{"location": "eastus", "tags": map[string]string{"note": strings.Repeat("x", 30_000)},
		"properties": map[string]any{"storageSettings": []any{map[string]any{"datastoreType": "VaultStore", "type": "LocallyRedundant"}}}}
	groupPath := func(i int) string { return fmt.Sprintf("%s/resourceGroups/g%d", w.Subscription, i) }
	full := 0
	for w.Do("PUT", groupPath(full), body).Want(201, 507).Status == 201 {
		full++
	}
	before := dump(t, data)
	wantRefusal(t, w.Do("PUT", groupPath(full), body), 507, "InsufficientStorage", groupPath(full), "full")
	vault := groupPath(0) + "/providers/Microsoft.DataProtection/backupVaults/vault"
	wantRefusal(t, w.Do("PUT", vault, body), 507, "InsufficientStorage", vault, "full")
	if diff := cmp.Diff(before, dump(t, data)); diff != "" {
		t.Errorf("the database was changed: %s", diff)
	}
	w.Do("GET", groupPath(0), nil).Want(200)
	w.Token(w.Env["AZURE_CLIENT_ID"], w.Env["AZURE_CLIENT_SECRET"], "https://management.azure.com")
	for i := range 2 { // a vault with its secret and its operation is more than a group
		w.Do("DELETE", groupPath(i+1), nil).Want(202)
	}
	w.Do("PUT", vault, body).Want(201)
}
