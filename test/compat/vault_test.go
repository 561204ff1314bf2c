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

// TestPatchLeavesWhatItDoesNotName changes one setting after the other: those that were set before stay.
func TestPatchLeavesWhatItDoesNotName(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	for _, body := range []string{
		`{"tags":{"team":"shop"}}`,
		`{"properties":{"securitySettings":{"softDeleteSettings":{"state":"On","retentionDurationInDays":20}}}}`,
		`{"properties":{"securitySettings":{"immutabilitySettings":{"state":"Unlocked"}}}}`,
		`{"properties":{"securitySettings":{"softDeleteSettings":{"retentionDurationInDays":30}}}}`,
		`{"properties":{"featureSettings":{"crossSubscriptionRestoreSettings":{"state":"Disabled"}}}}`,
		`{"properties":{"featureSettings":{"crossRegionRestoreSettings":{"state":"Disabled"}}}}`,
		`{"properties":{"monitoringSettings":{"azureMonitorAlertSettings":{"alertsForAllJobFailures":"Disabled"}}}}`,
		`{"properties":{}}`, `{}`,
	} {
		w.Do("PATCH", w.vault, body).Want(200)
	}
	got := w.Do("GET", w.vault, nil).Want(200)
	for want, path := range map[any][]any{
		"shop":     {"tags", "team"},
		"On":       {"properties", "securitySettings", "softDeleteSettings", "state"},
		30.0:       {"properties", "securitySettings", "softDeleteSettings", "retentionDurationInDays"},
		"Unlocked": {"properties", "securitySettings", "immutabilitySettings", "state"},
		"Disabled": {"properties", "featureSettings", "crossSubscriptionRestoreSettings", "state"},
		"Fair":     {"properties", "bcdrSecurityLevel"},
		"Minimum":  {"properties", "secureScore"},
	} {
		if have := got.At(path...); have != want {
			t.Errorf("%v: %v, want %v", path, have, want)
		}
	}
	if region, alerts := got.At("properties", "featureSettings", "crossRegionRestoreSettings", "state"), got.At("properties", "monitoringSettings", "azureMonitorAlertSettings", "alertsForAllJobFailures"); region != "Disabled" || alerts != "Disabled" {
		t.Errorf("cross-region restore is %v, alerts are %v", region, alerts)
	}
}
