package compat_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

const (
	mandatoryOperation = "Microsoft.DataProtection/backupVaults/backupResourceGuardProxies/delete"
	muaOperator        = "f54b6d04-23c6-443e-b462-9c16ab7b4a52"
)

// guarded is a vault with an instance, linked to a resource guard of somebody else's.
type guarded struct {
	*world
	guard, proxy string
	// admin manages backups, and sees the guard; security has the rights on it.
	admin, security string
}

// guardVault makes the vault's data, the guard and the link.
func guardVault(t *testing.T, w *world) *guarded {
	t.Helper()
	g := &guarded{world: w}
	g.guard = w.Subscription + "/resourceGroups/rg-security/providers/Microsoft.DataProtection/resourceGuards/mua"
	g.proxy = w.vault + "/backupResourceGuardProxies/DppResourceGuardProxy"
	w.Do("PUT", w.Subscription+"/resourceGroups/rg-security", `{"location":"eastus"}`).Want(201)
	w.Do("PUT", g.guard, `{"location":"eastus"}`).Want(200)
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	number := 0
	login := func(name string, grants ...string) string {
		p, secret := newPrincipal(t, w.World, name)
		for i := 0; i < len(grants); i += 2 {
			number++
			grant(t, w.World, p.ID, grants[i], grants[i+1], fmt.Sprintf("00000000-0000-4000-8000-0000000005%02d", number))
		}
		return w.Token(p.Client, secret, "https://management.azure.com")
	}
	const reader, contributor = "acdd72a7-3385-48ef-bd42-f606fba81ae7", "5e467623-bb1f-42f4-a55d-6e525e11384b"
	g.admin = login("admin", contributor, w.vault, reader, w.cluster.id, reader, g.guard)
	g.security = login("security", muaOperator, g.guard)
	w.As(g.admin, "PUT", g.proxy, map[string]any{"properties": map[string]any{"resourceGuardResourceId": g.guard}}).Want(200)
	return g
}

// request is the guard's request of a kind, as it is named in a body.
func (g *guarded) request(kind string) string { return g.guard + "/" + kind + "/default" }

// unlock gives leave for the next deletion of a kind.
func (g *guarded) unlock(t *testing.T, kind, resource string) daemontest.Answer {
	t.Helper()
	return g.Send("POST", g.proxy+"/unlockDelete", map[string]any{"resourceGuardOperationRequests": []any{g.request(kind)}, "resourceToBeDeleted": resource},
		map[string]string{"Authorization": "Bearer " + g.admin, "x-ms-authorization-auxiliary": "Bearer " + g.security})
}

// TestCriticalOperationsNeedRightsOnTheGuard does each of them without naming the guard's request, with the request but without the rights, and with a
// second token that has them. Only the last does anything.
func TestCriticalOperationsNeedRightsOnTheGuard(t *testing.T) {
	data := t.TempDir()
	w := setUp(t, daemontest.Start(t, daemon.Config{Data: data}))
	w.Do("PUT", w.vault+"/backupPolicies/weekly", policyBody).Want(200)
	g := guardVault(t, w)
	vault := func(soft string, days int, immutability string) map[string]any {
		return map[string]any{"properties": map[string]any{"securitySettings": map[string]any{
			"softDeleteSettings": map[string]any{"state": soft, "retentionDurationInDays": days}, "immutabilitySettings": map[string]any{"state": immutability}}}}
	}
	w.As(g.admin, "PATCH", w.vault, vault("On", 20, "Unlocked")).Want(200, 202) // more security needs no leave
	point := fmt.Sprint(w.points(t)[0].(map[string]any)["name"])
	restore := map[string]any{}
	unmarshal(t, []byte(strings.NewReplacer("POINT", point, "CLUSTER", w.cluster.id).Replace(guideRestore)), &restore)
	shorter := map[string]any{}
	unmarshal(t, []byte(strings.Replace(policyBody, "P30D", "P7D", 1)), &shorter)
	for _, c := range []struct {
		name, method, path, kind, target string
		body                             map[string]any
		nested                           bool
	}{
		{"restore", "POST", w.instance + "/restore", "dppTriggerRestoreRequests", w.instance, restore, false},
		{"the policy's rules", "PUT", w.vault + "/backupPolicies/" + policyName, "dppModifyPolicy", w.vault + "/backupPolicies/" + policyName, shorter, true},
		{"policy", "PUT", w.instance, "dppModifyPolicy", w.instance, w.body("weekly", "x"), true},
		{"soft delete", "PATCH", w.vault, "dppReduceSoftDeleteSecurityRequests", w.vault, vault("Off", 20, "Unlocked"), true},
		{"soft delete's days", "PATCH", w.vault, "dppReduceSoftDeleteSecurityRequests", w.vault, vault("On", 14, "Unlocked"), true},
		{"immutability", "PATCH", w.vault, "dppReduceImmutabilityStateRequests", w.vault, vault("On", 20, "Disabled"), true},
		{"suspend", "POST", w.instance + "/suspendBackups", "dppDisableSuspendBackupsRequests", w.instance, map[string]any{}, false},
		{"stop", "POST", w.instance + "/stopProtection", "dppDisableStopProtectionRequests", w.instance, map[string]any{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := dump(t, data)
			wantRefusal(t, w.As(g.admin, c.method, c.path, c.body), 403, "UserErrorResourceGuardApprovalRequired", c.target, "is protected by the resource guard")
			named := c.body
			if c.nested {
				named = c.body["properties"].(map[string]any)
			}
			named["resourceGuardOperationRequests"] = []any{g.request("dppModifyEncryptionSettingsRequests")}
			wantRefusal(t, w.As(g.admin, c.method, c.path, c.body), 403, "UserErrorResourceGuardApprovalRequired", c.target, "is protected by the resource guard")
			named["resourceGuardOperationRequests"] = []any{g.request(c.kind)}
			wantRefusal(t, w.As(g.admin, c.method, c.path, c.body), 403, "LinkedAuthorizationFailed", g.guard, "/"+c.kind+"/action")
			header := map[string]string{"Authorization": "Bearer " + g.admin, "x-ms-authorization-auxiliary": "Bearer nonsense"}
			wantRefusal(t, w.Send(c.method, c.path, c.body, header), 401, "InvalidAuthenticationToken", "x-ms-authorization-auxiliary", "The access token is invalid")
			if diff := cmp.Diff(before, dump(t, data)); diff != "" {
				t.Errorf("the database was changed: %s", diff)
			}
			header["x-ms-authorization-auxiliary"] = "Bearer " + g.security
			w.Send(c.method, c.path, c.body, header).Want(200, 201, 202)
			if c.method == "PATCH" {
				w.As(g.admin, "PATCH", w.vault, vault("On", 20, "Unlocked")).Want(200, 202)
			}
			eventually(t, "the instance's rest", func() error {
				if open := w.As(g.admin, "GET", w.vault+"/backupJobs", nil).At("value", 0, "properties", "status"); open == "InProgress" {
					return fmt.Errorf("a job is %v", open)
				}
				if state := w.Do("GET", w.instance, nil).At("properties", "provisioningState"); state != "Succeeded" {
					return fmt.Errorf("it is %v", state)
				}
				return nil
			})
		})
	}
}

// TestUnlockedDeletion deletes what a guard protects: with leave that has not run out, once.
func TestUnlockedDeletion(t *testing.T) {
	c := &clock{at: time.Now()}
	w := setUp(t, daemontest.Start(t, daemon.Config{Now: c.Now}))
	g := guardVault(t, w)
	deletes := func(path, want string) {
		t.Helper()
		wantRefusal(t, w.As(g.admin, "DELETE", path, nil), 403, "UserErrorResourceGuardApprovalRequired", path, want)
	}
	deletes(w.instance, "backupInstances/delete")
	deletes(g.proxy, mandatoryOperation)
	wantRefusal(t, w.As(g.admin, "POST", g.proxy+"/unlockDelete", map[string]any{"resourceGuardOperationRequests": []any{g.request("deleteBackupInstanceRequests")}}),
		403, "LinkedAuthorizationFailed", g.guard, "deleteBackupInstanceRequests/action")
	wantRefusal(t, g.unlock(t, "dppTriggerRestoreRequests", ""), 400, "BMSUserErrorInvalidInput", "resourceGuardOperationRequests[0]", "is no request")
	wantRefusal(t, w.As(g.admin, "POST", g.proxy+"/unlockDelete", `{}`), 400, "BMSUserErrorInvalidInput", "resourceGuardOperationRequests", "is required")

	g.unlock(t, "deleteBackupInstanceRequests", w.vault+"/backupInstances/other").Want(200)
	deletes(w.instance, "backupInstances/delete")
	g.unlock(t, "deleteBackupInstanceRequests", "").Want(200)
	deletes(g.proxy, mandatoryOperation)
	w.As(g.admin, "DELETE", w.instance, nil).Want(202)
	eventually(t, "the deletion", func() error {
		if a := w.Do("GET", w.instance, nil); a.Status != 404 {
			return fmt.Errorf("%d", a.Status)
		}
		return nil
	})
	w.protect(t)
	deletes(w.instance, "backupInstances/delete") // leave is for one deletion

	wantRefusal(t, w.Do("DELETE", g.guard, nil), 409, "UserErrorResourceGuardInUse", g.guard, "it protects the vault")
	if a := w.Do("DELETE", w.Subscription+"/resourceGroups/rg-security", nil); a.Status != 409 {
		t.Errorf("the guard's resource group: %d %v", a.Status, a.JSON)
	}
	wantRefusal(t, w.As(g.admin, "DELETE", g.guard, nil), 403, "AuthorizationFailed", g.guard, "does not have authorization")
	if until := g.unlock(t, "deleteResourceGuardProxyRequests", g.proxy).Want(200).At("unlockDeleteExpiryTime"); until != c.Now().UTC().Add(30*time.Minute).Format(time.RFC3339Nano) {
		t.Errorf("it is unlocked until %v", until)
	}
	c.advance(30 * time.Minute)
	deletes(g.proxy, mandatoryOperation)
	g.unlock(t, "deleteResourceGuardProxyRequests", g.proxy).Want(200)
	w.As(g.admin, "DELETE", g.proxy, nil).Want(200)
	w.As(g.admin, "DELETE", g.proxy, nil).Want(204)
	if protected := w.Do("GET", w.vault, nil).At("properties", "isVaultProtectedByResourceGuard"); protected != false {
		t.Errorf("the vault is protected: %v", protected)
	}
	w.As(g.admin, "DELETE", w.instance, nil).Want(202)
	w.Do("DELETE", g.guard, nil).Want(200)
	w.Do("DELETE", g.guard, nil).Want(204)
}

// TestGuardsWithAzuresSDK makes, lists, changes and deletes a guard and a vault's link to it.
func TestGuardsWithAzuresSDK(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	ctx, clients := t.Context(), sdk(t, w.World)
	guards, links := clients.NewResourceGuardsClient(), clients.NewDppResourceGuardProxyClient()
	made, err := guards.Put(ctx, group, "mua", dp.ResourceGuardResource{Location: to.Ptr("East US"), Tags: map[string]*string{"t": to.Ptr("1")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := made.Properties
	if *made.Location != location || made.ETag == nil || *p.ProvisioningState != dp.ProvisioningStateSucceeded || !*p.AllowAutoApprovals || len(p.ResourceGuardOperations) != 19 || len(p.VaultCriticalOperationExclusionList) != 0 {
		t.Errorf("the guard: %+v", made.ResourceGuardResource)
	}
	linked, err := links.CreateOrUpdate(ctx, group, vaultName, "DppResourceGuardProxy", dp.ResourceGuardProxyBaseResource{Properties: &dp.ResourceGuardProxyBase{ResourceGuardResourceID: made.ID}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	details := linked.Properties.ResourceGuardOperationDetails
	if len(details) != 9 || *details[0].DefaultResourceRequest != *made.ID+"/deleteBackupInstanceRequests/default" || *linked.Type != "Microsoft.DataProtection/vaults/backupResourceGuardProxies" {
		t.Errorf("the link: %+v", linked.ResourceGuardProxyBaseResource)
	}
	if protected := w.Do("GET", w.vault, nil).At("properties", "isVaultProtectedByResourceGuard"); protected != true {
		t.Errorf("the vault is protected: %v", protected)
	}
	request, err := guards.GetDefaultDeleteResourceGuardProxyRequestsObject(ctx, group, "mua", "default", nil)
	if err != nil || *request.ID != *made.ID+"/deleteResourceGuardProxyRequests/default" {
		t.Errorf("the request: %+v, %v", request, err)
	}
	excluded := []*string{to.Ptr("microsoft.dataprotection/backupvaults/backupInstances/delete"), to.Ptr("Microsoft.RecoveryServices/vaults/backupSecurityPIN/action")}
	if _, err := guards.Put(ctx, group, "mua", dp.ResourceGuardResource{Location: to.Ptr(location), Properties: &dp.ResourceGuard{VaultCriticalOperationExclusionList: excluded}}, nil); err != nil {
		t.Fatal(err)
	}
	link, err := links.Get(ctx, group, vaultName, "DppResourceGuardProxy", nil)
	if err != nil || len(link.Properties.ResourceGuardOperationDetails) != 8 {
		t.Errorf("the link with one operation excluded: %+v, %v", link.Properties, err)
	}
	pins := guards.NewGetBackupSecurityPINRequestsObjectsPager(group, "mua", nil)
	if page, err := pins.NextPage(ctx); err != nil || len(page.Value) != 0 {
		t.Errorf("requests for what is excluded: %+v, %v", page, err)
	}
	patched, err := guards.Patch(ctx, group, "mua", dp.PatchResourceGuardInput{Tags: map[string]*string{"t": to.Ptr("2")}}, nil)
	if err != nil || *patched.Tags["t"] != "2" || len(patched.Properties.VaultCriticalOperationExclusionList) != 2 {
		t.Errorf("patched: %+v, %v", patched, err)
	}
	inGroup, err := guards.NewGetResourcesInResourceGroupPager(group, nil).NextPage(ctx)
	if err != nil || len(inGroup.Value) != 1 {
		t.Errorf("the group's guards: %+v, %v", inGroup, err)
	}
	inSubscription, err := guards.NewGetResourcesInSubscriptionPager(nil).NextPage(ctx)
	if err != nil || len(inSubscription.Value) != 1 || *inSubscription.Value[0].ETag != *patched.ETag {
		t.Errorf("the subscription's guards: %+v, %v", inSubscription, err)
	}
	listed, err := links.NewListPager(group, vaultName, nil).NextPage(ctx)
	if err != nil || len(listed.Value) != 1 || len(listed.Value[0].Properties.ResourceGuardOperationDetails) != 8 {
		t.Errorf("the vault's links: %+v, %v", listed, err)
	}
	unlocked, err := links.UnlockDelete(ctx, group, vaultName, "DppResourceGuardProxy", dp.UnlockDeleteRequest{ResourceGuardOperationRequests: []*string{request.ID}}, nil)
	if err != nil || unlocked.UnlockDeleteExpiryTime == nil {
		t.Errorf("unlocked: %+v, %v", unlocked, err)
	}
	if _, err := links.Delete(ctx, group, vaultName, "DppResourceGuardProxy", nil); err != nil {
		t.Error(err)
	}
	if _, err := guards.Delete(ctx, group, "mua", nil); err != nil {
		t.Error(err)
	}
}

// TestGuardsAreRefused is what cannot be asked of guards and links.
func TestGuardsAreRefused(t *testing.T) {
	data := t.TempDir()
	w := setUp(t, daemontest.Start(t, daemon.Config{Data: data}))
	rg := w.Subscription + "/resourceGroups/" + group
	guards := rg + "/providers/Microsoft.DataProtection/resourceGuards/"
	proxy := w.vault + "/backupResourceGuardProxies/DppResourceGuardProxy"
	w.Do("PUT", guards+"one", `{"location":"eastus"}`).Want(200)
	w.Do("PUT", guards+"two", `{"location":"eastus"}`).Want(200)
	w.Do("PUT", guards+"far", `{"location":"westeurope"}`).Want(200)
	link := func(guard string) string { return `{"properties":{"resourceGuardResourceId":"` + guard + `"}}` }
	w.Do("PUT", proxy, link(guards+"one")).Want(200)
	before := dump(t, data)
	const invalid = "BMSUserErrorInvalidInput"
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code, target, says string
	}{
		"no location":        {"PUT", guards + "new", `{}`, 400, "LocationRequired", "location", "is required"},
		"another location":   {"PUT", guards + "one", `{"location":"westus"}`, 409, "InvalidResourceLocation", "location", "cannot be moved"},
		"a bad name":         {"PUT", guards + "-", `{"location":"eastus"}`, 400, invalid, "name", "is not a resource guard's name"},
		"unknown operation":  {"PUT", guards + "one", `{"location":"eastus","properties":{"vaultCriticalOperationExclusionList":["x"]}}`, 400, invalid, "properties.vaultCriticalOperationExclusionList[0]", "'x' is not"},
		"mandatory":          {"PUT", guards + "one", `{"location":"eastus","properties":{"vaultCriticalOperationExclusionList":["` + mandatoryOperation + `"]}}`, 400, invalid, "properties.vaultCriticalOperationExclusionList[0]", "always protected"},
		"no such guard":      {"GET", guards + "none", "", 404, "ResourceNotFound", guards + "none", "was not found"},
		"no such request":    {"GET", guards + "one/deleteProtectedItemRequests/other", "", 404, "ResourceNotFound", guards + "one/deleteProtectedItemRequests/other", "was not found"},
		"another link":       {"PUT", w.vault + "/backupResourceGuardProxies/mine", link(guards + "one"), 400, invalid, "name", "is not the name"},
		"a link to another":  {"PUT", proxy, link(guards + "two"), 409, "UserErrorResourceGuardProxyExists", proxy, "is linked to"},
		"a link to nothing":  {"PUT", proxy, link(guards + "none"), 400, invalid, "properties.resourceGuardResourceId", "There is no resource guard"},
		"a link to a vault":  {"PUT", proxy, link(w.vault), 400, invalid, "properties.resourceGuardResourceId", "is not the ID"},
		"a vault's not here": {"PUT", rg + "/providers/Microsoft.DataProtection/backupVaults/none/backupResourceGuardProxies/DppResourceGuardProxy", link(guards + "one"), 404, "ResourceNotFound", rg + "/providers/Microsoft.DataProtection/backupVaults/none", "was not found"},
	} {
		t.Run(name, func(t *testing.T) {
			wantRefusal(t, w.Do(c.method, c.path, sent(c.body)), c.status, c.code, c.target, c.says)
			if diff := cmp.Diff(before, dump(t, data)); diff != "" {
				t.Errorf("the database was changed: %s", diff)
			}
		})
	}
	w.Do("POST", proxy+"/unlockDelete", map[string]any{"resourceGuardOperationRequests": []any{guards + "one/deleteResourceGuardProxyRequests/default"}}).Want(200)
	w.Do("DELETE", proxy, nil).Want(200)
	wantRefusal(t, w.Do("PUT", proxy, link(guards+"far")), 400, invalid, "properties.resourceGuardResourceId", "The resource guard is in 'westeurope'")
}
