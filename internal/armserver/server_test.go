package armserver_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/armserver"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

func TestFilter(t *testing.T) {
	eq := func(name, value string) arm.Comparison {
		return arm.Comparison{Name: name, Operator: "eq", Value: value}
	}
	call := func(name, value string) arm.Comparison {
		return arm.Comparison{Name: name, Operator: "()", Value: value}
	}
	for text, want := range map[string]arm.Filter{
		"":                                 {},
		"roleName eq 'Reader'":             {eq("rolename", "Reader")},
		"atScope()":                        {call("atscope", "")},
		"assignedTo('x')":                  {call("assignedto", "x")},
		"a eq 'it''s' AND b EQ '' ":        {eq("a", "it's"), eq("b", "")},
		"atScope() and principalId eq 'p'": {call("atscope", ""), eq("principalid", "p")},
		"isVisible eq true and t ge 2026-01-01T00:00:00Z and t lt datetime'2026-02-01'": {eq("isvisible", "true"),
			{Name: "t", Operator: "ge", Value: "2026-01-01T00:00:00Z"}, {Name: "t", Operator: "lt", Value: "2026-02-01"}},
	} {
		got, err := armserver.ParseFilter(text)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
	for _, text := range []string{"x", "a eq", "a like 'b'", "a eq 'b' or c eq 'd'", "a eq 'b' and", "f(", "f('x'", "a eq 'b", "eq 'b'", "a eq b'", "a eq f(b)"} {
		_, err := armserver.ParseFilter(text)
		var e *arm.Error
		if !errors.As(err, &e) || e.Status != 400 {
			t.Errorf("%q: %v, want a 400", text, err)
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add("atScope() and principalId eq 'p'")
	f.Add("a eq 'it''s'")
	f.Add("a ge datetime'2026-01-01' and b ne true")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := armserver.ParseFilter(text)
		if err != nil {
			var e *arm.Error
			if !errors.As(err, &e) || e.Status != 400 {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		var terms []string
		for _, c := range got {
			if c.Name == "" {
				t.Fatalf("%q has a term without a name", text)
			}
			value := "'" + strings.ReplaceAll(c.Value, "'", "''") + "'"
			if c.Operator == arm.FilterCall {
				terms = append(terms, c.Name+"("+value+")")
			} else {
				terms = append(terms, c.Name+" "+c.Operator+" "+value)
			}
		}
		again, err := armserver.ParseFilter(strings.Join(terms, " and "))
		if diff := cmp.Diff(got, again); diff != "" || err != nil {
			t.Fatalf("%q: %v %s", text, err, diff)
		}
	})
}

func TestEveryRouteAsksForAPermission(t *testing.T) {
	pattern := regexp.MustCompile(`^(Microsoft\.[A-Za-z]+(/[A-Za-z]+)+/(read|write|delete|action)|-)$`)
	server := armserver.New(&service.Service{}, nil)
	for row, permission := range server.Permissions() {
		if !strings.Contains(row, "/link/v1/") && !pattern.MatchString(permission) {
			t.Errorf("%s asks for %q", row, permission)
		}
	}
	for row, want := range map[string]string{
		"PUT /subscriptions/{subscription}/resourceGroups/{resourceGroup}":                                                                 "Microsoft.Resources/subscriptions/resourceGroups/write",
		"POST /subscriptions/{subscription}/resourceGroups/{resourceGroup}/providers/Microsoft.Storage/storageAccounts/{account}/listKeys": "Microsoft.Storage/storageAccounts/listKeys/action",
		"DELETE {scope}/providers/Microsoft.Authorization/roleAssignments/{assignment}":                                                    "Microsoft.Authorization/roleAssignments/delete",
	} {
		if got := server.Permissions()[row]; got != want {
			t.Errorf("%s asks for %q, want %q", row, got, want)
		}
	}
}

const version = "?api-version=2024-04-01"

func TestWhatEveryRequestNeeds(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	storage := w.Token(w.Env["AZURE_CLIENT_ID"], w.Env["AZURE_CLIENT_SECRET"], "https://storage.azure.com")
	bearer := map[string]string{"Authorization": "Bearer " + w.AdminToken()}
	for _, c := range []struct {
		name, method, path, body string
		header                   map[string]string
		status                   int
		code                     string
	}{
		{"no token", "GET", w.Subscription, "", nil, 401, "AuthenticationFailed"},
		{"basic", "GET", w.Subscription, "", map[string]string{"Authorization": "Basic eDp5"}, 401, "AuthenticationFailed"},
		{"no such token", "GET", w.Subscription, "", map[string]string{"Authorization": "Bearer x.y.z"}, 401, "InvalidAuthenticationToken"},
		{"token for storage", "GET", w.Subscription, "", map[string]string{"Authorization": "Bearer " + storage}, 401, "InvalidAuthenticationToken"},
		{"no token, no such path", "GET", "/nothing", "", nil, 401, "AuthenticationFailed"},
		{"no such type", "GET", w.Subscription + "/providers/Microsoft.X/things/y", "", bearer, 404, "InvalidResourceType"},
		{"no such method", "DELETE", w.Subscription, "", bearer, 405, "MethodNotAllowed"},
		{"no version", "GET", w.Subscription + "?api-version=", "", bearer, 400, "MissingApiVersionParameter"},
		{"bad version", "GET", w.Subscription + "?api-version=latest", "", bearer, 400, "InvalidApiVersionParameter"},
		{"preview version", "GET", w.Subscription + "?api-version=2016-06-01-preview", "", bearer, 200, ""},
		{"version in capitals", "GET", w.Subscription + "?API-VERSION=2016-06-01&api-version=2016-06-01", "", bearer, 200, ""},
		{"other subscription", "GET", "/subscriptions/6d7f86b7-5b0c-4b7e-9a57-b5c6ad5dcf24/resourceGroups", "", bearer, 404, "SubscriptionNotFound"},
		{"no such group", "GET", w.Subscription + "/resourceGroups/none/providers/Microsoft.Storage/storageAccounts", "", bearer, 404, "ResourceGroupNotFound"},
		{"malformed", "PUT", w.Subscription + "/resourceGroups/g", `{"location":`, bearer, 400, "InvalidRequestContent"},
		{"wrong type", "PUT", w.Subscription + "/resourceGroups/g", `{"location":1}`, bearer, 400, "InvalidRequestContent"},
		{"too big", "PUT", w.Subscription + "/resourceGroups/g", strings.Repeat(" ", 5<<20), bearer, 413, "RequestContentTooLarge"},
		{"slash in a name", "GET", w.Subscription + "/resourceGroups/a%2Fb", "", bearer, 400, "InvalidRequestUri"},
		{"double slash", "GET", "/" + w.Subscription, "", bearer, 200, ""},
		{"capitals", "GET", strings.Replace(w.Subscription, "subscriptions", "SUBSCRIPTIONS", 1), "", bearer, 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var body any
			if c.body != "" {
				body = c.body
			}
			a := w.Send(c.method, c.path, body, c.header).Want(c.status)
			if c.code != "" && a.At("error", "code") != c.code {
				t.Errorf("%v, want %s", a.JSON, c.code)
			}
			if message, _ := a.At("error", "message").(string); c.code != "" && (a.At("error", "target") == nil || !strings.Contains(message, ". ")) {
				t.Errorf("%v has no target, or does not say what to do", a.JSON)
			}
			if challenge := a.Header.Get("WWW-Authenticate"); (c.status == 401) != strings.HasPrefix(challenge, "Bearer ") {
				t.Errorf("WWW-Authenticate: %q", challenge)
			}
			if a.Header.Get("x-ms-request-id") == "" || a.Header.Get("x-ms-correlation-request-id") == "" {
				t.Error("no request ID")
			}
		})
	}
}

// principal makes a service principal and a token for it.
func principal(t *testing.T, w *daemontest.World) (id, token string) {
	t.Helper()
	var client, secret string
	if err := w.Service.DB.Update(t.Context(), func(tx *store.Tx) error {
		p, s, err := w.Service.AddPrincipal(tx, "somebody")
		id, client, secret = p.ID, p.Client, s
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return id, w.Token(client, secret, "https://management.azure.com")
}

const (
	owner       = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	contributor = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	reader      = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	blobWriter  = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
)

func grant(w *daemontest.World, scope, name, role, principal string) daemontest.Answer {
	return w.Do("PUT", scope+"/providers/Microsoft.Authorization/roleAssignments/"+name, map[string]any{"properties": map[string]any{
		"roleDefinitionId": w.Subscription + "/providers/Microsoft.Authorization/roleDefinitions/" + role,
		"principalId":      principal, "principalType": "ServicePrincipal",
	}})
}

const (
	guid1 = "00000000-0000-4000-8000-000000000001"
	guid2 = "00000000-0000-4000-8000-000000000002"
)

func TestRolesTakeEffect(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	group := w.Subscription + "/resourceGroups/g"
	w.Do("PUT", group, `{"location":"East US"}`).Want(201)
	id, token := principal(t, w)
	if got := w.As(token, "GET", "/subscriptions", nil).Want(200); len(got.At("value").([]any)) != 0 {
		t.Errorf("a principal without a role sees %v", got.JSON)
	}
	denied := w.As(token, "GET", group, nil).Want(403)
	if message, _ := denied.At("error", "message").(string); !strings.Contains(message, "Microsoft.Resources/subscriptions/resourceGroups/read") ||
		!strings.Contains(message, group) || denied.At("error", "code") != "AuthorizationFailed" {
		t.Errorf("%v", denied.JSON)
	}
	grant(w, group, guid1, reader, id).Want(201)
	w.As(token, "GET", group, nil).Want(200)
	w.As(token, "GET", group+"/providers/Microsoft.Storage/storageAccounts", nil).Want(200)
	w.As(token, "DELETE", group, nil).Want(403)
	w.As(token, "PUT", group+"/providers/Microsoft.Authorization/roleAssignments/"+guid2, `{}`).Want(403)
	if got := w.As(token, "GET", "/subscriptions", nil).Want(200); len(got.At("value").([]any)) != 1 {
		t.Errorf("a reader of a group sees %v", got.JSON)
	}
	w.Do("DELETE", group+"/providers/Microsoft.Authorization/roleAssignments/"+guid1, nil).Want(200)
	w.As(token, "GET", group, nil).Want(403)
}

// TestListsShowWhatTheCallerMayRead has a principal with a role on one of two groups ask for everything in the subscription.
func TestListsShowWhatTheCallerMayRead(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	for _, name := range []string{"mine", "other"} {
		group := w.Subscription + "/resourceGroups/" + name
		w.Do("PUT", group, `{"location":"eastus"}`).Want(201)
		w.Do("PUT", group+"/providers/Microsoft.Storage/storageAccounts/acc"+name, `{"sku":{"name":"Standard_LRS"},"location":"eastus"}`).Want(202)
		w.Do("PUT", group+"/providers/Microsoft.ContainerService/managedClusters/"+name, `{"location":"eastus"}`).Want(201)
		w.Do("PUT", group+"/providers/Microsoft.DataProtection/backupVaults/"+name,
			`{"location":"eastus","properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}]}}`).Want(201)
	}
	id, token := principal(t, w)
	lists := map[string]int{
		"/resourceGroups": 1,
		"/resources":      3,
		"/providers/Microsoft.Storage/storageAccounts":          1,
		"/providers/Microsoft.ContainerService/managedClusters": 1,
		"/providers/Microsoft.DataProtection/backupVaults":      1,
	}
	see := func(count int, list string) {
		t.Helper()
		got := w.As(token, "GET", w.Subscription+list, nil).Want(200)
		items, ok := got.At("value").([]any)
		if !ok || len(items) != count {
			t.Errorf("%s: %v, want %d items", list, got.JSON, count)
		}
		for i := range items {
			if item, _ := got.At("value", i, "id").(string); !strings.Contains(item, "/mine") {
				t.Errorf("%s shows %s", list, item)
			}
		}
	}
	w.As(token, "GET", w.Subscription, nil).Want(403)
	for list := range lists {
		see(0, list)
	}
	grant(w, w.Subscription+"/resourceGroups/mine", guid1, contributor, id).Want(201)
	w.As(token, "GET", w.Subscription, nil).Want(200)
	for list, count := range lists {
		see(count, list)
	}
	w.As(token, "PUT", w.Subscription+"/resourceGroups/third", `{"location":"eastus"}`).Want(403)
}
