package daemon_test

import (
	"bytes"
	"context"
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

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

// log is what replicas write to it.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// replicaOf is how one of several replicas on a server's database is started: under one address, which leads to none of them.
func replicaOf(t *testing.T, server *storetest.Server) (daemon.Config, *log) {
	l := &log{}
	return daemon.Config{Data: t.TempDir(), Database: server.Database(t), Listen: "127.0.0.1:0", BlobListen: "127.0.0.1:0",
		PublicURL: "https://cairn.test:8443", BlobURL: "https://blobs.test:8444", Log: slog.New(slog.NewTextHandler(l, nil))}, l
}

// at is a client of one replica.
func at(t *testing.T, d *daemon.Daemon) *daemontest.World {
	t.Helper()
	return daemontest.ConnectThrough(t, filepath.Dir(d.AdminFile()), func(ctx context.Context, _, address string) (net.Conn, error) {
		real := d.Address
		if strings.HasPrefix(address, "blobs.test") {
			real = d.BlobAddress
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", real)
	})
}

func TestReplicasStartAtOnceFromNothing(t *testing.T) {
	server := storetest.Start(t)
	config, logged := replicaOf(t, server)
	replicas := make([]*daemon.Daemon, 3)
	var all sync.WaitGroup
	for i := range replicas {
		all.Go(func() {
			d, err := daemon.Start(context.Background(), config)
			if err != nil {
				t.Error(err)
				return
			}
			replicas[i] = d
		})
	}
	all.Wait()
	t.Cleanup(func() {
		for _, d := range replicas {
			if d == nil {
				continue
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	var worlds []*daemontest.World
	for _, d := range replicas {
		w := at(t, d)
		w.Daemon = d
		worlds = append(worlds, w)
	}
	// What one makes, with a token of another, the third has.
	one, two, three := worlds[0], worlds[1], worlds[2]
	group := one.Subscription + "/resourceGroups/g"
	account := group + "/providers/Microsoft.Storage/storageAccounts/acc"
	one.As(two.AdminToken(), "PUT", group, `{"location":"eastus"}`).Want(201)
	two.As(three.AdminToken(), "PUT", account, `{"sku":{"name":"Standard_LRS"},"location":"eastus"}`).Want(202)
	three.Do("PUT", account+"/blobServices/default/containers/c-1", `{}`).Want(201)
	one.Do("PUT", account+"/blobServices/default/containers/c-1", `{}`).Want(200)
	if n := len(one.Do("GET", "/v1.0/servicePrincipals", nil).Want(200).At("value").([]any)); n != 1 {
		t.Errorf("there are %d principals, want the one administrator", n)
	}
	blobs := func(w *daemontest.World) *azblob.Client {
		t.Helper()
		key := w.Do("POST", account+"/listKeys", nil).Want(200).At("keys", 0, "value").(string)
		credential, err := azblob.NewSharedKeyCredential("acc", key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := azblob.NewClientWithSharedKeyCredential("https://blobs.test:8444/acc", credential, options(w))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if _, err := blobs(one).UploadBuffer(t.Context(), "c-1", "b", []byte("hello"), nil); err != nil {
		t.Fatal(err)
	}
	got, err := blobs(two).DownloadStream(t.Context(), "c-1", "b", nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(got.Body)
	if err != nil || string(text) != "hello" {
		t.Errorf("%q, %v", text, err)
	}
	// A deleted account's blobs are gone for all, and those of one that is made anew by another replica stay.
	three.Do("DELETE", account, nil).Want(200)
	one.Do("PUT", account, `{"sku":{"name":"Standard_LRS"},"location":"eastus"}`).Want(202)
	two.Do("GET", account+"/blobServices/default/containers/c-1", nil).Want(404)
	two.Do("PUT", account+"/blobServices/default/containers/c-1", `{}`).Want(201)
	if _, err := blobs(three).DownloadStream(t.Context(), "c-1", "b", nil); !bloberror.HasCode(err, bloberror.BlobNotFound) {
		t.Errorf("a blob of the deleted account: %v", err)
	}
	if strings.Contains(logged.String(), server.Password()) {
		t.Error("the log has the database's password")
	}
}

func TestDatabaseThatIsAwayIsTold(t *testing.T) {
	server := storetest.Start(t)
	config, logged := replicaOf(t, server)
	d, err := daemon.Start(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	w := at(t, d)
	group := w.Subscription + "/resourceGroups/g"
	ask := func(method, url, body string) (int, string, http.Header) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+w.AdminToken())
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("x-ms-version", "2024-11-04")
		response, err := w.HTTP.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text), response.Header
	}
	server.Restart(t, func() {
		a := w.Do("PUT", group, `{"location":"eastus"}`).Want(503)
		if a.At("error", "code") != "ServiceUnavailable" || a.Header.Get("Retry-After") == "" {
			t.Errorf("%v, Retry-After %q", a.JSON, a.Header.Get("Retry-After"))
		}
		login := "grant_type=client_credentials&scope=https://management.azure.com/.default&client_id=" + w.Env["AZURE_CLIENT_ID"] + "&client_secret=" + w.Env["AZURE_CLIENT_SECRET"]
		for _, c := range []struct{ method, url, body string }{
			{"GET", "https://cairn.test:8443/healthz", ""},
			{"POST", "https://cairn.test:8443/" + w.Env["AZURE_TENANT_ID"] + "/oauth2/v2.0/token", login},
			{"GET", "https://blobs.test:8444/acc/c-1/b", ""},
		} {
			status, text, header := ask(c.method, c.url, c.body)
			if status != 503 {
				t.Errorf("%s: %d %s", c.url, status, text)
			}
			if strings.HasPrefix(c.url, "https://blobs") && header.Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", c.url)
			}
			for _, internal := range []string{"SQLSTATE", "dial", "connect", "cairn_"} {
				if strings.Contains(text, internal) {
					t.Errorf("%s tells of the inside: %s", c.url, text)
				}
			}
		}
	})
	for end := time.Now().Add(30 * time.Second); !w.Try("PUT", group, `{"location":"eastus"}`); {
		if time.Now().After(end) {
			t.Fatal("the service does not find its database again")
		}
	}
	if strings.Contains(logged.String(), server.Password()) {
		t.Error("the log has the database's password")
	}
}

func TestReplicaWithAFolderOfItsOwnIsRefused(t *testing.T) {
	config := daemon.Config{Data: t.TempDir(), Database: storetest.PostgreSQL(t), Listen: "127.0.0.1:0", BlobListen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)}
	restart(t, config, func(*daemontest.World) {})
	first := config.Data
	config.Data = t.TempDir()
	d, err := daemon.Start(t.Context(), config)
	if err == nil {
		t.Fatal("it started", d.Close())
	}
	id, reading := os.ReadFile(filepath.Join(first, "id"))
	if reading != nil || !strings.Contains(err.Error(), strings.TrimSpace(string(id))) {
		t.Fatalf("%v, %v", err, reading)
	}
	// What the message says helps.
	if err := os.WriteFile(filepath.Join(config.Data, "id"), id, 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err = daemon.Start(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
