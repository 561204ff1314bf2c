package compat_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// TestWhatIsNotHere asks for other regions, other tiers and other kinds of datasources: wrongly, without the rights, and rightly. Nothing is changed.
func TestWhatIsNotHere(t *testing.T) {
	data := t.TempDir()
	w := setUp(t, daemontest.Start(t, daemon.Config{Data: data}))
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	point := fmt.Sprint(w.points(t)[0].(map[string]any)["name"])
	location := w.Subscription + "/resourceGroups/" + group + "/providers/Microsoft.DataProtection/locations/westus"
	fill := strings.NewReplacer("INSTANCE", w.instance, "VAULT", w.vault, "POINT", point).Replace
	const invalid, missing = "BMSUserErrorInvalidInput", "UserErrorGenericResourceNotFound"
	const restore = `"restoreRequestObject":{"objectType":"AzureBackupRecoveryPointBasedRestoreRequest","recoveryPointId":"POINT"}`
	before := dump(t, data)
	for name, c := range map[string]struct {
		path, body         string
		status             int
		code, target, says string
	}{
		"rehydrate":               {w.instance + "/rehydrate", `{"recoveryPointId":"POINT","rehydrationRetentionDuration":"P10D","rehydrationPriority":"standard"}`, 400, "UserErrorFeatureNotSupported", "recoveryPointId", "there is no archive tier"},
		"rehydrate nothing":       {w.instance + "/rehydrate", `{"rehydrationRetentionDuration":"P10D"}`, 400, invalid, "recoveryPointId", "is required"},
		"rehydrate for ever":      {w.instance + "/rehydrate", `{"recoveryPointId":"POINT"}`, 400, invalid, "rehydrationRetentionDuration", "is not a duration"},
		"rehydrate another":       {w.instance + "/rehydrate", `{"recoveryPointId":"0","rehydrationRetentionDuration":"P10D"}`, 404, "ResourceNotFound", w.instance + "/recoveryPoints/0", "was not found"},
		"ranges":                  {w.instance + "/findRestorableTimeRanges", `{"sourceDataStoreType":"OperationalStore","startTime":"2026-01-01T00:00:00.0000000Z","endTime":"2026-01-02T00:00:00Z"}`, 400, "DppPluginInvalidInputParameters", w.instance, "recovery points"},
		"ranges of nothing":       {w.instance + "/findRestorableTimeRanges", `{}`, 400, invalid, "sourceDataStoreType", "is required"},
		"ranges backwards":        {w.instance + "/findRestorableTimeRanges", `{"sourceDataStoreType":"VaultStore","startTime":"2026-01-02T00:00:00Z","endTime":"2026-01-01T00:00:00Z"}`, 400, "UserErrorInvalidRestorableTimeRange", "endTime", "it ends before"},
		"ranges of no time":       {w.instance + "/findRestorableTimeRanges", `{"sourceDataStoreType":"VaultStore","startTime":"now"}`, 400, invalid, "startTime", "is not a time"},
		"restore there":           {location + "/crossRegionRestore", `{"crossRegionRestoreDetails":{"sourceBackupInstanceId":"INSTANCE","sourceRegion":"eastus"},` + restore + `}`, 400, "UserErrorFeatureNotSupported", "crossRegionRestoreDetails", "Nothing is replicated"},
		"validate there":          {location + "/validateCrossRegionRestore", `{"crossRegionRestoreDetails":{"sourceBackupInstanceId":"INSTANCE","sourceRegion":"eastus"},` + restore + `}`, 400, "UserErrorFeatureNotSupported", "crossRegionRestoreDetails", "Nothing is replicated"},
		"restore there by time":   {location + "/crossRegionRestore", `{"crossRegionRestoreDetails":{"sourceBackupInstanceId":"INSTANCE","sourceRegion":"eastus"},"restoreRequestObject":{"objectType":"AzureBackupRecoveryTimeBasedRestoreRequest"}}`, 400, invalid, "restoreRequestObject.objectType", "is not a value"},
		"restore a vault there":   {location + "/crossRegionRestore", `{"crossRegionRestoreDetails":{"sourceBackupInstanceId":"VAULT","sourceRegion":"eastus"},` + restore + `}`, 400, invalid, "crossRegionRestoreDetails.sourceBackupInstanceId", "is not the ID"},
		"restore nothing there":   {location + "/crossRegionRestore", `{"crossRegionRestoreDetails":{"sourceBackupInstanceId":"INSTANCE","sourceRegion":"eastus"}}`, 400, invalid, "restoreRequestObject", "is required"},
		"restore another there":   {location + "/crossRegionRestore", `{"crossRegionRestoreDetails":{"sourceBackupInstanceId":"INSTANCEx","sourceRegion":"eastus"},` + restore + `}`, 404, "ResourceNotFound", w.instance + "x", "was not found"},
		"points of another there": {location + "/fetchSecondaryRecoveryPoints", `{"sourceBackupInstanceId":"INSTANCEx","sourceRegion":"eastus"}`, 404, "ResourceNotFound", w.instance + "x", "was not found"},
		"points there":            {location + "/fetchSecondaryRecoveryPoints?$filter=nonsense", `{"sourceBackupInstanceId":"INSTANCE","sourceRegion":"eastus"}`, 400, "InvalidFilterInQueryString", "$filter", "is not understood"},
		"a job there":             {location + "/fetchCrossRegionRestoreJob", `{"sourceBackupVaultId":"VAULT","sourceRegion":"eastus","jobId":"x"}`, 404, missing, "jobId", "There is no restore job"},
		"no job there":            {location + "/fetchCrossRegionRestoreJob", `{"sourceBackupVaultId":"VAULT","sourceRegion":"eastus"}`, 400, invalid, "jobId", "is required"},
		"jobs of nothing":         {location + "/fetchCrossRegionRestoreJobs", `{"sourceRegion":"eastus"}`, 400, invalid, "sourceBackupVaultId", "is not the ID"},
		"restore by time":         {w.instance + "/restore", `{"objectType":"AzureBackupRecoveryTimeBasedRestoreRequest","recoveryPointTime":"2026-01-01T00:00:00Z"}`, 400, invalid, "objectType", "is not a value"},
	} {
		t.Run(name, func(t *testing.T) {
			wantRefusal(t, w.Do("POST", c.path, fill(c.body)), c.status, c.code, c.target, c.says)
			if diff := cmp.Diff(before, dump(t, data)); diff != "" {
				t.Errorf("the database was changed: %s", diff)
			}
		})
	}
	// Contributor on the resource group of another vault: the location is no reason to see this one's instances.
	p, secret := newPrincipal(t, w.World, "elsewhere")
	other := w.Subscription + "/resourceGroups/other"
	w.Do("PUT", other, `{"location":"eastus"}`).Want(201)
	grant(t, w.World, p.ID, "b24988ac-6180-42a0-ab88-20f7382dd24c", other, "00000000-0000-4000-8000-000000000061")
	token := w.Token(p.Client, secret, "https://management.azure.com")
	for path, body := range map[string]string{
		"crossRegionRestore":           `{"crossRegionRestoreDetails":{"sourceBackupInstanceId":"INSTANCE","sourceRegion":"eastus"},` + restore + `}`,
		"validateCrossRegionRestore":   `{"crossRegionRestoreDetails":{"sourceBackupInstanceId":"INSTANCE","sourceRegion":"eastus"},` + restore + `}`,
		"fetchSecondaryRecoveryPoints": `{"sourceBackupInstanceId":"INSTANCE","sourceRegion":"eastus"}`,
		"fetchCrossRegionRestoreJobs":  `{"sourceBackupVaultId":"VAULT","sourceRegion":"eastus"}`,
		"fetchCrossRegionRestoreJob":   `{"sourceBackupVaultId":"VAULT","sourceRegion":"eastus","jobId":"x"}`,
	} {
		if a := w.As(token, "POST", strings.Replace(location, "/resourceGroups/"+group, "/resourceGroups/other", 1)+"/"+path, fill(body)); a.Status != 403 {
			t.Errorf("%s: %d %v", path, a.Status, a.JSON)
		}
	}
	clients := sdk(t, w.World)
	points, err := clients.NewFetchSecondaryRecoveryPointsClient().NewListPager(group, "westus", dp.FetchSecondaryRPsRequestParameters{SourceBackupInstanceID: &w.instance, SourceRegion: to.Ptr("eastus")}, nil).NextPage(t.Context())
	if err != nil || len(points.Value) != 0 {
		t.Errorf("recovery points there: %v, %v", points.Value, err)
	}
	jobs, err := clients.NewFetchCrossRegionRestoreJobsClient().NewListPager(group, "westus", dp.CrossRegionRestoreJobsRequest{SourceBackupVaultID: &w.vault, SourceRegion: to.Ptr("eastus")}, nil).NextPage(t.Context())
	if err != nil || len(jobs.Value) != 0 {
		t.Errorf("jobs there: %v, %v", jobs.Value, err)
	}
}

// TestValidateForModifyBackup asks whether an instance could be changed.
func TestValidateForModifyBackup(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	a := w.Do("POST", w.instance+"/validateForModifyBackup", map[string]any{"backupInstance": w.instanceBody()["properties"]}).Want(202)
	eventually(t, "the validation", func() error {
		if status := w.Do("GET", a.Header.Get("Azure-AsyncOperation"), nil).Want(200).At("status"); status != "Succeeded" {
			return fmt.Errorf("it is %v", status)
		}
		return nil
	})
	wantRefusal(t, w.Do("POST", w.instance+"/validateForModifyBackup", `{}`), 400, "BMSUserErrorInvalidInput", "backupInstance", "is required")
}
