package compat_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/link"
)

// follow polls an operation to its result.
func follow[T any](t *testing.T, p *runtime.Poller[T], err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	result, err := p.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func sdk(t *testing.T, w *daemontest.World) *dp.ClientFactory {
	t.Helper()
	clients, err := dp.NewClientFactory(w.Env["AZURE_SUBSCRIPTION_ID"], w.Admin(), w.Options())
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

// TestAzuresSDKFromVaultToRestore goes all the way with Azure's own client.
func TestAzuresSDKFromVaultToRestore(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	c := join(t, w, "prod")
	ctx, clients := t.Context(), sdk(t, w)

	making, err := clients.NewBackupVaultsClient().BeginCreateOrUpdate(ctx, group, vaultName, dp.BackupVaultResource{
		Location: to.Ptr(location), Identity: &dp.DppIdentityDetails{Type: to.Ptr("SystemAssigned")}, Tags: map[string]*string{"team_name": to.Ptr("shop")},
		Properties: &dp.BackupVault{StorageSettings: []*dp.StorageSetting{{DatastoreType: to.Ptr(dp.StorageSettingStoreTypesVaultStore), Type: to.Ptr(dp.StorageSettingTypesLocallyRedundant)}}},
	}, nil)
	vault := follow(t, making, err)
	if *vault.Properties.ProvisioningState != dp.ProvisioningStateSucceeded || vault.Identity.PrincipalID == nil || *vault.Tags["team_name"] != "shop" {
		t.Fatalf("the vault: %+v", vault.BackupVaultResource)
	}
	grant(t, w, *vault.Identity.PrincipalID, "acdd72a7-3385-48ef-bd42-f606fba81ae7", c.id, "00000000-0000-4000-8000-000000000001")

	store := &dp.DataStoreInfoBase{DataStoreType: to.Ptr(dp.DataStoreTypesOperationalStore), ObjectType: to.Ptr("DataStoreInfoBase")}
	policy, err := clients.NewBackupPoliciesClient().CreateOrUpdate(ctx, group, vaultName, policyName, dp.BaseBackupPolicyResource{Properties: &dp.BackupPolicy{
		ObjectType: to.Ptr("BackupPolicy"), DatasourceTypes: []*string{to.Ptr("Microsoft.ContainerService/managedClusters")},
		PolicyRules: []dp.BasePolicyRuleClassification{
			&dp.AzureBackupRule{ObjectType: to.Ptr("AzureBackupRule"), Name: to.Ptr("BackupHourly"), DataStore: store,
				BackupParameters: &dp.AzureBackupParams{ObjectType: to.Ptr("AzureBackupParams"), BackupType: to.Ptr("Incremental")},
				Trigger: &dp.ScheduleBasedTriggerContext{ObjectType: to.Ptr("ScheduleBasedTriggerContext"), Schedule: &dp.BackupSchedule{RepeatingTimeIntervals: []*string{to.Ptr("R/2026-02-16T04:00:00+00:00/PT4H")}},
					TaggingCriteria: []*dp.TaggingCriteria{
						{IsDefault: to.Ptr(false), TaggingPriority: to.Ptr[int64](25), TagInfo: &dp.RetentionTag{TagName: to.Ptr("Daily")}, Criteria: []dp.BackupCriteriaClassification{
							&dp.ScheduleBasedBackupCriteria{ObjectType: to.Ptr("ScheduleBasedBackupCriteria"), AbsoluteCriteria: []*dp.AbsoluteMarker{to.Ptr(dp.AbsoluteMarkerFirstOfDay)}}}},
						{IsDefault: to.Ptr(true), TaggingPriority: to.Ptr[int64](99), TagInfo: &dp.RetentionTag{TagName: to.Ptr("Default")}}}}},
			&dp.AzureRetentionRule{ObjectType: to.Ptr("AzureRetentionRule"), Name: to.Ptr("Default"), IsDefault: to.Ptr(true),
				Lifecycles: []*dp.SourceLifeCycle{{SourceDataStore: store, DeleteAfter: &dp.AbsoluteDeleteOption{ObjectType: to.Ptr("AbsoluteDeleteOption"), Duration: to.Ptr("P7D")}, TargetDataStoreCopySettings: []*dp.TargetCopySetting{}}}},
			&dp.AzureRetentionRule{ObjectType: to.Ptr("AzureRetentionRule"), Name: to.Ptr("Daily"), IsDefault: to.Ptr(false),
				Lifecycles: []*dp.SourceLifeCycle{{SourceDataStore: store, DeleteAfter: &dp.AbsoluteDeleteOption{ObjectType: to.Ptr("AbsoluteDeleteOption"), Duration: to.Ptr("P84D")}}}},
		}}}, nil)
	if err != nil {
		t.Fatal(err)
	}

	const clusterType = "Microsoft.ContainerService/managedClusters"
	source := &dp.Datasource{ObjectType: to.Ptr("Datasource"), ResourceID: &c.id, ResourceName: &c.name, ResourceLocation: to.Ptr(location), ResourceType: to.Ptr(clusterType), DatasourceType: to.Ptr(clusterType)}
	set := &dp.DatasourceSet{ObjectType: to.Ptr("DatasourceSet"), ResourceID: &c.id, ResourceName: &c.name, ResourceLocation: to.Ptr(location), ResourceType: to.Ptr(clusterType), DatasourceType: to.Ptr(clusterType)}
	properties := &dp.BackupInstance{ObjectType: to.Ptr("BackupInstance"), FriendlyName: to.Ptr("prod/full"), DataSourceInfo: source, DataSourceSetInfo: set,
		PolicyInfo: &dp.PolicyInfo{PolicyID: policy.ID, PolicyParameters: &dp.PolicyParameters{
			DataStoreParametersList: []dp.DataStoreParametersClassification{&dp.AzureOperationalStoreParameters{ObjectType: to.Ptr("AzureOperationalStoreParameters"),
				DataStoreType: to.Ptr(dp.DataStoreTypesOperationalStore), ResourceGroupID: to.Ptr(w.Subscription + "/resourceGroups/" + group)}},
			BackupDatasourceParametersList: []dp.BackupDatasourceParametersClassification{&dp.KubernetesClusterBackupDatasourceParameters{
				ObjectType: to.Ptr("KubernetesClusterBackupDatasourceParameters"), SnapshotVolumes: to.Ptr(true), IncludeClusterScopeResources: to.Ptr(false), IncludedNamespaces: []*string{to.Ptr("shop")}}}}}}
	instances := clients.NewBackupInstancesClient()
	validating, err := instances.BeginValidateForBackup(ctx, group, vaultName, dp.ValidateForBackupRequest{BackupInstance: properties}, nil)
	follow(t, validating, err)
	const name = "prod-prod-8d0fd7e8-0d1c-4a55-8f0e-3b8c1e6f0a01"
	protecting, err := instances.BeginCreateOrUpdate(ctx, group, vaultName, name, dp.BackupInstanceResource{Properties: properties}, nil)
	protected := follow(t, protecting, err)
	if s := *protected.Properties.CurrentProtectionState; s != dp.CurrentProtectionStateProtectionConfigured {
		t.Fatalf("the protection is %s", s)
	}

	started, err := instances.BeginAdhocBackup(ctx, group, vaultName, name, dp.TriggerBackupRequest{BackupRuleOptions: &dp.AdHocBackupRuleOptions{
		RuleName: to.Ptr("BackupHourly"), TriggerOption: &dp.AdhocBackupTriggerOption{RetentionTagOverride: to.Ptr("Daily")}}}, nil)
	job := sdkJob(t, clients, *follow(t, started, err).JobID)
	if *job.Status != "Completed" || *job.ExtendedInfo.AdditionalDetails["RetentionTag"] != "Daily" || *job.ExtendedInfo.SubTasks[0].TaskName != "Trigger Backup" || len(job.ExtendedInfo.SubTasks) != 6 {
		t.Errorf("the job: %s %+v", *job.Status, job.ExtendedInfo)
	}
	points := clients.NewRecoveryPointsClient().NewListPager(group, vaultName, name, &dp.RecoveryPointsClientListOptions{Filter: to.Ptr("startDate eq '2026-01-01T00:00:00.0000000Z' and endDate eq '2027-01-01T00:00:00.0000000Z'")})
	page, err := points.NextPage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Value) != 1 || *page.Value[0].Name != *job.ExtendedInfo.TargetRecoverPoint.RecoveryPointID {
		t.Fatalf("%d recovery points", len(page.Value))
	}

	request := &dp.AzureBackupRecoveryPointBasedRestoreRequest{ObjectType: to.Ptr("AzureBackupRecoveryPointBasedRestoreRequest"), RecoveryPointID: page.Value[0].Name,
		SourceResourceID: &c.id, SourceDataStoreType: to.Ptr(dp.SourceDataStoreTypeOperationalStore),
		RestoreTargetInfo: &dp.ItemLevelRestoreTargetInfo{ObjectType: to.Ptr("ItemLevelRestoreTargetInfo"), RecoveryOption: to.Ptr(dp.RecoveryOptionFailIfExists), RestoreLocation: to.Ptr(location),
			DatasourceInfo: source, DatasourceSetInfo: set, RestoreCriteria: []dp.ItemLevelRestoreCriteriaClassification{&dp.KubernetesClusterRestoreCriteria{
				ObjectType: to.Ptr("KubernetesClusterRestoreCriteria"), IncludeClusterScopeResources: to.Ptr(false), ConflictPolicy: to.Ptr(dp.ExistingResourcePolicySkip),
				PersistentVolumeRestoreMode: to.Ptr(dp.PersistentVolumeRestoreModeRestoreWithVolumeData)}}}}
	checking, err := instances.BeginValidateForRestore(ctx, group, vaultName, name, dp.ValidateRestoreRequestObject{RestoreRequestObject: request}, nil)
	follow(t, checking, err)
	restoring, err := instances.BeginTriggerRestore(ctx, group, vaultName, name, request, nil)
	job = sdkJob(t, clients, *follow(t, restoring, err).JobID)
	if *job.Status != "Completed" || *job.ExtendedInfo.AdditionalDetails["ObjectsCreated"] != "11" || *job.ExtendedInfo.SourceRecoverPoint.RecoveryPointID != *page.Value[0].Name {
		t.Errorf("the restore: %s %+v", *job.Status, job.ExtendedInfo)
	}

	checkRequests(t, c, *page.Value[0].Name)
	deleting, err := instances.BeginDelete(ctx, group, vaultName, name, nil)
	follow(t, deleting, err)
	removing, err := clients.NewBackupVaultsClient().BeginDelete(ctx, group, vaultName, nil)
	follow(t, removing, err)
}

// checkRequests looks at what the cluster was given.
func checkRequests(t *testing.T, c *cluster, point string) {
	t.Helper()
	var made v1alpha1.BackupSpec
	unmarshal(t, c.next("Backup").Spec, &made)
	if made.RecoveryPointID != point || !strings.HasPrefix(made.Recipient, "age1") || !made.SnapshotVolumes || fmt.Sprint(made.Filter.IncludedNamespaces) != "[shop]" ||
		made.Origin["retentionTag"] != "Daily" || !strings.HasPrefix(made.Location.Prefix, "cairn/v1/") || !strings.HasSuffix(made.Location.ContainerURL, "/backupstore/aks") {
		t.Errorf("the backup that was asked for: %+v", made)
	}
	r := c.next("Restore")
	var wanted v1alpha1.RestoreSpec
	unmarshal(t, r.Spec, &wanted)
	if wanted.RecoveryPointID != point || wanted.Location != made.Location || wanted.IdentitySecret != r.Name || !strings.HasPrefix(r.Secret["identity"], "AGE-SECRET-KEY-1") || wanted.ConflictPolicy != v1alpha1.ConflictSkip || !wanted.RestoreVolumeData {
		t.Errorf("the restore that was asked for: %+v", wanted)
	}
	if strings.Contains(string(r.Spec), "AGE-SECRET-KEY") {
		t.Error("the spec holds the identity")
	}
}

func unmarshal(t testing.TB, body []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(body, v); err != nil {
		t.Fatal(err)
	}
}

// sdkJob follows a job, named by its ARM ID, to its end.
func sdkJob(t *testing.T, clients *dp.ClientFactory, id string) *dp.AzureBackupJob {
	return sdkJobIn(t, clients, vaultName, id)
}

// sdkJobIn is sdkJob for another vault.
func sdkJobIn(t *testing.T, clients *dp.ClientFactory, vaultName, id string) *dp.AzureBackupJob {
	t.Helper()
	var job *dp.AzureBackupJob
	eventually(t, "job "+id, func() error {
		got, err := clients.NewJobsClient().Get(t.Context(), group, vaultName, id[strings.LastIndex(id, "/")+1:], nil)
		if err != nil {
			return err
		}
		if job = got.Properties; *job.Status == "InProgress" {
			return fmt.Errorf("it is %s", *job.Status)
		}
		return nil
	})
	return job
}

// TestRestartInTheMiddle restarts cairnd while a backup runs: the job goes on where it was.
func TestRestartInTheMiddle(t *testing.T) {
	data := t.TempDir()
	w := setUp(t, daemontest.Start(t, daemon.Config{Data: data}))
	w.protect(t)
	w.cluster.hold("Backup")
	job := w.start(t, "/backup", adhoc)
	r := w.cluster.next("Backup")
	w.cluster.say(r, uploading(40))
	at := func(address string) string { return "127.0.0.1" + address[strings.LastIndexByte(address, ':'):] }
	listen, blobs := at(w.Service.PublicURL), at(w.Service.BlobURL)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.World = daemontest.Start(t, daemon.Config{Data: data, Listen: listen, BlobListen: blobs})
	if got := w.Do("GET", job, nil).Want(200); got.At("properties", "status") != "InProgress" || got.At("properties", "extendedInfo", "subTasks", 3, "taskProgress") != "40%" {
		t.Fatalf("the job after the restart: %v", got.JSON)
	}
	w.cluster.say(r, committed(v1alpha1.PhaseCompleted))
	if got := w.finish(t, job); got.At("properties", "status") != "Completed" {
		t.Errorf("the job ended as %v", got.At("properties", "status"))
	}
	if n := len(w.points(t)); n != 1 {
		t.Errorf("%d recovery points", n)
	}
}

// TestReportsMayComeTwiceLateAndOutOfOrder tells of a backup in every wrong order.
func TestReportsMayComeTwiceLateAndOutOfOrder(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	w.cluster.hold("Backup")
	job := w.start(t, "/backup", adhoc)
	r := w.cluster.next("Backup")
	progress := func() any {
		return w.Do("GET", job, nil).Want(200).At("properties", "extendedInfo", "subTasks", 3, "taskProgress")
	}
	w.cluster.say(r, uploading(60))
	w.cluster.say(r, uploading(20))
	if got := progress(); got != "60%" {
		t.Errorf("an old report set progress to %v", got)
	}
	again := uploading(10)
	again.Attempt = 2
	w.cluster.say(r, again)
	if got := progress(); got != "10%" {
		t.Errorf("a new attempt has progress %v", got)
	}
	for range 2 {
		w.cluster.say(r, committed(v1alpha1.PhaseCompletedWithWarnings))
	}
	w.cluster.say(r, uploading(99))
	w.cluster.tell(t.Context(), link.RequestState{Kind: "Backup", Name: "never-asked", Status: json.RawMessage(`{"phase":"Completed"}`)},
		link.RequestState{Kind: "Restore", Name: r.Name, Status: json.RawMessage(`{"phase":"Failed"}`)})
	got := w.finish(t, job)
	if got.At("properties", "status") != "CompletedWithWarnings" {
		t.Errorf("the job ended as %v", got.At("properties", "status"))
	}
	points := w.points(t)
	if len(points) != 1 {
		t.Fatalf("%d recovery points", len(points))
	}
	other := connect(t, w.World, "other")
	other.tell(t.Context(), state(t, r, uploading(1)))
}

// TestFailedBackupLeavesNoRecoveryPoint has a backup fail, with the cluster's own reason.
func TestFailedBackupLeavesNoRecoveryPoint(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	w.cluster.answer("Backup", refused("UserErrorBackupStorageLocationNotReady", "the container does not answer", "Start it."))
	got := w.finish(t, w.start(t, "/backup", adhoc))
	if got.At("properties", "status") != "Failed" || got.At("properties", "errorDetails", 0, "code") != "UserErrorBackupStorageLocationNotReady" ||
		got.At("properties", "errorDetails", 0, "recommendedAction", 0) != "Start it." || got.At("properties", "endTime") == nil {
		t.Errorf("the job: %v", got.JSON)
	}
	if n := len(w.points(t)); n != 0 {
		t.Errorf("%d recovery points", n)
	}
	// What counts is the commit: one that failed later has its recovery point.
	w.cluster.answer("Backup", func(link.Request) []any {
		s := committed(v1alpha1.PhaseFailed)
		s.Errors = []v1alpha1.Issue{{Code: "Release", Message: "a snapshot object could not be removed"}}
		return []any{s}
	})
	got = w.finish(t, w.start(t, "/backup", adhoc))
	if got.At("properties", "status") != "CompletedWithWarnings" || got.At("properties", "extendedInfo", "warningDetails", 0, "warning", "code") != "Release" || len(w.points(t)) != 1 {
		t.Errorf("the job: %v", got.JSON)
	}
	w.cluster.answer("Backup", func(link.Request) []any {
		s := committed(v1alpha1.PhaseCompleted)
		s.Committed = false
		return []any{s}
	})
	if got = w.finish(t, w.start(t, "/backup", adhoc)); got.At("properties", "status") != "Failed" || len(w.points(t)) != 1 {
		t.Errorf("the job: %v", got.JSON)
	}
}
