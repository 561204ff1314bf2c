package armserver_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/storage/armstorage"
	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store"
)

// same compares some values of an answer, given by dotted paths.
func same(t *testing.T, a daemontest.Answer, want map[string]any) {
	t.Helper()
	for path, value := range want {
		var steps []any
		for _, s := range strings.Split(path, ".") {
			steps = append(steps, s)
		}
		if diff := cmp.Diff(value, a.At(steps...)); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

func TestResourceGroups(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	id := w.Subscription + "/resourceGroups/Rg-One"
	lower := w.Subscription + "/resourcegroups/rg-one"
	w.Do("HEAD", id, nil).Want(404)
	if got := w.Do("GET", lower, nil).Want(404); got.At("error", "code") != "ResourceGroupNotFound" {
		t.Errorf("%v", got.JSON)
	}
	made := w.Do("PUT", id, `{"location":"East US","tags":{"a":"1"}}`).Want(201)
	same(t, made, map[string]any{"id": id, "name": "Rg-One", "type": "Microsoft.Resources/resourceGroups", "location": "eastus",
		"tags": map[string]any{"a": "1"}, "properties.provisioningState": "Succeeded"})
	w.Do("PUT", lower, `{"location":"eastus","tags":{"a":"2"}}`).Want(200)
	if got := w.Do("GET", lower, nil).Want(200); got.At("id") != id || got.At("tags", "a") != "2" {
		t.Errorf("%v", got.JSON)
	}
	w.Do("HEAD", lower, nil).Want(204)
	if got := w.Do("PATCH", id, `{"tags":{"b":"3"}}`).Want(200); got.At("tags", "b") != "3" || got.At("tags", "a") != nil {
		t.Errorf("%v", got.JSON)
	}
	for body, code := range map[string]string{`{"location":"westeurope"}`: "InvalidResourceGroupLocation", `{}`: "LocationRequired"} {
		if got := w.Do("PUT", id, body).Want(400, 409); got.At("error", "code") != code {
			t.Errorf("%s: %v, want %s", body, got.JSON, code)
		}
	}
	w.Do("PUT", w.Subscription+"/resourceGroups/two", `{"location":"eastus"}`).Want(201)
	if got := w.Do("GET", w.Subscription+"/resourcegroups?$filter="+url.QueryEscape("tagName eq 'b' and tagValue eq '3'"), nil).Want(200); len(got.At("value").([]any)) != 1 {
		t.Errorf("%v", got.JSON)
	}
	w.Do("GET", w.Subscription+"/resourcegroups?$filter=nonsense", nil).Want(400)
	deleted := w.Do("DELETE", id, nil).Want(202)
	w.Do("GET", deleted.Header.Get("Location"), nil).Want(200)
	w.Do("GET", id, nil).Want(404)
	w.Do("DELETE", id, nil).Want(404)
}

func TestLocationsAreNames(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	group, _ := prepare(w)
	vault := `{"location":"\n","properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}]}}`
	for path, body := range map[string]string{
		w.Subscription + "/resourceGroups/other":                                 `{"location":"/"}`,
		group + "/providers/Microsoft.Storage/storageAccounts/other":             `{"sku":{"name":"Standard_LRS"},"location":"a\u0000b"}`,
		group + "/providers/Microsoft.ContainerService/managedClusters/other":    `{"location":"日本"}`,
		group + "/providers/Microsoft.DataProtection/backupVaults/other-vault-1": vault,
	} {
		if got := w.Do("PUT", path, body).Want(400); got.At("error", "code") != "LocationNotAvailableForResourceType" {
			t.Errorf("%s: %v", path, got.JSON)
		}
		w.Do("GET", path, nil).Want(404)
	}
	cluster := group + "/providers/Microsoft.ContainerService/managedClusters/other"
	if got := w.Do("PUT", cluster, `{"location":"eastus","properties":{"nodeResourceGroup":"a/b"}}`).Want(400); got.At("error", "code") != "InvalidResourceGroup" {
		t.Errorf("%v", got.JSON)
	}
}

// TestAccountsPropertiesCanBeReadBack refuses what no client could read in the next list of accounts.
func TestAccountsPropertiesCanBeReadBack(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	group, _ := prepare(w)
	account := group + "/providers/Microsoft.Storage/storageAccounts/acc"
	for _, c := range []struct{ properties, target string }{
		{`{"minimumTlsVersion":1}`, "properties.minimumTlsVersion"}, {`{"networkAcls":[]}`, "properties.networkAcls"}, {`{"allowBlobPublicAccess":"no"}`, "properties.allowBlobPublicAccess"},
		{`{"unknown":1e400}`, "properties"},
	} {
		got := w.Do("PATCH", account, `{"properties":`+c.properties+`}`).Want(400)
		if got.At("error", "code") != "InvalidRequestContent" || !strings.EqualFold(fmt.Sprint(got.At("error", "target")), c.target) {
			t.Errorf("%s: %v", c.properties, got.JSON)
		}
	}
	w.Do("PATCH", account, `{"properties":{"PRIMARYENDPOINTS":{"blob":"https://elsewhere"},"unknown":{"a":1}}}`).Want(200)
	same(t, w.Do("GET", account, nil).Want(200), map[string]any{"properties.PRIMARYENDPOINTS": nil, "properties.unknown.a": 1.0, "properties.minimumTlsVersion": "TLS1_2"})
}

func TestProvidersAndFeaturesAreRegistered(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	feature := w.Subscription + "/providers/Microsoft.Features/providers/Microsoft.ContainerService/features/TrustedAccessPreview"
	want := map[string]any{"name": "Microsoft.ContainerService/TrustedAccessPreview", "properties.state": "Registered", "type": "Microsoft.Features/providers/features"}
	same(t, w.Do("POST", feature+"/register", nil).Want(200), want)
	same(t, w.Do("GET", feature, nil).Want(200), want)
	registered := map[string]any{"namespace": "Microsoft.ContainerService", "registrationState": "Registered"}
	same(t, w.Do("POST", w.Subscription+"/providers/microsoft.containerservice/register", nil).Want(200), registered)
	same(t, w.Do("GET", w.Subscription+"/providers/Microsoft.ContainerService", nil).Want(200), registered)
	w.Do("GET", w.Subscription+"/providers/nonsense", nil).Want(404)
	if got := w.Do("GET", w.Subscription+"/providers", nil).Want(200); len(got.At("value").([]any)) < 5 {
		t.Errorf("%v", got.JSON)
	}
	same(t, w.Do("GET", w.Subscription, nil).Want(200), map[string]any{"subscriptionId": w.Env["AZURE_SUBSCRIPTION_ID"], "tenantId": w.Env["AZURE_TENANT_ID"], "state": "Enabled"})
	if got := w.Do("GET", "/tenants", nil).Want(200); got.At("value", 0, "tenantId") != w.Env["AZURE_TENANT_ID"] {
		t.Errorf("%v", got.JSON)
	}
}

func TestStorageAccounts(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	group := w.Subscription + "/resourceGroups/g"
	w.Do("PUT", group, `{"location":"eastus"}`).Want(201)
	id := group + "/providers/Microsoft.Storage/storageAccounts/acc1"
	check := w.Subscription + "/providers/Microsoft.Storage/checkNameAvailability"
	same(t, w.Do("POST", check, `{"name":"acc1","type":"Microsoft.Storage/storageAccounts"}`).Want(200), map[string]any{"nameAvailable": true})
	same(t, w.Do("POST", check, `{"name":"No","type":"Microsoft.Storage/storageAccounts"}`).Want(200), map[string]any{"nameAvailable": false, "reason": "AccountNameInvalid"})

	accepted := w.Do("PUT", id, `{"sku":{"name":"Standard_LRS"},"kind":"StorageV2","location":"East US","tags":{"a":"b"},
		"properties":{"accessTier":"Cool","provisioningState":"Nonsense","encryption":{"keySource":"Microsoft.Storage"}}}`).Want(202)
	if accepted.JSON != nil || accepted.Header.Get("Azure-AsyncOperation") != "" || accepted.Header.Get("Retry-After") != "1" {
		t.Errorf("%v %v", accepted.JSON, accepted.Header)
	}
	poll := accepted.Header.Get("Location")
	if !strings.HasPrefix(poll, w.Env["CAIRN_ENDPOINT"]+w.Subscription+"/providers/Microsoft.Storage/locations/eastus/asyncoperations/") || !strings.Contains(poll, "monitor=true") {
		t.Errorf("Location %s", poll)
	}
	want := map[string]any{
		"id": id, "name": "acc1", "type": "Microsoft.Storage/storageAccounts", "location": "eastus", "kind": "StorageV2",
		"sku": map[string]any{"name": "Standard_LRS", "tier": "Standard"}, "tags": map[string]any{"a": "b"},
		"properties.provisioningState": "Succeeded", "properties.accessTier": "Cool", "properties.supportsHttpsTrafficOnly": true,
		"properties.primaryEndpoints.blob": w.Service.BlobURL + "/acc1/", "properties.primaryLocation": "eastus", "properties.statusOfPrimary": "available",
		"properties.encryption.services.blob.enabled": true, "cairnKeys": nil, "cairnOwnKey": nil,
	}
	same(t, w.Do("GET", poll, nil).Want(200), want)
	same(t, w.Do("GET", id, nil).Want(200), want)
	same(t, w.Do("PUT", id, `{"sku":{"name":"Standard_LRS"},"location":"eastus"}`).Want(200), want)
	for path, body := range map[string]string{
		group + "/providers/Microsoft.Storage/storageAccounts/Acc_1": "AccountNameInvalid",
		group + "/providers/Microsoft.Storage/storageAccounts/acc2":  "LocationRequired",
	} {
		if got := w.Do("PUT", path, `{"sku":{"name":"Standard_LRS"}}`).Want(400); got.At("error", "code") != body {
			t.Errorf("%v, want %s", got.JSON, body)
		}
	}
	w.Do("PUT", w.Subscription+"/resourceGroups/h", `{"location":"eastus"}`).Want(201)
	if got := w.Do("PUT", w.Subscription+"/resourceGroups/h/providers/Microsoft.Storage/storageAccounts/acc1", `{"sku":{"name":"Standard_LRS"},"location":"eastus"}`).Want(409); got.At("error", "code") != "StorageAccountAlreadyTaken" {
		t.Errorf("%v", got.JSON)
	}
	same(t, w.Do("PATCH", id, `{"tags":{"c":"d"},"properties":{"allowBlobPublicAccess":true}}`).Want(200),
		map[string]any{"tags": map[string]any{"c": "d"}, "properties.allowBlobPublicAccess": true, "properties.accessTier": "Cool"})

	keys := w.Do("POST", id+"/listKeys?$expand=kerb", nil).Want(200)
	if keys.At("keys", 0, "keyName") != "key1" || keys.At("keys", 1, "keyName") != "key2" || keys.At("keys", 0, "permissions") != "FULL" {
		t.Errorf("%v", keys.JSON)
	}
	again := w.Do("POST", id+"/regenerateKey", `{"keyName":"key1"}`).Want(200)
	if again.At("keys", 0, "value") == keys.At("keys", 0, "value") || again.At("keys", 1, "value") != keys.At("keys", 1, "value") {
		t.Error("not exactly key1 was renewed")
	}
	w.Do("POST", id+"/regenerateKey", `{"keyName":"key3"}`).Want(400)
	for _, kind := range []string{"blobServices", "fileServices"} {
		same(t, w.Do("GET", id+"/"+kind+"/default", nil).Want(200), map[string]any{"id": id + "/" + kind + "/default", "name": "default"})
	}
	w.Do("GET", id+"/queueServices/default", nil).Want(404)

	containers := id + "/blobServices/default/containers"
	w.Do("GET", containers+"/c-1", nil).Want(404)
	container := map[string]any{"id": containers + "/c-1", "name": "c-1", "type": "Microsoft.Storage/storageAccounts/blobServices/containers", "properties.publicAccess": "None"}
	same(t, w.Do("PUT", containers+"/c-1", `{"properties":{}}`).Want(201), container)
	same(t, w.Do("PUT", containers+"/c-1", `{}`).Want(200), container)
	same(t, w.Do("GET", containers+"/c-1", nil).Want(200), container)
	w.Do("PUT", containers+"/C_1", `{}`).Want(400)
	if got := w.Do("GET", containers, nil).Want(200); got.At("value", 0, "name") != "c-1" {
		t.Errorf("%v", got.JSON)
	}
	for _, scope := range []string{w.Subscription, group} {
		if got := w.Do("GET", scope+"/providers/Microsoft.Storage/storageAccounts", nil).Want(200); len(got.At("value").([]any)) != 1 {
			t.Errorf("%v", got.JSON)
		}
	}
	resources := w.Do("GET", group+"/resources?$expand=provisioningState&$top=10", nil).Want(200)
	if len(resources.At("value").([]any)) != 1 || resources.At("value", 0, "id") != id {
		t.Errorf("%v", resources.JSON)
	}
	w.Do("DELETE", containers+"/c-1", nil).Want(200)
	w.Do("DELETE", containers+"/c-1", nil).Want(204)
	w.Do("DELETE", id, nil).Want(200)
	w.Do("DELETE", id, nil).Want(204)
	w.Do("GET", id, nil).Want(404)
}

// world has a group, a cluster, an account and a container.
func world(t *testing.T) (w *daemontest.World, group, cluster, account string) {
	t.Helper()
	w = daemontest.Start(t, daemon.Config{})
	group, cluster = prepare(w)
	account = group + "/providers/Microsoft.Storage/storageAccounts/acc"
	return w, group, cluster, account
}

// report is what the connector of a cluster does when it calls.
func report(t *testing.T, w *daemontest.World, cluster string, extension *link.ExtensionState) {
	t.Helper()
	if err := w.Service.DB.Update(t.Context(), func(tx *store.Tx) error {
		return w.Service.ClusterReported(tx, arm.ID(cluster), link.Report{ConnectorVersion: "1", KubernetesVersion: "v1.36.2", NodeCount: 3, Extension: extension})
	}); err != nil {
		t.Fatal(err)
	}
}

func desired(t *testing.T, w *daemontest.World, cluster string) (out *link.Extension) {
	t.Helper()
	if err := w.Service.DB.View(t.Context(), func(tx *store.Tx) (err error) {
		out, err = w.Service.DesiredExtension(tx, arm.ID(cluster))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestClusters(t *testing.T) {
	w, group, cluster, _ := world(t)
	got := w.Do("GET", strings.ToLower(cluster), nil).Want(200)
	same(t, got, map[string]any{
		"id": cluster, "name": "prod", "location": "eastus", "identity.type": "SystemAssigned", "identity.tenantId": w.Env["AZURE_TENANT_ID"],
		"properties.provisioningState": "Succeeded", "properties.servicePrincipalProfile.clientId": "msi",
		"properties.nodeResourceGroup": "MC_rg_prod_eastus", "properties.powerState.code": "Stopped", "properties.cairn.connected": false,
	})
	if got.At("identity", "principalId") == nil || got.At("properties", "agentPoolProfiles", 0, "name") == nil {
		t.Errorf("%v", got.JSON)
	}
	w.Do("GET", w.Subscription+"/resourceGroups/MC_rg_prod_eastus", nil).Want(200)
	report(t, w, cluster, nil)
	same(t, w.Do("GET", cluster, nil).Want(200), map[string]any{
		"properties.powerState.code": "Running", "properties.cairn.connected": true, "properties.kubernetesVersion": "1.36.2", "properties.cairn.nodeCount": 3.0})
	for _, scope := range []string{w.Subscription, group} {
		if got := w.Do("GET", scope+"/providers/Microsoft.ContainerService/managedClusters", nil).Want(200); len(got.At("value").([]any)) != 1 {
			t.Errorf("%v", got.JSON)
		}
	}
	etag := got.Header.Get("ETag")
	bearer := func(name, value string) map[string]string {
		return map[string]string{"Authorization": "Bearer " + w.AdminToken(), name: value}
	}
	w.Send("PUT", cluster, `{"location":"eastus","tags":{"a":"b"}}`, bearer("If-None-Match", "*")).Want(412)
	w.Send("PUT", cluster, `{"location":"eastus","tags":{"a":"b"}}`, bearer("If-Match", `"other"`)).Want(412)
	w.Send("PUT", cluster, `{"location":"eastus","tags":{"a":"b"}}`, bearer("If-Match", etag)).Want(200)
	w.Send("PUT", cluster, `{"location":"eastus","tags":{"a":"c"}}`, bearer("If-Match", etag)).Want(412)

	made := w.Do("PUT", group+"/providers/Microsoft.ContainerService/managedClusters/two", `{"location":"eastus"}`).Want(201)
	poll := made.Header.Get("Azure-AsyncOperation")
	if !strings.Contains(poll, w.Subscription+"/providers/Microsoft.ContainerService/locations/eastus/operations/") {
		t.Errorf("Azure-AsyncOperation %s", poll)
	}
	same(t, w.Do("GET", poll, nil).Want(200), map[string]any{"status": "Succeeded"})

	deleted := w.Do("DELETE", cluster, nil).Want(202)
	same(t, w.Do("GET", deleted.Header.Get("Azure-AsyncOperation"), nil).Want(200), map[string]any{"status": "Succeeded"})
	w.Do("GET", cluster, nil).Want(404)
	w.Do("GET", w.Subscription+"/resourceGroups/MC_rg_prod_eastus", nil).Want(404)
	w.Do("DELETE", cluster, nil).Want(204)
}

func TestConnectorSpeaksForItsClusterOnly(t *testing.T) {
	w, group, cluster, _ := world(t)
	first := w.Do("POST", cluster+"/connect", nil).Want(200)
	second := w.Do("POST", cluster+"/connect", nil).Want(200)
	if first.At("endpoint") != w.Env["CAIRN_ENDPOINT"] || !strings.Contains(first.At("caBundle").(string), "BEGIN CERTIFICATE") ||
		first.At("clientId") != second.At("clientId") || first.At("clientSecret") == second.At("clientSecret") {
		t.Errorf("%v\n%v", first.JSON, second.JSON)
	}
	try := func(a daemontest.Answer) error {
		c := w.Credential(a.At("clientId").(string), a.At("clientSecret").(string))
		_, err := c.GetToken(t.Context(), tokenOptions(w))
		return err
	}
	if err := try(first); err != nil {
		t.Errorf("the old secret, before the new one was used: %v", err)
	}
	if err := try(second); err != nil {
		t.Errorf("the new secret: %v", err)
	}
	if err := try(first); err == nil {
		t.Error("the old secret is good after the new one was used")
	}
	token := w.Token(second.At("clientId").(string), second.At("clientSecret").(string), w.Env["CAIRN_ENDPOINT"])
	for _, path := range []string{cluster, group, w.Subscription, "/subscriptions", "/v1.0/servicePrincipals"} {
		w.As(token, "GET", path, nil).Want(403)
	}
	w.Do("DELETE", cluster, nil).Want(202)
	w.As(token, "GET", cluster, nil).Want(401)
	w.Do("POST", cluster+"/connect", nil).Want(404)
}

func extensionBody(settings string) string {
	return `{"properties":{"extensionType":"Microsoft.DataProtection.Kubernetes","autoUpgradeMinorVersion":true,"releaseTrain":"stable",
		"scope":{"cluster":{}},"configurationSettings":` + settings + `}}`
}

const settings = `{"blobContainer":"backups","STORAGEACCOUNT":"acc","configuration.backupStorageLocation.config.resourceGroup":"rg","memoryLimit":"2Gi"}`

func TestExtensionFollowsTheConnector(t *testing.T) {
	w, _, cluster, _ := world(t)
	extensions := cluster + "/providers/Microsoft.KubernetesConfiguration/extensions"
	id := extensions + "/azure-aks-backup"
	w.Do("GET", id, nil).Want(404)
	if desired(t, w, cluster) != nil {
		t.Error("an extension is desired before there is one")
	}
	made := w.Do("PUT", id, extensionBody(settings)).Want(201)
	bucket := "configuration.backupStorageLocation.bucket"
	same(t, made, map[string]any{
		"id": id, "name": "azure-aks-backup", "type": "Microsoft.KubernetesConfiguration/extensions",
		"properties.extensionType": "microsoft.dataprotection.kubernetes", "properties.provisioningState": "Creating", "properties.isSystemExtension": false,
		"properties.scope.cluster.releaseNamespace": "dataprotection-microsoft", "properties.version": nil, "properties.statuses": []any{},
		"properties.aksAssignedIdentity.tenantId": w.Env["AZURE_TENANT_ID"], "properties.configurationProtectedSettings": map[string]any{},
	})
	if made.At("properties", "configurationSettings", bucket) != "backups" || made.At("properties", "configurationSettings", "resources.limits.memory") != "2Gi" ||
		made.At("properties", "configurationSettings", "configuration.backupStorageLocation.config.storageAccountURI") != w.Service.BlobURL+"/acc/" {
		t.Errorf("%v", made.At("properties", "configurationSettings"))
	}
	poll := made.Header.Get("Azure-AsyncOperation")
	if !strings.HasPrefix(poll, w.Env["CAIRN_ENDPOINT"]+id+"/operations/") {
		t.Errorf("Azure-AsyncOperation %s", poll)
	}
	if got := w.Do("GET", poll, nil).Want(200); got.At("status") != "Inprogress" || got.Header.Get("Retry-After") != "1" || got.At("endTime") != "0001-01-01T00:00:00Z" {
		t.Errorf("%v %v", got.JSON, got.Header)
	}
	if got := w.Do("PATCH", id, `{"properties":{}}`).Want(409); got.At("error", "code") != "ExtensionPatchFailed" {
		t.Errorf("%v", got.JSON)
	}

	want := desired(t, w, cluster)
	if want.Name != "azure-aks-backup" || want.Generation != 1 || want.ContainerURL != w.Service.BlobURL+"/acc/backups" || want.Settings[bucket] != "backups" || want.CABundle == "" {
		t.Errorf("%+v", want)
	}
	if again := desired(t, w, cluster); !cmp.Equal(want, again) {
		t.Errorf("what is desired changes by itself: %s", cmp.Diff(want, again))
	}
	w.Send("GET", want.ContainerURL+"?restype=container&comp=list&"+want.SAS, nil, nil).Want(200)
	w.Send("GET", w.Service.BlobURL+"/acc/other?restype=container&comp=list&"+want.SAS, nil, nil).Want(403)

	report(t, w, cluster, &link.ExtensionState{Name: "azure-aks-backup", Generation: 1, State: link.ExtensionInstalling, Message: "waiting for the pod"})
	if got := w.Do("GET", id, nil).Want(200); got.At("properties", "provisioningState") != "Creating" || got.At("properties", "statuses", 0, "message") != "waiting for the pod" {
		t.Errorf("%v", got.JSON)
	}
	report(t, w, cluster, &link.ExtensionState{Name: "azure-aks-backup", Generation: 1, State: link.ExtensionReady, Version: "0.1.0"})
	same(t, w.Do("GET", poll, nil).Want(200), map[string]any{"status": "Succeeded"})
	same(t, w.Do("GET", id, nil).Want(200), map[string]any{"properties.provisioningState": "Succeeded", "properties.currentVersion": "0.1.0", "properties.statuses": []any{}})

	patched := w.Do("PATCH", id, `{"properties":{"configurationSettings":{"CPULimit":"2"}}}`).Want(202)
	report(t, w, cluster, &link.ExtensionState{Generation: 1, State: link.ExtensionReady})
	same(t, w.Do("GET", patched.Header.Get("Azure-AsyncOperation"), nil).Want(200), map[string]any{"status": "Inprogress"})
	report(t, w, cluster, &link.ExtensionState{Generation: 2, State: link.ExtensionFailed, Message: "image cannot be pulled"})
	failed := w.Do("GET", patched.Header.Get("Azure-AsyncOperation"), nil).Want(200)
	if message, _ := failed.At("error", "message").(string); failed.At("status") != "Failed" || !strings.Contains(message, "image cannot be pulled") {
		t.Errorf("%v", failed.JSON)
	}
	same(t, w.Do("GET", id, nil).Want(200), map[string]any{"properties.provisioningState": "Failed"})

	if got := w.Do("GET", extensions, nil).Want(200); len(got.At("value").([]any)) != 1 {
		t.Errorf("%v", got.JSON)
	}
	deleted := w.Do("DELETE", id+"?forceDelete=false", nil).Want(202)
	if desired(t, w, cluster) != nil {
		t.Error("an extension is desired that is being deleted")
	}
	w.Do("PUT", id, extensionBody(settings)).Want(409)
	report(t, w, cluster, &link.ExtensionState{Generation: 2, State: link.ExtensionUninstalling})
	same(t, w.Do("GET", id, nil).Want(200), map[string]any{"properties.provisioningState": "Deleting"})
	report(t, w, cluster, nil)
	same(t, w.Do("GET", deleted.Header.Get("Azure-AsyncOperation"), nil).Want(200), map[string]any{"status": "Succeeded"})
	w.Do("GET", id, nil).Want(404)
	w.Do("DELETE", id, nil).Want(204)
}

func TestExtensionIsRefused(t *testing.T) {
	w, group, cluster, account := world(t)
	extensions := cluster + "/providers/Microsoft.KubernetesConfiguration/extensions"
	for _, c := range []struct{ name, body, code, target string }{
		{"no settings", extensionBody(`{}`), "InvalidConfigurationSettings", ""},
		{"no such account", extensionBody(`{"storageAccount":"none","blobContainer":"backups"}`), "InvalidConfigurationSettings", "properties.configurationSettings"},
		{"no such container", extensionBody(`{"storageAccount":"acc","blobContainer":"none"}`), "InvalidConfigurationSettings", "properties.configurationSettings"},
		{"another type", `{"properties":{"extensionType":"microsoft.flux"}}`, "ExtensionTypeRegistrationGetFailed", "properties.extensionType"},
		{"another scope", `{"properties":{"extensionType":"microsoft.dataprotection.kubernetes","scope":{"namespace":{"targetNamespace":"x"}}}}`, "ExtensionScopeInvalid", "properties.scope"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := w.Do("PUT", extensions+"/backup", c.body).Want(400)
			if got.At("error", "code") != c.code || c.target != "" && got.At("error", "target") != c.target {
				t.Errorf("%v, want %s at %s", got.JSON, c.code, c.target)
			}
		})
	}
	w.Do("PUT", group+"/providers/Microsoft.ContainerService/managedClusters/none/providers/Microsoft.KubernetesConfiguration/extensions/b", extensionBody(settings)).Want(404)

	// Who may change the cluster may not therefore have the storage account's contents.
	id, token := principal(t, w)
	grant(w, cluster, guid1, contributor, id).Want(201)
	if got := w.As(token, "PUT", extensions+"/backup", extensionBody(settings)).Want(403); got.At("error", "code") != "LinkedAuthorizationFailed" {
		t.Errorf("%v", got.JSON)
	}
	grant(w, account, guid2, contributor, id).Want(201)
	w.As(token, "PUT", extensions+"/backup", extensionBody(settings)).Want(201)
	if got := w.Do("PUT", extensions+"/second", extensionBody(settings)).Want(409); got.At("error", "code") != "ExtensionTypeAlreadyInstalled" {
		t.Errorf("%v", got.JSON)
	}
	// No connector ever called, so there is nothing to wait for.
	w.Do("DELETE", extensions+"/backup", nil).Want(200)
}

func TestInstallationThatTakesTooLongFails(t *testing.T) {
	w, _, cluster, _ := world(t)
	id := cluster + "/providers/Microsoft.KubernetesConfiguration/extensions/backup"
	made := w.Do("PUT", id, extensionBody(settings)).Want(201)
	if err := w.Service.ExpireExtensions(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, w.Do("GET", id, nil).Want(200), map[string]any{"properties.provisioningState": "Creating"})
	age(t, w, arm.ID(id), time.Hour)
	if err := w.Service.ExpireExtensions(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, w.Do("GET", id, nil).Want(200), map[string]any{"properties.provisioningState": "Failed"})
	failed := w.Do("GET", made.Header.Get("Azure-AsyncOperation"), nil).Want(200)
	if message, _ := failed.At("error", "message").(string); failed.At("status") != "Failed" || !strings.Contains(message, "connector does not call") {
		t.Errorf("%v", failed.JSON)
	}
	// It counts when it succeeds after all.
	report(t, w, cluster, &link.ExtensionState{Generation: 1, State: link.ExtensionReady})
	same(t, w.Do("GET", id, nil).Want(200), map[string]any{"properties.provisioningState": "Succeeded"})
}

func TestTrustedAccess(t *testing.T) {
	w, group, cluster, _ := world(t)
	vault := group + "/providers/Microsoft.DataProtection/backupVaults/v"
	bindings := cluster + "/trustedAccessRoleBindings"
	body := func(source, role string) string {
		return `{"properties":{"sourceResourceId":"` + source + `","roles":["` + role + `"]}}`
	}
	const role = "Microsoft.DataProtection/backupVaults/backup-operator"
	w.Do("GET", bindings+"/b", nil).Want(404)
	same(t, w.Do("PUT", bindings+"/b", body(vault, role)).Want(201), map[string]any{
		"id": bindings + "/b", "type": "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings",
		"properties.provisioningState": "Succeeded", "properties.sourceResourceId": vault, "properties.roles": []any{role}})
	w.Do("PUT", bindings+"/b", body(vault, role)).Want(200)
	w.Do("PUT", bindings+"/b", body(vault+"2", role)).Want(400)
	w.Do("PUT", bindings+"/c", body(vault, "other")).Want(400)
	w.Do("PUT", bindings+"/c", body("x", role)).Want(400)
	if got := w.Do("GET", bindings, nil).Want(200); len(got.At("value").([]any)) != 1 {
		t.Errorf("%v", got.JSON)
	}
	var has bool
	if err := w.Service.DB.View(t.Context(), func(tx *store.Tx) (err error) {
		has, err = w.Service.HasTrustedAccess(tx, arm.ID(cluster), arm.ID(strings.ToUpper(vault)))
		return err
	}); err != nil || !has {
		t.Errorf("%v, %v", has, err)
	}
	if got := w.Do("GET", w.Subscription+"/providers/Microsoft.ContainerService/locations/eastus/trustedAccessRoles", nil).Want(200); got.At("value", 0, "name") != "backup-operator" {
		t.Errorf("%v", got.JSON)
	}
	w.Do("DELETE", bindings+"/b", nil).Want(204)
	w.Do("DELETE", bindings+"/b", nil).Want(204)
}

func TestRoleAssignments(t *testing.T) {
	w, group, cluster, account := world(t)
	who := w.Do("GET", cluster, nil).Want(200).At("identity", "principalId").(string)
	for scope, query := range map[string]string{group: "roleName%20eq%20%27Reader%27", cluster: "roleName+eq+%27Reader%27"} {
		got := w.Do("GET", scope+"/providers/Microsoft.Authorization/roleDefinitions?$filter="+query, nil).Want(200)
		if len(got.At("value").([]any)) != 1 || got.At("value", 0, "properties", "roleName") != "Reader" || got.At("value", 0, "name") != reader {
			t.Errorf("%v", got.JSON)
		}
	}
	same(t, w.Do("GET", w.Subscription+"/providers/Microsoft.Authorization/roleDefinitions/"+blobWriter, nil).Want(200), map[string]any{
		"properties.roleName": "Storage Blob Data Contributor", "properties.type": "BuiltInRole"})
	w.Do("GET", "/providers/Microsoft.Authorization/roleDefinitions/"+guid1, nil).Want(404)

	made := grant(w, cluster, guid1, reader, who).Want(201)
	id := cluster + "/providers/Microsoft.Authorization/roleAssignments/" + guid1
	same(t, made, map[string]any{"id": id, "name": guid1, "type": "Microsoft.Authorization/roleAssignments", "properties.scope": cluster,
		"properties.principalId": who, "properties.principalType": "ServicePrincipal",
		"properties.roleDefinitionId": w.Subscription + "/providers/Microsoft.Authorization/roleDefinitions/" + reader})
	grant(w, cluster, guid1, reader, who).Want(200)
	grant(w, cluster, guid2, blobWriter, who).Want(201)
	for _, c := range []struct {
		name   string
		got    daemontest.Answer
		status int
		code   string
	}{
		{"again under another name", grant(w, cluster, "00000000-0000-4000-8000-000000000003", reader, who), 409, "RoleAssignmentExists"},
		{"another role under the name", grant(w, cluster, guid1, owner, who), 400, "RoleAssignmentUpdateNotPermitted"},
		{"no such role", grant(w, group, guid1, guid2, who), 400, "RoleDefinitionDoesNotExist"},
		{"no GUID", grant(w, group, "name", reader, who), 400, "InvalidRoleAssignmentId"},
		{"no such scope", grant(w, account+"2", guid1, reader, who), 404, "ResourceNotFound"},
		{"no such principal", w.Do("PUT", group+"/providers/Microsoft.Authorization/roleAssignments/"+guid1,
			`{"properties":{"roleDefinitionId":"`+reader+`","principalId":"`+guid2+`"}}`), 400, "PrincipalNotFound"},
		{"a condition", w.Do("PUT", group+"/providers/Microsoft.Authorization/roleAssignments/"+guid1, `{"properties":{"roleDefinitionId":"`+reader+`","principalId":"`+who+
			`","condition":"@Resource[Microsoft.Storage/storageAccounts/blobServices/containers:name] StringEquals 'a'","conditionVersion":"2.0"}}`), 400, "RoleAssignmentConditionNotSupported"},
		{"a group", w.Do("PUT", group+"/providers/Microsoft.Authorization/roleAssignments/"+guid1,
			`{"properties":{"roleDefinitionId":"`+reader+`","principalId":"`+guid2+`","principalType":"Group"}}`), 400, "UnsupportedPrincipalType"},
		{"an identity as a user", w.Do("PUT", group+"/providers/Microsoft.Authorization/roleAssignments/"+guid1,
			`{"properties":{"roleDefinitionId":"`+reader+`","principalId":"`+who+`","principalType":"User"}}`), 400, "UnmatchedPrincipalType"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.got.Status != c.status || c.got.At("error", "code") != c.code {
				t.Errorf("%d %v, want %d %s", c.got.Status, c.got.JSON, c.status, c.code)
			}
		})
	}
	// A principal that may exist elsewhere is accepted when its type is given; so is a container's scope.
	grant(w, account+"/blobServices/default/containers/backups", guid1, blobWriter, guid2).Want(201)

	list := func(scope, filter string) int {
		t.Helper()
		path := scope + "/providers/Microsoft.Authorization/roleAssignments"
		if filter != "" {
			path += "?$filter=" + url.QueryEscape(filter)
		}
		return len(w.Do("GET", path, nil).Want(200).At("value").([]any))
	}
	for _, c := range []struct {
		scope, filter string
		want          int
	}{
		{cluster, "", 3}, {cluster, "atScope()", 3}, {group, "atScope()", 1}, {group, "", 4}, {w.Subscription, "", 4},
		{group, "principalId eq '" + who + "'", 2}, {group, "assignedTo('" + who + "')", 2}, {group, "atScope() and assignedTo('" + who + "')", 0},
	} {
		if got := list(c.scope, c.filter); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.scope, c.filter, got, c.want)
		}
	}
	w.Do("DELETE", id, nil).Want(200)
	w.Do("DELETE", id, nil).Want(204)
	if got := w.Do("GET", id, nil).Want(404); got.At("error", "code") != "RoleAssignmentNotFound" {
		t.Errorf("%v", got.JSON)
	}
}

func TestGraph(t *testing.T) {
	w, _, cluster, _ := world(t)
	who := w.Do("GET", cluster, nil).Want(200).At("identity", "principalId").(string)
	for _, filter := range []string{"servicePrincipalNames/any(c:c eq '" + who + "')", "displayName eq 'prod'", "id eq '" + who + "'"} {
		got := w.Do("GET", "/v1.0/servicePrincipals?$filter="+url.QueryEscape(filter), nil).Want(200)
		if len(got.At("value").([]any)) != 1 || got.At("value", 0, "id") != who || got.At("value", 0, "servicePrincipalType") != "ManagedIdentity" {
			t.Errorf("%s: %v", filter, got.JSON)
		}
	}
	got := w.Do("POST", "/v1.0/directoryObjects/getByIds", map[string]any{"ids": []string{who, guid1}}).Want(200)
	if len(got.At("value").([]any)) != 1 || got.At("value", 0, "@odata.type") != "#microsoft.graph.servicePrincipal" {
		t.Errorf("%v", got.JSON)
	}
	w.Do("GET", "/v1.0/servicePrincipals/"+who, nil).Want(200)
	w.Do("GET", "/v1.0/servicePrincipals/"+guid1, nil).Want(404)
	query := "resources | where type =~ 'microsoft.containerservice/managedclusters' | where id in~ ('" + strings.ToUpper(cluster) + "')"
	found := w.Do("POST", "/providers/Microsoft.ResourceGraph/resources", map[string]any{"query": query}).Want(200)
	if found.At("count") != 1.0 || found.At("data", 0, "id") != cluster {
		t.Errorf("%v", found.JSON)
	}
}

func TestDeletingAGroupTakesEverythingInIt(t *testing.T) {
	w, group, cluster, account := world(t)
	id, token := principal(t, w)
	grant(w, account, guid1, owner, id).Want(201)
	connector := w.Do("POST", cluster+"/connect", nil).Want(200)
	w.Do("DELETE", group, nil).Want(202)
	w.Do("PUT", group, `{"location":"eastus"}`).Want(201)
	w.Do("GET", account, nil).Want(404)
	w.As(token, "GET", account, nil).Want(403)
	w.Do("GET", w.Subscription+"/resourceGroups/MC_rg_prod_eastus", nil).Want(404)
	if _, err := w.Credential(connector.At("clientId").(string), connector.At("clientSecret").(string)).GetToken(t.Context(), tokenOptions(w)); err == nil {
		t.Error("the connector of a deleted cluster gets a token")
	}
	w.Do("PUT", account, `{"sku":{"name":"Standard_LRS"},"location":"eastus"}`).Want(202)
	if got := w.Do("GET", account+"/blobServices/default/containers", nil).Want(200); len(got.At("value").([]any)) != 0 {
		t.Errorf("an account of the same name has the old one's containers: %v", got.JSON)
	}
}

// Azure's own clients, with their pollers and models.
func TestAzureSDK(t *testing.T) {
	w, group, cluster, _ := world(t)
	accounts, err := armstorage.NewAccountsClient(w.Env["AZURE_SUBSCRIPTION_ID"], w.Admin(), w.Options())
	if err != nil {
		t.Fatal(err)
	}
	poller, err := accounts.BeginCreate(t.Context(), "rg", "sdkaccount", armstorage.AccountCreateParameters{
		Kind: to.Ptr(armstorage.KindStorageV2), Location: to.Ptr("eastus"), SKU: &armstorage.SKU{Name: to.Ptr(armstorage.SKUNameStandardLRS)},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	made, err := poller.PollUntilDone(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if *made.ID != group+"/providers/Microsoft.Storage/storageAccounts/sdkaccount" || *made.Properties.PrimaryEndpoints.Blob != w.Service.BlobURL+"/sdkaccount/" {
		t.Errorf("%s %s", *made.ID, *made.Properties.PrimaryEndpoints.Blob)
	}
	keys, err := accounts.ListKeys(t.Context(), "rg", "sdkaccount", nil)
	if err != nil || len(keys.Keys) != 2 {
		t.Errorf("%v, %v", keys.Keys, err)
	}
	assignments, err := armauthorization.NewRoleAssignmentsClient(w.Env["AZURE_SUBSCRIPTION_ID"], w.Admin(), w.Options())
	if err != nil {
		t.Fatal(err)
	}
	got, err := assignments.Create(t.Context(), cluster, guid1, armauthorization.RoleAssignmentCreateParameters{Properties: &armauthorization.RoleAssignmentProperties{
		PrincipalID: to.Ptr(guid2), PrincipalType: to.Ptr(armauthorization.PrincipalTypeServicePrincipal),
		RoleDefinitionID: to.Ptr(w.Subscription + "/providers/Microsoft.Authorization/roleDefinitions/" + reader),
	}}, nil)
	if err != nil || *got.Properties.Scope != cluster {
		t.Fatalf("%v, %v", got, err)
	}
	pages, n := assignments.NewListForScopePager(cluster, &armauthorization.RoleAssignmentsClientListForScopeOptions{Filter: to.Ptr(url.QueryEscape("principalId eq '" + guid2 + "'"))}), 0
	for pages.More() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n += len(page.Value)
	}
	if n != 1 {
		t.Errorf("%d assignments, want 1", n)
	}
}
