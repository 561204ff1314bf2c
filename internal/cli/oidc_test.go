package cli_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/coreos/go-oidc/v3/oidc/oidctest"

	"github.com/cairn-backup/cairn/internal/cli"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// TestAnAccessTokenInAFile goes the way of somebody whom only an external issuer knows: learn the object ID, be given a role, work.
func TestAnAccessTokenInAFile(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := &oidctest.Server{Algorithms: []string{oidc.ES256}, PublicKeys: []oidctest.PublicKey{{PublicKey: key.Public(), KeyID: "k", Algorithm: oidc.ES256}}}
	server := httptest.NewTLSServer(issuer)
	t.Cleanup(server.Close)
	issuer.SetIssuer(server.URL)
	dir := t.TempDir()
	ca, file := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	w := daemontest.Start(t, daemon.Config{OIDCIssuer: server.URL, OIDCAudience: "cairn", OIDCCAFile: ca})
	run := func(env map[string]string, args ...string) (string, string, int) {
		var out, errs bytes.Buffer
		p := cli.Program{Name: "cairn", Args: args, Getenv: func(name string) string { return env[name] }, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
		code := p.Run(t.Context())
		return strings.TrimSpace(out.String()), errs.String(), code
	}
	ann := map[string]string{"CAIRN_ENDPOINT": w.Env["CAIRN_ENDPOINT"], "SSL_CERT_FILE": w.Env["SSL_CERT_FILE"], "HOME": dir, "CAIRN_ACCESS_TOKEN_FILE": file}
	if _, errs, code := run(ann, "account", "show"); code != 1 || !strings.Contains(errs, "CAIRN_ACCESS_TOKEN_FILE") {
		t.Errorf("no file: %d %s", code, errs)
	}
	write(file, oidctest.SignIDToken(key, "k", oidc.ES256, fmt.Sprintf(`{"iss":%q,"aud":"cairn","sub":"ann","preferred_username":"ann@example.com","exp":%d}`,
		server.URL, time.Now().Add(time.Hour).Unix()))+"\n")

	id, errs, code := run(ann, "ad", "signed-in-user", "show", "--query", "id", "-o", "tsv")
	if code != 0 {
		t.Fatalf("who am I: %d %s", code, errs)
	}
	if _, errs, code := run(ann, "account", "show"); code != 1 || !strings.Contains(errs, "ad signed-in-user show") {
		t.Errorf("without a role: %d %s", code, errs)
	}
	admin := map[string]string{"HOME": dir}
	for name, value := range w.Env {
		admin[name] = value
	}
	if _, errs, code := run(admin, "role", "assignment", "create", "--role", "Reader", "--assignee-object-id", id, "--assignee-principal-type", "User", "--scope", w.Subscription); code != 0 {
		t.Fatalf("giving the role: %d %s", code, errs)
	}
	if out, errs, code := run(ann, "account", "show", "--query", "user.[name, type, objectId]", "-o", "tsv"); code != 0 || out != "ann@example.com\nuser\n"+id {
		t.Errorf("with a role: %d %q %s", code, out, errs)
	}
	if _, errs, code := run(ann, "group", "create", "-n", "g", "-l", "eastus"); code != 1 || !strings.Contains(errs, "to the object id "+id) {
		t.Errorf("what a reader may not do: %d %s", code, errs)
	}
}
