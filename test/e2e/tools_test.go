package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// bash runs a command line in the world's environment and returns what it prints on both streams.
func bash(ctx context.Context, script string) (string, error) {
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Env = w.Env()
	cmd.Dir = w.Repo
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sh runs a command line that must succeed, and returns its standard output without the last newline.
func sh(t *testing.T, script string) string {
	t.Helper()
	// Cleanups use it too, when the test's context is over.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "bash", "-euo", "pipefail", "-c", script)
	cmd.Env = w.Env()
	cmd.Dir = w.Repo
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s\n%v\n%s%s", script, err, out, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n")
}

// shJSON runs a command line that prints JSON, into value.
func shJSON(t *testing.T, value any, script string) {
	t.Helper()
	out := sh(t, script)
	if err := json.Unmarshal([]byte(out), value); err != nil {
		t.Fatalf("%s\n%v in\n%s", script, err, out)
	}
}

// The e2e tests' own vault, policy and instance.
const (
	vault    = "e2e-vault"
	group    = "rg-aks-production"
	armName  = "aks-production"
	instance = "e2e-instance"
)

// where are the flags that name the vault.
const where = " -g " + group + " --vault-name " + vault + " "

// protect makes vault, policy, extension and instance, unless they are there, and waits until protection is configured.
func protect(t *testing.T) {
	t.Helper()
	if _, err := bash(t.Context(), "az dataprotection backup-instance show"+where+"-n "+instance); err == nil {
		return
	}
	sh(t, `
		if ! az aks extension show -g rg-aks-production --cluster-name aks-production --name azure-aks-backup >/dev/null 2>&1; then
			az storage account create -g rg-aks-production -n e2eaccount -l eastus --sku Standard_LRS >/dev/null
			az storage container create -n e2e --account-name e2eaccount >/dev/null
			az aks extension create -g rg-aks-production --cluster-name aks-production --name azure-aks-backup \
				--extension-type microsoft.dataprotection.kubernetes --scope cluster --configuration-settings \
				blobContainer=e2e storageAccount=e2eaccount storageAccountResourceGroup=rg-aks-production \
				storageAccountSubscriptionId=$(az account show --query id -o tsv) >/dev/null
		fi`)
	sh(t, "az dataprotection backup-vault create"+where+`-l eastus --type SystemAssigned --soft-delete-state Off --storage-setting "[{type:LocallyRedundant,datastore-type:VaultStore}]"`)
	sh(t, "az role assignment create --role Reader --assignee-principal-type ServicePrincipal --scope "+clusterID(t)+
		" --assignee-object-id $(az dataprotection backup-vault show"+where+"--query identity.principalId -o tsv)")
	makeInstance(t, instance, `{"snapshotVolumes":true,"includeClusterScopeResources":true}`)
}

// makeInstance makes a backup instance, never backed up by itself, of the cluster with the given Kubernetes parameters (JSON, without objectType), and a policy for it alone: in one
// vault a cluster may have several instances, each with a policy of its own.
func makeInstance(t *testing.T, name, parameters string) {
	t.Helper()
	// Nothing happens by itself in a test that does not ask for it.
	makeInstanceAt(t, name, parameters, time.Date(2090, 1, 1, 4, 0, 0, 0, time.UTC))
}

// makeInstanceAt makes one whose first scheduled backup is due at slot.
func makeInstanceAt(t *testing.T, name, parameters string, slot time.Time) {
	t.Helper()
	policy, err := os.ReadFile("testdata/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "az dataprotection backup-policy create"+where+"-n "+name+" --policy '"+strings.ReplaceAll(string(policy), "SLOT", slot.Format(time.RFC3339))+"'")
	id := clusterID(t)
	subscription := sh(t, "az account show --query id -o tsv")
	var p map[string]any
	if err := json.Unmarshal([]byte(parameters), &p); err != nil {
		t.Fatal(err)
	}
	p["objectType"] = "KubernetesClusterBackupDatasourceParameters"
	source := map[string]any{"objectType": "Datasource", "resourceID": id, "resourceUri": id, "resourceName": armName, "resourceLocation": "eastus",
		"datasourceType": "Microsoft.ContainerService/managedClusters", "resourceType": "Microsoft.ContainerService/managedClusters"}
	body, err := json.Marshal(map[string]any{"backup_instance_name": name, "properties": map[string]any{
		"objectType": "BackupInstance", "friendlyName": name, "dataSourceInfo": source,
		"policyInfo": map[string]any{
			"policyId":         fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.DataProtection/backupVaults/%s/backupPolicies/%s", subscription, group, vault, name),
			"policyParameters": map[string]any{"backupDatasourceParametersList": []any{p}},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "az dataprotection backup-instance create"+where+"--backup-instance '"+string(body)+"'")
	eventually(t, 2*time.Minute, "protection of "+name, func() error {
		state := sh(t, "az dataprotection backup-instance show"+where+"-n "+name+" --query properties.currentProtectionState -o tsv")
		if state != "ProtectionConfigured" {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})
}

func clusterID(t *testing.T) string {
	t.Helper()
	return sh(t, "az aks show -g "+group+" -n "+armName+" --query id -o tsv")
}

// job is what the tests read of a job.
type job struct {
	Name       string
	Properties struct {
		Status          string
		IsUserTriggered bool
		ErrorDetails    []issue
		ExtendedInfo    struct {
			TargetRecoverPoint *struct{ RecoveryPointID string }
			WarningDetails     []struct {
				ResourceName string
				Warning      issue
			}
			SubTasks          []struct{ TaskName, TaskStatus string }
			AdditionalDetails map[string]string
		}
	}
}

type issue struct {
	Code, Message     string
	RecommendedAction []string
}

// finish waits for a job to end and returns it.
func finish(t *testing.T, jobID string) job {
	t.Helper()
	name := jobID[strings.LastIndex(jobID, "/")+1:]
	var j job
	eventually(t, 5*time.Minute, "job "+name, func() error {
		shJSON(t, &j, "az dataprotection job show"+where+"--job-id "+name)
		if j.Properties.Status == "InProgress" || j.Properties.Status == "Cancelling" {
			return fmt.Errorf("still in progress: %+v", j.Properties.ExtendedInfo.SubTasks)
		}
		return nil
	})
	return j
}

// backup takes an on-demand backup of an instance, to its end, and returns its job and recovery point.
func backup(t *testing.T, instance string) (job, string) {
	t.Helper()
	j := finish(t, startBackup(t, instance))
	if p := j.Properties.ExtendedInfo.TargetRecoverPoint; p != nil {
		return j, p.RecoveryPointID
	}
	return j, ""
}

func startBackup(t *testing.T, instance string) string {
	t.Helper()
	waitExtension(t)
	return sh(t, "az dataprotection backup-instance adhoc-backup"+where+"-n "+instance+" --rule-name BackupDaily --query jobId -o tsv")
}

// restore restores namespaces of a recovery point to the same cluster, to its end.
func restore(t *testing.T, instance, recoveryPoint string, namespaces ...string) job {
	t.Helper()
	return finish(t, startRestore(t, instance, recoveryPoint, namespaces...))
}

func startRestore(t *testing.T, instance, recoveryPoint string, namespaces ...string) string {
	t.Helper()
	waitExtension(t)
	return sh(t, restoreLine(t, instance, recoveryPoint, namespaces...)+" --query jobId -o tsv")
}

// restoreLine is the command that starts a restore.
func restoreLine(t *testing.T, instance, recoveryPoint string, namespaces ...string) string {
	t.Helper()
	id := clusterID(t)
	source := map[string]any{"objectType": "Datasource", "resourceID": id, "resourceName": armName, "resourceLocation": "eastus",
		"datasourceType": "Microsoft.ContainerService/managedClusters", "resourceType": "Microsoft.ContainerService/managedClusters"}
	body, err := json.Marshal(map[string]any{
		"objectType": "AzureBackupRecoveryPointBasedRestoreRequest", "recoveryPointId": recoveryPoint,
		"sourceDataStoreType": "OperationalStore", "sourceResourceId": id,
		"restoreTargetInfo": map[string]any{"objectType": "ItemLevelRestoreTargetInfo", "recoveryOption": "FailIfExists", "restoreLocation": "eastus", "datasourceInfo": source,
			"restoreCriteria": []any{map[string]any{"objectType": "KubernetesClusterRestoreCriteria", "includeClusterScopeResources": true,
				"conflictPolicy": "Skip", "persistentVolumeRestoreMode": "RestoreWithVolumeData", "includedNamespaces": namespaces}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return "az dataprotection backup-instance restore trigger" + where + "-n " + instance + " --restore-request-object '" + string(body) + "'"
}

// waitExtension waits until the service holds the extension for healthy: it refuses new work for a moment after a pod was killed.
func waitExtension(t *testing.T) {
	t.Helper()
	eventually(t, 2*time.Minute, "a healthy extension", func() error {
		out, err := bash(t.Context(), "kubectl -n dataprotection-microsoft wait --for=condition=Available deployment --all --timeout=1s")
		if err != nil {
			return errors.New(out)
		}
		var e struct{ Statuses []struct{ Message string } } // empty while all is well
		shJSON(t, &e, "az aks extension show -g "+group+" --cluster-name "+armName+" --name azure-aks-backup")
		for _, s := range e.Statuses {
			return errors.New(s.Message)
		}
		return nil
	})
}
