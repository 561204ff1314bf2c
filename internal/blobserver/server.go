package blobserver

import (
	"bufio"
	"context"
	"crypto/md5"
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Errors of the callbacks of Config.
var (
	// ErrAccountNotFound says that there is no storage account of that name.
	ErrAccountNotFound = errors.New("storage account not found")
	// ErrInvalidToken says that a bearer token is malformed, expired, of another issuer or for another audience.
	ErrInvalidToken = errors.New("bearer token is not valid")
	// ErrForbidden says that the token's principal has no role that allows the action.
	ErrForbidden = errors.New("principal may not do this")
	// ErrUnavailable says that the account, a token's issuer, or what the principal may do, cannot be looked up at the moment.
	ErrUnavailable = errors.New("accounts and principals cannot be looked up")
)

// Account is a storage account as far as its Blob endpoint needs it.
type Account struct {
	// Keys are the account's keys in base64, as ARM's listKeys gives them. Each of them signs requests and SAS tokens.
	Keys []string
}

// Access is what the bearer of a token wants to do.
type Access struct {
	Account   string
	Container string // empty for the account itself
	Blob      string // empty for a container
	// Actions are Azure's actions or data actions, for instance
	// Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read. The request is allowed when one of them is.
	Actions []string
}

// Config is what a Server needs.
type Config struct {
	// Root is the folder that holds the data. Several processes may serve it, if its file system shows all of them the same at once.
	Root string
	// Accounts returns the account of that name, or ErrAccountNotFound.
	Accounts func(ctx context.Context, name string) (Account, error)
	// Authorize decides on a bearer token: nil, ErrInvalidToken, ErrUnavailable or ErrForbidden. Without it every token is refused.
	Authorize func(ctx context.Context, token string, access Access) error
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Log gets failures of the server at level Error and every request at level Debug; slog.Default when nil. Never a secret.
	Log *slog.Logger
}

// Server is the Blob endpoint. Serve it at the root of a listener of its own, not behind an http.ServeMux, which would
// clean the paths that blob names are part of.
type Server struct {
	config Config
	disk   *disk
}

// Open prepares the folder.
func Open(config Config) (*Server, error) {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Authorize == nil {
		config.Authorize = func(context.Context, string, Access) error { return ErrInvalidToken }
	}
	d, err := openDisk(config.Root, config.Log)
	if err != nil {
		return nil, err
	}
	return &Server{config: config, disk: d}, nil
}

// Close gives up the folder. Call it after the last request was served.
func (s *Server) Close() error { return s.disk.close() }

// uncommittedAge is how long Azure keeps uncommitted blocks after the last one arrived.
const uncommittedAge = 7 * 24 * time.Hour

// Run drops abandoned uncommitted blocks, at once and then every hour, until ctx ends; it returns nil.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		dropped, err := s.disk.sweep(s.config.Now().Add(-uncommittedAge))
		if err != nil {
			s.config.Log.Error("dropping uncommitted blocks failed", "error", err)
		} else if dropped > 0 {
			s.config.Log.Info("dropped uncommitted blocks", "blocks", dropped)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// CreateContainer makes a container from the management side; created is false when it was there.
func (s *Server) CreateContainer(account, container string) (created bool, err error) {
	if !accountPattern.MatchString(account) || !validContainer(container) {
		return false, errResourceName()
	}
	err = s.disk.createContainer(place{account, container}, containerProperties{ETag: newETag(), Modified: s.config.Now().UTC()})
	if api, ok := errors.AsType[*apiError](err); ok && api.status == http.StatusConflict {
		return false, nil
	}
	return err == nil, err
}

// Put makes a blob, or replaces it, from the management side; if write fails, nothing is made.
func (s *Server) Put(account, container, blob, contentType string, write func(io.Writer) error) error {
	if !accountPattern.MatchString(account) || !validContainer(container) || !validName(blob) {
		return errResourceName()
	}
	file, err := s.disk.stage()
	if err != nil {
		return err
	}
	defer file.discard()
	sum := md5.New()
	body := bufio.NewWriter(io.MultiWriter(file, sum))
	if err := errors.Join(write(body), body.Flush()); err != nil {
		return err
	}
	size, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	props := properties{ContentType: contentType, Size: size, ContentMD5: sum.Sum(nil), ETag: newETag(), Modified: s.config.Now().UTC()}
	if err := errors.Join(writeTail(file, props, nil), file.finish()); err != nil {
		return err
	}
	return s.disk.commit(place{account, container}, blob, file, func(*properties) error { return nil })
}

// DeleteContainer removes a container and its blobs from the management side; a missing one is no error.
func (s *Server) DeleteContainer(account, container string) error {
	if !accountPattern.MatchString(account) || !validContainer(container) {
		return errResourceName()
	}
	err := s.disk.deleteContainer(place{account, container}, func(containerProperties) error { return nil })
	if api, ok := errors.AsType[*apiError](err); ok && api.status == http.StatusNotFound {
		return nil
	}
	return err
}

// DeleteBlobs removes the blobs of a container whose names begin with a prefix from the management side: those named first, durably, before
// all others. What is missing is no error, be it the container.
func (s *Server) DeleteBlobs(account, container, prefix string, first ...string) error {
	if !accountPattern.MatchString(account) || !validContainer(container) || prefix == "" {
		return errResourceName()
	}
	p := place{account, container}
	for _, name := range first {
		if err := s.deleteIfThere(p, name); err != nil {
			return err
		}
	}
	var names []string
	w := walker{prefix: prefix, visit: func(name, _ string) error { names = append(names, name); return nil }}
	path, base := encodeFolder(prefix)
	if err := w.walk(filepath.Join(s.disk.blobsDir(p), path), base); err != nil {
		return err
	}
	for _, name := range names {
		if err := s.deleteIfThere(p, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) deleteIfThere(p place, name string) error {
	err := s.disk.deleteBlob(p, name, func(properties) error { return nil })
	if api, ok := errors.AsType[*apiError](err); ok && api.status == http.StatusNotFound {
		return nil
	}
	return err
}

// Containers lists the containers of an account in order.
func (s *Server) Containers(account string) ([]string, error) {
	if !accountPattern.MatchString(account) {
		return nil, errResourceName()
	}
	return s.disk.containers(account)
}

// Exclusive runs f while no other process, and nobody else in this one, is in Exclusive.
func (s *Server) Exclusive(f func() error) error {
	release, err := s.disk.accounts.take()
	if err != nil {
		return err
	}
	defer release()
	return f()
}

// DeleteAccount removes all containers of an account; a missing one is no error.
func (s *Server) DeleteAccount(account string) error {
	if !accountPattern.MatchString(account) {
		return errResourceName()
	}
	return ignoreMissing(s.disk.remove(s.disk.accountDir(account)))
}

// call is one request on its way.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	query url.Values
	target
	// createOnly is set when the signature allows new blobs but no overwriting.
	createOnly bool
	// override are the response headers that a SAS asks for.
	override http.Header
	// streaming is set once the status line is out, after which an error can only break the connection.
	streaming bool
}

// target is the resource a URL names; container and blob may be empty.
type target struct {
	place
	blob string
}

// defaultVersion is the service version we say we speak when a request names none.
const defaultVersion = "2024-11-04"

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := uuid.NewString()
	h := w.Header()
	h.Set("x-ms-request-id", id)
	h.Set("x-ms-version", defaultVersion)
	if v := r.Header.Get("x-ms-version"); v != "" {
		h.Set("x-ms-version", v)
	}
	if v := r.Header.Get("x-ms-client-request-id"); v != "" && len(v) <= 1024 {
		h.Set("x-ms-client-request-id", v)
	}
	c := &call{w: w, r: r}
	err := s.serve(c)
	log := s.config.Log.With("request", id, "method", r.Method, "account", c.account, "container", c.container, "blob", c.blob)
	if err == nil {
		log.Debug("blob request")
		return
	}
	if c.streaming {
		log.Info("blob response broke off", "error", err)
		panic(http.ErrAbortHandler) // the client must see a broken body, not a short one
	}
	api := asAPIError(err)
	if api.status >= 500 {
		log.Error("blob request failed", "code", api.code, "error", api.err)
	} else {
		// Whom the service knows and refuses is worth a line; what clients try in vain, such as making a container that exists, is not.
		level := slog.LevelDebug
		if api.status == http.StatusUnauthorized || api.status == http.StatusForbidden {
			level = slog.LevelInfo
		}
		log.Log(r.Context(), level, "blob request refused", "code", api.code, "message", api.message, "error", api.err, "client", r.RemoteAddr)
	}
	writeError(w, r, id, api)
}

func (s *Server) serve(c *call) error {
	var err error
	if c.target, err = parseTarget(c.r.Host, c.r.URL.EscapedPath()); err != nil {
		return err
	}
	if c.query, err = url.ParseQuery(c.r.URL.RawQuery); err != nil {
		return fail(http.StatusBadRequest, "InvalidUri", "The query string is malformed.") // not quoted: it may hold a signature
	}
	op, err := findOperation(c.r.Method, c.target, c.query)
	if err != nil {
		return err
	}
	if err := s.authorize(c, op); err != nil {
		return err
	}
	if err := refuseUnsupported(c.r.Header); err != nil {
		return err
	}
	return op.serve(s, c)
}

// parseTarget reads host style (account.blob.suffix) and path style URLs.
func parseTarget(host, escapedPath string) (target, error) {
	var t target
	rest := strings.TrimPrefix(escapedPath, "/")
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if labels := strings.SplitN(host, ".", 3); len(labels) == 3 && labels[1] == "blob" {
		t.account = strings.ToLower(labels[0])
	} else {
		t.account, rest, _ = strings.Cut(rest, "/")
	}
	var blob string
	t.container, blob, _ = strings.Cut(rest, "/")
	var err error
	if t.blob, err = url.PathUnescape(blob); err != nil {
		return target{}, errResourceName()
	}
	switch {
	case !accountPattern.MatchString(t.account),
		t.container != "" && !validContainer(t.container),
		t.blob != "" && (t.container == "" || !validName(t.blob)):
		return target{}, errResourceName()
	}
	return t, nil
}

func errResourceName() *apiError {
	return fail(http.StatusBadRequest, "InvalidResourceName", "The specified resource name contains invalid characters or is too "+
		"long. Accounts have 3-24 lower-case letters and digits, containers 3-63 with single hyphens, blobs at most 1024 characters.")
}

// maxDrain is how much of a refused request's body is read, so that the client is there to read the answer.
const maxDrain = 16 << 20

func writeError(w http.ResponseWriter, r *http.Request, id string, e *apiError) {
	io.CopyN(io.Discard, r.Body, maxDrain) // whatever happens to the rest of the body, the answer is the same
	h := w.Header()
	for name, values := range e.header {
		h[name] = values
	}
	h.Set("x-ms-error-code", e.code)
	if r.Method == http.MethodHead || e.status == http.StatusNotModified {
		w.WriteHeader(e.status)
		return
	}
	message := e.message + "\nRequestId:" + id + "\nTime:" + time.Now().UTC().Format(time.RFC3339Nano)
	writeXML(w, e.status, errorBody{Code: e.code, Message: message})
}

func writeXML(w http.ResponseWriter, status int, v any) error {
	body, err := xml.Marshal(v)
	if err != nil {
		return err
	}
	body = append([]byte(`<?xml version="1.0" encoding="utf-8"?>`), body...)
	h := w.Header()
	h.Set("Content-Type", "application/xml")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, err = w.Write(body)
	return err
}
