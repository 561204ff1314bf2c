// Package client calls Azure Resource Manager's API: one request, a list with its pages, a long-running operation with
// its polling. It is a thin layer over Azure's own pipeline and pollers, so that retries, tokens and the rules of
// asynchronous operations are Azure's. It knows no resource type and prints nothing.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// Audience is what tokens for the Resource Manager API are issued for, at every endpoint.
const Audience = "https://management.azure.com"

// defaultInterval is how long to wait between polls when the service does not say.
const defaultInterval = 2 * time.Second

// firstInterval is how long to wait before the first poll: most operations of a vault are over by then.
const firstInterval = 200 * time.Millisecond

// Options say where the API is and how to reach it.
type Options struct {
	// Endpoint is the service's base URL, https, without a trailing slash.
	Endpoint string
	// Transport sends the requests; nil means azcore's own.
	Transport policy.Transporter
	// UserAgent goes in front of azcore's own.
	UserAgent string
}

// Client calls the API of one endpoint as one principal.
type Client struct {
	endpoint string
	pipeline runtime.Pipeline
}

// New makes a client that authenticates with cred.
func New(cred azcore.TokenCredential, o Options) (*Client, error) {
	opts := &arm.ClientOptions{DisableRPRegistration: true}
	opts.Transport = o.Transport
	opts.Telemetry.ApplicationID = o.UserAgent
	opts.Cloud = cloud.Configuration{Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
		cloud.ResourceManager: {Endpoint: o.Endpoint, Audience: Audience},
	}}
	c, err := arm.NewClient("cairn", "v1.0.0", cred, opts)
	if err != nil {
		return nil, fmt.Errorf("client for %s: %w", o.Endpoint, err)
	}
	return &Client{endpoint: strings.TrimRight(o.Endpoint, "/"), pipeline: c.Pipeline()}, nil
}

// Request is one call of the API.
type Request struct {
	// Method is GET when empty.
	Method string
	// Path is the resource's ID, with what follows it; its segments are already escaped. An absolute URL is taken as it is.
	Path string
	// APIVersion is put into the query unless empty.
	APIVersion string
	// Query is added to what Path has.
	Query  url.Values
	Header http.Header
	// Body is sent as JSON; nil means none. Bytes are sent as they are.
	Body any
	// NoWait says to return the first answer of a long-running operation.
	NoWait bool
	// OnPoll is called with the operation's status at each poll. May be nil.
	OnPoll func(status string)
}

// Get reads one document.
func (c *Client) Get(ctx context.Context, path, version string) (any, error) {
	return c.Do(ctx, Request{Path: path, APIVersion: version})
}

// Do sends a request, follows the operation that it starts, if any, and answers the document that it ends with: decoded
// JSON with numbers as json.Number, or nil when there is none. Errors of the service are *Error.
func (c *Client) Do(ctx context.Context, r Request) (any, error) {
	resp, err := c.Send(ctx, r)
	if err != nil {
		return nil, err
	}
	if r.NoWait || resp.Request.Method == http.MethodGet {
		return document(resp)
	}
	return c.follow(ctx, resp, r.OnPoll)
}

// List reads all pages of a list.
func (c *Client) List(ctx context.Context, r Request) ([]any, error) {
	all := []any{}
	for r.Path != "" {
		doc, err := c.Do(ctx, r)
		if err != nil {
			return nil, err
		}
		page, ok := doc.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: the service answered no list", r.Path)
		}
		items, ok := page["value"].([]any)
		if !ok {
			return nil, fmt.Errorf("%s: the service answered no list: %q is missing", r.Path, "value")
		}
		all = append(all, items...)
		next, ok := page["nextLink"].(string)
		if !ok {
			break
		}
		r = Request{Path: next, Header: r.Header}
	}
	return all, nil
}

// Send sends a request and answers its first response, with the body buffered. Statuses from 400 on are errors.
func (c *Client) Send(ctx context.Context, r Request) (*http.Response, error) {
	req, err := c.request(ctx, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.pipeline.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, c.explain(runtime.NewResponseError(resp))
	}
	if _, err := runtime.Payload(resp); err != nil {
		return nil, fmt.Errorf("%s %s: read the answer: %w", req.Raw().Method, req.Raw().URL.Path, err)
	}
	return resp, nil
}

func (c *Client) request(ctx context.Context, r Request) (*policy.Request, error) {
	target := r.Path
	if strings.HasPrefix(target, "/") {
		target = c.endpoint + target
	}
	if err := c.sameHost(target); err != nil {
		return nil, err
	}
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	req, err := runtime.NewRequest(ctx, method, target)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, target, err)
	}
	query := req.Raw().URL.Query()
	for k, v := range r.Query {
		query[k] = v
	}
	if r.APIVersion != "" {
		query.Set("api-version", r.APIVersion)
	}
	req.Raw().URL.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	req.Raw().Header.Set("Accept", "application/json")
	for k, v := range r.Header {
		req.Raw().Header[http.CanonicalHeaderKey(k)] = v
	}
	return req, setBody(req, r.Body)
}

// sameHost keeps the token from travelling to another host, whatever an answer or a user says.
func (c *Client) sameHost(target string) error {
	t, err := url.Parse(target)
	if err != nil {
		return fmt.Errorf("address %q: %w", target, err)
	}
	e, err := url.Parse(c.endpoint)
	if err != nil {
		return fmt.Errorf("endpoint %q: %w", c.endpoint, err)
	}
	if !strings.EqualFold(t.Host, e.Host) {
		return fmt.Errorf("%s is not on %s: the token for one is not sent to the other", target, c.endpoint)
	}
	return nil
}

func setBody(req *policy.Request, body any) error {
	switch b := body.(type) {
	case nil:
		return nil
	case []byte:
		kind := req.Raw().Header.Get("Content-Type")
		if kind == "" {
			kind = "application/json"
		}
		return req.SetBody(nopCloser{bytes.NewReader(b)}, kind)
	default:
		return runtime.MarshalAsJSON(req, b)
	}
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

// follow polls the operation that resp has started until it ends.
func (c *Client) follow(ctx context.Context, resp *http.Response, onPoll func(string)) (any, error) {
	opts := &runtime.NewPollerOptions[json.RawMessage]{}
	if resp.Request.Method == http.MethodPost {
		opts.FinalStateVia = runtime.FinalStateViaLocation
	}
	poller, err := runtime.NewPoller(resp, c.pipeline, opts)
	if err != nil {
		return nil, c.explain(err)
	}
	for wait := firstInterval; !poller.Done(); {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
		answer, err := poller.Poll(ctx)
		if err != nil {
			return nil, c.explain(err)
		}
		if onPoll != nil {
			onPoll(operationStatus(answer))
		}
		wait = retryAfter(answer)
	}
	raw, err := poller.Result(ctx)
	if err != nil {
		return nil, c.explain(err)
	}
	return Decode(raw)
}

// retryAfter is how long the service wants to be left alone.
func retryAfter(resp *http.Response) time.Duration {
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		return time.Duration(s) * time.Second
	}
	return defaultInterval
}

// operationStatus reads the status word of an operation, or of a resource that is being provisioned; empty when unknown.
func operationStatus(resp *http.Response) string {
	body, err := runtime.Payload(resp)
	if err != nil {
		return ""
	}
	var s struct {
		Status     string `json:"status"`
		Properties struct {
			ProvisioningState string `json:"provisioningState"`
		} `json:"properties"`
	}
	if json.Unmarshal(body, &s) != nil {
		return ""
	}
	if s.Status == "" {
		return s.Properties.ProvisioningState
	}
	return s.Status
}

func document(resp *http.Response) (any, error) {
	body, err := runtime.Payload(resp)
	if err != nil {
		return nil, err
	}
	doc, err := Decode(body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: the answer is not JSON: %w", resp.Request.Method, resp.Request.URL.Path, err)
	}
	return doc, nil
}

// Decode reads one JSON value; numbers stay as they are written. Nothing at all is nil.
func Decode(raw []byte) (any, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the first value")
	}
	return v, nil
}
