package compat_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

// brittleBlobs are a blob endpoint where something happens when an account is removed.
type brittleBlobs struct {
	service.Blobs
	before func() error
}

func (b brittleBlobs) DeleteAccount(account string) error {
	if err := b.before(); err != nil {
		return err
	}
	return b.Blobs.DeleteAccount(account)
}

// makeAccount makes a resource group with an account that has a container.
func makeAccount(w *daemontest.World, name string) (group, account string) {
	group = w.Subscription + "/resourceGroups/rg-" + name
	account = group + "/providers/Microsoft.Storage/storageAccounts/" + name
	w.Do("PUT", group, map[string]any{"location": location}).Want(200, 201)
	w.Do("PUT", account, accountBody).Want(200, 202)
	w.Do("PUT", account+"/blobServices/default/containers/aks", map[string]any{}).Want(200, 201)
	return group, account
}

const accountBody = `{"location":"eastus","sku":{"name":"Standard_LRS"},"kind":"StorageV2"}`

// TestAccountsGoWithTheirBlobsOrNotAtAll loses the client in the midst of a deletion: an account whose blobs are gone is gone itself.
// Others can write meanwhile.
func TestAccountsGoWithTheirBlobsOrNotAtAll(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	blobs := w.Service.Blobs
	for name, remove := range map[string]func(ctx context.Context, group, account arm.ID) error{
		"alone": func(ctx context.Context, _, account arm.ID) error {
			_, err := w.Service.DeleteStorageAccount(ctx, account)
			return err
		},
		"ingroup": func(ctx context.Context, group, _ arm.ID) error {
			_, err := w.Service.DeleteResourceGroup(ctx, group)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			group, account := makeAccount(w, name)
			ctx, disconnect := context.WithCancel(t.Context())
			w.Service.Blobs = brittleBlobs{blobs, func() error {
				disconnect()
				short, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				return w.Service.DB.Update(short, func(tx *store.Tx) error { return nil })
			}}
			if err := remove(ctx, arm.ID(group), arm.ID(account)); err != nil {
				t.Error(err)
			}
			if a := w.Do("GET", account, nil); a.Status != 404 {
				t.Errorf("the account: %d", a.Status)
			}
			w.Service.Blobs = blobs
			makeAccount(w, name)
		})
	}
}

// TestAccountsBlobsGoAtTheNextStart when they could not be removed at once; until then nobody gets them with the account's name.
func TestAccountsBlobsGoAtTheNextStart(t *testing.T) {
	data := t.TempDir()
	w := daemontest.Start(t, daemon.Config{Data: data})
	group, account := makeAccount(w, "store")
	w.Service.Blobs = brittleBlobs{w.Service.Blobs, func() error { return errors.New("the disk is away") }}
	w.Do("DELETE", account, nil).Want(200) // it is deleted; what it held follows
	w.Do("GET", account, nil).Want(404)
	check := w.Do("POST", "/subscriptions/"+w.Env["AZURE_SUBSCRIPTION_ID"]+"/providers/Microsoft.Storage/checkNameAvailability", map[string]any{"name": "store", "type": "Microsoft.Storage/storageAccounts"})
	if check.Want(200).At("nameAvailable") != false {
		t.Errorf("its name: %v", check.JSON)
	}
	if a := w.Do("PUT", account, accountBody); a.Status != 409 || a.At("error", "code") != "StorageAccountOperationInProgress" {
		t.Errorf("making it again: %d %v", a.Status, a.JSON)
	}
	w.Do("GET", group, nil).Want(200)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w = daemontest.Start(t, daemon.Config{Data: data})
	eventually(t, "making it again", func() error {
		if a := w.Do("PUT", account, accountBody); a.Status/100 != 2 {
			return fmt.Errorf("%d %v", a.Status, a.JSON)
		}
		return nil
	})
	if list, ok := w.Do("GET", account+"/blobServices/default/containers", nil).Want(200).At("value").([]any); !ok || len(list) != 0 {
		t.Errorf("the containers: %v", list)
	}
}
