package compat_test

import (
	"fmt"
	"testing"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// TestSnapshotResourceGroup must exist and cannot be changed; it is the cluster's when none is given.
func TestSnapshotResourceGroup(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	const target = "properties.policyInfo.policyParameters.dataStoreParametersList[0].resourceGroupId"
	with := func(group string) map[string]any {
		body := w.body(policyName, "x")
		body["properties"].(map[string]any)["policyInfo"].(map[string]any)["policyParameters"] = map[string]any{"dataStoreParametersList": []any{
			map[string]any{"objectType": "AzureOperationalStoreParameters", "dataStoreType": "OperationalStore", "resourceGroupId": w.Subscription + "/resourceGroups/" + group}}}
		return body
	}
	wantRefusal(t, w.Do("PUT", w.instance, with("snapshots")), 400, "BMSUserErrorInvalidInput", target, "'snapshots', which")
	wantRefusal(t, w.Do("POST", w.vault+"/validateForBackup", map[string]any{"backupInstance": with("snapshots")["properties"]}), 400, "BMSUserErrorInvalidInput",
		"backupInstance"+target[len("properties"):], "'snapshots', which")
	w.Do("PUT", w.Subscription+"/resourceGroups/snapshots", map[string]any{"location": location}).Want(201)
	w.Do("PUT", w.instance, with("snapshots")).Want(201)
	w.awaitState(t, w.instance, "ProtectionConfigured")
	wantRefusal(t, w.Do("PUT", w.instance, with(group)), 400, "BMSUserErrorInvalidInput", target, "cannot be changed")
	w.Do("PUT", w.instance, with("SNAPSHOTS")).Want(200, 201)
	w.awaitState(t, w.instance, "ProtectionConfigured")
	// Leaving it out is no change.
	if status, code := w.change(t, policyName, "y"); status != "Succeeded" {
		t.Errorf("the operation: %v %v", status, code)
	}
	got := w.Do("GET", w.instance, nil).Want(200)
	w.wantInstance(t, got, "ProtectionConfigured", policyName, "y")
	if id := fmt.Sprint(got.At("properties", "policyInfo", "policyParameters", "dataStoreParametersList", 0, "resourceGroupId")); id != w.Subscription+"/resourceGroups/SNAPSHOTS" {
		t.Errorf("it is %s", id)
	}
}
