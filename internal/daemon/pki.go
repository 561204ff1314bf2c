package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/auth"
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 397 * 24 * time.Hour
	// renewBefore is how long before its end the server's certificate is made anew, at a start.
	renewBefore = 60 * 24 * time.Hour
)

// pki is the service's own certificate authority and the server's certificate.
type pki struct {
	dir string
	now time.Time
}

// CAFile is the authority's certificate: what clients trust.
func (p pki) CAFile() string { return filepath.Join(p.dir, "ca.crt") }

// server gives the server's certificate for the hosts, and the authority's as PEM. What is missing, does not fit the hosts, or
// ends soon is made.
func (p pki) server(hosts []string) (tls.Certificate, string, error) {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return tls.Certificate{}, "", err
	}
	ca, err := load(p.dir, "ca")
	if errors.Is(err, os.ErrNotExist) {
		ca, err = p.makeCA()
	}
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("certificate authority in %s: %w", p.dir, err)
	}
	bundle := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate[0]}))
	server, err := load(p.dir, "server")
	if err == nil && p.fits(server.Leaf, ca.Leaf, hosts) {
		return server, bundle, nil
	}
	if server, err = p.makeServer(ca, hosts); err != nil {
		return server, "", fmt.Errorf("server certificate in %s: %w", p.dir, err)
	}
	return server, bundle, nil
}

func load(dir, name string) (tls.Certificate, error) {
	return tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
}

func (p pki) fits(server, ca *x509.Certificate, hosts []string) bool {
	if p.now.Add(renewBefore).After(server.NotAfter) || server.CheckSignatureFrom(ca) != nil {
		return false
	}
	for _, h := range hosts {
		if server.VerifyHostname(strings.Replace(h, "*", "any", 1)) != nil {
			return false
		}
	}
	return true
}

func (p pki) makeCA() (tls.Certificate, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Cairn certificate authority"}, IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: p.now.Add(-time.Hour), NotAfter: p.now.Add(caLife),
	}
	return p.make("ca", template, nil)
}

func (p pki) makeServer(ca tls.Certificate, hosts []string) (tls.Certificate, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "cairnd"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore:   p.now.Add(-time.Hour), NotAfter: p.now.Add(serverLife),
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return p.make("server", template, &ca)
}

// make signs a certificate, by itself without a parent, and writes it and its key. The key is written first: a pair that does
// not fit after a crash does not load, and the next start makes another.
func (p pki) make(name string, template *x509.Certificate, parent *tls.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return tls.Certificate{}, err
	}
	issuer, signer := template, any(key)
	if parent != nil {
		issuer, signer = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := auth.WriteFile(filepath.Join(p.dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return tls.Certificate{}, err
	}
	if err := auth.WriteFile(filepath.Join(p.dir, name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return tls.Certificate{}, err
	}
	return load(p.dir, name)
}
