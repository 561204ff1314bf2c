package armserver_test

import (
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

const dailyPolicy = `{"properties":{"objectType":"BackupPolicy","datasourceTypes":["Microsoft.ContainerService/managedClusters"],"policyRules":[
 {"objectType":"AzureBackupRule","name":"BackupDaily","trigger":{"objectType":"ScheduleBasedTriggerContext",
  "schedule":{"repeatingTimeIntervals":["R/2026-02-16T04:00:00+00:00/P1D"]},
  "taggingCriteria":[{"isDefault":true,"taggingPriority":99,"tagInfo":{"tagName":"Default"}}]}},
 {"objectType":"AzureRetentionRule","name":"Default","isDefault":true,"lifecycles":[
  {"deleteAfter":{"objectType":"AbsoluteDeleteOption","duration":"P30D"},"sourceDataStore":{"objectType":"DataStoreInfoBase","dataStoreType":"OperationalStore"}}]}]}}`

// TestAPolicyIsChanged puts a policy, puts it again as it is, and changes it, with and without conditions.
func TestAPolicyIsChanged(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	vault := w.Subscription + "/resourceGroups/g/providers/Microsoft.DataProtection/backupVaults/vault1"
	w.Do("PUT", w.Subscription+"/resourceGroups/g", `{"location":"eastus"}`).Want(201)
	w.Do("PUT", vault, `{"location":"eastus","properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}]}}`).Want(201)
	policy := vault + "/backupPolicies/daily"
	given := func(header, value string) map[string]string {
		return map[string]string{"Authorization": "Bearer " + w.AdminToken(), header: value}
	}
	w.Send("PUT", policy, dailyPolicy, given("If-Match", "*")).Want(412)
	made := w.Do("PUT", policy, dailyPolicy).Want(200)
	etag := made.Header.Get("ETag")
	if etag == "" || made.At("eTag") != nil {
		t.Errorf("ETag %q, in the body %v", etag, made.At("eTag"))
	}
	if again := w.Do("PUT", policy, dailyPolicy).Want(200); again.Header.Get("ETag") != etag {
		t.Errorf("the policy as it was has another ETag: %s, it was %s", again.Header.Get("ETag"), etag)
	}
	longer := strings.Replace(dailyPolicy, "P30D", "P60D", 1)
	w.Send("PUT", policy, longer, given("If-None-Match", "*")).Want(412)
	changed := w.Send("PUT", policy, longer, given("If-Match", etag)).Want(200)
	if changed.Header.Get("ETag") == etag {
		t.Error("the ETag stayed")
	}
	w.Send("PUT", policy, dailyPolicy, given("If-Match", etag)).Want(412)
	w.Do("PUT", policy, strings.Replace(dailyPolicy, "P30D", "P0D", 1)).Want(400)

	read := w.Do("GET", policy, nil).Want(200)
	if got := read.At("properties", "policyRules", 1, "lifecycles", 0, "deleteAfter", "duration"); got != "P60D" {
		t.Errorf("it is kept for %v", got)
	}
	if read.Header.Get("ETag") != changed.Header.Get("ETag") {
		t.Errorf("ETag %s, it was %s", read.Header.Get("ETag"), changed.Header.Get("ETag"))
	}
	if made.At("systemData", "createdAt") != read.At("systemData", "createdAt") || made.At("systemData", "lastModifiedAt") == read.At("systemData", "lastModifiedAt") {
		t.Errorf("made %v, changed %v", made.At("systemData"), read.At("systemData"))
	}
}
