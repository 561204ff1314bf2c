package compat_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// changing are what differs from run to run: GUIDs, recovery points' names, times, and ETags.
var changing = []struct {
	pattern *regexp.Regexp
	word    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "GUID"},
	{regexp.MustCompile(`"W/\\".*\\""`), `"ETAG"`},
	{regexp.MustCompile(`\b[0-9a-f]{32}\b`), "HEX"},
	{regexp.MustCompile(`"PT[0-9.]*S"`), `"DURATION"`},
	{regexp.MustCompile(`"[0-9]{18}"`), `"TICKS"`},
	{regexp.MustCompile(`"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:.]*Z"`), `"TIME"`},
	{regexp.MustCompile(`https://localhost:[0-9]+`), "https://HOST"},
	{regexp.MustCompile(`[A-Za-z0-9]{96,}=*`), "OPERATION"},
}

// golden compares an answer with testdata; UPDATE=1 writes it.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	body, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	text := string(body) + "\n"
	for _, c := range changing {
		text = c.pattern.ReplaceAllString(text, c.word)
	}
	file := filepath.Join("testdata", name+".json")
	if os.Getenv("UPDATE") == "1" {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

// sdkReads decodes an answer into the SDK's model and encodes it again: what was not null must come out the same.
func sdkReads(t *testing.T, name string, a daemontest.Answer, model any) {
	t.Helper()
	body, err := json.Marshal(a.JSON)
	if err != nil {
		t.Fatal(err)
	}
	unmarshal(t, body, model)
	if _, err := survives(body, model); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// withoutOurs takes away what stands beside Azure's shape.
func withoutOurs(v any) any {
	switch node := v.(type) {
	case []any:
		for _, child := range node {
			withoutOurs(child)
		}
	case map[string]any:
		delete(node, "cairn")
		for _, child := range node {
			withoutOurs(child)
		}
	}
	return v
}

// TestShapes holds every answer to its golden file, but for what changes from run to run, and lets Azure's SDK read it.
func TestShapes(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	vault := w.Do("GET", w.vault, nil).Want(200)
	hide := strings.NewReplacer(w.Env["AZURE_SUBSCRIPTION_ID"], "GUID")
	show := func(name string, a daemontest.Answer, model any) {
		t.Helper()
		body, err := json.Marshal(a.JSON)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		unmarshal(t, []byte(hide.Replace(string(body))), &v)
		golden(t, name, withoutOurs(v)) // ours tells of today
		if model != nil {
			sdkReads(t, name, a, model)
		}
	}
	show("vault", vault, &dp.BackupVaultResource{})
	show("policy", w.Do("GET", w.vault+"/backupPolicies/"+policyName, nil).Want(200), &dp.BaseBackupPolicyResource{})
	w.cluster.hold("ValidateForBackup")
	show("instance-new", w.Do("PUT", w.instance, w.instanceBody()).Want(201), &dp.BackupInstanceResource{})
	w.cluster.say(w.cluster.next("ValidateForBackup"), completed(w.nothing())[0])
	show("instance", w.Do("GET", w.instance, nil).Want(200), &dp.BackupInstanceResource{})

	w.cluster.hold("Backup")
	job := w.start(t, "/backup", adhoc)
	show("job-new", w.Do("GET", job, nil).Want(200), &dp.AzureBackupJobResource{})
	r := w.cluster.next("Backup")
	w.cluster.say(r, uploading(40))
	show("job-running", w.Do("GET", job, nil).Want(200), &dp.AzureBackupJobResource{})
	done := committed("CompletedWithWarnings")
	done.Warnings = warnings
	done.WarningCount = 1
	w.cluster.say(r, done)
	show("job", w.Do("GET", job, nil).Want(200), &dp.AzureBackupJobResource{})
	show("recovery-points", w.Do("GET", w.instance+"/recoveryPoints?$filter=", nil).Want(200), &dp.AzureBackupRecoveryPointResourceList{})
	point := fmt.Sprint(w.points(t)[0].(map[string]any)["name"])
	show("recovery-point", w.Do("GET", w.instance+"/recoveryPoints/"+point, nil).Want(200), &dp.AzureBackupRecoveryPointResource{})
	restore := w.finish(t, w.start(t, "/restore", strings.NewReplacer("CLUSTER", w.cluster.id, "POINT", point).Replace(guideRestore)))
	show("job-restore", restore, &dp.AzureBackupJobResource{})
	show("features", w.Do("POST", w.Subscription+"/providers/Microsoft.DataProtection/locations/eastus/checkFeatureSupport",
		`{"objectType":"FeatureValidationRequest","featureType":"DataSourceType","featureName":"Microsoft.ContainerService/managedClusters"}`).Want(200), nil)
	show("name", w.Do("POST", w.Subscription+"/resourceGroups/"+group+"/providers/Microsoft.DataProtection/locations/eastus/checkNameAvailability",
		`{"name":"`+vaultName+`","type":"Microsoft.DataProtection/BackupVaults"}`).Want(200), &dp.CheckNameAvailabilityResult{})
	show("error", w.Do("POST", w.instance+"/backup", strings.Replace(adhoc, "BackupDaily", "Never", 1)), nil)
	operations, ok := w.Do("GET", "/providers/Microsoft.DataProtection/operations", nil).Want(200).At("value").([]any)
	if !ok || !slices.ContainsFunc(operations, func(o any) bool {
		return o.(map[string]any)["name"] == "Microsoft.DataProtection/backupVaults/backupInstances/backup/action"
	}) {
		t.Errorf("the operations: %v", operations)
	}
	for path, n := range map[string]int{w.vault + "/backupJobs": 2, w.vault + "/backupInstances": 1, w.vault + "/backupPolicies": 1,
		w.Subscription + "/providers/Microsoft.DataProtection/backupVaults":                              1,
		w.Subscription + "/resourcegroups/" + group + "/providers/microsoft.dataprotection/BACKUPVAULTS": 1} {
		if list, ok := w.Do("GET", path, nil).Want(200).At("value").([]any); !ok || len(list) != n {
			t.Errorf("%s has %d elements, want %d", path, len(list), n)
		}
	}
}

// TestLongRunningOperations follows operations by every address that Azure's clients know.
func TestLongRunningOperations(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.cluster.hold("ValidateForBackup")
	validation := map[string]any{"backupInstance": w.instanceBody()["properties"]}
	// The client's own name of the host comes back.
	a := w.Do("POST", strings.Replace(w.Env["CAIRN_ENDPOINT"], "localhost", "127.0.0.1", 1)+w.vault+"/validateForBackup", validation).Want(202)
	operation, result := a.Header.Get("Azure-AsyncOperation"), a.Header.Get("Location")
	if a.JSON != nil || a.Header.Get("Retry-After") != "1" || !strings.HasPrefix(operation, "https://127.0.0.1:") || !strings.HasPrefix(result, "https://127.0.0.1:") {
		t.Fatalf("the answer: %v %v", a.Header, a.JSON)
	}
	u, err := url.Parse(operation)
	if err != nil {
		t.Fatal(err)
	}
	id := u.Path[strings.LastIndexByte(u.Path, '/')+1:]
	rg := w.Subscription + "/resourceGroups/" + group + "/providers/Microsoft.DataProtection"
	bases := []string{w.vault, rg, rg + "/locations/eastus", w.Subscription + "/providers/Microsoft.DataProtection/locations/eastus"}
	for _, base := range bases {
		status := w.Do("GET", base+"/operationStatus/"+id, nil).Want(200)
		if status.At("status") != "Inprogress" || status.At("endTime") != "0001-01-01T00:00:00Z" || status.At("name") != id ||
			status.At("id") != base+"/operationStatus/"+id || status.Header.Get("Retry-After") != "1" || status.At("properties") != nil {
			t.Errorf("%s: %v", base, status.JSON)
		}
		pending := w.Do("GET", base+"/operationResults/"+id, nil).Want(202)
		if pending.Header.Get("Retry-After") != "1" || pending.Header.Get("Location") == "" {
			t.Errorf("%s: %v", base, pending.Header)
		}
	}
	w.cluster.say(w.cluster.next("ValidateForBackup"), completed(w.nothing())[0])
	for _, base := range bases {
		if status := w.Do("GET", base+"/operationStatus/"+id, nil).Want(200); status.At("status") != "Succeeded" || status.At("properties") != nil {
			t.Errorf("%s: %v", base, status.JSON)
		}
		done := w.Do("GET", base+"/operationResults/"+id, nil).Want(200)
		if base != w.vault && done.At("objectType") != "OperationJobExtendedInfo" || base == w.vault && done.At("name") != vaultName {
			t.Errorf("%s: %v", base, done.JSON)
		}
	}
	w.cluster.answer("ValidateForBackup", completed)
	made := w.Do("PUT", w.instance, w.instanceBody()).Want(201)
	if made.Header.Get("Location") != "" || made.Header.Get("Retry-After") != "1" {
		t.Errorf("the headers of an instance's PUT: %v", made.Header)
	}
	w.awaitState(t, w.instance, "ProtectionConfigured")
	started := w.Do("POST", w.instance+"/backup", adhoc).Want(202)
	status, outcome := w.Do("GET", started.Header.Get("Azure-AsyncOperation"), nil).Want(200), w.Do("GET", started.Header.Get("Location"), nil).Want(200)
	job := status.At("properties", "jobId")
	if status.At("status") != "Succeeded" || job != outcome.At("jobId") || !strings.HasPrefix(fmt.Sprint(job), w.vault+"/backupJobs/") {
		t.Errorf("the backup's operation: %v, %v", status.JSON, outcome.JSON)
	}
	w.Do("GET", fmt.Sprint(job), nil).Want(200)
	w.Do("GET", strings.Replace(w.vault, vaultName, "other", 1)+"/operationStatus/"+id, nil).Want(404)
}

// TestGuidesBodies sends what people find in guides, in the forms that az and az's files have.
func TestGuidesBodies(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	guide, err := os.ReadFile("testdata/guide-policy.json")
	if err != nil {
		t.Fatal(err)
	}
	unwrapped := w.Do("PUT", w.vault+"/backupPolicies/aks-daily-30d", string(guide)).Want(200)
	if unwrapped.At("properties", "objectType") != "BackupPolicy" || unwrapped.At("properties", "policyRules", 1, "trigger", "taggingCriteria", 0, "tagInfo", "id") != "Default_" {
		t.Errorf("the policy: %v", unwrapped.JSON)
	}
	w.Do("PUT", w.vault+"/backupPolicies/aks-daily-30d", `{"properties":`+string(guide)+`}`).Want(200)
	snake := `{"backup_instance_name":"prod","objectType":"BackupInstanceResource","properties":{"object_type":"BackupInstance",
		"data_source_info":{"object_type":"Datasource","resource_id":"` + w.cluster.id + `","datasource_type":"AzureKubernetesService","resource_name":"prod"},
		"policy_info":{"policy_id":"` + w.vault + `/backupPolicies/aks-daily-30d","policy_parameters":{"data_store_parameters_list":null,
		"backup_datasource_parameters_list":[{"object_type":"KubernetesClusterBackupDatasourceParameters","snapshot_volumes":true,"include_cluster_scope_resources":true,
		"included_namespaces":["shop"],"label_selectors":null}]}},"datasource_auth_credentials":null},"tags":{"cost_center":"7"}}`
	made := w.Do("PUT", w.instance, snake).Want(201)
	if made.At("properties", "dataSourceInfo", "resourceID") != w.cluster.id || made.At("tags", "cost_center") != "7" || made.At("properties", "dataSourceSetInfo", "objectType") != "DatasourceSet" ||
		made.At("properties", "policyInfo", "policyParameters", "backupDatasourceParametersList", 0, "includedNamespaces", 0) != "shop" || made.At("properties", "friendlyName") != "prod/prod" {
		t.Errorf("the instance: %v", made.JSON)
	}
	w.awaitState(t, w.instance, "ProtectionConfigured")
	w.finish(t, w.start(t, "/backup", adhoc))
	point := w.points(t)[0].(map[string]any)
	name, friendly := fmt.Sprint(point["name"]), point["properties"].(map[string]any)["friendlyName"]
	if friendly != "2026-11-22T10:30:00Z" {
		t.Errorf("the recovery point's friendly name is %v", friendly)
	}
	body := strings.NewReplacer("CLUSTER", w.cluster.id, "POINT", name).Replace(guideRestore)
	w.Do("POST", w.instance+"/validateRestore", `{"restoreRequestObject":`+body+`}`).Want(202)
	if job := w.finish(t, w.start(t, "/restore", body)); job.At("properties", "status") != "Completed" || job.At("properties", "extendedInfo", "additionalDetails", "FileShareOption") != "CreateNewFileShares" {
		t.Errorf("the restore: %v", job.JSON)
	}
}
