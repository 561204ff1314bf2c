package auth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/auth"
)

const tenant = "11111111-2222-3333-4444-555555555555"

func TestRoles(t *testing.T) {
	const (
		vault  = arm.ID("/subscriptions/S/resourceGroups/G/providers/Microsoft.DataProtection/backupVaults/V")
		read   = "Microsoft.DataProtection/backupVaults/read"
		write  = "Microsoft.DataProtection/backupVaults/write"
		backup = "Microsoft.DataProtection/backupVaults/backupInstances/backup/action"
		item   = "Microsoft.DataProtection/backupVaults/backupInstances/write"
		assign = "Microsoft.Authorization/roleAssignments/write"
		blob   = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write"
		keys   = "Microsoft.Storage/storageAccounts/listKeys/action"
		stop   = "Microsoft.DataProtection/backupVaults/backupInstances/stopProtection/action"
		remove = "Microsoft.DataProtection/backupVaults/delete"
	)
	all := []string{read, write, backup, item, assign, keys, stop, remove}
	for role, allowed := range map[string][]string{
		"Owner":                         {read, write, backup, item, assign, keys, stop, remove},
		"Contributor":                   {read, write, backup, item, keys, stop, remove},
		"Reader":                        {read},
		"Backup Contributor":            {read, write, backup, item, stop},
		"Backup Operator":               {read, backup, item},
		"Backup Reader":                 {read},
		"User Access Administrator":     {read, assign},
		"Storage Account Contributor":   {keys},
		"Storage Blob Data Contributor": nil,
		"Disk Snapshot Contributor":     {"Microsoft.Storage/storageAccounts/listKeys/action"},
	} {
		r, ok := auth.RoleByName(role)
		if !ok {
			t.Errorf("no role %s", role)
			continue
		}
		grants := []auth.Grant{{Role: r.ID, Scope: "/subscriptions/s/resourcegroups/g"}}
		for _, action := range all {
			want := false
			for _, a := range allowed {
				want = want || a == action
			}
			if got := auth.Allowed(grants, action, vault, false); got != want {
				t.Errorf("%s, %s: %v, want %v", role, action, got, want)
			}
			if auth.Allowed(grants, action, "/subscriptions/S/resourceGroups/Other", false) {
				t.Errorf("%s gives %s in another group", role, action)
			}
		}
		data := strings.HasPrefix(role, "Storage Blob Data C") || role == "Storage Blob Data Owner"
		if got := auth.Allowed(grants, blob, vault, true); got != data {
			t.Errorf("%s, data action: %v, want %v", role, got, data)
		}
	}
}

func issuer(t *testing.T, now *time.Time) *auth.Issuer {
	t.Helper()
	i, err := auth.NewIssuer(filepath.Join(t.TempDir(), "token.key"), "https://cairn:8443", tenant, func() time.Time { return *now })
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestTokens(t *testing.T) {
	now := time.Now()
	i := issuer(t, &now)
	caller := auth.Caller{ObjectID: "object", ClientID: "client"}
	token, err := i.Mint(caller, "https://management.azure.com/")
	if err != nil {
		t.Fatal(err)
	}
	claims, err := i.Verify(token, "https://management.azure.com")
	if err != nil || claims.ObjectID != "object" || claims.ClientID != "client" || claims.TenantID != tenant {
		t.Fatalf("%+v, %v", claims, err)
	}
	refused := func(name, token, audience string, at time.Time) {
		t.Helper()
		before := now
		now = at
		if _, err := i.Verify(token, audience); !errors.Is(err, auth.ErrToken) {
			t.Errorf("%s: %v, want ErrToken", name, err)
		}
		now = before
	}
	refused("another audience", token, "https://storage.azure.com", now)
	refused("expired", token, "https://management.azure.com", now.Add(auth.Lifetime+time.Second))
	refused("before its time", token, "https://management.azure.com", now.Add(-time.Hour))
	refused("changed", token[:len(token)-4]+"AAAA", "https://management.azure.com", now)
	refused("nothing", "", "https://management.azure.com", now)
	refused("unsigned", "eyJhbGciOiJub25lIn0.e30.", "https://management.azure.com", now)
	foreign, err := issuer(t, &now).Mint(caller, "https://management.azure.com")
	if err != nil {
		t.Fatal(err)
	}
	refused("another service's", foreign, "https://management.azure.com", now)
}

func TestSigningKeyIsKeptAndPrivate(t *testing.T) {
	now := time.Now()
	file := filepath.Join(t.TempDir(), "token.key")
	clock := func() time.Time { return now }
	first, err := auth.NewIssuer(file, "https://cairn", tenant, clock)
	if err != nil {
		t.Fatal(err)
	}
	token, err := first.Mint(auth.Caller{ObjectID: "o"}, "a")
	if err != nil {
		t.Fatal(err)
	}
	second, err := auth.NewIssuer(file, "https://cairn", tenant, clock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Verify(token, "a"); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

type directory struct{}

func (directory) Authenticate(_ context.Context, client, secret string) (auth.Caller, error) {
	switch {
	case client != "client":
		return auth.Caller{}, auth.ErrUnknownClient
	case secret != "secret" && secret != "full":
		return auth.Caller{}, auth.ErrWrongSecret
	case secret == "full":
		return auth.Caller{}, fmt.Errorf("write: %w", syscall.ENOSPC)
	}
	return auth.Caller{ObjectID: "object", ClientID: client}, nil
}

func serve(t *testing.T) (*auth.Endpoints, *httptest.Server) {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	i, err := auth.NewIssuer(filepath.Join(t.TempDir(), "token.key"), server.URL, tenant, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	e := &auth.Endpoints{Issuer: i, Directory: directory{}, PublicURL: server.URL, BlobURL: "https://blobs:8444", Log: slog.New(slog.DiscardHandler)}
	e.Register(mux)
	return e, server
}

func TestTokenEndpoint(t *testing.T) {
	e, server := serve(t)
	good := url.Values{"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {"secret"},
		"scope": {"https://management.azure.com//.default openid profile"}}
	with := func(key, value string) url.Values {
		v := url.Values{}
		for k, values := range good {
			v[k] = values
		}
		v.Set(key, value)
		return v
	}
	for _, c := range []struct {
		name, path string
		form       url.Values
		status     int
		fault      string
	}{
		{"v2", "/" + tenant + "/oauth2/v2.0/token", good, 200, ""},
		{"adfs", "/adfs/oauth2/token", good, 200, ""},
		{"graph", "/" + tenant + "/oauth2/v2.0/token", with("scope", server.URL+"/.default"), 200, ""},
		{"storage", "/" + tenant + "/oauth2/v2.0/token", with("scope", "https://blobs:8444/account/.default"), 200, ""},
		{"v1", "/" + tenant + "/oauth2/token", with("resource", "https://management.core.windows.net/"), 200, ""},
		{"wrong secret", "/" + tenant + "/oauth2/v2.0/token", with("client_secret", "x"), 401, "invalid_client"},
		{"unknown client", "/" + tenant + "/oauth2/v2.0/token", with("client_id", "x"), 400, "unauthorized_client"},
		{"full disk", "/" + tenant + "/oauth2/v2.0/token", with("client_secret", "full"), 507, "temporarily_unavailable"},
		{"unknown tenant", "/other/oauth2/v2.0/token", good, 400, "invalid_request"},
		{"unknown resource", "/" + tenant + "/oauth2/v2.0/token", with("scope", "https://elsewhere/.default"), 400, "invalid_resource"},
		{"password", "/" + tenant + "/oauth2/v2.0/token", with("grant_type", "password"), 400, "unsupported_grant_type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, err := server.Client().PostForm(server.URL+c.path, c.form)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var body struct {
				Type        string          `json:"token_type"`
				Expires     json.RawMessage `json:"expires_in"`
				Token       string          `json:"access_token"`
				Error       string          `json:"error"`
				Description string          `json:"error_description"`
			}
			if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != c.status || body.Error != c.fault {
				t.Fatalf("%d %q %q, want %d %q", response.StatusCode, body.Error, body.Description, c.status, c.fault)
			}
			if c.fault != "" {
				if !strings.HasPrefix(body.Description, "AADSTS") {
					t.Errorf("%q has no number", body.Description)
				}
				return
			}
			expires := map[bool]string{true: `"3599"`, false: `3599`}[c.form.Has("resource")]
			if body.Type != "Bearer" || string(body.Expires) != expires {
				t.Errorf("%s %s, want Bearer %s", body.Type, body.Expires, expires)
			}
			audiences := append(append(e.ManagementAudiences(), e.StorageAudiences()...), e.GraphAudiences()...)
			if claims, err := e.Issuer.Verify(body.Token, audiences...); err != nil || claims.ObjectID != "object" {
				t.Errorf("%+v, %v", claims, err)
			}
		})
	}
}

// TestWrongSecretsAreSlow: while eight answers are held back, their address is told to wait, with a right secret too; when they are over it is let in again.
func TestWrongSecretsAreSlow(t *testing.T) {
	e, server := serve(t)
	e.Penalty = time.Hour
	ask := func(ctx context.Context, secret string) int {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {secret}, "scope": {"https://management.azure.com/.default"}}
		request, err := http.NewRequestWithContext(ctx, "POST", server.URL+"/"+tenant+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
		if err != nil {
			t.Error(err)
			return 0
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		response, err := server.Client().Do(request)
		if err != nil {
			return 0 // it was given up
		}
		if err := response.Body.Close(); err != nil {
			t.Error(err)
		}
		if response.StatusCode == 429 && response.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		return response.StatusCode
	}
	ctx, giveUp := context.WithCancel(t.Context())
	var guesses sync.WaitGroup
	for range 8 {
		guesses.Go(func() {
			if status := ask(ctx, "guess"); status != 0 {
				t.Errorf("a guess was answered at once: %d", status)
			}
		})
	}
	until := func(want int) {
		t.Helper()
		for {
			status := ask(t.Context(), "secret")
			if status == want {
				return
			}
			if status != 200 && status != 429 {
				t.Fatalf("%d", status)
			}
		}
	}
	until(429)
	giveUp()
	guesses.Wait()
	until(200)
}

// MSAL, within azidentity, checks the discovery document before it asks for a token.
func TestAzureIdentityLogsIn(t *testing.T) {
	e, server := serve(t)
	credential, err := azidentity.NewClientSecretCredential(tenant, "client", "secret", &azidentity.ClientSecretCredentialOptions{
		ClientOptions: azcore.ClientOptions{Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: server.URL}, Transport: server.Client()},

		DisableInstanceDiscovery: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	token, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://management.azure.com/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Issuer.Verify(token.Token, e.ManagementAudiences()...); err != nil {
		t.Error(err)
	}
}

func TestDiscovery(t *testing.T) {
	_, server := serve(t)
	get := func(path string) map[string]any {
		t.Helper()
		response, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var body map[string]any
		if err := json.NewDecoder(response.Body).Decode(&body); err != nil || response.StatusCode != 200 {
			t.Fatalf("%s: %d, %v", path, response.StatusCode, err)
		}
		return body
	}
	for path, token := range map[string]string{
		"/" + tenant + "/v2.0/.well-known/openid-configuration": "/" + tenant + "/oauth2/v2.0/token",
		"/common/v2.0/.well-known/openid-configuration":         "/" + tenant + "/oauth2/v2.0/token",
		"/adfs/.well-known/openid-configuration":                "/adfs/oauth2/token",
	} {
		doc := get(path)
		if doc["token_endpoint"] != server.URL+token {
			t.Errorf("%s: %v", path, doc["token_endpoint"])
		}
		for _, key := range []string{"authorization_endpoint", "device_authorization_endpoint", "issuer", "jwks_uri"} {
			if s, ok := doc[key].(string); !ok || !strings.HasPrefix(s, server.URL) {
				t.Errorf("%s: %s is %v", path, key, doc[key])
			}
		}
		jwks, ok := doc["jwks_uri"].(string)
		if keys := get(strings.TrimPrefix(jwks, server.URL)); !ok || len(keys["keys"].([]any)) != 1 {
			t.Errorf("%s: keys %v", path, keys)
		}
	}
	old := get("/metadata/endpoints?api-version=2015-01-01")
	for _, key := range []string{"galleryEndpoint", "graphEndpoint", "portalEndpoint", "authentication"} {
		if old[key] == nil {
			t.Errorf("2015-01-01 has no %s", key)
		}
	}
	if login := old["authentication"].(map[string]any)["loginEndpoint"]; login != server.URL+"/adfs" {
		t.Errorf("2015-01-01 logs in at %v", login)
	}
	cloud := get("/metadata/endpoints?api-version=2022-09-01")
	for _, key := range []string{"name", "resourceManager", "microsoftGraphResourceId", "authentication", "suffixes"} {
		if cloud[key] == nil {
			t.Errorf("2022-09-01 has no %s", key)
		}
	}
	if login := cloud["authentication"].(map[string]any)["loginEndpoint"]; login != server.URL+"/" {
		t.Errorf("2022-09-01 logs in at %v, to which Terraform appends the tenant", login)
	}
}
