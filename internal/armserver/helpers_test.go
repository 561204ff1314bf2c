package armserver_test

import (
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/store"
)

func tokenOptions(w *daemontest.World) policy.TokenRequestOptions {
	return policy.TokenRequestOptions{Scopes: []string{w.Env["CAIRN_ENDPOINT"] + "/.default"}}
}

// prepare is world on a daemon that runs already.
func prepare(w *daemontest.World) (group, cluster string) {
	group = w.Subscription + "/resourceGroups/rg"
	cluster = group + "/providers/Microsoft.ContainerService/managedClusters/prod"
	account := group + "/providers/Microsoft.Storage/storageAccounts/acc"
	w.Do("PUT", group, `{"location":"eastus"}`).Want(201)
	w.Do("PUT", cluster, `{"location":"eastus"}`).Want(201)
	w.Do("PUT", account, `{"sku":{"name":"Standard_LRS"},"location":"eastus"}`).Want(202)
	w.Do("PUT", account+"/blobServices/default/containers/backups", `{}`).Want(201)
	return group, cluster
}

// age makes an extension's present state begin earlier.
func age(t *testing.T, w *daemontest.World, id arm.ID, by time.Duration) {
	t.Helper()
	if err := w.Service.DB.Update(t.Context(), func(tx *store.Tx) error {
		doc, r, err := store.Load[map[string]any](tx, id)
		if err != nil {
			return err
		}
		doc["cairnSince"] = tx.Now().Add(-by)
		return tx.Save(&r, doc)
	}); err != nil {
		t.Fatal(err)
	}
}
