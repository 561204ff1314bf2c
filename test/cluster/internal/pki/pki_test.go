package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
	"github.com/cairn-backup/cairn/test/cluster/internal/pki"
)

// A client with the admin's kubeconfig trusts the API server under all its names, and a second Write changes nothing.
func TestWrite(t *testing.T) {
	c := layout.Cluster{Name: "b", Index: 2, Dir: t.TempDir()}
	if err := pki.Write(c); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(c.PKI("admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(before)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://10.99.0.12:6443" {
		t.Errorf("the kubeconfig's server is %s", config.Host)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(config.CAData)
	server, err := tls.LoadX509KeyPair(c.PKI("apiserver.crt"), c.PKI("apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"10.99.0.12", "10.96.0.1", "127.0.0.1", "kubernetes.default.svc"} {
		if _, err := server.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots}); err != nil {
			t.Errorf("the API server as %s: %v", host, err)
		}
	}
	client, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	if got := client.Leaf.Subject.Organization; len(got) != 1 || got[0] != "system:masters" {
		t.Errorf("the admin is in the groups %v", got)
	}
	if err := pki.Write(c); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(c.PKI("admin.kubeconfig"))
	if err != nil || string(after) != string(before) {
		t.Errorf("a second Write changed the kubeconfig (%v)", err)
	}
}
