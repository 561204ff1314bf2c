package link_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/link/linktest"
)

func client(s *linktest.Server) *link.Client {
	return &link.Client{Credential: func() (link.Credential, error) { return s.Credential(), nil }}
}

func TestDesiredComesAtOnceWhenItChanges(t *testing.T) {
	s := linktest.Start(t)
	c := client(s)
	d, err := c.Desired(t.Context(), "", time.Minute/2)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan *link.Desired, 1)
	go func() {
		d, err := c.Desired(t.Context(), d.ETag, time.Minute/2)
		if err != nil {
			t.Error(err)
		}
		answered <- d
	}()
	s.Wish(func(d *link.Desired) { d.Requests = []link.Request{{Kind: "Backup", Name: "x"}} })
	if d := <-answered; d == nil || len(d.Requests) != 1 || d.Requests[0].Name != "x" {
		t.Errorf("got %+v", d)
	}
}

func TestNothingNewIsNil(t *testing.T) {
	c := client(linktest.Start(t))
	d, err := c.Desired(t.Context(), "0", time.Millisecond)
	if d != nil || err != nil {
		t.Errorf("got %+v, %v", d, err)
	}
}

func TestForgottenTokenIsReplaced(t *testing.T) {
	s := linktest.Start(t)
	c := client(s)
	for range 2 {
		if err := c.Report(t.Context(), &link.Report{}); err != nil {
			t.Fatal(err)
		}
		s.ForgetTokens()
	}
	if v := s.View(); v.Reports != 2 || v.Logins != 2 {
		t.Errorf("%d reports with %d logins", v.Reports, v.Logins)
	}
}

func TestReplacedSecretIsTakenUp(t *testing.T) {
	s := linktest.Start(t)
	c := client(s)
	if err := c.Report(t.Context(), &link.Report{}); err != nil {
		t.Fatal(err)
	}
	s.Rotate("another secret")
	if err := c.Report(t.Context(), &link.Report{}); err != nil {
		t.Error(err)
	}
}

func TestRevokedCredentialIsNamed(t *testing.T) {
	s := linktest.Start(t)
	old := s.Credential()
	s.Rotate("another secret")
	c := &link.Client{Credential: func() (link.Credential, error) { return old, nil }}
	err := c.Report(t.Context(), &link.Report{})
	if !errors.Is(err, link.ErrRefused) {
		t.Fatalf("got %v", err)
	}
	for _, words := range []string{"invalid_client", "the secret is not known", "cairn cluster connect"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("%q does not say %q", err, words)
		}
	}
	if strings.Contains(err.Error(), old.ClientSecret) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%q", err)
	}
}

func TestServiceThatComesBackIsNotNoticed(t *testing.T) {
	s := linktest.Start(t)
	c := client(s)
	s.SetFailing(true)
	done := make(chan error, 1)
	go func() { done <- c.Report(t.Context(), &link.Report{}) }()
	s.Await(t, "a login", func(v linktest.View) bool { return v.Logins > 0 })
	s.SetFailing(false)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	s := linktest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := client(s).Desired(ctx, "0", time.Minute/2)
		done <- err
	}()
	s.Await(t, "a call", func(v linktest.View) bool { return v.Calls > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestUnknownAuthorityIsRefused(t *testing.T) {
	s := linktest.Start(t)
	credential := s.Credential()
	credential.CABundle = ""
	c := &link.Client{Credential: func() (link.Credential, error) { return credential, nil }}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := c.Report(ctx, &link.Report{}); err == nil {
		t.Error("an unknown certificate was trusted")
	}
}
