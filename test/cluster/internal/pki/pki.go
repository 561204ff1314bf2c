// Package pki makes a test cluster's certificate authorities, certificates, service account key and kubeconfigs.
// They are for one cluster of one test machine: keys lie unencrypted in the cluster's folder, readable by root only.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

const validity = 10 * 365 * 24 * time.Hour

// Write makes everything for c below its pki folder, unless it is there already.
func Write(c layout.Cluster) error {
	done := c.PKI("complete")
	if _, err := os.Stat(done); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(done), 0o700); err != nil {
		return err
	}
	if err := write(c); err != nil {
		return fmt.Errorf("keys and certificates of cluster %s: %w", c.Name, err)
	}
	return os.WriteFile(done, nil, 0o600)
}

func write(c layout.Cluster) error {
	front, err := newAuthority(c, "front-proxy-ca")
	if err != nil {
		return err
	}
	if _, err := front.issue("front-proxy-client", pkix.Name{CommonName: "front-proxy-client"}); err != nil {
		return err
	}
	ca, err := newAuthority(c, "ca")
	if err != nil {
		return err
	}
	if err := serviceAccountKey(c); err != nil {
		return err
	}
	if _, err := ca.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, c.NodeIP(), layout.ServiceIP, "127.0.0.1",
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"); err != nil {
		return err
	}
	if _, err := ca.issue("apiserver-kubelet", pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}}); err != nil {
		return err
	}
	for name, subject := range map[string]pkix.Name{
		"admin":     {CommonName: "admin", Organization: []string{"system:masters"}},
		"kcm":       {CommonName: "system:kube-controller-manager"},
		"scheduler": {CommonName: "system:kube-scheduler"},
		"proxy":     {CommonName: "system:kube-proxy"},
		"kubelet":   {CommonName: "system:node:" + c.Node(), Organization: []string{"system:nodes"}},
		"csi":       {CommonName: "csi", Organization: []string{"system:masters"}},
	} {
		if err := ca.kubeconfig(name, subject); err != nil {
			return err
		}
	}
	return nil
}

type authority struct {
	cluster layout.Cluster
	cert    *x509.Certificate
	pem     []byte
	key     *ecdsa.PrivateKey
}

// pair is a certificate and its key, PEM-encoded.
type pair struct{ cert, key []byte }

func newAuthority(c layout.Cluster, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := template(pkix.Name{CommonName: c.Name + " " + name})
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a := &authority{cluster: c, cert: cert, pem: encode("CERTIFICATE", der), key: key}
	return a, a.store(name, der, key)
}

// issue makes a certificate for servers and clients alike; hosts are names and addresses.
func (a *authority) issue(name string, subject pkix.Name, hosts ...string) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	template, err := template(subject)
	if err != nil {
		return pair{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, h)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair{}, err
	}
	return pair{encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)}, a.store(name, der, key)
}

func (a *authority) store(name string, der []byte, key any) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(a.cluster.PKI(name+".crt"), encode("CERTIFICATE", der), 0o600); err != nil {
		return err
	}
	return os.WriteFile(a.cluster.PKI(name+".key"), encode("PRIVATE KEY", keyDER), 0o600)
}

func (a *authority) kubeconfig(name string, subject pkix.Name) error {
	p, err := a.issue(name, subject)
	if err != nil {
		return err
	}
	id := "testcluster-" + a.cluster.Name
	k := clientcmdapi.NewConfig()
	k.Clusters[id] = &clientcmdapi.Cluster{Server: a.cluster.Server(), CertificateAuthorityData: a.pem}
	k.AuthInfos[id] = &clientcmdapi.AuthInfo{ClientCertificateData: p.cert, ClientKeyData: p.key}
	k.Contexts[id] = &clientcmdapi.Context{Cluster: id, AuthInfo: id}
	k.CurrentContext = id
	return clientcmd.WriteToFile(*k, a.cluster.PKI(name+".kubeconfig"))
}

func serviceAccountKey(c layout.Cluster) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.PKI("sa.key"), encode("PRIVATE KEY", private), 0o600); err != nil {
		return err
	}
	return os.WriteFile(c.PKI("sa.pub"), encode("PUBLIC KEY", public), 0o600)
}

func template(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity)}, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
