package compat_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

// sent is a body to send; empty is none.
func sent(body string) any {
	if body == "" {
		return nil
	}
	return body
}

// dump is everything in the database but when connectors were heard of last, and the log of who called.
func dump(t *testing.T, data string) map[string][]string {
	t.Helper()
	return storetest.Dump(t, daemontest.Database(t, data), "links", "audit")
}

// whatToDo is a sentence of a plain error's message that says what to do; other errors have it apart.
var whatToDo = regexp.MustCompile(`\. (Ask|Check|Free|List|Log in|Make|Read|Send|Use)\b`)

// wantRefusal checks an error's envelope: status, code, target, and that it says what to do.
func wantRefusal(t *testing.T, a daemontest.Answer, status int, code, target, says string) {
	t.Helper()
	if a.Status != status || a.At("error", "code") != code {
		t.Errorf("%d %v, want %d %s: %v", a.Status, a.At("error", "code"), status, code, a.JSON)
		return
	}
	message, _ := a.At("error", "message").(string)
	if !strings.Contains(message, says) {
		t.Errorf("%q is not in the message %q", says, message)
	}
	if got := a.At("error", "target"); got != target {
		t.Errorf("the target is %v, want %s", got, target)
	}
	facing, ok := a.At("error", "additionalInfo", 0, "info").(map[string]any)
	if !ok && status != 400 && status != 409 { // told plainly: not by the provider itself, or nothing is there
		if !whatToDo.MatchString(message) {
			t.Errorf("it does not say what to do: %s", message)
		}
		return
	}
	if actions, ok := facing["recommendedAction"].([]any); !ok || len(actions) == 0 || actions[0] == "None." {
		t.Errorf("it does not say what to do: %v", facing)
	}
}

const guideRestore = `{"objectType":"AzureKubernetesServiceRestoreRequest","recoveryPointId":"POINT","restoreTargetInfo":{"restoreLocation":"eastus","objectType":"RestoreTargetInfo",
 "targetDetails":{"targetResourceArmId":"CLUSTER","fileShareOption":"CreateNewFileShares"}}}`

const azureRestore = `{"objectType":"AzureBackupRecoveryPointBasedRestoreRequest","recoveryPointId":"POINT","sourceDataStoreType":"OperationalStore","restoreTargetInfo":{
 "objectType":"ItemLevelRestoreTargetInfo","recoveryOption":"FailIfExists","datasourceInfo":{"objectType":"Datasource","resourceId":"CLUSTER"},
 "restoreCriteria":[{"objectType":"KubernetesClusterRestoreCriteria","includeClusterScopeResources":true,"conflictPolicy":"Skip","persistentVolumeRestoreMode":"RestoreWithVolumeData"}]}}`

// TestBadInputIsRefusedAndChangesNothing is the table of what can be asked wrongly.
func TestBadInputIsRefusedAndChangesNothing(t *testing.T) {
	data := t.TempDir()
	w := setUp(t, daemontest.Start(t, daemon.Config{Data: data}))
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	point := fmt.Sprint(w.points(t)[0].(map[string]any)["name"])
	fill := strings.NewReplacer("CLUSTER", w.cluster.id, "POINT", point).Replace
	with := func(body, old, new string) string {
		if !strings.Contains(body, old) {
			t.Fatalf("%q is not in the body", old)
		}
		return fill(strings.Replace(body, old, new, 1))
	}
	instanceText, err := json.Marshal(w.instanceBody())
	if err != nil {
		t.Fatal(err)
	}
	inst := string(instanceText)
	other, again := w.vault+"/backupPolicies/other", w.vault+"/backupInstances/again"
	const invalid = "BMSUserErrorInvalidInput"
	const rules = "properties.policyRules"
	before := dump(t, data)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code, target, says string
	}{
		"malformed JSON":          {"PUT", other, `{"properties":`, 400, "InvalidRequestContent", "body", "position"},
		"wrong JSON type":         {"PUT", other, with(policyBody, `"isDefault":true,"lifecycles"`, `"isDefault":"yes","lifecycles"`), 400, "InvalidRequestContent", rules + ".isDefault", "true or false"},
		"no body":                 {"PUT", other, ``, 400, "InvalidRequestContent", "body", "no body"},
		"unknown rule type":       {"PUT", other, with(policyBody, "AzureBackupRule", "Sorcery"), 400, invalid, rules + "[0].objectType", "Sorcery"},
		"wrong enum":              {"PUT", other, with(policyBody, `"dataStoreType":"OperationalStore"`, `"dataStoreType":"ShoeBox"`), 400, invalid, rules + "[0].dataStore.dataStoreType", "ShoeBox"},
		"missing field":           {"PUT", other, with(policyBody, `"deleteAfter"`, `"x"`), 400, invalid, rules + "[1].lifecycles[0].deleteAfter", "required"},
		"no Default rule":         {"PUT", other, with(with(policyBody, `"name":"Default","isDefault":true`, `"name":"Other","isDefault":false`), `"tagName":"Default"`, `"tagName":"Default"`), 400, invalid, rules + "[0].trigger.taggingCriteria[0].tagInfo.tagName", "Default"},
		"bad interval":            {"PUT", other, with(policyBody, "R/2026-02-16T04:00:00+00:00/P1D", "daily"), 400, invalid, rules + "[0].trigger.schedule.repeatingTimeIntervals[0]", "daily"},
		"bad duration":            {"PUT", other, with(policyBody, "P30D", "30 days"), 400, invalid, rules + "[1].lifecycles[0].deleteAfter.duration", "30 days"},
		"vault tier":              {"PUT", other, with(policyBody, `"sourceDataStore":{"objectType":"DataStoreInfoBase","dataStoreType":"OperationalStore"}`, `"sourceDataStore":{"objectType":"DataStoreInfoBase","dataStoreType":"VaultStore"}`), 400, "DppUserErrorVaultTierPolicyNotSupported", rules + "[1].lifecycles[0].sourceDataStore.dataStoreType", "vault tier"},
		"policy in use":           {"DELETE", w.vault + "/backupPolicies/" + policyName, "", 409, "UserErrorPolicyInUse", w.instance, "uses it"},
		"policy's name":           {"PUT", w.vault + "/backupPolicies/x", policyBody, 400, invalid, "name", "'x'"},
		"policy of no vault":      {"PUT", strings.Replace(other, vaultName, "nowhere", 1), policyBody, 404, "ResourceNotFound", strings.Replace(w.vault, vaultName, "nowhere", 1), "nowhere"},
		"vault without settings":  {"PUT", w.vault + "2", `{"location":"eastus","properties":{}}`, 400, invalid, "properties.storageSettings", "required"},
		"vault without location":  {"PUT", w.vault + "2", `{"properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}]}}`, 400, "LocationRequired", "location", "location"},
		"vault's redundancy":      {"PUT", w.vault, `{"location":"eastus","properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"GeoRedundant"}]}}`, 400, invalid, "properties.storageSettings[0].type", "cannot be changed"},
		"vault moved":             {"PUT", w.vault, `{"location":"westus","properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}]}}`, 409, "InvalidResourceLocation", "location", "westus"},
		"vault with instances":    {"DELETE", w.vault, "", 409, "ServiceResourceNotEmpty", w.vault, "prod"},
		"instance twice":          {"PUT", again, inst, 400, "UserErrorDppDatasourceAlreadyHasBackupInstance", "properties.dataSourceInfo.resourceID", "already associated with the backup instance prod"},
		"instance's type":         {"PUT", again, with(inst, `"BackupInstance"`, `"Sorcery"`), 400, invalid, "properties.objectType", "Sorcery"},
		"no cluster":              {"PUT", again, with(inst, `"resourceID"`, `"x"`), 400, invalid, "properties.dataSourceInfo.resourceID", "required"},
		"unknown cluster":         {"PUT", again, strings.ReplaceAll(inst, "managedClusters/prod", "managedClusters/none"), 404, "UserErrorGenericResourceNotFound", strings.Replace(w.cluster.id, "/prod", "/none", 1), "does not exist"},
		"unknown policy":          {"PUT", again, with(inst, "backupPolicies/"+policyName, "backupPolicies/nightly"), 400, invalid, "properties.policyInfo.policyId", "nightly"},
		"another vault's policy":  {"PUT", again, with(inst, vaultName, "other"), 400, invalid, "properties.policyInfo.policyId", "not the vault's"},
		"another cluster":         {"PUT", w.instance, with(inst, "managedClusters/prod", "managedClusters/none"), 400, invalid, "properties.dataSourceInfo.resourceID", "cannot be changed"},
		"filter not supported":    {"PUT", again, with(inst, `"policyId"`, `"policyParameters":{"backupDatasourceParametersList":[{"objectType":"KubernetesClusterBackupDatasourceParameters","snapshotVolumes":true,"includeClusterScopeResources":true,"labelSelectors":["a=b"]}]},"policyId"`), 400, "UserErrorFeatureNotSupported", "properties.policyInfo.policyParameters.backupDatasourceParametersList[0].labelSelectors", "not supported"},
		"validation of nothing":   {"POST", w.vault + "/validateForBackup", `{}`, 400, invalid, "backupInstance", "required"},
		"unknown rule":            {"POST", w.instance + "/backup", strings.Replace(adhoc, "BackupDaily", "Never", 1), 400, invalid, "backupRuleOptions.ruleName", "Never"},
		"unknown tag":             {"POST", w.instance + "/backup", strings.Replace(adhoc, `"triggerOption":{}`, `"triggerOption":{"retentionTagOverride":"Gold"}`, 1), 400, invalid, "backupRuleOptions.triggerOption.retentionTagOverride", "Gold"},
		"backup of nothing":       {"POST", w.vault + "/backupInstances/none/backup", adhoc, 404, "ResourceNotFound", w.vault + "/backupInstances/none", "none"},
		"unknown recovery point":  {"POST", w.instance + "/restore", with(guideRestore, "POINT", strings.Repeat("0", 32)), 404, "UserErrorRecoveryPointNotFound", "recoveryPointId", "no recovery point"},
		"no recovery point":       {"POST", w.instance + "/restore", with(azureRestore, `"recoveryPointId":"POINT",`, ``), 400, invalid, "recoveryPointId", "required"},
		"unknown restore":         {"POST", w.instance + "/restore", with(azureRestore, "AzureBackupRecoveryPointBasedRestoreRequest", "Sorcery"), 400, invalid, "objectType", "Sorcery"},
		"restore with patches":    {"POST", w.instance + "/restore", with(azureRestore, `"Skip"`, `"Patch"`), 400, "UserErrorFeatureNotSupported", "restoreTargetInfo.restoreCriteria[0].conflictPolicy", "Patch"},
		"restore elsewhere":       {"POST", w.instance + "/restore", strings.ReplaceAll(fill(azureRestore), "managedClusters/prod", "managedClusters/other"), 400, "UserErrorFeatureNotSupported", "restoreTargetInfo.datasourceInfo.resourceID", "another cluster"},
		"validation of a restore": {"POST", w.instance + "/validateRestore", `{"restoreRequestObject":` + with(azureRestore, `"FailIfExists"`, `"Overwrite"`) + `}`, 400, invalid, "restoreRequestObject.restoreTargetInfo.recoveryOption", "Overwrite"},
		"wrong filter":            {"GET", w.instance + "/recoveryPoints?$filter=startDate%20eq%20'soon'", "", 400, invalid, "$filter", "soon"},
		"unknown job":             {"GET", w.vault + "/backupJobs/00000000-0000-0000-0000-000000000000", "", 404, "ResourceNotFound", w.vault + "/backupJobs/00000000-0000-0000-0000-000000000000", "backupJobs"},
		"unknown operation":       {"GET", w.vault + "/operationStatus/none", "", 404, "UserErrorGenericResourceNotFound", w.vault + "/operationStatus/none", "none"},
		"unknown group":           {"PUT", strings.Replace(w.vault, group, "nowhere", 1), `{}`, 404, "ResourceGroupNotFound", w.Subscription + "/resourceGroups/nowhere", "nowhere"},
		"too much":                {"PUT", other, strings.Repeat(" ", 5<<20), 413, "RequestContentTooLarge", "body", "larger"},
		"other method":            {"PATCH", other, `{}`, 405, "MethodNotAllowed", other, "PUT"},
	} {
		t.Run(name, func(t *testing.T) {
			wantRefusal(t, w.Do(c.method, c.path, sent(c.body)), c.status, c.code, c.target, c.says)
			if diff := cmp.Diff(before, dump(t, data)); diff != "" {
				t.Errorf("the database was changed: %s", diff)
			}
		})
	}
	t.Run("changed meanwhile", func(t *testing.T) {
		header := map[string]string{"Authorization": "Bearer " + w.AdminToken(), "If-Match": `"stale"`}
		wantRefusal(t, w.Send("PATCH", w.vault, `{"tags":{"a":"b"}}`, header), 412, "PreconditionFailed", w.vault, "If-Match")
		if diff := cmp.Diff(before, dump(t, data)); diff != "" {
			t.Errorf("the database was changed: %s", diff)
		}
	})
}

// TestTokensThatAreNoGood asks for a vault's deletion without a token, with a wrong one and with one that has expired.
func TestTokensThatAreNoGood(t *testing.T) {
	data := t.TempDir()
	now := &clock{at: time.Now()}
	w := daemontest.Start(t, daemon.Config{Data: data, Now: now.Now})
	w.Do("PUT", w.Subscription+"/resourceGroups/"+group, `{"location":"eastus"}`).Want(201)
	vault := w.Subscription + "/resourceGroups/" + group + "/providers/Microsoft.DataProtection/backupVaults/" + vaultName
	w.Do("PUT", vault, `{"location":"eastus","properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}]}}`).Want(201)
	before := dump(t, data)
	now.advance(24 * time.Hour)
	for name, c := range map[string]struct {
		header     map[string]string
		code, says string
	}{
		"no token":      {map[string]string{}, "AuthenticationFailed", "missing"},
		"wrong token":   {map[string]string{"Authorization": "Bearer nonsense"}, "InvalidAuthenticationToken", "invalid"},
		"expired token": {map[string]string{"Authorization": "Bearer " + w.AdminToken()}, "InvalidAuthenticationToken", "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			wantRefusal(t, w.Send("DELETE", vault, nil, c.header), 401, c.code, "Authorization", c.says)
			if diff := cmp.Diff(before, dump(t, data)); diff != "" {
				t.Errorf("the database was changed: %s", diff)
			}
		})
	}
}

// TestRolesTakeEffect asks as somebody who may read and no more.
func TestRolesTakeEffect(t *testing.T) {
	data := t.TempDir()
	w := setUp(t, daemontest.Start(t, daemon.Config{Data: data}))
	w.protect(t)
	job := w.finish(t, w.start(t, "/backup", adhoc))
	login := func(name string) (token, principal string) {
		p, secret := newPrincipal(t, w.World, name)
		return w.Token(p.Client, secret, "https://management.azure.com"), p.ID
	}
	nobody, _ := login("nobody")
	reader, id := login("reader")
	grant(t, w.World, id, "a795c7a0-d4a2-40c1-ae25-d81f01202912", w.vault, "00000000-0000-4000-8000-000000000011") // Backup Reader
	operator, id := login("operator")
	grant(t, w.World, id, "00c29273-979b-4161-815c-10b084fb9324", w.vault, "00000000-0000-4000-8000-000000000012") // Backup Operator
	builder, id := login("builder")
	grant(t, w.World, id, "5e467623-bb1f-42f4-a55d-6e525e11384b", w.vault, "00000000-0000-4000-8000-000000000013") // Backup Contributor
	jobPath := fmt.Sprint(job.At("id"))
	before := dump(t, data)
	for _, c := range []struct{ token, method, path, body, target string }{
		{nobody, "GET", w.vault, "", w.vault},
		{nobody, "POST", w.instance + "/backup", adhoc, w.instance},
		{nobody, "PUT", w.vault + "/backupPolicies/other", policyBody, w.vault + "/backupPolicies/other"},
		{reader, "POST", w.instance + "/backup", adhoc, w.instance},
		{reader, "DELETE", w.instance, "", w.instance},
		{reader, "GET", "/link/v1/desired", "", "/link/v1"},
		{operator, "DELETE", w.vault, "", w.vault},
	} {
		wantRefusal(t, w.As(c.token, c.method, c.path, sent(c.body)), 403, "AuthorizationFailed", c.target, "does not have authorization")
		if diff := cmp.Diff(before, dump(t, data)); diff != "" {
			t.Errorf("%s %s: the database was changed: %s", c.method, c.path, diff)
		}
	}
	for _, c := range []struct {
		token, method, path, body string
		want                      int
	}{
		{reader, "GET", jobPath, "", 200},
		{reader, "GET", w.instance + "/recoveryPoints", "", 200},
		{operator, "POST", w.instance + "/backup", adhoc, 202},
		{builder, "PUT", w.vault + "/backupPolicies/other", policyBody, 200},
	} {
		a := w.As(c.token, c.method, c.path, sent(c.body)).Want(c.want)
		if operation := a.Header.Get("Azure-AsyncOperation"); operation != "" {
			w.As(c.token, "GET", operation, nil).Want(200)
			w.As(nobody, "GET", operation, nil).Want(403)
		}
	}
	// Whoever links a cluster must be able to see it.
	body := w.instanceBody()
	body["properties"].(map[string]any)["policyInfo"] = map[string]any{"policyId": w.vault + "/backupPolicies/other"}
	wantRefusal(t, w.As(builder, "PUT", w.vault+"/backupInstances/second", body), 403, "LinkedAuthorizationFailed", w.cluster.id, "linked scope")
}

// TestClusterMustBeReady takes away, one by one, what a cluster needs to be backed up.
func TestClusterMustBeReady(t *testing.T) {
	data := t.TempDir()
	now := &clock{at: time.Now()}
	d := daemontest.Start(t, daemon.Config{Data: data, Now: now.Now})
	c := connect(t, d, "prod")
	w := &world{World: d, cluster: c, vault: d.Subscription + "/resourceGroups/" + group + "/providers/Microsoft.DataProtection/backupVaults/" + vaultName}
	w.instance = w.vault + "/backupInstances/prod"
	settings := map[string]any{"storageSettings": []any{map[string]any{"datastoreType": "VaultStore", "type": "LocallyRedundant"}}}
	w.Do("PUT", w.vault, map[string]any{"location": location, "properties": settings}).Want(201)
	w.Do("PUT", w.vault+"/backupPolicies/"+policyName, policyBody).Want(200)
	validation := map[string]any{"backupInstance": w.instanceBody()["properties"]}
	refused := func(code, says string) {
		t.Helper()
		before := dump(t, data)
		wantRefusal(t, w.Do("PUT", w.instance, w.instanceBody()), 400, code, c.id, says)
		wantRefusal(t, w.Do("POST", w.vault+"/validateForBackup", validation), 400, code, c.id, says)
		if diff := cmp.Diff(before, dump(t, data)); diff != "" {
			t.Errorf("the database was changed: %s", diff)
		}
	}
	refused("UserErrorMissingRequiredPermissions", "no managed identity")
	made := w.Do("PUT", w.vault, map[string]any{"location": location, "identity": map[string]any{"type": "SystemAssigned"}, "properties": settings}).Want(201)
	refused("UserErrorMissingRequiredPermissions", "may not read")
	grant(t, d, fmt.Sprint(made.At("identity", "principalId")), "acdd72a7-3385-48ef-bd42-f606fba81ae7", c.id, "00000000-0000-4000-8000-000000000001")
	refused("UserErrorKubernetesBackupExtensionNotFoundError", "not installed")
	installExtension(t, d, c)
	c.become(link.ExtensionInstalling, "pod cairn-manager is starting")
	refused("UserErrorKubernetesBackupExtensionUnhealthy", "cairn-manager")
	c.become(link.ExtensionFailed, "image cannot be pulled")
	refused("UserErrorKubernetesBackupExtensionHasErrors", "image cannot be pulled")
	c.become(link.ExtensionReady, "")
	w.protect(t)

	// Trusted access came with the instance; the cluster's owner can take it away.
	bindings := w.Do("GET", c.id+"/trustedAccessRoleBindings", nil).Want(200)
	if bindings.At("value", 0, "properties", "sourceResourceId") != w.vault || bindings.At("value", 1) != nil {
		t.Fatalf("the bindings: %v", bindings.JSON)
	}
	w.Do("DELETE", fmt.Sprint(bindings.At("value", 0, "id")), nil).Want(202, 204)
	wantRefusal(t, w.Do("POST", w.instance+"/backup", adhoc), 400, "UserErrorMissingRequiredPermissions", c.id, "trusted access")
	w.Do("PUT", c.id+"/trustedAccessRoleBindings/ours", map[string]any{"properties": map[string]any{"sourceResourceId": w.vault,
		"roles": []string{"Microsoft.DataProtection/backupVaults/backup-operator"}}}).Want(200, 201)

	c.stop()
	now.advance(5 * time.Minute)
	wantRefusal(t, w.Do("POST", w.instance+"/backup", adhoc), 400, "UserErrorKubernetesBackupClusterIsStopped", c.id, "not connected")
	c.run()
	c.tell(t.Context())
	c.hold("Backup")
	w.start(t, "/backup", adhoc)
	if a := w.Do("POST", w.instance+"/backup", adhoc); a.Status != 409 || a.At("error", "code") != "UserErrorConflictingOperationInProgress" {
		t.Errorf("a second backup: %d %v", a.Status, a.JSON)
	}
	if a := w.Do("DELETE", w.instance, nil); a.Status != 409 {
		t.Errorf("a deletion during a backup: %d %v", a.Status, a.JSON)
	}
}

// TestConfigurationFails has the cluster say that no backup could be made.
func TestConfigurationFails(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.cluster.hold("ValidateForBackup")
	a := w.Do("PUT", w.instance, w.instanceBody()).Want(201)
	if a.At("properties", "currentProtectionState") != "ConfiguringProtection" || a.At("properties", "protectionStatus", "status") != "ConfiguringProtection" || a.At("properties", "provisioningState") != "Provisioning" {
		t.Errorf("the answer: %v", a.JSON)
	}
	operation := a.Header.Get("Azure-AsyncOperation")
	wantRefusal(t, w.Do("POST", w.instance+"/backup", adhoc), 400, "UserErrorInvalidBackupInstanceOperation", w.instance, "ConfiguringProtection")
	wantRefusal(t, w.Do("DELETE", w.instance, nil), 400, "UserErrorInvalidBackupInstanceOperation", w.instance, "ConfiguringProtection")
	w.cluster.say(w.cluster.next("ValidateForBackup"), refusedStatus("UserErrorBackupStorageLocationNotReady", "the container does not answer"))
	status := w.Do("GET", operation, nil).Want(200)
	if status.At("status") != "Failed" || status.At("error", "code") != "UserErrorBackupStorageLocationNotReady" {
		t.Errorf("the operation: %v", status.JSON)
	}
	got := w.Do("GET", w.instance, nil).Want(200)
	if got.At("properties", "currentProtectionState") != "ProtectionError" || got.At("properties", "protectionErrorDetails", "code") != "UserErrorBackupStorageLocationNotReady" {
		t.Errorf("the instance: %v", got.JSON)
	}
	wantRefusal(t, w.Do("POST", w.instance+"/backup", adhoc), 400, "UserErrorInvalidBackupInstanceOperation", w.instance, "ProtectionError")
	w.cluster.answer("ValidateForBackup", completed)
	w.protect(t) // trying again is a PUT
	w.Do("PUT", w.instance, w.instanceBody()).Want(200)

	w.cluster.answer("ValidateForBackup", func(r link.Request) []any {
		return []any{refusedStatus("UserErrorNamespaceNotFound", "there is no namespace shop")}
	})
	failing := w.Do("POST", w.vault+"/validateForBackup", map[string]any{"backupInstance": w.instanceBody()["properties"]}).Want(202)
	eventually(t, "the validation", func() error {
		got := w.Do("GET", failing.Header.Get("Azure-AsyncOperation"), nil).Want(200)
		if got.At("status") != "Failed" || got.At("error", "additionalInfo", 0, "type") != "UserFacingError" {
			return fmt.Errorf("it is %v", got.JSON)
		}
		return nil
	})
	w.Do("GET", failing.Header.Get("Location"), nil).Want(400)
}

func refusedStatus(code, message string) any {
	return refused(code, message, "Look at it.")(link.Request{})[0]
}

// TestSilentClusters are given up, and what they tell later is not lost.
func TestSilentClusters(t *testing.T) {
	now := &clock{at: time.Now()}
	w := setUp(t, daemontest.Start(t, daemon.Config{Now: now.Now}))
	start := now.Now()
	show := func(job string) daemontest.Answer {
		t.Helper() // tokens expire with the daemon's time
		return w.As(w.Token(w.Env["AZURE_CLIENT_ID"], w.Env["AZURE_CLIENT_SECRET"], "https://management.azure.com"), "GET", job, nil).Want(200)
	}
	points := func() int {
		t.Helper()
		list, ok := show(w.instance + "/recoveryPoints").At("value").([]any)
		if !ok {
			t.Fatal("the list has no value")
		}
		return len(list)
	}
	giveUp := func() {
		t.Helper()
		if err := w.Service.GiveUp(t.Context(), start); err != nil {
			t.Fatal(err)
		}
	}
	w.cluster.hold("ValidateForBackup")
	w.Do("PUT", w.instance, w.instanceBody()).Want(201)
	w.cluster.next("ValidateForBackup")
	now.advance(6 * time.Minute)
	giveUp()
	w.awaitState(t, w.instance, "ProtectionError")
	w.cluster.tell(t.Context()) // heard of again
	w.cluster.answer("ValidateForBackup", completed)
	w.protect(t)

	w.cluster.hold("Backup")
	job := w.start(t, "/backup", adhoc)
	r := w.cluster.next("Backup")
	now.advance(50 * time.Minute)
	w.cluster.say(r, uploading(10))
	now.advance(50 * time.Minute)
	giveUp()
	if got := show(job).At("properties", "status"); got != "InProgress" {
		t.Fatalf("a job that makes progress is %v", got)
	}
	now.advance(11 * time.Minute)
	if err := w.Service.GiveUp(t.Context(), now.Now()); err != nil {
		t.Fatal(err)
	}
	if got := show(job).At("properties", "status"); got != "InProgress" {
		t.Fatalf("a service that was away gave up a job: it is %v", got)
	}
	giveUp()
	got := show(job)
	if got.At("properties", "status") != "Failed" || got.At("properties", "errorDetails", 0, "code") != "KubernetesBackupCustomResourcesTrackingTimeOutError" {
		t.Fatalf("the job: %v", got.JSON)
	}
	if n := points(); n != 0 {
		t.Fatalf("%d recovery points", n)
	}
	w.cluster.say(r, committed(v1alpha1.PhaseCompleted))
	got = show(job)
	if got.At("properties", "status") != "Failed" || got.At("properties", "extendedInfo", "targetRecoverPoint") == nil ||
		got.At("properties", "extendedInfo", "warningDetails", 0, "warning", "message") == nil {
		t.Errorf("the job does not tell of its recovery point: %v", got.JSON)
	}
	if n := points(); n != 1 {
		t.Errorf("%d recovery points", n)
	}
}

// TestAliases finds an instance by its cluster's name while that is unique, and by the last part of its friendly name.
func TestAliases(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.instance = w.vault + "/backupInstances/prod-prod-8d0fd7e8"
	w.protect(t)
	alias := w.vault + "/backupInstances/prod"
	if got := w.Do("GET", alias, nil).Want(200).At("name"); got != "prod-prod-8d0fd7e8" {
		t.Errorf("the name is %v", got)
	}
	w.Do("GET", w.vault+"/backupInstances/prod%2Fprod", nil).Want(400, 404)
	w.Do("DELETE", alias, nil).Want(204)
	w.Do("PUT", w.vault+"/backupPolicies/weekly", policyBody).Want(200)
	body := w.instanceBody()
	body["properties"].(map[string]any)["policyInfo"] = map[string]any{"policyId": w.vault + "/backupPolicies/weekly"}
	body["properties"].(map[string]any)["friendlyName"] = "prod/web"
	w.Do("PUT", w.vault+"/backupInstances/second", body).Want(201)
	if got := w.Do("GET", w.vault+"/backupInstances/web", nil).Want(200).At("name"); got != "second" {
		t.Errorf("web means %v", got)
	}
	a := w.Do("POST", alias+"/backup", adhoc)
	wantRefusal(t, a, 400, "UserErrorAmbiguousBackupInstance", alias, "prod-prod-8d0fd7e8, second")
	if list, ok := w.Do("GET", w.cluster.id+"/providers/Microsoft.DataProtection/backupInstances", nil).Want(200).At("value").([]any); !ok || len(list) != 2 {
		t.Errorf("%d instances of the cluster", len(list))
	}
}

// TestProtectionMovesAndDeletion stops, resumes and deletes; a deletion takes the recovery points along, in the cluster too.
func TestProtectionMovesAndDeletion(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	for _, move := range []struct {
		action string
		status int
		state  string
	}{
		{"suspendBackups", 202, "BackupsSuspended"}, {"suspendBackups", 200, "BackupsSuspended"}, {"resumeBackups", 202, "ProtectionConfigured"},
		{"stopProtection", 202, "ProtectionStopped"}, {"resumeBackups", 400, "ProtectionStopped"}, {"resumeProtection", 202, "ProtectionConfigured"},
	} {
		a := w.Do("POST", w.instance+"/"+move.action, nil).Want(move.status)
		if a.Status == 202 {
			if got := w.Do("GET", a.Header.Get("Azure-AsyncOperation"), nil).Want(200).At("status"); got != "Succeeded" {
				t.Errorf("%s is %v", move.action, got)
			}
			w.Do("GET", a.Header.Get("Location"), nil).Want(200)
		}
		w.awaitState(t, w.instance, move.state)
	}
	w.cluster.answer("DeleteBackup", refused("BackupPluginDeleteBackupOperationFailed", "a snapshot is locked", "Unlock it."))
	failing := w.Do("DELETE", w.instance, nil).Want(202)
	eventually(t, "the failing deletion", func() error {
		if got := w.Do("GET", failing.Header.Get("Azure-AsyncOperation"), nil).Want(200); got.At("status") != "Failed" {
			return fmt.Errorf("it is %v", got.JSON)
		}
		return nil
	})
	if n := len(w.points(t)); n != 1 {
		t.Fatalf("%d recovery points", n)
	}
	w.cluster.next("DeleteBackup")
	w.cluster.answer("DeleteBackup", completed)
	w.Do("DELETE", w.instance, nil).Want(202)
	var spec v1alpha1.DeleteBackupSpec
	unmarshal(t, w.cluster.next("DeleteBackup").Spec, &spec)
	if len(spec.Snapshots) != 1 || spec.Snapshots[0].Handle != "/snapshots/1" || spec.Location.Prefix == "" {
		t.Errorf("what is to be deleted: %+v", spec)
	}
	eventually(t, "the deletion", func() error {
		if a := w.Do("GET", w.instance, nil); a.Status != 404 {
			return fmt.Errorf("%d", a.Status)
		}
		return nil
	})
	w.Do("DELETE", w.instance, nil).Want(204)
	w.Do("DELETE", w.vault+"/backupPolicies/"+policyName, nil).Want(200)
	w.Do("DELETE", w.vault+"/backupPolicies/"+policyName, nil).Want(204)
	a := w.Do("DELETE", w.vault, nil).Want(202)
	if got := w.Do("GET", a.Header.Get("Azure-AsyncOperation"), nil).Want(200).At("status"); got != "Succeeded" {
		t.Errorf("the vault's deletion is %v", got)
	}
	w.Do("DELETE", w.vault, nil).Want(204)
}

// TestInstanceOutlivesItsCluster deletes an instance whose cluster is gone: nobody can delete the snapshots, and the ledger keeps them.
func TestInstanceOutlivesItsCluster(t *testing.T) {
	data := t.TempDir()
	w := setUp(t, daemontest.Start(t, daemon.Config{Data: data}))
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	w.cluster.stop()
	w.Do("DELETE", w.cluster.id, nil).Want(200, 202, 204)
	wantRefusal(t, w.Do("POST", w.instance+"/backup", adhoc), 404, "UserErrorGenericResourceNotFound", w.cluster.id, "does not exist")
	w.Do("DELETE", w.instance, nil).Want(202)
	w.Do("GET", w.instance, nil).Want(404)
	eventually(t, "the ledger", func() error {
		entry := w.Do("GET", w.vault+"/pendingDeletions", nil).Want(200)
		if entry.At("value", 0, "properties", "blobs") != nil || entry.At("value", 0, "properties", "snapshots", 0, "handle") != "/snapshots/1" {
			return fmt.Errorf("it is %v", entry.JSON)
		}
		return nil
	})
	w.Do("DELETE", w.vault, nil).Want(202)
	rows := dump(t, data)
	if len(rows["recovery_points"]) != 0 || len(rows["deletions"]) != 1 || !strings.Contains(rows["deletions"][0], "/snapshots/1") || len(rows["vault_keys"]) != 0 || len(rows["jobs"]) != 0 {
		t.Errorf("what is left: %v %v %v", rows["deletions"], rows["vault_keys"], rows["jobs"])
	}
}

// TestBackupsAtOnce starts two backups of an instance at the same moment: there is one.
func TestBackupsAtOnce(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	w.cluster.hold("Backup")
	statuses := make(chan int, 8)
	for range cap(statuses) {
		go func() {
			status, _ := send(t, w, "POST", w.instance+"/backup", adhoc)
			statuses <- status
		}()
	}
	got := map[int]int{}
	for range cap(statuses) {
		got[<-statuses]++
	}
	if got[202] != 1 || got[409] != cap(statuses)-1 {
		t.Errorf("the answers: %v", got)
	}
}
