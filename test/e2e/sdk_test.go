package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"
)

// TestGoSDK goes from vault to restored data with Azure's own Go SDK, as a program written for Azure does; only the cloud's address is ours.
func TestGoSDK(t *testing.T) {
	protect(t) // for the extension alone; vault, policy and instance are the SDK's
	prepareWorkload(t, "sdk")
	t.Cleanup(func() { destroyWorkload(t, "sdk") })
	ctx := t.Context()
	clients := sdk(t)
	const vault = "sdk-vault"
	clusterID := clusterID(t)

	vaults := clients.NewBackupVaultsClient()
	making, err := vaults.BeginCreateOrUpdate(ctx, group, vault, dp.BackupVaultResource{
		Location: to.Ptr("eastus"),
		Identity: &dp.DppIdentityDetails{Type: to.Ptr("SystemAssigned")},
		Properties: &dp.BackupVault{StorageSettings: []*dp.StorageSetting{{
			DatastoreType: to.Ptr(dp.StorageSettingStoreTypesVaultStore), Type: to.Ptr(dp.StorageSettingTypesLocallyRedundant)}}},
	}, nil)
	created := follow(t, making, err)
	if created.Identity == nil || created.Identity.PrincipalID == nil {
		t.Fatal("the vault has no identity")
	}
	sh(t, "az role assignment create --role Reader --assignee-principal-type ServicePrincipal --scope "+clusterID+" --assignee-object-id "+*created.Identity.PrincipalID)

	operational := &dp.DataStoreInfoBase{DataStoreType: to.Ptr(dp.DataStoreTypesOperationalStore), ObjectType: to.Ptr("DataStoreInfoBase")}
	madePolicy, err := clients.NewBackupPoliciesClient().CreateOrUpdate(ctx, group, vault, "daily", dp.BaseBackupPolicyResource{Properties: &dp.BackupPolicy{
		ObjectType: to.Ptr("BackupPolicy"), DatasourceTypes: []*string{to.Ptr("Microsoft.ContainerService/managedClusters")},
		PolicyRules: []dp.BasePolicyRuleClassification{
			&dp.AzureBackupRule{ObjectType: to.Ptr("AzureBackupRule"), Name: to.Ptr("BackupDaily"), DataStore: operational,
				BackupParameters: &dp.AzureBackupParams{ObjectType: to.Ptr("AzureBackupParams"), BackupType: to.Ptr("Incremental")},
				Trigger: &dp.ScheduleBasedTriggerContext{ObjectType: to.Ptr("ScheduleBasedTriggerContext"),
					Schedule:        &dp.BackupSchedule{RepeatingTimeIntervals: []*string{to.Ptr("R/2026-02-16T04:00:00+00:00/P1D")}},
					TaggingCriteria: []*dp.TaggingCriteria{{IsDefault: to.Ptr(true), TaggingPriority: to.Ptr[int64](99), TagInfo: &dp.RetentionTag{TagName: to.Ptr("Default")}}}}},
			&dp.AzureRetentionRule{ObjectType: to.Ptr("AzureRetentionRule"), Name: to.Ptr("Default"), IsDefault: to.Ptr(true),
				Lifecycles: []*dp.SourceLifeCycle{{SourceDataStore: operational, DeleteAfter: &dp.AbsoluteDeleteOption{ObjectType: to.Ptr("AbsoluteDeleteOption"), Duration: to.Ptr("P7D")}}}},
		}}}, nil)
	if err != nil {
		t.Fatal(err)
	}

	source := &dp.Datasource{ObjectType: to.Ptr("Datasource"), ResourceID: &clusterID, ResourceName: to.Ptr(armName), ResourceLocation: to.Ptr("eastus"),
		ResourceType: to.Ptr("Microsoft.ContainerService/managedClusters"), DatasourceType: to.Ptr("Microsoft.ContainerService/managedClusters")}
	set := &dp.DatasourceSet{ObjectType: to.Ptr("DatasourceSet"), ResourceID: &clusterID, ResourceName: to.Ptr(armName), ResourceLocation: to.Ptr("eastus"),
		ResourceType: source.ResourceType, DatasourceType: source.DatasourceType}
	properties := &dp.BackupInstance{ObjectType: to.Ptr("BackupInstance"), FriendlyName: to.Ptr("sdk"), DataSourceInfo: source, DataSourceSetInfo: set,
		PolicyInfo: &dp.PolicyInfo{PolicyID: madePolicy.ID, PolicyParameters: &dp.PolicyParameters{
			BackupDatasourceParametersList: []dp.BackupDatasourceParametersClassification{&dp.KubernetesClusterBackupDatasourceParameters{
				ObjectType: to.Ptr("KubernetesClusterBackupDatasourceParameters"), SnapshotVolumes: to.Ptr(true), IncludeClusterScopeResources: to.Ptr(false),
				IncludedNamespaces: []*string{to.Ptr("sdk")}}}}}}
	instances := clients.NewBackupInstancesClient()
	validating, err := instances.BeginValidateForBackup(ctx, group, vault, dp.ValidateForBackupRequest{BackupInstance: properties}, nil)
	follow(t, validating, err)
	const name = "aks-production-aks-production-8d0fd7e8-0d1c-4a55-8f0e-3b8c1e6f0a01"
	protecting, err := instances.BeginCreateOrUpdate(ctx, group, vault, name, dp.BackupInstanceResource{Properties: properties}, nil)
	follow(t, protecting, err)
	eventually(t, 2*time.Minute, "protection", func() error {
		got, err := instances.Get(ctx, group, vault, name, nil)
		if err != nil {
			return err
		}
		if s := *got.Properties.CurrentProtectionState; s != dp.CurrentProtectionStateProtectionConfigured {
			return &azcore.ResponseError{ErrorCode: string(s)}
		}
		return nil
	})

	backing, err := instances.BeginAdhocBackup(ctx, group, vault, name, dp.TriggerBackupRequest{BackupRuleOptions: &dp.AdHocBackupRuleOptions{
		RuleName: to.Ptr("BackupDaily"), TriggerOption: &dp.AdhocBackupTriggerOption{}}}, nil)
	started := follow(t, backing, err)
	sdkJob(t, clients, vault, *started.JobID)

	points := clients.NewRecoveryPointsClient().NewListPager(group, vault, name, nil)
	page, err := points.NextPage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Value) != 1 {
		t.Fatalf("%d recovery points", len(page.Value))
	}
	destroyWorkload(t, "sdk")
	request := &dp.AzureBackupRecoveryPointBasedRestoreRequest{
		ObjectType: to.Ptr("AzureBackupRecoveryPointBasedRestoreRequest"), RecoveryPointID: page.Value[0].Name, SourceResourceID: &clusterID,
		SourceDataStoreType: to.Ptr(dp.SourceDataStoreTypeOperationalStore),
		RestoreTargetInfo: &dp.ItemLevelRestoreTargetInfo{ObjectType: to.Ptr("ItemLevelRestoreTargetInfo"), RecoveryOption: to.Ptr(dp.RecoveryOptionFailIfExists),
			RestoreLocation: to.Ptr("eastus"), DatasourceInfo: source, DatasourceSetInfo: set,
			RestoreCriteria: []dp.ItemLevelRestoreCriteriaClassification{&dp.KubernetesClusterRestoreCriteria{ObjectType: to.Ptr("KubernetesClusterRestoreCriteria"),
				IncludeClusterScopeResources: to.Ptr(false), ConflictPolicy: to.Ptr(dp.ExistingResourcePolicySkip),
				PersistentVolumeRestoreMode: to.Ptr(dp.PersistentVolumeRestoreModeRestoreWithVolumeData)}}}}
	checking, err := instances.BeginValidateForRestore(ctx, group, vault, name, dp.ValidateRestoreRequestObject{RestoreRequestObject: request}, nil)
	follow(t, checking, err)
	restoring, err := instances.BeginTriggerRestore(ctx, group, vault, name, request, nil)
	restored := follow(t, restoring, err)
	sdkJob(t, clients, vault, *restored.JobID)
	checkWorkload(t, "sdk")
}

// worldVars are the variables of the world's environment.
func worldVars() map[string]string {
	vars := map[string]string{}
	for _, kv := range w.Env() {
		key, value, _ := strings.Cut(kv, "=")
		vars[key] = value
	}
	return vars
}

// trusting is a transport for Azure's clients that trusts this world's service.
func trusting(t *testing.T) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(worldVars()["SSL_CERT_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

// sdk makes the SDK's clients for this world.
func sdk(t *testing.T) *dp.ClientFactory {
	t.Helper()
	vars := worldVars()
	options := policy.ClientOptions{
		Transport: trusting(t),
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: vars["AZURE_AUTHORITY_HOST"], Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: vars["CAIRN_ENDPOINT"], Audience: "https://management.azure.com"}}},
	}
	credential, err := azidentity.NewClientSecretCredential(vars["AZURE_TENANT_ID"], vars["AZURE_CLIENT_ID"], vars["AZURE_CLIENT_SECRET"],
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	clients, err := dp.NewClientFactory(vars["AZURE_SUBSCRIPTION_ID"], credential, &arm.ClientOptions{ClientOptions: options})
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

// follow polls a long-running operation to its result.
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

// sdkJob waits until a job, named by its ARM ID, is Completed.
func sdkJob(t *testing.T, clients *dp.ClientFactory, vault, jobID string) {
	t.Helper()
	name := jobID[strings.LastIndex(jobID, "/")+1:]
	eventually(t, 3*time.Minute, "job "+name, func() error {
		got, err := clients.NewJobsClient().Get(t.Context(), group, vault, name, nil)
		if err != nil {
			return err
		}
		switch status := *got.Properties.Status; status {
		case "Completed":
			return nil
		case "InProgress":
			return errors.New(status)
		default:
			t.Fatalf("the job ended as %s: %+v", status, got.Properties.ErrorDetails)
			return nil
		}
	})
}
