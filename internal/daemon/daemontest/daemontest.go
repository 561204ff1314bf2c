// Package daemontest starts cairnd in a test's own process, on free ports and in a folder of its own, and speaks to it as
// its administrator. It is for tests only, of any package above the daemon.
package daemontest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

// APIVersion is what Do asks with.
const APIVersion = "2024-04-01"

// World is a running cairnd and a client of it.
type World struct {
	*daemon.Daemon
	// Env is admin.env.
	Env map[string]string
	// HTTP trusts the daemon's authority.
	HTTP *http.Client
	// Subscription is the path of the subscription.
	Subscription string

	t     testing.TB
	token string
}

// databases are those of data folders, so that a cairnd that is started again finds its own.
var databases sync.Map

// Database is the name, as store.Open takes it, of the database of a cairnd that Start starts with the folder.
func Database(t testing.TB, data string) string {
	t.Helper()
	if known, ok := databases.Load(data); ok {
		return known.(string)
	}
	name := storetest.Database(t, data)
	databases.Store(data, name)
	return name
}

// Complete sets what a test leaves open: a folder, free ports, the database.
func Complete(t testing.TB, config daemon.Config) daemon.Config {
	t.Helper()
	if config.Data == "" {
		config.Data = t.TempDir()
	}
	if config.Listen == "" {
		config.Listen, config.BlobListen = "127.0.0.1:0", "127.0.0.1:0"
	}
	if name := Database(t, config.Data); config.Database == "" && store.IsURL(name) {
		config.Database = name
	}
	return config
}

// Start starts cairnd with a folder that the test may restart it from. It is closed when the test ends.
func Start(t testing.TB, config daemon.Config) *World {
	t.Helper()
	config = Complete(t, config)
	if config.Log == nil {
		config.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	d, err := daemon.Start(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	w := Connect(t, config.Data)
	w.Daemon = d
	return w
}

// Connect is a client of a cairnd that another process runs with the folder: its Daemon is nil.
func Connect(t testing.TB, data string) *World {
	t.Helper()
	return ConnectThrough(t, data, (&net.Dialer{}).DialContext)
}

// ConnectThrough is Connect to an address that leads somewhere only for the caller.
func ConnectThrough(t testing.TB, data string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *World {
	t.Helper()
	env, err := daemon.ReadEnv(filepath.Join(data, "admin.env"))
	if err != nil {
		t.Fatal(err)
	}
	w := &World{Env: env, Subscription: "/subscriptions/" + env["AZURE_SUBSCRIPTION_ID"], t: t, HTTP: client(t, env["SSL_CERT_FILE"], dial)}
	w.LogIn()
	return w
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func client(t testing.TB, caFile string, dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(filepath.Clean(caFile))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("the authority's certificate is no PEM")
	}
	transport := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// Credential is azidentity's, for a client.
func (w *World) Credential(clientID, secret string) azcore.TokenCredential {
	w.t.Helper()
	c, err := azidentity.NewClientSecretCredential(w.Env["AZURE_TENANT_ID"], clientID, secret, &azidentity.ClientSecretCredentialOptions{
		ClientOptions: azcore.ClientOptions{
			Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: w.Env["AZURE_AUTHORITY_HOST"]},
			Transport: w.HTTP, Retry: policy.RetryOptions{MaxRetries: -1},
		},
		DisableInstanceDiscovery: true,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// Admin is the administrator's credential.
func (w *World) Admin() azcore.TokenCredential {
	return w.Credential(w.Env["AZURE_CLIENT_ID"], w.Env["AZURE_CLIENT_SECRET"])
}

// Options are those of an Azure SDK client of this cairnd.
func (w *World) Options() *arm.ClientOptions {
	return &arm.ClientOptions{DisableRPRegistration: true, ClientOptions: azcore.ClientOptions{
		Transport: w.HTTP, Retry: policy.RetryOptions{MaxRetries: -1},
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: w.Env["AZURE_AUTHORITY_HOST"], Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: w.Env["CAIRN_ENDPOINT"], Audience: "https://management.azure.com"},
		}},
	}}
}

// Token gets an access token for a resource.
func (w *World) Token(clientID, secret, resource string) string {
	w.t.Helper()
	token, err := w.Credential(clientID, secret).GetToken(w.t.Context(), policy.TokenRequestOptions{Scopes: []string{resource + "/.default"}})
	if err != nil {
		w.t.Fatal(err)
	}
	return token.Token
}

// Answer is what a request was answered.
type Answer struct {
	Status int
	Header http.Header
	// JSON is the body, nil when there was none.
	JSON any
	t    testing.TB
}

// At finds a value in the body: At("properties", "provisioningState"), At("value", 0, "name"); nil when there is none.
func (a Answer) At(path ...any) any {
	v := a.JSON
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[p]
		case int:
			l, ok := v.([]any)
			if !ok || p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// Want fails the test unless the status is one of those.
func (a Answer) Want(statuses ...int) Answer {
	a.t.Helper()
	for _, s := range statuses {
		if s == a.Status {
			return a
		}
	}
	body, err := json.Marshal(a.JSON)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Fatalf("status %d, want %v: %s", a.Status, statuses, body)
	return a
}

// Do asks as the administrator. The path may have a query; the api-version is added unless it has one. The body is a string
// of JSON, or nil, or anything that encodes to JSON.
func (w *World) Do(method, path string, body any) Answer {
	w.t.Helper()
	return w.As(w.token, method, path, body)
}

// As is Do with another token; empty is none.
func (w *World) As(token, method, path string, body any) Answer {
	w.t.Helper()
	return w.Send(method, path, body, map[string]string{"Authorization": strings.TrimSpace("Bearer " + token)})
}

// LogIn renews the administrator's token, which expires with the daemon's time.
func (w *World) LogIn() {
	w.t.Helper()
	w.token = w.Token(w.Env["AZURE_CLIENT_ID"], w.Env["AZURE_CLIENT_SECRET"], "https://management.azure.com")
}

// AdminToken is the administrator's token for the resource manager.
func (w *World) AdminToken() string { return w.token }

// Try asks as the administrator of a cairnd that may be killed meanwhile: false when no success was answered.
func (w *World) Try(method, path string, body any) bool {
	w.t.Helper()
	response, err := w.HTTP.Do(w.request(method, path, body, map[string]string{"Authorization": "Bearer " + w.token}))
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, response.Body)
	return errors.Join(err, response.Body.Close()) == nil && response.StatusCode < 300
}

// Send asks with headers of the caller's choice.
func (w *World) Send(method, path string, body any, header map[string]string) Answer {
	w.t.Helper()
	response, err := w.HTTP.Do(w.request(method, path, body, header))
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	a := Answer{Status: response.StatusCode, Header: response.Header, t: w.t}
	if len(text) > 0 && strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(text, &a.JSON); err != nil {
			w.t.Fatalf("%s %s answered no JSON: %s", method, path, text)
		}
	}
	return a
}

func (w *World) request(method, path string, body any, header map[string]string) *http.Request {
	w.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			w.t.Fatal(err)
		}
		reader = bytes.NewReader(text)
	}
	target := path
	if !strings.HasPrefix(path, "https://") {
		target = w.Env["CAIRN_ENDPOINT"] + path
	}
	if !strings.Contains(target, "api-version=") {
		target += map[bool]string{true: "&", false: "?"}[strings.Contains(target, "?")] + "api-version=" + APIVersion
	}
	request, err := http.NewRequestWithContext(w.t.Context(), method, target, reader)
	if err != nil {
		w.t.Fatal(err)
	}
	for k, v := range header {
		request.Header.Set(k, v)
	}
	return request
}
