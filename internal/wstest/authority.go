package wstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"testing"
	"time"
)

// This file answers: where do certificates come from?

// An Authority signs certificates, for servers and clients alike. Made inside a bubble, they go by its clock.
type Authority struct {
	T    testing.TB
	Cert *x509.Certificate // its own
	Pool *x509.CertPool    // trusts nobody else
	key  *ecdsa.PrivateKey
}

func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{T: t, Pool: x509.NewCertPool()}
	c := a.Sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	})
	a.Cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	a.Pool.AddCert(a.Cert)
	return a
}

// Sign makes a certificate like template and a key for it; without times of its own it is valid for an hour. The first is the
// authority's own.
func (a *Authority) Sign(template *x509.Certificate) tls.Certificate {
	a.T.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.T.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Minute)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := a.Cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.T.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.T.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// Issue makes a certificate for hosts, names or addresses, that is valid since a minute ago.
func (a *Authority) Issue(valid time.Duration, hosts ...string) tls.Certificate {
	a.T.Helper()
	return a.IssueFrom(time.Now().Add(-time.Minute), valid, hosts...)
}

func (a *Authority) IssueFrom(from time.Time, valid time.Duration, hosts ...string) tls.Certificate {
	a.T.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, NotBefore: from, NotAfter: from.Add(valid),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return a.Sign(template)
}

// Server is a config of a server for hosts.
func (a *Authority) Server(hosts ...string) *tls.Config {
	a.T.Helper()
	return &tls.Config{Certificates: []tls.Certificate{a.Issue(time.Hour, hosts...)}}
}

// WritePEM puts a server's certificate and key into one file, as other programs read it.
func (a *Authority) WritePEM(file string, hosts ...string) {
	a.T.Helper()
	c := a.Issue(time.Hour, hosts...)
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		a.T.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		a.T.Fatal(err)
	}
}
