package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/cairn-backup/cairn/test/world"
)

// blobFront is the way to the blob endpoint: all clients go through it, so that a test can hold up what they send, as a slow network does.
var blobFront = &front{}

// front forwards requests to the real blob endpoint.
type front struct {
	down  atomic.Bool // every connection is broken off, as when nothing is there
	mu    sync.Mutex
	match func(*http.Request) bool
	let   chan struct{} // closed when the held requests may pass
	seen  chan struct{} // closed when a request is held
}

// hold holds requests up that match, until they are let pass. reached is closed when the first one is there.
func (f *front) hold(match func(*http.Request) bool) (reached <-chan struct{}, letPass func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	let, seen := make(chan struct{}), make(chan struct{})
	f.match, f.let, f.seen = match, let, seen
	return seen, sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.match = nil
		close(let)
	})
}

// pass waits while a request is held up.
func (f *front) pass(r *http.Request) error {
	f.mu.Lock()
	held, let := f.match != nil && f.match(r), f.let
	if held && f.seen != nil {
		close(f.seen)
		f.seen = nil
	}
	f.mu.Unlock()
	if !held {
		return nil
	}
	select {
	case <-let:
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

// serve forwards until the context ends. The certificate is the service's own: clients see no difference.
func (f *front) serve(ctx context.Context, w *world.World) error {
	ca, err := os.ReadFile(w.PKI("ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	certificate, err := tls.LoadX509KeyPair(w.PKI("server.crt"), w.PKI("server.key"))
	if err != nil {
		return err
	}
	target, err := url.Parse(w.BlobEndpoint())
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		// Host and path stay: requests are signed.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
		// The service is killed in the tests; its clients see what a load balancer would answer.
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) },
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if err := f.pass(r); err != nil || f.down.Load() {
				panic(http.ErrAbortHandler) // net/http then closes the connection
			}
			proxy.ServeHTTP(rw, r)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(world.Host, strconv.Itoa(w.BlobFront)))
	if err != nil {
		return fmt.Errorf("front of the blob endpoint: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "e2e: front of the blob endpoint:", err)
		}
	}()
	return nil
}
