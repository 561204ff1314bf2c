package backup_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
)

const (
	clusterID = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/prod"
	policyID  = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.DataProtection/backupVaults/v/backupPolicies/daily"
)

const guideInstance = `{"dataSourceInfo": {"resourceID": "` + clusterID + `", "objectType": "Datasource"},
  "policyInfo": {"policyId": "` + policyID + `"}, "objectType": "BackupInstance"}`

func readInstance(t *testing.T, body string) *backup.Instance {
	t.Helper()
	var i backup.Instance
	if err := backup.Decode([]byte(body), &i); err != nil {
		t.Fatal(err)
	}
	i.Complete()
	return &i
}

func TestInstanceIsCompleted(t *testing.T) {
	i := readInstance(t, guideInstance)
	if err := i.Validate("properties").Err(); err != nil {
		t.Fatal(err)
	}
	const want = `{
 "friendlyName": "prod/prod",
 "dataSourceInfo": {
  "resourceID": "` + clusterID + `",
  "resourceUri": "",
  "datasourceType": "Microsoft.ContainerService/managedClusters",
  "resourceName": "prod",
  "resourceType": "Microsoft.ContainerService/managedClusters",
  "resourceLocation": "",
  "objectType": "Datasource"
 },
 "dataSourceSetInfo": {
  "resourceID": "` + clusterID + `",
  "resourceUri": "",
  "datasourceType": "Microsoft.ContainerService/managedClusters",
  "resourceName": "prod",
  "resourceType": "Microsoft.ContainerService/managedClusters",
  "resourceLocation": "",
  "objectType": "DatasourceSet"
 },
 "policyInfo": {
  "policyId": "` + policyID + `",
  "policyParameters": {
   "dataStoreParametersList": [
    {
     "dataStoreType": "OperationalStore",
     "objectType": "AzureOperationalStoreParameters",
     "resourceGroupId": "/subscriptions/s/resourceGroups/rg"
    }
   ],
   "backupDatasourceParametersList": [
    {
     "objectType": "KubernetesClusterBackupDatasourceParameters",
     "includeClusterScopeResources": true,
     "snapshotVolumes": true,
     "includedNamespaces": null,
     "excludedNamespaces": null,
     "includedResourceTypes": null,
     "excludedResourceTypes": null,
     "labelSelectors": null,
     "includedVolumeTypes": null,
     "backupHookReferences": null
    }
   ]
  }
 },
 "objectType": "BackupInstance"
}`
	if diff := cmp.Diff(want, encode(t, i)); diff != "" {
		t.Error(diff)
	}
}

func TestEverySpellingOfTheClusterIsRead(t *testing.T) {
	for _, key := range []string{"resourceID", "resourceId", "resource_id", "RESOURCEID"} {
		i := readInstance(t, strings.Replace(guideInstance, "resourceID", key, 1))
		if string(i.ClusterID()) != clusterID {
			t.Errorf("%s: %q", key, i.ClusterID())
		}
	}
}

func TestWrongInstancesAreRefused(t *testing.T) {
	params := func(p string) string {
		return `"policyId": "` + policyID + `", "policyParameters": {"backupDatasourceParametersList": [` + p + `]}`
	}
	const ok = `"objectType":"KubernetesClusterBackupDatasourceParameters","snapshotVolumes":true,"includeClusterScopeResources":true`
	const at = "properties.policyInfo.policyParameters.backupDatasourceParametersList[0]"
	for name, c := range map[string]struct{ old, new, target string }{
		"no datasource":      {`"dataSourceInfo"`, `"nothing"`, "properties.dataSourceInfo"},
		"no cluster":         {`"resourceID": "` + clusterID + `", `, ``, "properties.dataSourceInfo.resourceID"},
		"not a cluster":      {clusterID, "/subscriptions/s/resourceGroups/rg", "properties.dataSourceInfo.resourceID"},
		"not an ID":          {clusterID, "prod", "properties.dataSourceInfo.resourceID"},
		"other object":       {`"BackupInstance"`, `"Sorcery"`, "properties.objectType"},
		"other datasource":   {`"Datasource"`, `"Database"`, "properties.dataSourceInfo.objectType"},
		"no policy":          {`"policyId"`, `"nothing"`, "properties.policyInfo.policyId"},
		"not a policy":       {policyID, clusterID, "properties.policyInfo.policyId"},
		"other parameters":   {`"policyId": "` + policyID + `"`, params(`{"objectType":"BlobBackupDatasourceParameters"}`), at + ".objectType"},
		"no snapshotVolumes": {`"policyId": "` + policyID + `"`, params(`{"objectType":"KubernetesClusterBackupDatasourceParameters","includeClusterScopeResources":true}`), at + ".snapshotVolumes"},
		"namespace":          {`"policyId": "` + policyID + `"`, params(`{` + ok + `,"includedNamespaces":["a","B_c"]}`), at + ".includedNamespaces[1]"},
		"in and out":         {`"policyId": "` + policyID + `"`, params(`{` + ok + `,"includedNamespaces":["a"],"excludedNamespaces":["a"]}`), at + ".includedNamespaces[0]"},
		"filter":             {`"policyId": "` + policyID + `"`, params(`{` + ok + `,"excludedResourceTypes":["v1/Secret"]}`), at + ".excludedResourceTypes"},
		"twice":              {`"policyId": "` + policyID + `"`, params(`{` + ok + `},{` + ok + `}`), "properties.policyInfo.policyParameters.backupDatasourceParametersList"},
	} {
		t.Run(name, func(t *testing.T) {
			problems := readInstance(t, strings.Replace(guideInstance, c.old, c.new, 1)).Validate("properties")
			for _, p := range problems {
				if p.Target == c.target && p.Status == 400 && p.Message != "" && len(p.RecommendedAction) > 0 {
					return
				}
			}
			t.Errorf("no problem with %s among %v", c.target, problems)
		})
	}
}

const point = "0123456789abcdef0123456789abcdef"

const guideRestore = `{"objectType": "AzureKubernetesServiceRestoreRequest", "recoveryPointId": "` + point + `",
  "restoreTargetInfo": {"restoreLocation": "eastus", "objectType": "RestoreTargetInfo",
    "targetDetails": {"targetResourceArmId": "` + clusterID + `", "fileShareOption": "CreateNewFileShares"}}}`

const azureRestore = `{"objectType": "AzureBackupRecoveryPointBasedRestoreRequest", "recoveryPointId": "` + point + `", "sourceDataStoreType": "OperationalStore",
  "restoreTargetInfo": {"objectType": "ItemLevelRestoreTargetInfo", "recoveryOption": "FailIfExists", "restoreLocation": "eastus",
    "datasourceInfo": {"objectType": "Datasource", "resourceId": "` + clusterID + `"},
    "restoreCriteria": [{"objectType": "KubernetesClusterRestoreCriteria", "includeClusterScopeResources": true, "conflictPolicy": "Skip",
      "persistentVolumeRestoreMode": "RestoreWithVolumeData", "includedNamespaces": null, "namespaceMappings": null, "stagingResourceGroupId": null}]}}`

func readRestore(t *testing.T, body string) *backup.RestoreRequest {
	t.Helper()
	var r backup.RestoreRequest
	if err := backup.Decode([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	r.Complete(&backup.Datasource{ResourceID: clusterID, ObjectType: "Datasource"})
	return &r
}

func TestGuidesRestoreMeansAzures(t *testing.T) {
	guide, azure := readRestore(t, guideRestore), readRestore(t, azureRestore)
	if err := guide.Validate("").Err(); err != nil {
		t.Fatal(err)
	}
	if err := azure.Validate("").Err(); err != nil {
		t.Fatal(err)
	}
	if guide.Target.Details.FileShareOption != "CreateNewFileShares" {
		t.Error("fileShareOption was lost")
	}
	guide.Target.Details = nil
	if diff := cmp.Diff(azure, guide); diff != "" {
		t.Error(diff)
	}
	if short := readRestore(t, `{"objectType":"AzureKubernetesServiceRestoreRequest","recoveryPointId":"`+point+`"}`); short.Validate("").Err() != nil || string(short.ClusterID()) != clusterID {
		t.Errorf("%+v", short)
	}
}

func TestWrongRestoresAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ old, new, target string }{
		"unknown type":    {"AzureBackupRecoveryPointBasedRestoreRequest", "Sorcery", "objectType"},
		"no type":         {`"objectType": "AzureBackupRecoveryPointBasedRestoreRequest", `, ``, "objectType"},
		"by time":         {"AzureBackupRecoveryPointBasedRestoreRequest", "AzureBackupRecoveryTimeBasedRestoreRequest", "objectType"},
		"no point":        {`"recoveryPointId": "` + point + `", `, ``, "recoveryPointId"},
		"not a point":     {point, "yesterday", "recoveryPointId"},
		"no store":        {`"sourceDataStoreType": "OperationalStore"`, `"x":1`, "sourceDataStoreType"},
		"vault store":     {`"OperationalStore"`, `"VaultStore"`, "sourceDataStoreType"},
		"no target":       {`"restoreTargetInfo"`, `"x"`, "restoreTargetInfo"},
		"files":           {"ItemLevelRestoreTargetInfo", "RestoreFilesTargetInfo", "restoreTargetInfo.objectType"},
		"no option":       {`"recoveryOption": "FailIfExists"`, `"x":1`, "restoreTargetInfo.recoveryOption"},
		"no cluster":      {`"datasourceInfo"`, `"x"`, "restoreTargetInfo.datasourceInfo"},
		"no criteria":     {`"restoreCriteria"`, `"x"`, "restoreTargetInfo.restoreCriteria"},
		"other criteria":  {"KubernetesClusterRestoreCriteria", "KubernetesPVRestoreCriteria", "restoreTargetInfo.restoreCriteria[0].objectType"},
		"no scope switch": {`"includeClusterScopeResources": true`, `"x":1`, "restoreTargetInfo.restoreCriteria[0].includeClusterScopeResources"},
		"conflict":        {`"Skip"`, `"Overwrite"`, "restoreTargetInfo.restoreCriteria[0].conflictPolicy"},
		"patch":           {`"Skip"`, `"Patch"`, "restoreTargetInfo.restoreCriteria[0].conflictPolicy"},
		"volume mode":     {"RestoreWithVolumeData", "RestoreMaybe", "restoreTargetInfo.restoreCriteria[0].persistentVolumeRestoreMode"},
		"mapping":         {`"namespaceMappings": null`, `"namespaceMappings": {"a_b":"c"}`, "restoreTargetInfo.restoreCriteria[0].namespaceMappings"},
		"namespace":       {`"includedNamespaces": null`, `"includedNamespaces": ["*"]`, "restoreTargetInfo.restoreCriteria[0].includedNamespaces[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			problems := readRestore(t, strings.Replace(azureRestore, c.old, c.new, 1)).Validate("")
			for _, p := range problems {
				if p.Target == c.target && p.Status == 400 && p.Message != "" && len(p.RecommendedAction) > 0 {
					return
				}
			}
			t.Errorf("no problem with %s among %v", c.target, problems)
		})
	}
}

func TestFilters(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2026, 5, d, 0, 0, 0, 0, time.UTC) }
	type terms = arm.Filter
	eq := func(name, value string) arm.Comparison {
		return arm.Comparison{Name: name, Operator: "eq", Value: value}
	}
	for _, c := range []struct {
		terms terms
		want  backup.Filter
	}{
		{nil, backup.Filter{}},
		{terms{eq("startdate", "2026-05-01T00:00:00.0000000Z"), eq("enddate", "2026-05-31T00:00:00.0000000Z")}, backup.Filter{Start: day(1), End: day(31)}},
		{terms{{Name: "startdate", Operator: "ge", Value: "2026-05-11T00:00:00"}}, backup.Filter{Start: day(11)}},
		{terms{{Name: "enddate", Operator: "le", Value: "2026-05-10"}}, backup.Filter{End: day(10)}},
		{terms{eq("isvisible", "true")}, backup.Filter{}},
		{terms{eq("isvisible", "false")}, backup.Filter{None: true}},
		{terms{eq("restorepointdatastoreid", "VaultStore")}, backup.Filter{None: true}},
		{terms{eq("restorepointstate", "Completed"), eq("extendedinfo", "")}, backup.Filter{}},
	} {
		if f, err := backup.NewFilter(c.terms); err != nil || f != c.want {
			t.Errorf("%v: %v, %v", c.terms, f, err)
		}
	}
	for _, wrong := range []terms{{eq("startdate", "soon")}, {eq("colour", "red")}, {eq("startdate", "2026-05-10"), eq("startdate", "2026-05-11")},
		{{Name: "startdate", Operator: "le", Value: "2026-05-10"}}, {{Name: "isvisible", Operator: "ne", Value: "true"}}} {
		_, err := backup.NewFilter(wrong)
		requireBadRequest(t, err)
	}
}

func TestVaultsAreCompletedAndChecked(t *testing.T) {
	read := func(body string) *backup.Vault {
		var v backup.Vault
		if err := backup.Decode([]byte(body), &v); err != nil {
			t.Fatal(err)
		}
		v.Complete()
		return &v
	}
	v := read(`{"storageSettings":[{"datastoreType":"vaultstore","type":"locallyredundant"}]}`)
	if err := v.Validate().Err(); err != nil {
		t.Fatal(err)
	}
	const want = `{
 "storageSettings": [
  {
   "datastoreType": "VaultStore",
   "type": "LocallyRedundant"
  }
 ],
 "securitySettings": {
  "softDeleteSettings": {
   "state": "Off",
   "retentionDurationInDays": 14.0
  }
 },
 "isVaultProtectedByResourceGuard": false,
 "secureScore": "None",
 "bcdrSecurityLevel": "Poor",
 "replicatedRegions": []
}`
	if diff := cmp.Diff(want, encode(t, v)); diff != "" {
		t.Error(diff)
	}
	for body, target := range map[string]string{
		`{}`: "properties.storageSettings",
		`{"storageSettings":[{"datastoreType":"VaultStore"}]}`: "properties.storageSettings[0].type",
		`{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}],"securitySettings":{"softDeleteSettings":{"state":"Maybe"}}}`:                                               "properties.securitySettings.softDeleteSettings.state",
		`{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}],"securitySettings":{"softDeleteSettings":{"state":"On","retentionDurationInDays":3}}}`:                      "properties.securitySettings.softDeleteSettings.retentionDurationInDays",
		`{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}],"securitySettings":{"encryptionSettings":{"state":"Enabled","keyVaultProperties":{"keyUri":"https://k"}}}}`: "properties.securitySettings.encryptionSettings",
	} {
		problems := read(body).Validate()
		if len(problems) != 1 || problems[0].Target != target {
			t.Errorf("%s: %v", body, problems)
		}
	}
	locked := read(`{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}],"securitySettings":{"softDeleteSettings":{"state":"AlwaysOn"}}}`)
	if err := locked.CheckChange(v); err == nil {
		t.Error("soft delete was turned off")
	}
	if err := v.CheckChange(locked); err != nil {
		t.Error(err)
	}
}

// TestOneWaySettingsStay tries to undo each setting that cannot be undone.
func TestOneWaySettingsStay(t *testing.T) {
	with := func(settings string) *backup.Vault {
		t.Helper()
		in, err := backup.DecodeInput[backup.Vault]([]byte(`{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}],` + settings + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Properties.Validate().Err(); err != nil {
			t.Fatal(err)
		}
		return in.Properties
	}
	for target, c := range map[string]struct{ settings, final, other string }{
		"properties.securitySettings.softDeleteSettings.state":              {`"securitySettings":{"softDeleteSettings":{"state":"%s"}}`, "AlwaysOn", "On"},
		"properties.securitySettings.immutabilitySettings.state":            {`"securitySettings":{"immutabilitySettings":{"state":"%s"}}`, "Locked", "Unlocked"},
		"properties.featureSettings.crossRegionRestoreSettings.state":       {`"featureSettings":{"crossRegionRestoreSettings":{"state":"%s"}}`, "Enabled", "Disabled"},
		"properties.featureSettings.crossSubscriptionRestoreSettings.state": {`"featureSettings":{"crossSubscriptionRestoreSettings":{"state":"%s"}}`, "PermanentlyDisabled", "Disabled"},
	} {
		final, other := with(fmt.Sprintf(c.settings, c.final)), with(fmt.Sprintf(c.settings, c.other))
		for _, next := range []*backup.Vault{other, with(`"featureSettings":{}`)} {
			var e *arm.Error
			if err := final.CheckChange(next); !errors.As(err, &e) || e.Target != target || len(e.RecommendedAction) == 0 {
				t.Errorf("%s was undone: %v", target, err)
			}
		}
		for _, allowed := range []error{final.CheckChange(final), other.CheckChange(final)} {
			if allowed != nil {
				t.Errorf("%s: %v", target, allowed)
			}
		}
	}
}

func FuzzRestore(f *testing.F) {
	f.Add([]byte(guideRestore))
	f.Add([]byte(azureRestore))
	f.Fuzz(func(t *testing.T, body []byte) {
		var r backup.RestoreRequest
		if err := backup.Decode(body, &r); err != nil {
			requireBadRequest(t, err)
			return
		}
		r.Complete(&backup.Datasource{ResourceID: clusterID})
		if err := r.Validate("restoreRequestObject").Err(); err != nil {
			requireBadRequest(t, err)
			return
		}
		r.ClusterID()
		r.RestoresVolumeData()
	})
}

func FuzzInstance(f *testing.F) {
	f.Add([]byte(guideInstance))
	f.Fuzz(func(t *testing.T, body []byte) {
		var i backup.Instance
		if err := backup.Decode(body, &i); err != nil {
			requireBadRequest(t, err)
			return
		}
		i.Complete()
		if err := i.Validate("properties").Err(); err != nil {
			requireBadRequest(t, err)
			return
		}
		i.Scope()
		if i.ClusterID() == "" || i.PolicyID() == "" {
			t.Fatal("a valid instance without a cluster or a policy")
		}
	})
}
