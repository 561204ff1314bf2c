// Package blobtest holds the contract of our storage: what any Blob endpoint must do for the extension, driven with Azure's
// own client (REST) and through blob.Store. It also starts the endpoints: our server, and Azurite.
//
// It is for tests, of this and of other packages that need a real container.
package blobtest

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"
	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/blobserver"
)

// HostSuffix is the domain under which an endpoint's certificate is valid host style: account.blob.HostSuffix.
const HostSuffix = "storage.test"

// Endpoint is a running Blob service with one account.
type Endpoint struct {
	URL     string // https://127.0.0.1:port, without the account
	Account string
	Key     string // base64
	CA      []byte // PEM
	// Azurite says that it is not ours, where Azurite differs from Azure.
	Azurite bool
}

// AccountURL is the account's path style URL.
func (e *Endpoint) AccountURL() string { return e.URL + "/" + e.Account }

// Transport trusts the endpoint, and reaches it under any host name.
func (e *Endpoint) Transport() *http.Transport {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(e.CA)
	_, address, _ := strings.Cut(e.URL, "://")
	return &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool},
		MaxIdleConnsPerHost: 32,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
}

// Service returns Azure's client of the account, which sends every request once.
func (e *Endpoint) Service(t testing.TB) *service.Client {
	t.Helper()
	credential, err := service.NewSharedKeyCredential(e.Account, e.Key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := service.NewClientWithSharedKeyCredential(e.AccountURL(), credential, &service.ClientOptions{ClientOptions: e.options()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Container returns Azure's client of a container by a URL that needs no further credential, such as one with a SAS.
func (e *Endpoint) Container(t testing.TB, containerURL string) *container.Client {
	t.Helper()
	client, err := container.NewClientWithNoCredential(containerURL, &container.ClientOptions{ClientOptions: e.options()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (e *Endpoint) options() policy.ClientOptions {
	return policy.ClientOptions{Transport: &http.Client{Transport: e.Transport()}, Retry: policy.RetryOptions{MaxRetries: -1}}
}

// NewContainer creates a container and returns its client.
func (e *Endpoint) NewContainer(t testing.TB, name string) *container.Client {
	t.Helper()
	client := e.Service(t).NewContainerClient(name)
	if _, err := client.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return client
}

// Store creates a container and returns it as a store that authenticates with a SAS, as the extension does.
func (e *Endpoint) Store(t testing.TB, name string) *blob.Container {
	t.Helper()
	e.NewContainer(t, name)
	signature, err := blob.ContainerSAS(e.Account, e.Key, name, blob.ExtensionPermissions, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	store, err := blob.Open(e.AccountURL()+"/"+name+"?"+signature, blob.Options{CABundle: e.CA})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// Key is the account key of the endpoints started here.
var Key = base64.StdEncoding.EncodeToString([]byte("a key of the tests, 64 bytes long, and of no use anywhere else.."))

// StartServer serves a temporary folder with our server over TLS. Its account is "cairntest". The token "good" may do everything,
// "reader" may read blobs, and no other is valid.
// Each wrap stands between the clients and the server.
func StartServer(t testing.TB, wrap ...func(http.Handler) http.Handler) *Endpoint {
	t.Helper()
	server, err := blobserver.Open(Config(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	certificate, ca, _ := newCertificate(t)
	handler := http.Handler(server)
	for _, w := range wrap {
		handler = w(handler)
	}
	listener := httptest.NewUnstartedServer(handler)
	listener.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	listener.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	listener.StartTLS()
	t.Cleanup(func() {
		listener.CloseClientConnections()
		listener.Close()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Endpoint{URL: listener.URL, Account: "cairntest", Key: Key, CA: ca}
}

// Config is the configuration of StartServer's server.
func Config(root string) blobserver.Config {
	return blobserver.Config{
		Root: root,
		Log:  slog.New(slog.DiscardHandler),
		Accounts: func(_ context.Context, name string) (blobserver.Account, error) {
			if name != "cairntest" {
				return blobserver.Account{}, blobserver.ErrAccountNotFound
			}
			return blobserver.Account{Keys: []string{Key}}, nil
		},
		Authorize: func(_ context.Context, token string, access blobserver.Access) error {
			switch {
			case token == "good", token == "reader" && strings.HasSuffix(access.Actions[0], "blobs/read"):
				return nil
			case token == "reader":
				return blobserver.ErrForbidden
			}
			return blobserver.ErrInvalidToken
		},
	}
}

var listening = regexp.MustCompile(`listens on https://127\.0\.0\.1:(\d+)`)

// StartAzurite runs Azurite from test/azurite, which it installs there first if need be.
func StartAzurite(t testing.TB) *Endpoint {
	t.Helper()
	dir := filepath.Join(moduleRoot(t), "test", "azurite")
	program := filepath.Join(dir, "node_modules", "azurite", "dist", "src", "blob", "main.js")
	if _, err := os.Stat(program); err != nil {
		install := exec.Command("npm", "ci", "--omit=dev", "--no-progress")
		install.Dir = dir
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("npm ci in %s: %v; Node.js 18 or later and npm are needed\n%s", dir, err, out)
		}
	}
	_, ca, key := newCertificate(t)
	temp := t.TempDir()
	for file, data := range map[string][]byte{"cert.pem": ca, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(temp, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("node", program, "--blobHost", "127.0.0.1", "--blobPort", "0", "--location", temp,
		"--cert", filepath.Join(temp, "cert.pem"), "--key", filepath.Join(temp, "key.pem"),
		"--oauth", "basic", "--skipApiVersionCheck", "--disableTelemetry")
	cmd.Env = append(os.Environ(), "AZURITE_ACCOUNTS=cairntest:"+Key)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	port := make(chan string)
	go func() {
		defer close(port)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				port <- m[1]
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		for range port { // until the pipe ends
		}
		cmd.Wait()
	})
	select {
	case p, ok := <-port:
		if !ok {
			t.Fatal("azurite ended before it listened")
		}
		return &Endpoint{URL: "https://127.0.0.1:" + p, Account: "cairntest", Key: Key, CA: ca, Azurite: true}
	case <-time.After(3 * time.Minute): // it took 30 seconds on a loaded machine
		t.Fatal("azurite does not listen")
	}
	return nil
}

func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the test")
	return ""
}

// newCertificate makes a self-signed certificate for path style and host style.
func newCertificate(t testing.TB) (certificate tls.Certificate, ca, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "cairn blob test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:              []string{"localhost", "*.blob." + HostSuffix},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	if certificate, err = tls.X509KeyPair(ca, keyPEM); err != nil {
		t.Fatal(err)
	}
	return certificate, ca, keyPEM
}
