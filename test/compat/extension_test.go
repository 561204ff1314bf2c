package compat_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRemovalFromADeadCluster fails in the end and says how to forget the extension; if the cluster comes back, it is removed after all.
func TestRemovalFromADeadCluster(t *testing.T) {
	w := setUpAway(t)
	id := w.cluster.id + "/providers/Microsoft.KubernetesConfiguration/extensions/azure-aks-backup"
	expire := func(want string) {
		t.Helper()
		if err := w.Service.ExpireExtensions(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.ask("GET", id, nil).Want(200).At("properties", "provisioningState"); got != want {
			t.Fatalf("it is %v, want %s", got, want)
		}
	}
	w.cluster.stop()
	operation := w.ask("DELETE", id, nil).Want(202).Header.Get("Azure-AsyncOperation")
	again := map[string]any{"properties": map[string]any{"extensionType": "microsoft.dataprotection.kubernetes",
		"configurationSettings": map[string]any{"blobContainer": "aks", "storageAccount": "backupstore", "storageAccountResourceGroup": group}}}
	if a := w.ask("PUT", id, again); a.Status != 409 || !strings.Contains(fmt.Sprint(a.At("error", "message")), "--force") {
		t.Errorf("%d %v", a.Status, a.JSON)
	}
	w.now.advance(19 * time.Minute)
	expire("Deleting")
	w.now.advance(2 * time.Minute)
	expire("Failed")
	got := w.ask("GET", operation, nil).Want(200)
	says := fmt.Sprint(got.At("error", "message"))
	if got.At("status") != "Failed" || !strings.Contains(says, "could not be removed") || !strings.Contains(says, "connector does not call") || !strings.Contains(says, "--force") {
		t.Errorf("the operation: %v", got.JSON)
	}
	w.cluster.tell(t.Context()) // it has the extension still
	expire("Failed")
	if desired, err := w.cluster.client.Desired(t.Context(), "", 0); err != nil || desired.Extension != nil {
		t.Errorf("the cluster should have it: %+v, %v", desired, err)
	}

	// Who wants it again gets it again.
	w.ask("PUT", id, again).Want(200)
	w.cluster.run()
	eventually(t, "the extension", func() error {
		if state := w.ask("GET", id, nil).Want(200).At("properties", "provisioningState"); state != "Succeeded" {
			return fmt.Errorf("it is %v", state)
		}
		return nil
	})
	w.cluster.stop()
	w.ask("DELETE", id, nil).Want(202)
	w.now.advance(21 * time.Minute)
	expire("Failed")
	w.cluster.mu.Lock()
	w.cluster.extension = nil
	w.cluster.mu.Unlock()
	w.cluster.tell(t.Context())
	w.ask("GET", id, nil).Want(404)
}
