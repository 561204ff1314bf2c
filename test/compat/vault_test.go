package compat_test

import (
	"testing"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// TestVaultsLocationHasOneSpelling makes a vault in "East US", which is eastus.
func TestVaultsLocationHasOneSpelling(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	rg := w.Subscription + "/resourceGroups/" + group
	w.Do("PUT", rg, `{"location":"eastus"}`).Want(201)
	vault := rg + "/providers/Microsoft.DataProtection/backupVaults/" + vaultName
	const settings = `"properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}]}}`
	for _, location := range []string{"East US", "eastus", "EastUS"} {
		if got := w.Do("PUT", vault, `{"location":"`+location+`",`+settings).Want(200, 201).At("location"); got != "eastus" {
			t.Errorf("%s is stored as %v", location, got)
		}
	}
}
