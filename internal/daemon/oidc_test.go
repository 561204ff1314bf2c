package daemon_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/coreos/go-oidc/v3/oidc/oidctest"

	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

const oidcAudience = "cairn"

// outside is an OpenID Connect issuer of its own, with a clock that daemon and test share.
type outside struct {
	*httptest.Server
	t   *testing.T
	key *ecdsa.PrivateKey
	// kid is the present key's.
	kid string

	mu       sync.Mutex
	issuer   *oidctest.Server
	away     bool
	requests atomic.Int32
	now      time.Time
}

func newOutside(t *testing.T) *outside {
	o := &outside{t: t, now: time.Now()}
	o.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.requests.Add(1)
		o.mu.Lock()
		away, issuer := o.away, o.issuer
		o.mu.Unlock()
		if away {
			http.Error(w, "down for maintenance", http.StatusBadGateway)
			return
		}
		issuer.ServeHTTP(w, r)
	}))
	t.Cleanup(o.Close)
	o.rotate("first")
	return o
}

// rotate gives the issuer a new key, and takes the old one back.
func (o *outside) rotate(kid string) {
	o.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	issuer := &oidctest.Server{Algorithms: []string{oidc.ES256}, PublicKeys: []oidctest.PublicKey{{PublicKey: key.Public(), KeyID: kid, Algorithm: oidc.ES256}}}
	issuer.SetIssuer(o.URL)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.key, o.kid, o.issuer = key, kid, issuer
}

func (o *outside) setAway(away bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.away = away
}

func (o *outside) clock() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

func (o *outside) pass(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = o.now.Add(d)
}

// token signs claims; those that every token has are added.
func (o *outside) token(claims map[string]any) string {
	o.t.Helper()
	all := map[string]any{"iss": o.URL, "aud": oidcAudience, "exp": o.clock().Add(24 * time.Hour).Unix(), "iat": o.clock().Unix()}
	for k, v := range claims {
		all[k] = v
	}
	text, err := json.Marshal(all)
	if err != nil {
		o.t.Fatal(err)
	}
	return oidctest.SignIDToken(o.key, o.kid, oidc.ES256, string(text))
}

// config is that of a daemon that trusts the issuer.
func (o *outside) config() daemon.Config {
	o.t.Helper()
	ca := filepath.Join(o.t.TempDir(), "issuer.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.Certificate().Raw}), 0o600); err != nil {
		o.t.Fatal(err)
	}
	return daemon.Config{OIDCIssuer: o.URL, OIDCAudience: oidcAudience, OIDCCAFile: ca, Now: o.clock}
}

const readerRole, blobContributor = "acdd72a7-3385-48ef-bd42-f606fba81ae7", "ba92f5b4-2d11-453d-a403-e96b0029c9fe"

func assignUser(w *daemontest.World, name, scope, role, who string) {
	w.Do("PUT", scope+"/providers/Microsoft.Authorization/roleAssignments/"+name, map[string]any{"properties": map[string]any{
		"roleDefinitionId": role, "principalId": who, "principalType": "User"}}).Want(201)
}

func TestCallersOfTheExternalIssuerGetRolesByTheirObjectID(t *testing.T) {
	o := newOutside(t)
	w := daemontest.Start(t, o.config())
	const guid = "6fe0a3ba-6f4b-4a6c-9c3e-6a8c3f0c2a11"
	for i, c := range []struct {
		name   string
		claims map[string]any
		id     string
	}{
		{"a subject that is no GUID", map[string]any{"sub": "system:serviceaccount:ci:backup", "preferred_username": "ci"}, auth.ExternalID(o.URL, "system:serviceaccount:ci:backup")},
		{"an object ID", map[string]any{"sub": "x", "oid": strings.ToUpper(guid), "email": "ann@example.com"}, guid},
		{"a subject that is a GUID", map[string]any{"sub": "0b7c1ad6-1f1a-4b0e-8f0e-0a3b8f1f9f10"}, "0b7c1ad6-1f1a-4b0e-8f0e-0a3b8f1f9f10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token := o.token(c.claims)
			group := w.Subscription + "/resourceGroups/group-" + c.id
			refused := w.As(token, "PUT", group, `{"location":"eastus"}`)
			if message, _ := refused.At("error", "message").(string); refused.Status != 403 || !strings.Contains(message, "to the object id "+c.id) {
				t.Errorf("without a role: %d %v: the object ID %s is not named", refused.Status, refused.JSON, c.id)
			}
			if me := w.As(token, "GET", "/v1.0/me", nil).Want(200); me.At("id") != c.id || me.At("@odata.type") != "#microsoft.graph.user" {
				t.Errorf("me: %v", me.JSON)
			}
			assignUser(w, "00000000-0000-4000-8000-00000000000"+string(rune('1'+i)), w.Subscription, "b24988ac-6180-42a0-ab88-20f7382dd24c", c.id) // Contributor
			w.As(token, "PUT", group, `{"location":"eastus"}`).Want(201)
			vault := group + "/providers/Microsoft.DataProtection/backupVaults/vault"
			w.As(token, "PUT", vault, `{"location":"eastus","properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}]}}`).Want(201)
			if made := w.Do("GET", vault, nil).Want(200); made.At("systemData", "createdByType") != "User" || made.At("systemData", "createdBy") != c.id {
				t.Errorf("%v", made.At("systemData"))
			}
		})
	}
}

func TestAnExternalTokenThatIsNotGoodIsRefused(t *testing.T) {
	o, other := newOutside(t), newOutside(t)
	w := daemontest.Start(t, o.config())
	good := map[string]any{"sub": "ann"}
	w.As(o.token(good), "GET", "/subscriptions", nil).Want(200)
	admin := w.Do("GET", "/v1.0/me", nil).Want(200).At("id")
	forged := newOutside(t)
	forged.Server.URL = o.URL
	for name, token := range map[string]string{
		"another audience":          o.token(map[string]any{"sub": "ann", "aud": "other"}),
		"expired":                   o.token(map[string]any{"sub": "ann", "exp": o.clock().Add(-time.Minute).Unix()}),
		"not valid yet":             o.token(map[string]any{"sub": "ann", "nbf": o.clock().Add(time.Hour).Unix()}),
		"of an unknown issuer":      other.token(good),
		"nobody":                    o.token(nil),
		"for the administrator":     o.token(map[string]any{"sub": "ann", "oid": admin}),
		"another key, the same kid": forged.token(good),
		"unsigned":                  "eyJhbGciOiJub25lIn0." + strings.Split(o.token(good), ".")[1] + ".",
	} {
		o.pass(time.Minute)
		if got := w.As(token, "GET", "/subscriptions", nil); got.Status != 401 || got.At("error", "code") != "InvalidAuthenticationToken" {
			t.Errorf("%s: %d %v", name, got.Status, got.JSON)
		}
	}
}

func TestTheExternalIssuerMayChangeItsKeysAndBeAway(t *testing.T) {
	o := newOutside(t)
	o.setAway(true)
	w := daemontest.Start(t, o.config())
	subscriptions := func(token string) daemontest.Answer { return w.As(token, "GET", "/subscriptions", nil) }
	first := o.token(map[string]any{"sub": "ann"})
	if got := subscriptions(first); got.Status != 503 || got.Header.Get("Retry-After") == "" {
		t.Errorf("the issuer is away: %d %v", got.Status, got.JSON)
	}
	w.Do("GET", "/subscriptions", nil).Want(200) // the service's own token

	o.setAway(false)
	asked := o.requests.Load()
	subscriptions(first).Want(503)
	if n := o.requests.Load(); n != asked {
		t.Errorf("asked %d times more at once after a failure", n-asked)
	}
	o.pass(20 * time.Second)
	subscriptions(first).Want(200)

	o.setAway(true)
	o.pass(20 * time.Second)
	subscriptions(first).Want(200) // what is known stays known
	o.pass(2 * time.Hour)
	subscriptions(first).Want(200)

	o.setAway(false)
	o.pass(20 * time.Second)
	o.rotate("second")
	subscriptions(o.token(map[string]any{"sub": "ann"})).Want(200)
	o.pass(2 * time.Hour)
	subscriptions(first).Want(401)
	for range 5 {
		subscriptions(first).Want(401, 503)
	}
	if n := o.requests.Load(); n > 20 {
		t.Errorf("the issuer was asked %d times", n)
	}
}

func TestAnExternalCallerReadsBlobsByItsRoles(t *testing.T) {
	o := newOutside(t)
	w, account := storageOf(t, o.config())
	read := func() int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), "GET", w.Service.BlobURL+"/acc/c-1?restype=container&comp=list", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+o.token(map[string]any{"sub": "ann"}))
		request.Header.Set("x-ms-version", "2024-11-04")
		response, err := w.HTTP.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return response.StatusCode
	}
	o.setAway(true)
	if status := read(); status != 503 {
		t.Errorf("the issuer is away: %d", status)
	}
	o.setAway(false)
	o.pass(20 * time.Second)
	if status := read(); status != 403 {
		t.Errorf("without a role: %d", status)
	}
	assignUser(w, "00000000-0000-4000-8000-000000000001", account+"/blobServices/default/containers/c-1", blobContributor, auth.ExternalID(o.URL, "ann"))
	if status := read(); status != 200 {
		t.Errorf("with a role at the container: %d", status)
	}
}

func TestAnIncompleteExternalIssuerIsRefused(t *testing.T) {
	for name, config := range map[string]daemon.Config{
		"no audience": {OIDCIssuer: "https://issuer.example"},
		"no issuer":   {OIDCAudience: "a"},
		"plain HTTP":  {OIDCIssuer: "http://issuer.example", OIDCAudience: "a"},
		"no CA file":  {OIDCIssuer: "https://issuer.example", OIDCAudience: "a", OIDCCAFile: filepath.Join(t.TempDir(), "none")},
	} {
		config.Data, config.Listen, config.BlobListen = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
		if d, err := daemon.Start(t.Context(), config); err == nil {
			t.Errorf("%s: no error", name)
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		} else if !strings.Contains(err.Error(), "external issuer") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
