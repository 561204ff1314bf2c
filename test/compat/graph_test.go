package compat_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// TestResourceGraph sends the queries of az's list-from-resourcegraph commands.
func TestResourceGraph(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	first := w.start(t, "/backup", adhoc)
	w.finish(t, first)
	w.cluster.answer("Backup", refused("UserErrorBackupStorageLocationNotReady", "the container does not answer", "Start it."))
	second := w.start(t, "/backup", adhoc)
	began := w.finish(t, second).At("properties", "startTime")
	const (
		instances = "RecoveryServicesResources | where type =~ 'microsoft.dataprotection/backupvaults/backupinstances'" +
			"| extend vaultName = split(split(id, '/Microsoft.DataProtection/backupVaults/')[1],'/')[0]| extend protectionState = properties.currentProtectionState" +
			"| extend datasourceId = properties.dataSourceInfo.resourceID | where properties.dataSourceInfo.datasourceType in~ ('Microsoft.ContainerService/managedClusters')"
		jobs = "RecoveryServicesResources | where type =~ 'microsoft.dataprotection/backupvaults/backupjobs'| extend vaultName = properties.vaultName| extend status = properties.status" +
			"| extend operation = case( tolower(properties.operationCategory) startswith 'backup' and properties.isUserTriggered == 'true', strcat('OnDemand',properties.operationCategory)" +
			", tolower(properties.operationCategory) startswith 'backup' and properties.isUserTriggered == 'false', strcat('Scheduled', properties.operationCategory)" +
			", type =~ 'microsoft.dataprotection/backupVaults/backupJobs', properties.operationCategory, 'Invalid')| extend datasourceId = properties.dataSourceId"
	)
	ask := func(query string) daemontest.Answer {
		return w.Do("POST", "/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01", map[string]any{
			"subscriptions": []string{w.Env["AZURE_SUBSCRIPTION_ID"]}, "query": query, "options": map[string]any{"$top": 1000, "$skip": 0, "resultFormat": "objectArray"}})
	}
	for query, want := range map[string][]string{
		instances: {w.instance},
		instances + " | where resourceGroup in~ ('RG-PROD') | where vaultName in~ ('other','" + vaultName + "') | where protectionState in~ ('ProtectionConfigured') | where datasourceId in~ ('" + strings.ToUpper(w.cluster.id) + "') | where name in~ ('prod')": {w.instance},
		instances + " | where protectionState in~ ('ProtectionStopped')": {},
		jobs: {second, first},
		jobs + " | where operation in~ ('OnDemandBackup') | where status in~ ('failed')":                       {second},
		jobs + " | where operation in~ ('ScheduledBackup')":                                                    {},
		fmt.Sprintf("%s| where properties.startTime >= datetime(%v)", jobs, began):                             {second},
		fmt.Sprintf("%s| where properties.startTime < datetime(%v)", jobs, began):                              {first},
		"resources | where type =~ 'microsoft.dataprotection/backupvaults' | where id in~ ('" + w.vault + "')": {w.vault},
		"resources | where type =~ 'microsoft.compute/virtualmachines'":                                        {},
	} {
		got := ask(query).Want(200)
		ids := []string{}
		data, _ := got.At("data").([]any)
		for _, row := range data {
			ids = append(ids, fmt.Sprint(row.(map[string]any)["id"]))
		}
		if !slices.Equal(ids, want) || got.At("count") != float64(len(want)) || got.At("totalRecords") != float64(len(want)) {
			t.Errorf("%s: %v, want %v", query, got.JSON, want)
		}
	}
	row := ask(instances).Want(200)
	for name, want := range map[string]any{"vaultName": vaultName, "protectionState": "ProtectionConfigured", "datasourceId": w.cluster.id, "resourceGroup": group, "location": location,
		"type": "microsoft.dataprotection/backupvaults/backupinstances", "subscriptionId": w.Env["AZURE_SUBSCRIPTION_ID"], "tenantId": w.Env["AZURE_TENANT_ID"]} {
		if got := row.At("data", 0, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if got := ask("resources | where type =~ 'microsoft.dataprotection/backupvaults'").At("data", 0, "properties", "securitySettings", "softDeleteSettings", "state"); got != "Off" {
		t.Errorf("a vault's properties: %v", got)
	}
	// What is not understood is not passed over.
	for _, wrong := range []string{jobs + " | summarize count() by status", jobs + " | where status !in~ ('Failed')", jobs + " | where properties.startTime > datetime(soon)", "RecoveryServicesResources", ""} {
		if got := ask(wrong); got.Status != 400 {
			t.Errorf("%s: %d %v", wrong, got.Status, got.JSON)
		}
	}
	// Who may not read does not see.
	p, secret := newPrincipal(t, w.World, "nobody")
	token := w.Token(p.Client, secret, "https://management.azure.com")
	for _, query := range []string{instances, jobs, "resources | where type =~ 'microsoft.dataprotection/backupvaults'"} {
		if got := w.As(token, "POST", "/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01", map[string]any{"query": query}).Want(200); got.At("count") != 0.0 {
			t.Errorf("%s: %v", query, got.JSON)
		}
	}
}
