package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

func TestFirstStartMakesWhatAnAdministratorNeeds(t *testing.T) {
	t.Setenv(storetest.Engine, "") // what the state's file may be read by is looked at too
	w := daemontest.Start(t, daemon.Config{})
	for _, name := range []string{"CAIRN_ENDPOINT", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_SUBSCRIPTION_ID", "AZURE_AUTHORITY_HOST", "SSL_CERT_FILE"} {
		if w.Env[name] == "" {
			t.Errorf("admin.env has no %s", name)
		}
	}
	data := filepath.Dir(w.AdminFile())
	for file, mode := range map[string]os.FileMode{
		"admin.env": 0o600, "token.key": 0o600, "state.db": 0o600, "state.db-wal": 0o600, "pki/ca.key": 0o600, "pki/server.key": 0o600, "pki/ca.crt": 0o644,
	} {
		info, err := os.Stat(filepath.Join(data, file))
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v", file, info.Mode().Perm(), mode)
		}
	}
	out, err := exec.Command("openssl", "verify", "-CAfile", w.CAFile, "-verify_hostname", "acc.blob.localhost", filepath.Join(data, "pki", "server.crt")).CombinedOutput()
	if err != nil {
		t.Errorf("an account's own host name: %v: %s", err, out)
	}
	if got := w.Do("GET", "/subscriptions", nil).Want(200); got.At("value", 0, "subscriptionId") != w.Env["AZURE_SUBSCRIPTION_ID"] {
		t.Errorf("%v", got.JSON)
	}
	response, err := w.HTTP.Get(w.Env["CAIRN_ENDPOINT"] + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != 200 || string(body) != "ok\n" {
		t.Errorf("%d %q %v", response.StatusCode, body, err)
	}
}

func TestMetadataIsFoundBehindADoubleSlash(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	for _, path := range []string{"/metadata/endpoints?api-version=2015-01-01", "//metadata/endpoints?api-version=2015-01-01"} {
		if got := w.Send("GET", path, nil, nil).Want(200); got.At("authentication", "loginEndpoint") == nil {
			t.Errorf("%s: %v", path, got.JSON)
		}
	}
	for _, path := range []string{"/metadata//endpoints", "/x/../metadata/endpoints", "/metadata/endpoints/."} {
		if got := w.Do("GET", path, nil).Want(404); got.At("error", "code") == nil {
			t.Errorf("%s: %v", path, got.JSON)
		}
	}
}

// restart starts a daemon, lets f use it, and ends it.
func restart(t *testing.T, config daemon.Config, f func(*daemontest.World)) {
	t.Helper()
	w := daemontest.Start(t, config)
	f(w)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	config := daemon.Config{Data: t.TempDir()}
	var env map[string]string
	var token string
	certificate := func() string {
		text, err := os.ReadFile(filepath.Join(config.Data, "pki", "server.crt"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	var first string
	restart(t, config, func(w *daemontest.World) {
		first = certificate()
		w.Do("PUT", w.Subscription+"/resourceGroups/g", `{"location":"eastus"}`).Want(201)
		env, token = w.Env, w.AdminToken()
	})
	restart(t, config, func(w *daemontest.World) {
		w.Do("GET", w.Subscription+"/resourceGroups/g", nil).Want(200)
		if certificate() != first {
			t.Error("the server has another certificate although nothing changed")
		}
		for _, name := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_SUBSCRIPTION_ID", "SSL_CERT_FILE"} {
			if w.Env[name] != env[name] {
				t.Errorf("%s was %s and is %s", name, env[name], w.Env[name])
			}
		}
		if w.Env["AZURE_AUTHORITY_HOST"] != w.Env["CAIRN_ENDPOINT"]+"/" {
			t.Errorf("admin.env has %s", w.Env["AZURE_AUTHORITY_HOST"])
		}
		// A token is good for the address that it was issued under; the port may be another now.
		if w.Env["CAIRN_ENDPOINT"] == env["CAIRN_ENDPOINT"] {
			w.As(token, "GET", "/subscriptions", nil).Want(200)
		} else {
			w.As(token, "GET", "/subscriptions", nil).Want(401)
		}
	})
}

func TestPublicURLIsInTheCertificate(t *testing.T) {
	data := t.TempDir()
	config := daemontest.Complete(t, daemon.Config{Data: data})
	restart(t, config, func(*daemontest.World) {})
	before, err := os.ReadFile(filepath.Join(data, "pki", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	config.PublicURL, config.BlobURL, config.Log = "https://cairn.example:8443/", "https://10.99.0.1:8444", slog.New(slog.DiscardHandler)
	d, err := daemon.Start(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Service.PublicURL != "https://cairn.example:8443" {
		t.Errorf("public URL %s", d.Service.PublicURL)
	}
	after, err := os.ReadFile(filepath.Join(data, "pki", "ca.crt"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the authority changed: %v", err)
	}
	env, err := daemon.ReadEnv(d.AdminFile())
	if err != nil || env["CAIRN_ENDPOINT"] != "https://cairn.example:8443" {
		t.Errorf("%v, %v", env["CAIRN_ENDPOINT"], err)
	}
	out, err := exec.Command("openssl", "verify", "-CAfile", d.CAFile, "-verify_hostname", "cairn.example", filepath.Join(data, "pki", "server.crt")).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestStartRefuses(t *testing.T) {
	used := daemontest.Start(t, daemon.Config{})
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "token.key"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config daemon.Config
		want   string
	}{
		"plain HTTP":          {daemon.Config{Data: t.TempDir(), PublicURL: "http://host:1"}, "https://host:port"},
		"a path":              {daemon.Config{Data: t.TempDir(), BlobURL: "https://host:1/blobs"}, "https://host:port"},
		"a folder in use":     {daemon.Config{Data: filepath.Dir(used.AdminFile())}, "another cairnd"},
		"no URL":              {daemon.Config{Data: t.TempDir(), Database: "state.db"}, "postgres://"},
		"a broken key":        {daemon.Config{Data: folder}, "token signing key"},
		"a file for a folder": {daemon.Config{Data: used.AdminFile()}, "data folder"},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.Listen, c.config.BlobListen, c.config.Log = "127.0.0.1:0", "127.0.0.1:0", slog.New(slog.DiscardHandler)
			d, err := daemon.Start(t.Context(), c.config)
			if err == nil {
				t.Fatal(errors.Join(errors.New("it started"), d.Close()))
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// storage is a daemon with an account and a container.
func storage(t *testing.T) (w *daemontest.World, account string) {
	return storageOf(t, daemon.Config{})
}

func storageOf(t *testing.T, config daemon.Config) (w *daemontest.World, account string) {
	t.Helper()
	w = daemontest.Start(t, config)
	group := w.Subscription + "/resourceGroups/g"
	account = group + "/providers/Microsoft.Storage/storageAccounts/acc"
	w.Do("PUT", group, `{"location":"eastus"}`).Want(201)
	w.Do("PUT", account, `{"sku":{"name":"Standard_LRS"},"location":"eastus"}`).Want(202)
	w.Do("PUT", account+"/blobServices/default/containers/c-1", `{}`).Want(201)
	return w, account
}

func options(w *daemontest.World) *azblob.ClientOptions {
	return &azblob.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: w.HTTP, Retry: policy.RetryOptions{MaxRetries: -1}}}
}

func TestAccountKeysOpenTheBlobEndpoint(t *testing.T) {
	w, account := storage(t)
	client := func(key any) *azblob.Client {
		t.Helper()
		credential, err := azblob.NewSharedKeyCredential("acc", key.(string))
		if err != nil {
			t.Fatal(err)
		}
		c, err := azblob.NewClientWithSharedKeyCredential(w.Service.BlobURL+"/acc", credential, options(w))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	key := w.Do("POST", account+"/listKeys", nil).Want(200).At("keys", 0, "value")
	if _, err := client(key).UploadBuffer(t.Context(), "c-1", "b", []byte("hello"), nil); err != nil {
		t.Fatal(err)
	}
	// A container that is made at the blob endpoint is there for the management side too.
	if _, err := client(key).CreateContainer(t.Context(), "c-2", nil); err != nil {
		t.Fatal(err)
	}
	w.Do("GET", account+"/blobServices/default/containers/c-2", nil).Want(200)

	renewed := w.Do("POST", account+"/regenerateKey", `{"keyName":"key1"}`).Want(200).At("keys", 0, "value")
	refused := func(key any, name string) {
		t.Helper()
		_, err := client(key).DownloadStream(t.Context(), "c-1", "b", nil)
		if !bloberror.HasCode(err, bloberror.AuthenticationFailed, bloberror.AuthorizationFailure, "KeyBasedAuthenticationNotPermitted") {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused(key, "the old key")
	if _, err := client(renewed).DownloadStream(t.Context(), "c-1", "b", nil); err != nil {
		t.Errorf("the new key: %v", err)
	}
	w.Do("PATCH", account, `{"properties":{"allowSharedKeyAccess":false}}`).Want(200)
	refused(renewed, "keys turned off")
}

func TestDataRolesOpenTheBlobEndpoint(t *testing.T) {
	w, account := storage(t)
	client, err := azblob.NewClient(w.Service.BlobURL+"/acc", w.Admin(), options(w))
	if err != nil {
		t.Fatal(err)
	}
	// An Owner rules the account, not its data.
	if _, err := client.UploadBuffer(t.Context(), "c-1", "b", []byte("hello"), nil); !bloberror.HasCode(err, bloberror.AuthorizationPermissionMismatch, bloberror.AuthorizationFailure) {
		t.Errorf("%v", err)
	}
	who := w.Do("GET", "/v1.0/servicePrincipals?$filter=appId%20eq%20'"+w.Env["AZURE_CLIENT_ID"]+"'", nil).Want(200).At("value", 0, "id")
	assign := func(scope, name, role string) {
		t.Helper()
		w.Do("PUT", scope+"/providers/Microsoft.Authorization/roleAssignments/"+name, map[string]any{"properties": map[string]any{
			"roleDefinitionId": role, "principalId": who, "principalType": "ServicePrincipal"}}).Want(201)
	}
	assign(account, "00000000-0000-4000-8000-000000000001", "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1") // Storage Blob Data Reader
	if _, err := client.UploadBuffer(t.Context(), "c-1", "b", []byte("hello"), nil); err == nil {
		t.Error("a reader can write")
	}
	assign(account+"/blobServices/default/containers/c-1", "00000000-0000-4000-8000-000000000002", "ba92f5b4-2d11-453d-a403-e96b0029c9fe") // Contributor
	if _, err := client.UploadBuffer(t.Context(), "c-1", "b", []byte("hello"), nil); err != nil {
		t.Errorf("a contributor of the container: %v", err)
	}
	if _, err := client.DownloadStream(t.Context(), "c-1", "b", nil); err != nil {
		t.Error(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), "GET", w.Service.BlobURL+"/acc/c-1/b", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+w.AdminToken()) // for the resource manager, not for storage
	request.Header.Set("x-ms-version", "2024-11-04")
	response, err := w.HTTP.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 401 {
		t.Errorf("a token for something else: %d", response.StatusCode)
	}
}

// TestChild is no test of its own: it is the process that TestKillLosesNothing kills.
func TestChild(t *testing.T) {
	data := os.Getenv("CAIRN_TEST_DATA")
	if data == "" {
		return
	}
	d, err := daemon.Start(context.Background(), daemon.Config{Data: data, Database: os.Getenv("CAIRN_TEST_DATABASE"),
		Listen: "127.0.0.1:0", BlobListen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	if err := d.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestKillLosesNothing(t *testing.T) {
	config := daemontest.Complete(t, daemon.Config{})
	data := config.Data
	var groups []string
	for round := range 3 {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
		child.Env = append(os.Environ(), "CAIRN_TEST_DATA="+data, "CAIRN_TEST_DATABASE="+config.Database)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("%q, %v", line, err)
		}
		w := daemontest.Connect(t, data)
		for _, g := range groups {
			w.Do("GET", w.Subscription+"/resourceGroups/"+g, nil).Want(200)
		}
		// The kill comes while requests are under way; what was answered before must be there afterwards.
		killed := time.AfterFunc(300*time.Millisecond, func() { _ = child.Process.Kill() })
		for i := 0; ; i++ {
			name := fmt.Sprintf("g-%d-%d", round, i)
			if !w.Try("PUT", w.Subscription+"/resourceGroups/"+name, `{"location":"eastus"}`) {
				break
			}
			groups = append(groups, name)
		}
		killed.Stop()
		if err := child.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
	}
	w := daemontest.Start(t, config)
	if len(groups) < 3 {
		t.Errorf("only %d groups were made", len(groups))
	}
	for _, g := range groups {
		w.Do("GET", w.Subscription+"/resourceGroups/"+g, nil).Want(200)
	}
}
