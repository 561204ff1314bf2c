// Package linktest is the service's end of the link for tests of the connector's end: it speaks the protocol over TLS,
// hands out tokens, wishes what the test says, and keeps what is reported. It knows nothing of ARM, and no program may use it.
package linktest

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/link"
)

const (
	tenant   = "11111111-1111-1111-1111-111111111111"
	clientID = "22222222-2222-2222-2222-222222222222"
)

// Server is one service with one cluster.
type Server struct {
	http *httptest.Server

	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever anything below changes
	desired link.Desired
	version int
	secret  string
	tokens  map[string]bool
	failing bool
	seen    View
}

// View is what a cluster has reported so far.
type View struct {
	// Reports counts the reports, Logins the tokens given, Calls the link calls that were let in.
	Reports, Logins, Calls int
	// Last is the newest report.
	Last link.Report
	// Requests is the newest state of each request, by name.
	Requests map[string]link.RequestState
}

// Start starts a service that wishes nothing. It ends with the test.
func Start(t testing.TB) *Server {
	s := &Server{
		changed: make(chan struct{}),
		desired: link.Desired{ETag: "0", ClusterID: "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/test"},
		secret:  "first secret",
		tokens:  map[string]bool{},
		seen:    View{Requests: map[string]link.RequestState{}},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /"+tenant+"/v2.0/.well-known/openid-configuration", s.configuration)
	mux.HandleFunc("POST /"+tenant+"/oauth2/v2.0/token", s.token)
	mux.HandleFunc("GET "+link.PathDesired, s.getDesired)
	mux.HandleFunc("POST "+link.PathReport, s.postReport)
	s.http = httptest.NewTLSServer(mux)
	t.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// Credential is one that the service accepts now.
func (s *Server) Credential() link.Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
	return link.Credential{Endpoint: s.http.URL, TenantID: tenant, ClientID: clientID, ClientSecret: s.secret, CABundle: string(ca)}
}

// Wish changes the desired state.
func (s *Server) Wish(change func(*link.Desired)) {
	s.update(func() {
		change(&s.desired)
		s.version++
		s.desired.ETag = fmt.Sprint(s.version)
	})
}

// ForgetTokens makes every token given so far invalid, as a service does that lost its keys.
func (s *Server) ForgetTokens() { s.update(func() { clear(s.tokens) }) }

// Rotate replaces the secret and forgets the tokens: credentials from before are refused.
func (s *Server) Rotate(secret string) {
	s.update(func() {
		s.secret = secret
		clear(s.tokens)
	})
}

// SetFailing makes every link call end with 503, or not anymore.
func (s *Server) SetFailing(failing bool) { s.update(func() { s.failing = failing }) }

// Await returns when what was reported satisfies ok, and fails the test after a minute.
func (s *Server) Await(t testing.TB, what string, ok func(View) bool) View {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		s.mu.Lock()
		v, changed := s.view(), s.changed
		s.mu.Unlock()
		if ok(v) {
			return v
		}
		select {
		case <-changed:
		case <-ctx.Done():
			last, _ := json.MarshalIndent(v, "", "  ")
			t.Fatalf("the service waits in vain for: %s\nit has seen: %s", what, last)
		}
	}
}

// View is what was reported so far.
func (s *Server) View() View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view()
}

func (s *Server) view() View {
	v := s.seen
	v.Requests = maps.Clone(s.seen.Requests)
	return v
}

func (s *Server) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) configuration(w http.ResponseWriter, _ *http.Request) {
	root := s.http.URL + "/" + tenant
	answer(w, http.StatusOK, map[string]any{
		"issuer":                 root + "/v2.0",
		"authorization_endpoint": root + "/oauth2/v2.0/authorize",
		"token_endpoint":         root + "/oauth2/v2.0/token",
	})
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	id, secret := r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	s.mu.Lock()
	ok := id == clientID && secret == s.secret
	s.mu.Unlock()
	if !ok {
		answer(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client", "error_description": "the secret is not known"})
		return
	}
	var token string
	s.update(func() {
		s.seen.Logins++
		token = fmt.Sprintf("token-%d", s.seen.Logins)
		s.tokens[token] = true
	})
	answer(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
}

// admit answers for calls that go no further.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	known := s.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	failing := s.failing
	s.mu.Unlock()
	switch {
	case failing:
		w.WriteHeader(http.StatusServiceUnavailable)
	case !known:
		answer(w, http.StatusUnauthorized, map[string]any{"error": map[string]string{"code": "InvalidAuthenticationToken", "message": "the token is not known"}})
	default:
		s.update(func() { s.seen.Calls++ })
		return true
	}
	return false
}

func (s *Server) getDesired(w http.ResponseWriter, r *http.Request) {
	if !s.admit(w, r) {
		return
	}
	wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil || wait > 30*time.Second {
		answer(w, http.StatusBadRequest, map[string]any{"error": map[string]string{"code": "InvalidQuery", "message": "wait"}})
		return
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		s.mu.Lock()
		d, changed, failing := s.desired, s.changed, s.failing
		s.mu.Unlock()
		if failing {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if d.ETag != r.URL.Query().Get("etag") {
			answer(w, http.StatusOK, d)
			return
		}
		select {
		case <-changed:
		case <-over.C:
			w.WriteHeader(http.StatusNotModified)
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (s *Server) postReport(w http.ResponseWriter, r *http.Request) {
	if !s.admit(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	var report link.Report
	if err != nil || json.Unmarshal(body, &report) != nil {
		answer(w, http.StatusBadRequest, map[string]any{"error": map[string]string{"code": "InvalidBody", "message": "not a report"}})
		return
	}
	s.update(func() {
		s.seen.Reports++
		s.seen.Last = report
		for _, q := range report.Requests {
			s.seen.Requests[q.Name] = q
		}
	})
	w.WriteHeader(http.StatusNoContent)
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		return // the caller went away
	}
}
