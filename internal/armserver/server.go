package armserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

// Server answers everything that needs a token. Make it with New.
type Server struct {
	service *service.Service
	// audiences are those of tokens that are accepted.
	audiences []string
	routes    []Route
}

// New makes a server of all providers' tables. A token must be for one of the audiences.
func New(s *service.Service, audiences []string) *Server {
	server := &Server{service: s, audiences: audiences}
	for _, r := range table(s) {
		server.routes = append(server.routes, r.compile())
	}
	return server
}

// Request is what a handler is given.
type Request struct {
	// HTTP is the request; its body has been read.
	HTTP *http.Request
	// ID is the resource that the path names, or what the path's collection or action belongs to.
	ID arm.ID
	// Caller is who asks.
	Caller auth.Caller
	// By is the same for system data.
	By service.Ref
	// Body is at most the route's MaxBody.
	Body []byte
	// Query has been parsed; keys are as the client wrote them, but api-version and what begins with a dollar sign is in lower
	// case.
	Query url.Values
	// APIVersion is well-formed.
	APIVersion string
	// CorrelationID names the request in logs and errors.
	CorrelationID string

	began     time.Time
	requestID string
	// event is the request in the audit log, if it is there already.
	event  *store.AuditEvent
	server *Server
	route  *Route
	params map[string]string
}

// Param is the segment that stands for a parameter of the route.
func (r *Request) Param(name string) string { return r.params[name] }

// Decode reads the body.
func (r *Request) Decode(v any) error { return arm.Decode(r.Body, v) }

// BaseURL is the service's address as the client used it.
func (r *Request) BaseURL() string { return "https://" + r.HTTP.Host }

// Async is where the client can follow an operation, by the paths of Azure-AsyncOperation and Location.
func (r *Request) Async(operation, location string) arm.Async {
	return arm.Async{BaseURL: r.BaseURL(), APIVersion: r.APIVersion, Operation: operation, Location: location}
}

// Require is the 403 unless the caller has an action at a scope: for rows with NoPermission, and for links to other
// resources.
func (r *Request) Require(ctx context.Context, action string, scope arm.ID) error {
	ok, err := r.server.service.Allowed(ctx, r.Caller.ObjectID, action, scope)
	if err != nil {
		return err
	}
	if !ok {
		return arm.Forbidden(r.Caller.ObjectID, action, scope)
	}
	return nil
}

// Match is the 412 unless If-Match and If-None-Match hold for a resource with an ETag; empty is one that does not exist.
func (r *Request) Match(etag string) error {
	if want := r.HTTP.Header.Get("If-Match"); want != "" && (etag == "" || want != "*" && unquote(want) != unquote(etag)) {
		return arm.PreconditionFailed(r.ID)
	}
	if r.HTTP.Header.Get("If-None-Match") == "*" && etag != "" {
		return arm.PreconditionFailed(r.ID)
	}
	return nil
}

// Guarded is the caller with what it sends to satisfy a vault's resource guard: the guard's requests that it names, and a second token, which may be
// somebody else's. A second token that is no good is a 401.
func (r *Request) Guarded(ctx context.Context, requests []string) (service.Ref, error) {
	by := r.By
	by.GuardRequests = requests
	_, token, found := strings.Cut(r.HTTP.Header.Get("x-ms-authorization-auxiliary"), " ")
	if !found {
		return by, nil
	}
	second, err := r.server.verify(ctx, token, "x-ms-authorization-auxiliary")
	by.Second = second.ObjectID
	return by, err
}

func unquote(etag string) string { return strings.Trim(strings.TrimPrefix(etag, "W/"), `"`) }

// Response is what a handler answers.
type Response struct {
	Status int
	Header http.Header
	// Body is encoded as JSON; nil is none.
	Body any
}

// Answer is a response with a body, or without one if it is nil.
func Answer(status int, body any) *Response {
	return &Response{Status: status, Header: http.Header{}, Body: body}
}

// WithAsync adds the headers of a long-running operation.
func (r *Response) WithAsync(a arm.Async) *Response {
	a.Set(r.Header)
	return r
}

// WithETag tells the ETag of a resource that has none in its body.
func (r *Response) WithETag(etag string) *Response {
	r.Header.Set("ETag", etag)
	return r
}

// WithRetryAfter asks the client to poll again soon.
func (r *Response) WithRetryAfter() *Response {
	r.Header.Set("Retry-After", arm.RetryAfter)
	return r
}

// ServeHTTP answers a request and writes its line to the log.
func (s *Server) ServeHTTP(w http.ResponseWriter, h *http.Request) {
	r := &Request{HTTP: h, server: s, CorrelationID: Correlation(h), began: s.service.Now(), requestID: uuid.NewString()}
	w.Header().Set("x-ms-request-id", r.requestID)
	w.Header().Set("x-ms-correlation-request-id", r.CorrelationID)
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	response, fault := s.answer(r, w)
	s.audited(r, response.Status, fault)
	s.write(w, r, response)
	operation := ""
	if r.route != nil {
		operation = r.route.Permission
	}
	level := slog.LevelInfo
	if h.Method == http.MethodGet && response.Status < 400 {
		level = slog.LevelDebug
	}
	s.service.Log.Log(h.Context(), level, "request", "method", h.Method, "path", h.URL.Path, "status", response.Status,
		"operation", operation, "principal", r.Caller.ObjectID, "client", h.RemoteAddr, "correlation", r.CorrelationID,
		"duration", s.service.Now().Sub(r.began).Round(time.Millisecond))
}

// Correlation is the client's ID for what it is doing if that is a GUID, which is safe to repeat; else a new one. Those who ask for tokens have another
// name for the header.
func Correlation(h *http.Request) string {
	if id, err := uuid.Parse(cmp.Or(h.Header.Get("x-ms-correlation-request-id"), h.Header.Get("client-request-id"))); err == nil {
		return id.String()
	}
	return uuid.NewString()
}

// answer never fails: what goes wrong is an answer too, and fault is its code.
func (s *Server) answer(r *Request, w http.ResponseWriter) (response *Response, fault string) {
	defer func() {
		if cause := recover(); cause != nil {
			s.service.Log.Error("handler panicked", "cause", fmt.Sprint(cause), "path", r.HTTP.URL.Path,
				"correlation", r.CorrelationID, "stack", string(debug.Stack()))
			e := errInternal(r)
			response, fault = s.failure(r, e), e.Code
		}
	}()
	response, err := s.handle(r, w)
	if err != nil {
		e := s.explain(r, err)
		return s.failure(r, e), e.Code
	}
	return response, ""
}

func (s *Server) handle(r *Request, w http.ResponseWriter) (*Response, error) {
	ctx := r.HTTP.Context()
	if err := s.authenticate(ctx, r); err != nil {
		return nil, err
	}
	if err := s.route(r); err != nil {
		return nil, err
	}
	if err := s.version(r); err != nil {
		return nil, err
	}
	if err := s.authorize(ctx, r); err != nil {
		return nil, err
	}
	if !r.route.AnyGroup {
		if err := s.service.CheckScope(ctx, r.ID); err != nil {
			return nil, err
		}
	}
	if err := s.body(r, w); err != nil {
		return nil, err
	}
	if r.route.changes() {
		if err := s.auditStart(r); err != nil {
			return nil, err
		}
	}
	return r.route.Handle(ctx, r)
}

func (s *Server) authenticate(ctx context.Context, r *Request) error {
	kind, token, _ := strings.Cut(r.HTTP.Header.Get("Authorization"), " ")
	if !strings.EqualFold(kind, "Bearer") || token == "" {
		return arm.Unauthorized("Authentication failed. The 'Authorization' header is missing or has no bearer token.").
			WithAction("Log in and repeat the request.")
	}
	caller, err := s.verify(ctx, token, "Authorization")
	r.Caller, r.By = caller, service.By(caller)
	return err
}

// verify is whose token a header has.
func (s *Server) verify(ctx context.Context, token, header string) (auth.Caller, error) {
	caller, err := s.service.Verify(ctx, strings.TrimSpace(token), s.audiences...)
	switch {
	case errors.Is(err, auth.ErrToken):
		err = (&arm.Error{Status: 401, Code: "InvalidAuthenticationToken", Target: header, Message: fmt.Sprintf("The access token is invalid: %s.", err)}).
			WithAction("Log in again.")
	case errors.Is(err, auth.ErrIssuer):
		err = (&arm.Error{Status: 503, Code: "ServiceUnavailable", Target: header, Message: "The access token cannot be checked: its issuer does not answer."}).
			WithAction("Repeat the request in a moment. Tokens of this service itself are not concerned.")
	}
	return caller, err
}

// route finds the row, and what the path says.
func (s *Server) route(r *Request) error {
	path, ok := split(r.HTTP.URL.EscapedPath())
	if !ok {
		return arm.BadRequest("InvalidRequestUri", "The request's path '%s' is not well-formed.", r.HTTP.URL.Path).
			WithAction("Check that every name in it is UTF-8 and has no slash.")
	}
	method := r.HTTP.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var others []string
	for i := range s.routes {
		row := &s.routes[i]
		params, id, ok := row.match(path)
		if !ok {
			continue
		}
		if row.Method != method {
			others = append(others, row.Method)
			continue
		}
		if row.Directory {
			id = arm.Subscription(s.service.SubscriptionID)
		}
		r.route, r.params, r.ID = row, params, id
		return nil
	}
	if len(others) > 0 {
		slices.Sort(others)
		return (&arm.Error{Status: 405, Code: "MethodNotAllowed", Message: fmt.Sprintf(
			"The resource '%s' does not support the method %s.", r.HTTP.URL.Path, r.HTTP.Method)}).
			WithAction(fmt.Sprintf("Use one of: %s.", strings.Join(slices.Compact(others), ", ")))
	}
	return (&arm.Error{Status: 404, Code: "InvalidResourceType", Message: fmt.Sprintf(
		"There is nothing of this service at '%s'.", r.HTTP.URL.Path)}).
		WithAction("Check the resource type's spelling and that the path has a name for each type.")
}

var apiVersion = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}(-[A-Za-z0-9.-]+)?$`)

func (s *Server) version(r *Request) error {
	query, err := url.ParseQuery(r.HTTP.URL.RawQuery)
	if err != nil {
		return arm.BadRequest("InvalidRequestUri", "The request's query is not well-formed: %s.", err).WithTarget("query").WithAction("Encode what is special in it.")
	}
	r.Query = url.Values{}
	for key, values := range query {
		if lower := strings.ToLower(key); lower == "api-version" || strings.HasPrefix(lower, "$") {
			key = lower
		}
		r.Query[key] = append(r.Query[key], values...)
	}
	r.APIVersion = r.Query.Get("api-version")
	switch {
	case r.route.Unversioned:
		return nil
	case r.APIVersion == "":
		return arm.BadRequest("MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.").
			WithTarget("api-version").WithAction("Add it, such as ?api-version=2024-04-01.")
	case !apiVersion.MatchString(r.APIVersion):
		return arm.BadRequest("InvalidApiVersionParameter", "The api-version '%s' is invalid.", r.APIVersion).
			WithTarget("api-version").WithAction("Use a date, such as 2024-04-01, or one with a suffix, such as 2024-04-01-preview.")
	}
	return nil
}

func (s *Server) authorize(ctx context.Context, r *Request) error {
	connector := r.Caller.Kind == service.KindConnector
	if connector != r.route.Connector {
		return arm.Forbidden(r.Caller.ObjectID, r.route.Permission, r.ID)
	}
	if connector || r.route.Permission == NoPermission {
		return nil
	}
	return r.Require(ctx, r.route.Permission, r.ID)
}

func (s *Server) body(r *Request, w http.ResponseWriter) error {
	limit := r.route.MaxBody
	if limit == 0 {
		limit = 4 << 20
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.HTTP.Body, limit))
	if big := (*http.MaxBytesError)(nil); errors.As(err, &big) {
		return (&arm.Error{Status: 413, Code: "RequestContentTooLarge", Target: "body", Message: fmt.Sprintf("The request's body is larger than the %d bytes that are accepted.", limit)}).
			WithAction("Send less at once.")
	}
	if err != nil {
		return arm.BadRequest("InvalidRequestContent", "The request's body could not be read: %s.", err).WithTarget("body").WithAction("Send the request again.")
	}
	r.Body = body
	return nil
}

// explain makes any error one that can be told. What is not meant for the caller goes to the log.
func (s *Server) explain(r *Request, err error) *arm.Error {
	var known *arm.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, store.ErrNotFound):
		return arm.NotFound(r.ID)
	case errors.Is(err, store.ErrConflict):
		return arm.Conflict("Conflict", "The resource '%s' was changed by another request at the same time.", r.ID).WithAction("Read it and repeat the request.")
	case errors.Is(err, store.ErrPosition):
		return badSkipToken()
	case errors.Is(err, store.ErrText):
		return arm.BadRequest("InvalidRequestContent", "The request has text that is not UTF-8, or has a NUL character.").WithAction("Send text without it.")
	case r.HTTP.Context().Err() != nil:
		return (&arm.Error{Status: 503, Code: "ServerTimeout", Message: "The request was cancelled before it was done."}).WithAction("Repeat it.")
	}
	s.service.Log.Error("request failed", "error", err.Error(), "path", r.HTTP.URL.Path, "correlation", r.CorrelationID)
	switch {
	case arm.IsFull(err):
		return arm.InsufficientStorage()
	case errors.Is(err, store.ErrUnavailable):
		return arm.Unavailable()
	}
	return errInternal(r)
}

func errInternal(r *Request) *arm.Error {
	return (&arm.Error{Status: 500, Code: "InternalServerError", Message: "The service encountered an error of its own."}).
		WithAction(fmt.Sprintf("Repeat the request; if it fails again, look for correlation %s in the service's log.", r.CorrelationID))
}

// complete gives an error what is the same for all that lack it: it concerns the resource that the path names, and what is not there
// may be there by another name.
func complete(r *Request, e *arm.Error) *arm.Error {
	if e.Target == "" {
		e = e.WithTarget(cmp.Or(string(r.ID), r.HTTP.URL.Path))
	}
	if e.Status == http.StatusNotFound && len(e.RecommendedAction) == 0 {
		e = e.WithAction("Check the names in the path, or list what there is.")
	}
	return e
}

// failure is the answer that tells an error.
func (s *Server) failure(r *Request, e *arm.Error) *Response {
	e, provider := complete(r, e), ""
	if r.route != nil {
		provider = r.route.provider()
	}
	response := Answer(e.Status, arm.ErrorBody{Error: e.Wire(provider, r.CorrelationID)})
	if e.Status == http.StatusUnauthorized {
		response.Header.Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization_uri="%s/%s", error="invalid_token", error_description="%s"`,
			r.BaseURL(), s.service.TenantID, e.Code))
	}
	if e.Status == http.StatusServiceUnavailable {
		response.WithRetryAfter()
	}
	return response
}

func (s *Server) write(w http.ResponseWriter, r *Request, response *Response) {
	var body []byte
	if response.Body != nil {
		var err error
		if body, err = json.Marshal(response.Body); err != nil {
			response = s.failure(r, s.explain(r, fmt.Errorf("encode the answer: %w", err)))
			// An error's envelope has strings only: encoding it does not fail.
			body, _ = json.Marshal(response.Body)
		}
	}
	for key, values := range response.Header {
		w.Header()[key] = values
	}
	if body != nil {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.WriteHeader(response.Status)
	// A client that went away cannot be told.
	_, _ = w.Write(body)
}
