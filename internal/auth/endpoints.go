package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Errors that a Directory returns.
var (
	// ErrUnknownClient is an application that does not exist.
	ErrUnknownClient = errors.New("no such application")
	// ErrWrongSecret is a secret that is wrong or expired.
	ErrWrongSecret = errors.New("wrong secret")
)

// Directory knows who exists.
type Directory interface {
	// Authenticate finds the principal of an application by its secret: ErrUnknownClient, ErrWrongSecret.
	Authenticate(ctx context.Context, clientID, secret string) (Caller, error)
}

// Endpoints answers what clients ask without a token: for tokens, and how to get them.
type Endpoints struct {
	Issuer    *Issuer
	Directory Directory
	// PublicURL is the service's address; it is its own authority, resource manager and Graph.
	PublicURL string
	// BlobURL is the storage endpoint's.
	BlobURL string
	Log     *slog.Logger
	// Penalty is how long the answer to a wrong secret, or an unknown application, is held back.
	Penalty time.Duration
	// Refused is told of each wrong secret for an application that exists; nil for nobody.
	Refused func(r *http.Request, clientID string)

	penalties penalties
}

// mostPenalties is how many answers to one address are held back at the same time; while they are, that address is told to come back later. So guessing is
// slow, nobody is locked out for longer than the penalty, and those who are elsewhere are not concerned.
const mostPenalties = 8

// penalties counts, by address, the answers that are held back.
type penalties struct {
	mu   sync.Mutex
	held map[string]int
}

func (p *penalties) full(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[address] >= mostPenalties
}

// hold waits for a while, or until the client has gone.
func (p *penalties) hold(ctx context.Context, address string, d time.Duration) {
	p.add(address, 1)
	defer p.add(address, -1)
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (p *penalties) add(address string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = map[string]int{}
	}
	if p.held[address] += n; p.held[address] == 0 {
		delete(p.held, address)
	}
}

// ManagementAudiences are those of tokens for the resource manager.
func (e *Endpoints) ManagementAudiences() []string {
	return []string{e.PublicURL, "https://management.azure.com", "https://management.core.windows.net"}
}

// GraphAudiences are those of tokens for Graph.
func (e *Endpoints) GraphAudiences() []string {
	return []string{e.PublicURL, "https://graph.microsoft.com", "https://graph.windows.net"}
}

// StorageAudiences are those of tokens for blob storage.
func (e *Endpoints) StorageAudiences() []string {
	return []string{e.BlobURL, "https://storage.azure.com"}
}

// audience finds the audience of a token for a resource. An account's own address counts as storage's.
func (e *Endpoints) audience(resource string) (string, bool) {
	for _, list := range [][]string{e.ManagementAudiences(), e.GraphAudiences(), e.StorageAudiences()} {
		for _, a := range list {
			if SameAudience(a, resource) {
				return a, true
			}
		}
	}
	if strings.HasPrefix(strings.ToLower(resource), strings.ToLower(e.BlobURL)+"/") {
		return e.BlobURL, true
	}
	return "", false
}

// Register adds the endpoints to a mux.
func (e *Endpoints) Register(mux *http.ServeMux) {
	for _, path := range []string{"/{tenant}/oauth2/v2.0/token", "/{tenant}/oauth2/token", "/adfs/oauth2/token", "/adfs/oauth2/v2.0/token"} {
		mux.HandleFunc("POST "+path, e.token)
	}
	mux.HandleFunc("GET /{tenant}/v2.0/.well-known/openid-configuration", e.configuration)
	mux.HandleFunc("GET /{tenant}/.well-known/openid-configuration", e.configuration)
	mux.HandleFunc("GET /adfs/.well-known/openid-configuration", e.configuration)
	mux.HandleFunc("GET /common/discovery/instance", e.instance)
	mux.HandleFunc("GET /{tenant}/discovery/v2.0/keys", e.keys)
	mux.HandleFunc("GET /adfs/discovery/keys", e.keys)
	mux.HandleFunc("GET /metadata/endpoints", e.metadata)
}

// refusal is Entra's form of an error.
type refusal struct {
	Error         string `json:"error"`
	Description   string `json:"error_description"`
	Codes         []int  `json:"error_codes"`
	Timestamp     string `json:"timestamp"`
	TraceID       string `json:"trace_id"`
	CorrelationID string `json:"correlation_id"`
}

func (e *Endpoints) refuse(w http.ResponseWriter, status int, kind string, code int, format string, args ...any) {
	trace := uuid.NewString()
	answer(w, status, refusal{
		Error: kind, Description: fmt.Sprintf("AADSTS%d: ", code) + fmt.Sprintf(format, args...) + " Trace ID: " + trace,
		Codes: []int{code}, Timestamp: e.Issuer.Now().UTC().Format("2006-01-02 15:04:05Z"), TraceID: trace, CorrelationID: trace,
	})
}

func (e *Endpoints) token(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		e.refuse(w, 400, "invalid_request", 900144, "The request's form could not be read: %s.", err)
		return
	}
	if !e.tenant(w, r) {
		return
	}
	if grant := r.PostForm.Get("grant_type"); grant != "client_credentials" {
		e.refuse(w, 400, "unsupported_grant_type", 70003, "The grant type '%s' is not supported: use client_credentials.", grant)
		return
	}
	resource := resourceOf(r)
	audience, ok := e.audience(resource)
	if !ok {
		e.refuse(w, 400, "invalid_resource", 500011, "The resource principal named %s was not found in the tenant.", resource)
		return
	}
	client, secret := credentials(r)
	address := remoteHost(r)
	if e.penalties.full(address) {
		w.Header().Set("Retry-After", "1")
		e.refuse(w, 429, "temporarily_unavailable", 90055, "Too many wrong secrets came from %s at the same time. Try again in a moment.", address)
		return
	}
	caller, err := e.Directory.Authenticate(r.Context(), client, secret)
	switch {
	case errors.Is(err, ErrUnknownClient):
		e.penalties.hold(r.Context(), address, e.Penalty)
		e.refuse(w, 400, "unauthorized_client", 700016, "Application with identifier '%s' was not found in the directory '%s'.", client, e.Issuer.Tenant)
		return
	case errors.Is(err, ErrWrongSecret):
		if e.Refused != nil {
			e.Refused(r, client)
		}
		e.penalties.hold(r.Context(), address, e.Penalty)
		e.refuse(w, 401, "invalid_client", 7000215, "Invalid client secret provided for app '%s'. It may be wrong or expired.", client)
		return
	case err != nil:
		e.Log.ErrorContext(r.Context(), "token not issued", "client", client, "error", err)
		e.unavailable(w, err)
		return
	}
	token, err := e.Issuer.Mint(caller, requested(resource, audience))
	if err != nil {
		e.Log.ErrorContext(r.Context(), "token not issued", "client", client, "error", err)
		e.refuse(w, 500, "server_error", 90033, "The token could not be signed.")
		return
	}
	e.Log.InfoContext(r.Context(), "token issued", "principal", caller.ObjectID, "name", caller.Name, "audience", audience)
	e.issue(w, r, token, resource)
}

// remoteHost is where a request came from, without the port.
func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// unavailable refuses for a reason that is the service's own.
func (e *Endpoints) unavailable(w http.ResponseWriter, err error) {
	const kind, code = "temporarily_unavailable", 90033
	if arm.IsFull(err) {
		full := arm.InsufficientStorage()
		e.refuse(w, full.Status, kind, code, "%s %s", full.Message, full.RecommendedAction[0])
		return
	}
	e.refuse(w, 503, kind, code, "The service could not look the application up. Try again.")
}

// requested is the audience as the client spelled it, which some clients compare, except for accounts' addresses.
func requested(resource, audience string) string {
	if SameAudience(resource, audience) {
		return resource
	}
	return audience
}

// issue answers with a token: numbers in the second version of the protocol, strings in the first.
func (e *Endpoints) issue(w http.ResponseWriter, r *http.Request, token, resource string) {
	seconds := int(Lifetime/time.Second) - 1
	if r.PostForm.Get("resource") == "" {
		answer(w, 200, map[string]any{"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token})
		return
	}
	now := e.Issuer.Now()
	answer(w, 200, map[string]any{
		"token_type": "Bearer", "expires_in": strconv.Itoa(seconds), "ext_expires_in": strconv.Itoa(seconds),
		"expires_on": strconv.FormatInt(now.Add(Lifetime).Unix(), 10), "not_before": strconv.FormatInt(now.Unix(), 10),
		"resource": resource, "access_token": token,
	})
}

// tenant checks that the authority is ours; ADFS has no tenants.
func (e *Endpoints) tenant(w http.ResponseWriter, r *http.Request) bool {
	switch t := strings.ToLower(r.PathValue("tenant")); t {
	case "", "adfs", "common", "organizations", strings.ToLower(e.Issuer.Tenant):
		return true
	default:
		e.refuse(w, 400, "invalid_request", 90002, "Tenant '%s' not found. Check the tenant's ID.", t)
		return false
	}
}

// resourceOf is the resource that a token is asked for: "resource" in the first version of the protocol; the first scope
// that ends in "/.default" in the second.
func resourceOf(r *http.Request) string {
	if resource := r.PostForm.Get("resource"); resource != "" {
		return resource
	}
	for _, scope := range strings.Fields(r.PostForm.Get("scope")) {
		if resource, ok := strings.CutSuffix(scope, "/.default"); ok {
			return resource
		}
	}
	return ""
}

func credentials(r *http.Request) (client, secret string) {
	if client, secret, ok := r.BasicAuth(); ok {
		return client, secret
	}
	return r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
}

// base is the service's address as the client knows it: MSAL wants an issuer at the very host that it asked.
func base(r *http.Request) string { return "https://" + r.Host }

func (e *Endpoints) configuration(w http.ResponseWriter, r *http.Request) {
	if !e.tenant(w, r) {
		return
	}
	tenant := r.PathValue("tenant")
	doc := map[string]any{
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic"},
		"response_modes_supported":              []string{"query", "fragment", "form_post"},
		"response_types_supported":              []string{"token"},
		"grant_types_supported":                 []string{"client_credentials"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
		"scopes_supported":                      []string{"openid"},
		"tenant_region_scope":                   nil,
	}
	if tenant == "" {
		root := base(r) + "/adfs"
		doc["issuer"], doc["jwks_uri"] = root, root+"/discovery/keys"
		doc["authorization_endpoint"], doc["token_endpoint"] = root+"/oauth2/authorize", root+"/oauth2/token"
		doc["device_authorization_endpoint"] = root + "/oauth2/devicecode"
	} else {
		root := base(r) + "/" + e.Issuer.Tenant
		doc["issuer"], doc["jwks_uri"] = root+"/v2.0", root+"/discovery/v2.0/keys"
		doc["authorization_endpoint"], doc["token_endpoint"] = root+"/oauth2/v2.0/authorize", root+"/oauth2/v2.0/token"
		doc["device_authorization_endpoint"] = root + "/oauth2/v2.0/devicecode"
	}
	answer(w, 200, doc)
}

func (e *Endpoints) keys(w http.ResponseWriter, _ *http.Request) { answer(w, 200, e.Issuer.Keys()) }

func (e *Endpoints) instance(w http.ResponseWriter, r *http.Request) {
	answer(w, 200, map[string]any{
		"tenant_discovery_endpoint": base(r) + "/" + e.Issuer.Tenant + "/v2.0/.well-known/openid-configuration",
		"api-version":               "1.1",
		"metadata": []any{map[string]any{
			"preferred_network": r.Host, "preferred_cache": r.Host, "aliases": []string{r.Host},
		}},
	})
}

// metadata tells where everything is. az registers a cloud from version 2015-01-01; newer versions and Terraform read
// 2022-09-01, one object with the whole cloud.
func (e *Endpoints) metadata(w http.ResponseWriter, r *http.Request) {
	audiences := []string{"https://management.core.windows.net/", "https://management.azure.com/"}
	storage := strings.TrimPrefix(e.BlobURL, "https://")
	if r.URL.Query().Get("api-version") < "2018" {
		// The path /adfs keeps old versions of az from asking a Microsoft server whether the authority is genuine.
		answer(w, 200, map[string]any{
			"galleryEndpoint": e.PublicURL, "graphEndpoint": e.PublicURL, "portalEndpoint": e.PublicURL,
			"graphAudience":  e.PublicURL,
			"authentication": map[string]any{"loginEndpoint": e.PublicURL + "/adfs", "audiences": audiences},
		})
		return
	}
	// Terraform appends the tenant to loginEndpoint as it is, hence the slash.
	home := e.PublicURL + "/"
	cloud := map[string]any{
		"name": "Cairn", "portal": home, "resourceManager": home, "gallery": home,
		"graph": home, "graphAudience": home, "microsoftGraphResourceId": home,
		"batch": home, "media": home, "sqlManagement": home,
		"vmImageAliasDoc": home, "activeDirectoryDataLake": home,
		"ossrDbmsResourceId": home, "logAnalyticsResourceId": home, "synapseAnalyticsResourceId": home,
		"attestationResourceId": home, "appInsightsResourceId": home,
		"authentication": map[string]any{
			"loginEndpoint": home, "audiences": append(audiences, home), "tenant": e.Issuer.Tenant, "identityProvider": "AAD",
		},
		"suffixes": map[string]any{
			"storage": storage, "keyVaultDns": "vault." + storage, "acrLoginServer": "registry." + storage,
			"azureDataLakeStoreFileSystem": "datalake." + storage, "azureDataLakeAnalyticsCatalogAndJob": "analytics." + storage,
			"sqlServerHostname": "sql." + storage, "mhsmDns": "hsm." + storage, "mysqlServerEndpoint": "mysql." + storage,
			"postgresqlServerEndpoint": "postgres." + storage, "mariadbServerEndpoint": "mariadb." + storage,
			"synapseAnalytics": "synapse." + storage, "storageSyncEndpointSuffix": "afs." + storage, "attestationEndpoint": "attest." + storage,
		},
	}
	answer(w, 200, cloud)
}

// answer writes JSON that nobody may keep.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// The status is out: a client that went away cannot be told anything else.
	_ = json.NewEncoder(w).Encode(v)
}
