package armserver_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

const activityLog = "/providers/Microsoft.Insights/eventtypes/management/values"

// activity asks for the log with a filter; empty is everything of the last day.
func activity(w *daemontest.World, token, filter string) daemontest.Answer {
	all := "eventTimestamp ge '" + time.Now().Add(-24*time.Hour).UTC().Format(time.RFC3339) + "'"
	if filter != "" {
		all += " and " + filter
	}
	return w.As(token, "GET", w.Subscription+activityLog+"?api-version=2015-04-01&$filter="+url.QueryEscape(all), nil)
}

// lines are a log's events, oldest first: operation, status and error.
func lines(t *testing.T, a daemontest.Answer) []string {
	t.Helper()
	events, ok := a.Want(200).At("value").([]any)
	if !ok {
		t.Fatalf("%v", a.JSON)
	}
	out := []string{}
	for _, e := range events {
		event := daemontest.Answer{JSON: e}
		text := event.At("operationName", "value").(string) + " " + event.At("status", "value").(string)
		if code, ok := event.At("properties", "errorCode").(string); ok {
			text += " " + code
		}
		out = append(out, text)
	}
	slices.Reverse(out)
	return out
}

func TestChangesAndRefusalsAreInTheActivityLog(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	id, token := principal(t, w)
	group := w.Subscription + "/resourceGroups/Blue"
	account := group + "/providers/Microsoft.Storage/storageAccounts/acc"
	const correlation = "3f0b7c1e-8c11-4c43-9d4d-0a6b1f9b2c10"
	made := w.Send("PUT", group, `{"location":"eastus","tags":{"password":"do-not-log-this"}}`, map[string]string{
		"Authorization": "Bearer " + w.AdminToken(), "x-ms-correlation-request-id": strings.ToUpper(correlation)}).Want(201)
	w.Do("PUT", account, `{"sku":{"name":"Standard_LRS"},"location":"eastus"}`).Want(202)
	w.Do("GET", account, nil).Want(200)
	w.Do("POST", account+"/listKeys", nil).Want(200)
	w.Do("PUT", group, `{"location":"westus"}`).Want(409)
	w.Do("DELETE", group+"/providers/Microsoft.DataProtection/backupVaults/none", nil).Want(204)
	w.As(token, "GET", group, nil).Want(403)
	w.As(token, "DELETE", group, nil).Want(403)

	admin := w.AdminToken()
	want := []string{
		"Microsoft.Resources/subscriptions/resourceGroups/write Succeeded",
		"Microsoft.Storage/storageAccounts/write Accepted",
		"Microsoft.Storage/storageAccounts/listKeys/action Succeeded",
		"Microsoft.Resources/subscriptions/resourceGroups/write Failed InvalidResourceGroupLocation",
		"Microsoft.DataProtection/backupVaults/delete Succeeded",
		"Microsoft.Resources/subscriptions/resourceGroups/read Failed AuthorizationFailed",
		"Microsoft.Resources/subscriptions/resourceGroups/delete Failed AuthorizationFailed",
	}
	all := activity(w, admin, "")
	if d := cmp.Diff(want, lines(t, all)); d != "" {
		t.Error(d)
	}
	if text, err := json.Marshal(all.JSON); err != nil || strings.Contains(string(text), "do-not-log-this") {
		t.Errorf("the log has what a request carried, %v", err)
	}
	first := activity(w, admin, "correlationId eq '"+correlation+"'").Want(200)
	same(t, daemontest.Answer{JSON: first.At("value", 0)}, map[string]any{
		"correlationId": correlation, "resourceId": group, "resourceGroupName": "Blue", "httpRequest.method": "PUT", "httpRequest.clientIpAddress": "127.0.0.1",
		"authorization.action": "Microsoft.Resources/subscriptions/resourceGroups/write", "authorization.scope": group,
		"subStatus.localizedValue": "Created (HTTP Status Code: 201)", "level": "Informational", "eventName.value": "EndRequest",
		"resourceProviderName.value": "Microsoft.Resources", "claims.name": "cairn administrator", "properties.serviceRequestId": made.Header.Get("x-ms-request-id")})
	for filter, want := range map[string][]string{
		"resourceGroupName eq 'blue'":              want,
		"resourceGroupName eq 'red'":               {},
		"resourceUri eq '" + account + "'":         want[1:3],
		"resourceProvider eq 'microsoft.storage'":  want[1:3],
		"caller eq '" + strings.ToUpper(id) + "'":  want[5:],
		"status eq 'Failed'":                       {want[3], want[5], want[6]},
		"status eq 'Started'":                      {},
		"eventTimestamp le '2001-01-01T00:00:00Z'": {},
		"correlationId eq '" + correlation + "' and eventChannels eq 'Admin, Operation'": want[:1],
	} {
		if d := cmp.Diff(want, lines(t, activity(w, admin, filter))); d != "" {
			t.Errorf("%s: %s", filter, d)
		}
	}
	for _, filter := range []string{"status eq 'Odd'", "level eq 'Error'", "caller ne 'x'", "eventTimestamp ge 'yesterday'", "resourceUri eq 'x'"} {
		if got := activity(w, admin, filter); got.Status != 400 {
			t.Errorf("%s: %d", filter, got.Status)
		}
	}

	// Page by page it is the same.
	var paged []string
	next := w.Subscription + activityLog + "?api-version=2015-04-01&$top=3"
	for next != "" {
		page := w.Do("GET", next, nil)
		paged = append(lines(t, page), paged...)
		next, _ = page.At("nextLink").(string)
	}
	if d := cmp.Diff(want, paged); d != "" {
		t.Error(d)
	}
}

func TestTheActivityLogShowsWhatTheCallerMayRead(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	id, token := principal(t, w)
	for _, name := range []string{"blue", "blues", "red"} {
		w.Do("PUT", w.Subscription+"/resourceGroups/"+name, `{"location":"eastus"}`).Want(201)
	}
	if got := activity(w, token, "").Want(403); got.At("error", "code") != "AuthorizationFailed" {
		t.Errorf("%v", got.JSON)
	}
	blue := w.Subscription + "/resourceGroups/blue"
	grant(w, blue, guid1, "5e467623-bb1f-42f4-a55d-6e525e11384b", id).Want(201) // Backup Contributor
	activity(w, token, "").Want(403)
	grant(w, blue, guid2, reader, id).Want(201)
	want := []string{"Microsoft.Resources/subscriptions/resourceGroups/write Succeeded", "Microsoft.Authorization/roleAssignments/write Succeeded",
		"Microsoft.Authorization/roleAssignments/write Succeeded"}
	if d := cmp.Diff(want, lines(t, activity(w, token, ""))); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{}, lines(t, activity(w, token, "resourceGroupName eq 'red'"))); d != "" {
		t.Error(d)
	}
}

// watched is the blob endpoint, and looks into the audit log when a container is made.
type watched struct {
	service.Blobs
	look func()
}

func (b watched) CreateContainer(account, container string) (bool, error) {
	b.look()
	return b.Blobs.CreateContainer(account, container)
}

// TestACallIsInTheLogBeforeItChangesAnything: a service that is killed meanwhile leaves a trace.
func TestACallIsInTheLogBeforeItChangesAnything(t *testing.T) {
	w, _, _, account := world(t)
	var during []string
	w.Service.Blobs = watched{w.Service.Blobs, func() { during = lines(t, activity(w, w.AdminToken(), "status eq 'Started'")) }}
	w.Do("PUT", account+"/blobServices/default/containers/more", `{}`).Want(201)
	if d := cmp.Diff([]string{"Microsoft.Storage/storageAccounts/blobServices/containers/write Started"}, during); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{}, lines(t, activity(w, w.AdminToken(), "status eq 'Started'"))); d != "" {
		t.Error(d)
	}
}

func TestRefusedTokensAreInTheActivityLog(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	login := func(client, secret string) {
		t.Helper()
		response, err := w.HTTP.PostForm(w.Env["CAIRN_ENDPOINT"]+"/"+w.Env["AZURE_TENANT_ID"]+"/oauth2/v2.0/token", url.Values{
			"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {secret}, "scope": {"https://management.azure.com/.default"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil || response.StatusCode == http.StatusOK {
			t.Errorf("%d, %v", response.StatusCode, err)
		}
	}
	login(w.Env["AZURE_CLIENT_ID"], "a-guess")
	login(guid1, "a-guess") // nobody's
	storage := w.Token(w.Env["AZURE_CLIENT_ID"], w.Env["AZURE_CLIENT_SECRET"], "https://storage.azure.com")
	w.As(storage, "DELETE", w.Subscription+"/resourceGroups/g", nil).Want(401)
	w.As("x.y.z", "DELETE", w.Subscription+"/resourceGroups/g", nil).Want(401)
	want := []string{"Cairn.Directory/tokens/action Failed AADSTS7000215", "Microsoft.Resources/subscriptions/resourceGroups/delete Failed InvalidAuthenticationToken"}
	got := activity(w, w.AdminToken(), "")
	if d := cmp.Diff(want, lines(t, got)); d != "" {
		t.Error(d)
	}
	if text, err := json.Marshal(got.JSON); err != nil || strings.Contains(string(text), "a-guess") {
		t.Errorf("the log has a secret that was tried, %v", err)
	}
}

func TestConnectorsReportsAreNotInTheActivityLog(t *testing.T) {
	w, _, cluster, _ := world(t)
	credential := w.Do("POST", cluster+"/connect", nil).Want(200)
	token := w.Token(credential.At("clientId").(string), credential.At("clientSecret").(string), w.Env["CAIRN_ENDPOINT"])
	before := len(lines(t, activity(w, w.AdminToken(), "")))
	w.As(token, "POST", "/link/v1/report", `{"kubernetesVersion":"v1.36.3","nodeCount":1}`).Want(200, 204)
	if after := lines(t, activity(w, w.AdminToken(), "")); len(after) != before {
		t.Errorf("%d events became %d: %v", before, len(after), after)
	}
}

func TestTheActivityLogIsKeptFor90Days(t *testing.T) {
	now := time.Now()
	w := daemontest.Start(t, daemon.Config{Now: func() time.Time { return now }})
	events := func() int {
		t.Helper()
		var found []store.AuditEvent
		if err := w.Service.DB.View(t.Context(), func(tx *store.Tx) (err error) {
			found, _, err = tx.AuditEvents(store.AuditFilter{Within: []arm.ID{""}}, store.Page{Limit: 10})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	w.Do("PUT", w.Subscription+"/resourceGroups/g", `{"location":"eastus"}`).Want(201)
	w.Service.FlushAudit()
	for _, c := range []struct {
		days, want int
	}{{89, 1}, {91, 0}} {
		now = now.Add(time.Duration(c.days) * 24 * time.Hour)
		if err := w.Service.PruneAudit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := events(); got != c.want {
			t.Errorf("after %d days more: %d events, want %d", c.days, got, c.want)
		}
	}
}
