package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/blob/blobtest"
)

// once lets a handler misbehave on the first request that matches.
func once(match func(*http.Request) bool, misbehave func(http.Handler, http.ResponseWriter, *http.Request)) (func(http.Handler) http.Handler, *atomic.Int32) {
	var seen atomic.Int32
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if match(r) && seen.Add(1) == 1 {
				misbehave(next, w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}, &seen
}

func TestCreateSurvivesLostAnswer(t *testing.T) {
	for name, size := range map[string]int{"one put": 1000, "blocks": 20 << 20} {
		t.Run(name, func(t *testing.T) {
			wrap, seen := once(
				func(r *http.Request) bool { return r.Header.Get("If-None-Match") == "*" },
				func(next http.Handler, _ http.ResponseWriter, r *http.Request) {
					next.ServeHTTP(httptest.NewRecorder(), r) // the blob is there, and nobody hears of it
					panic(http.ErrAbortHandler)
				})
			store := blobtest.StartServer(t, wrap).Store(t, "lost")
			info, err := store.Create(t.Context(), "b", bytes.NewReader(make([]byte, size)))
			if err != nil || info.Size != int64(size) || info.ETag == "" {
				t.Errorf("Create = %+v, %v", info, err)
			}
			if seen.Load() != 2 {
				t.Errorf("the commit was sent %d times, want 2", seen.Load())
			}
			if _, err := store.Create(t.Context(), "b", strings.NewReader("other")); !errors.Is(err, blob.ErrExists) {
				t.Errorf("another Create = %v, want ErrExists", err)
			}
		})
	}
}

type brokenWriter struct {
	http.ResponseWriter
	left int
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(p)
}

// TestCreateWaitsForWhatIsOnItsWay gives up while storage has a request in hand: Create says how that ended, so that who tidies up afterwards sees all
// there is.
func TestCreateWaitsForWhatIsOnItsWay(t *testing.T) {
	ctx, giveUp := context.WithCancel(t.Context())
	wrap, _ := once(
		func(r *http.Request) bool { return r.Method == http.MethodPut && r.URL.Query().Get("restype") == "" },
		func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			giveUp()
			next.ServeHTTP(w, r)
		})
	store := blobtest.StartServer(t, wrap).Store(t, "late")
	if _, err := store.Create(ctx, "b", strings.NewReader("content")); err != nil {
		t.Errorf("Create = %v, although the blob was stored", err)
	}
	if _, err := store.Create(ctx, "c", strings.NewReader("content")); !errors.Is(err, context.Canceled) {
		t.Errorf("Create after giving up = %v", err)
	}
	for info, err := range store.List(t.Context(), "") {
		if err != nil || info.Name != "b" {
			t.Errorf("there is %+v, %v", info, err)
		}
	}
}

func TestOpenResumes(t *testing.T) {
	wrap, seen := once(
		func(r *http.Request) bool { return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/big") },
		func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&brokenWriter{w, 3 << 20}, r)
		})
	store := blobtest.StartServer(t, wrap).Store(t, "resume")
	want := make([]byte, 10<<20)
	rand.NewChaCha8([32]byte{}).Read(want)
	if _, err := store.Create(t.Context(), "big", bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	r, _, err := store.Open(t.Context(), "big")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if seen.Load() != 2 {
		t.Errorf("%d requests, want 2", seen.Load())
	}
}

// token is a credential with a fixed token.
type token string

func (k token) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(k), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func TestErrors(t *testing.T) {
	e := blobtest.StartServer(t)
	e.NewContainer(t, "errors")
	url := e.AccountURL() + "/errors"
	signed := func(permissions string, valid time.Duration) string {
		query, err := blob.ContainerSAS(e.Account, e.Key, "errors", permissions, time.Now().Add(valid))
		if err != nil {
			t.Fatal(err)
		}
		return url + "?" + query
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	trusted := blob.Options{CABundle: e.CA, Retries: -1}
	with := func(credential azcore.TokenCredential) blob.Options {
		return blob.Options{CABundle: e.CA, Retries: -1, Credential: credential}
	}
	for _, row := range []struct {
		name, url string
		opts      blob.Options
		want      error
		code      string
	}{
		{"expired SAS", signed("rcwdl", -time.Hour), trusted, blob.ErrUnauthorized, "AuthenticationFailed"},
		{"SAS without write", signed("rl", time.Hour), trusted, blob.ErrUnauthorized, "AuthorizationPermissionMismatch"},
		{"no credential", url, trusted, blob.ErrUnauthorized, "NoAuthenticationInformation"},
		{"wrong key", url, blob.Options{CABundle: e.CA, Retries: -1, Key: "AAAA"}, blob.ErrUnauthorized, "AuthenticationFailed"},
		{"invalid token", url, with(token("bad")), blob.ErrUnauthorized, "InvalidAuthenticationInfo"},
		{"token without the role", url, with(token("reader")), blob.ErrUnauthorized, "AuthorizationPermissionMismatch"},
		{"no such container", e.AccountURL() + "/nothere", with(token("good")), blob.ErrUnavailable, "ContainerNotFound"},
		{"no such account", e.URL + "/nosuchaccount/errors", with(token("good")), blob.ErrUnavailable, "ResourceNotFound"},
		{"untrusted certificate", signed("rcwdl", time.Hour), blob.Options{Retries: -1}, blob.ErrUnavailable, ""},
		{"nobody listens", "https://" + closed.Addr().String() + "/acc/cont?sig=secret", blob.Options{}, blob.ErrUnavailable, ""},
		{"nobody answers", "https://" + silent.Addr().String() + "/acc/cont?sig=secret", trusted, blob.ErrUnavailable, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			store, err := blob.Open(row.url, row.opts)
			if err != nil {
				t.Fatal(err)
			}
			_, err = store.Create(t.Context(), "new", strings.NewReader("x"))
			if !errors.Is(err, row.want) {
				t.Fatalf("Create = %v, want %v", err, row.want)
			}
			detail, ok := errors.AsType[*blob.Error](err)
			if !ok || detail.Code != row.code || !strings.Contains(err.Error(), detail.Account+"/"+detail.Container+"/new") {
				t.Errorf("error %v, code %q, want %q", err, detail.Code, row.code)
			}
			if strings.Contains(err.Error(), "sig=") {
				t.Errorf("the error shows the signature: %v", err)
			}
		})
	}
	if _, _, err := mustOpen(t, url, with(token("reader"))).Open(t.Context(), "none"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("a reader's Open = %v, want ErrNotFound", err)
	}
	for _, err := range mustOpen(t, e.AccountURL()+"/nothere", with(token("good"))).List(t.Context(), "") {
		if !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("List of a missing container = %v, want ErrUnavailable", err)
		}
	}
}

func mustOpen(t testing.TB, url string, opts blob.Options) *blob.Container {
	t.Helper()
	store, err := blob.Open(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestOpenRefusesBadURLs(t *testing.T) {
	for _, url := range []string{
		"", "acc/cont", "ftp://h/acc/cont", "https://127.0.0.1:1/cont", "https://h/a/b/c", "https:///acc/cont", "https://acc.blob.core.windows.net/", "https://h/%zz?sig=secret",
	} {
		if _, err := blob.Open(url, blob.Options{}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("Open(%q) = %v", url, err)
		}
	}
	for _, url := range []string{"https://acc.blob.core.windows.net/cont", "https://acc.blob.core.windows.net/cont?sig=x", "http://h:1/acc/cont/"} {
		if _, err := blob.Open(url, blob.Options{}); err != nil {
			t.Errorf("Open(%q) = %v", url, err)
		}
	}
	if _, err := blob.Open("https://h/acc/cont", blob.Options{CABundle: []byte("no PEM")}); err == nil {
		t.Error("a CA bundle without a certificate was taken")
	}
}

// TestMemoryIsBounded streams 256 MiB both ways through client and server, which share this process.
func TestMemoryIsBounded(t *testing.T) {
	const size = 256 << 20
	store := blobtest.StartServer(t).Store(t, "memory")
	meter := &meter{}
	if _, err := store.Create(t.Context(), "big", io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), size), meter)); err != nil {
		t.Fatal(err)
	}
	r, _, err := store.Open(t.Context(), "big")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.Copy(meter, r); n != size || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if meter.peak > 64<<20 {
		t.Errorf("the heap grew to %d MiB", meter.peak>>20)
	}
}

// meter notes the heap every 4 MiB that pass.
type meter struct {
	passed int
	peak   uint64
}

func (m *meter) Write(p []byte) (int, error) {
	if m.passed/(4<<20) != (m.passed+len(p))/(4<<20) {
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		m.peak = max(m.peak, s.HeapAlloc)
	}
	m.passed += len(p)
	return len(p), nil
}

func BenchmarkCreate(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			store, data := blobtest.StartServer(b).Store(b, "bench"), make([]byte, size)
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				if _, err := store.Create(b.Context(), fmt.Sprint(i), bytes.NewReader(data)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	const size = 64 << 20
	store := blobtest.StartServer(b).Store(b, "bench")
	if _, err := store.Create(b.Context(), "x", bytes.NewReader(make([]byte, size))); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		r, _, err := store.Open(b.Context(), "x")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}
