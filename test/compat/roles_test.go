package compat_test

import (
	"fmt"
	"testing"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/store"
)

// TestRolesGoWithWhatTheyAreOn deletes an instance, a policy and a vault, and makes them again: who had roles on the old ones has
// none on the new ones.
func TestRolesGoWithWhatTheyAreOn(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	policy := w.vault + "/backupPolicies/" + policyName
	var readers []string
	for i := range 4 {
		var p store.Principal
		var secret string
		if err := w.Service.DB.Update(t.Context(), func(tx *store.Tx) error {
			var err error
			p, secret, err = w.Service.AddPrincipal(tx, fmt.Sprint("reader", i))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		readers = append(readers, p.ID, w.Token(p.Client, secret, "https://management.azure.com"))
	}
	give := func(i int, scope string) {
		t.Helper()
		grant(t, w.World, readers[2*i], "a795c7a0-d4a2-40c1-ae25-d81f01202912", scope, fmt.Sprintf("00000000-0000-4000-8000-00000000002%d", i)) // Backup Reader
	}
	may := func(i int, path string, status int) {
		t.Helper()
		if a := w.As(readers[2*i+1], "GET", path, nil); a.Status != status {
			t.Errorf("reader %d at %s: %d, want %d", i, path, a.Status, status)
		}
	}
	remove := func(path string) {
		t.Helper()
		w.Do("DELETE", path, nil).Want(200, 202)
		eventually(t, "the deletion", func() error {
			if a := w.Do("GET", path, nil); a.Status != 404 {
				return fmt.Errorf("%d", a.Status)
			}
			return nil
		})
	}
	w.protect(t)
	give(0, w.instance)
	may(0, w.instance, 200)
	remove(w.instance) // at once
	w.protect(t)
	may(0, w.instance, 403)

	give(1, w.instance)
	w.finish(t, w.start(t, "/backup", adhoc))
	may(1, w.instance, 200)
	remove(w.instance) // with its recovery points
	w.protect(t)
	may(1, w.instance, 403)
	remove(w.instance)

	give(2, policy)
	give(3, w.vault)
	may(2, policy, 200)
	may(3, w.vault, 200)
	remove(policy)
	w.Do("PUT", policy, policyBody).Want(200)
	may(2, policy, 403)
	may(3, policy, 200)
	remove(w.vault)
	w.Do("PUT", w.vault, map[string]any{"location": location, "properties": map[string]any{
		"storageSettings": []any{map[string]any{"datastoreType": "VaultStore", "type": "LocallyRedundant"}}}}).Want(201)
	may(3, w.vault, 403)
	found, ok := w.Do("GET", w.vault+"/providers/Microsoft.Authorization/roleAssignments", nil).Want(200).At("value").([]any)
	for _, a := range found {
		if scope := (daemontest.Answer{JSON: a}).At("properties", "scope"); scope == w.vault || scope == policy {
			t.Errorf("%v is left", a)
		}
	}
	if !ok {
		t.Error("the list has no value")
	}
}

// TestADeletionCanBeFollowedWithARoleOnWhatItDeletes: the role goes with the vault, and its holder still learns that the vault has gone.
func TestADeletionCanBeFollowedWithARoleOnWhatItDeletes(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	var p store.Principal
	var secret string
	if err := w.Service.DB.Update(t.Context(), func(tx *store.Tx) error {
		var err error
		p, secret, err = w.Service.AddPrincipal(tx, "vault's own")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	token := w.Token(p.Client, secret, "https://management.azure.com")
	grant(t, w.World, p.ID, "b24988ac-6180-42a0-ab88-20f7382dd24c", w.vault, "00000000-0000-4000-8000-000000000031") // Contributor
	deleting := w.As(token, "DELETE", w.vault, nil)
	if deleting.Status != 202 {
		t.Fatalf("the deletion: %d %v", deleting.Status, deleting.JSON)
	}
	for _, header := range []string{"Azure-AsyncOperation", "Location"} {
		if a := w.As(token, "GET", deleting.Header.Get(header), nil); a.Status/100 != 2 {
			t.Errorf("%s: %d %v", header, a.Status, a.JSON)
		}
	}
	if a := w.As(token, "GET", w.vault, nil); a.Status != 403 {
		t.Errorf("the vault: %d", a.Status)
	}
}
