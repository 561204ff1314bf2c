package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// ErrRefused says that the service does not accept the connector's credential. Trying again helps only when the credential
// has been replaced meanwhile.
var ErrRefused = errors.New("the service refuses this cluster's credential; run `cairn cluster connect` again")

const (
	// attempts is how often a call is made before its error is returned.
	attempts = 5
	// firstPause and longestPause bound the pauses between attempts.
	firstPause   = 500 * time.Millisecond
	longestPause = 10 * time.Second
	// answerTime is how long one attempt may take beyond the wait that it asked for.
	answerTime = 30 * time.Second
	// largestAnswer bounds what is read of a Desired.
	largestAnswer = 64 << 20
)

// Client is the connector's end. Every call is tried a few times, with pauses that grow and vary, so that a service that
// restarts is not noticed. The zero value with Credential set works. It may be used by several goroutines.
type Client struct {
	// Credential reads the credential. It is called before the first call, and again after the service has refused one,
	// so that a replaced credential is taken up without a restart.
	Credential func() (Credential, error)
	// UserAgent names the caller in the service's log.
	UserAgent string

	mu      sync.Mutex
	session *session // nil: to be made from Credential
}

// session is what one credential gives: tokens are cached in it.
type session struct {
	endpoint string
	scope    string
	http     *http.Client
	tokens   azcore.TokenCredential
}

// Desired asks what the cluster should have. With an etag the service answers when that differs from its own, or after
// wait, and then the answer is nil: nothing has changed.
func (c *Client) Desired(ctx context.Context, etag string, wait time.Duration) (*Desired, error) {
	query := url.Values{"wait": {wait.String()}}
	if etag != "" {
		query.Set("etag", etag)
	}
	body, status, err := c.call(ctx, http.MethodGet, PathDesired+"?"+query.Encode(), nil, wait)
	if err != nil {
		return nil, fmt.Errorf("ask for the desired state: %w", err)
	}
	if status == http.StatusNotModified {
		return nil, nil
	}
	d := &Desired{}
	if err := json.Unmarshal(body, d); err != nil {
		return nil, fmt.Errorf("ask for the desired state: the service's answer is not understood: %w", err)
	}
	return d, nil
}

// Report tells what the cluster has. It has been recorded when the error is nil.
func (c *Client) Report(ctx context.Context, r *Report) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if _, _, err := c.call(ctx, http.MethodPost, PathReport, body, 0); err != nil {
		return fmt.Errorf("report the cluster's state: %w", err)
	}
	return nil
}

// call tries a few times. A refused token is replaced at once and once; a refused credential ends the call.
func (c *Client) call(ctx context.Context, method, path string, body []byte, wait time.Duration) ([]byte, int, error) {
	refused := false
	for attempt := 1; ; attempt++ {
		answer, status, err := c.once(ctx, method, path, body, wait)
		if err == nil {
			return answer, status, nil
		}
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		if errors.Is(err, ErrRefused) {
			c.forget()
			if refused {
				return nil, 0, err
			}
			refused = true
			continue
		}
		if attempt >= attempts || permanent(err) {
			return nil, 0, err
		}
		if err := pause(ctx, attempt); err != nil {
			return nil, 0, err
		}
	}
}

// once makes one attempt.
func (c *Client) once(ctx context.Context, method, path string, body []byte, wait time.Duration) ([]byte, int, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+answerTime)
	defer cancel()
	s, err := c.open()
	if err != nil {
		return nil, 0, err
	}
	token, err := s.tokens.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{s.scope}})
	if err != nil {
		return nil, 0, tokenError(err)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.endpoint+path, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token.Token)
	req.Header.Set("User-Agent", c.UserAgent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, largestAnswer))
	if err != nil {
		return nil, 0, fmt.Errorf("read the service's answer: %w", err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent, http.StatusNotModified:
		return answer, resp.StatusCode, nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, 0, fmt.Errorf("%w: %w", ErrRefused, statusError(resp.StatusCode, answer))
	}
	return nil, 0, statusError(resp.StatusCode, answer)
}

// open returns the session, made anew if there is none.
func (c *Client) open() (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		return c.session, nil
	}
	credential, err := c.Credential()
	if err != nil {
		return nil, fmt.Errorf("read the connector's credential: %w", err)
	}
	c.session, err = newSession(credential)
	return c.session, err
}

func (c *Client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		c.session.http.CloseIdleConnections()
		c.session = nil
	}
}

func newSession(c Credential) (*session, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CABundle != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(c.CABundle)) {
			return nil, errors.New("the connector's credential: caBundle holds no certificate")
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	client := &http.Client{Transport: transport}
	endpoint := strings.TrimSuffix(c.Endpoint, "/")
	tokens, err := azidentity.NewClientSecretCredential(c.TenantID, c.ClientID, c.ClientSecret, &azidentity.ClientSecretCredentialOptions{
		ClientOptions: azcore.ClientOptions{
			Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: endpoint},
			Transport: client,
			Retry:     policy.RetryOptions{MaxRetries: -1}, // call retries
		},
		// The authority is the service itself; there is no public directory to ask about it.
		DisableInstanceDiscovery: true,
	})
	if err != nil {
		return nil, fmt.Errorf("the connector's credential: %w", err)
	}
	return &session{endpoint: endpoint, scope: endpoint + "/.default", http: client, tokens: tokens}, nil
}

// StatusError is an answer other than success.
type StatusError struct {
	// Status is the HTTP status.
	Status int
	// Code and Message are those of the ARM error envelope, empty if the answer was none.
	Code, Message string
}

func (e *StatusError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("the service answered %d", e.Status)
	}
	return fmt.Sprintf("the service answered %d %s: %s", e.Status, e.Code, e.Message)
}

func statusError(status int, body []byte) *StatusError {
	var envelope struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return &StatusError{Status: status}
	}
	return &StatusError{Status: status, Code: envelope.Error.Code, Message: envelope.Error.Message}
}

// tokenError tells a refused credential from an authority that cannot be reached, in one line.
func tokenError(err error) error {
	var failed *azidentity.AuthenticationFailedError
	if !errors.As(err, &failed) || failed.RawResponse == nil {
		return fmt.Errorf("get a token: %w", err)
	}
	status := failed.RawResponse.StatusCode
	if status/100 != 4 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
		return fmt.Errorf("get a token: %w", &StatusError{Status: status})
	}
	var reason struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if body, err := io.ReadAll(io.LimitReader(failed.RawResponse.Body, 64<<10)); err == nil {
		if json.Unmarshal(body, &reason) != nil {
			reason.Error = "no reason given"
		}
	}
	return fmt.Errorf("%w: token request: %w", ErrRefused, &StatusError{Status: status, Code: reason.Error, Message: reason.Description})
}

// permanent reports whether an answer will be the same next time.
func permanent(err error) bool {
	var s *StatusError
	if !errors.As(err, &s) {
		return false
	}
	return s.Status/100 == 4 && s.Status != http.StatusTooManyRequests && s.Status != http.StatusRequestTimeout
}

// pause waits before the next attempt: doubling, and anywhere in the upper half, so that clusters do not come in step.
func pause(ctx context.Context, attempt int) error {
	d := min(firstPause<<(attempt-1), longestPause)
	d = d/2 + rand.N(d/2)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
