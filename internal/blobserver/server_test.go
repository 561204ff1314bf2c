package blobserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/blob/blobtest"
	"github.com/cairn-backup/cairn/internal/blobserver"
	"github.com/google/go-cmp/cmp"
)

// request sends one request with a token and returns "status code".
func request(t *testing.T, e *blobtest.Endpoint, method, path, token string, header http.Header, body io.Reader) (string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, e.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := (&http.Client{Transport: e.Transport()}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	code := answer.Header.Get("x-ms-error-code")
	if code != "" && method != http.MethodHead && !strings.Contains(string(text), "<Code>"+code+"</Code>") {
		t.Errorf("%s %s: body %q does not name the code %s", method, path, text, code)
	}
	if answer.Header.Get("x-ms-request-id") == "" || answer.Header.Get("x-ms-version") == "" {
		t.Errorf("%s %s: headers %v", method, path, answer.Header)
	}
	return strings.TrimSpace(fmt.Sprint(answer.StatusCode, " ", code)), answer.Header
}

func TestTokens(t *testing.T) {
	e := blobtest.StartServer(t)
	e.NewContainer(t, "tokens")
	put := http.Header{"X-Ms-Blob-Type": {"BlockBlob"}}
	for _, row := range []struct{ method, path, token, want string }{
		{"PUT", "/cairntest/tokens/b", "good", "201"},
		{"PUT", "/cairntest/tokens/b", "reader", "403 AuthorizationPermissionMismatch"},
		{"PUT", "/cairntest/tokens/b", "bad", "401 InvalidAuthenticationInfo"},
		{"PUT", "/cairntest/tokens/b", "", "401 NoAuthenticationInformation"},
		{"GET", "/cairntest/tokens/b", "reader", "200"},
		{"HEAD", "/cairntest/tokens/b", "reader", "200"},
		{"GET", "/cairntest/tokens?restype=container&comp=list", "reader", "200"},
		{"DELETE", "/cairntest/tokens/b", "reader", "403 AuthorizationPermissionMismatch"},
		{"PUT", "/cairntest/more?restype=container", "reader", "403 AuthorizationPermissionMismatch"},
		{"PUT", "/cairntest/more?restype=container", "good", "201"},
		{"DELETE", "/cairntest/more?restype=container", "good", "202"},
		{"GET", "/nosuchaccount/tokens/b", "good", "404 ResourceNotFound"},
		{"GET", "/cairntest/?restype=account&comp=properties", "good", "200"},
	} {
		if got, h := request(t, e, row.method, row.path, row.token, put, nil); got != row.want {
			t.Errorf("%s %s as %q: %s, want %s", row.method, row.path, row.token, got, row.want)
		} else if strings.HasPrefix(got, "401") && h.Get("WWW-Authenticate") == "" {
			t.Errorf("%s %s as %q: no challenge", row.method, row.path, row.token)
		}
	}
}

func TestRefusals(t *testing.T) {
	e := blobtest.StartServer(t)
	e.NewContainer(t, "refusals")
	blockBlob := http.Header{"X-Ms-Blob-Type": {"BlockBlob"}}
	with := func(name, value string) http.Header {
		h := blockBlob.Clone()
		h.Set(name, value)
		return h
	}
	for _, row := range []struct {
		method, path string
		header       http.Header
		want         string
	}{
		{"PUT", "/b", nil, "400 MissingRequiredHeader"},
		{"PUT", "/b", http.Header{"X-Ms-Blob-Type": {"PageBlob"}}, "400 InvalidHeaderValue"},
		{"PUT", "/b", with("x-ms-copy-source", "https://elsewhere/x"), "400 UnsupportedHeader"},
		{"PUT", "/b", with("x-ms-meta-1bad", "x"), "400 InvalidMetadata"},
		{"PUT", "/b", with("x-ms-meta-big", strings.Repeat("x", 9000)), "400 MetadataTooLarge"},
		{"PUT", "/b", with("If-Modified-Since", "yesterday"), "400 InvalidHeaderValue"},
		{"PUT", "/b", with("Content-MD5", "nonsense"), "400 Md5Mismatch"},
		{"PUT", "/b?comp=block&blockid=%25", nil, "400 InvalidQueryParameterValue"},
		{"PUT", "/b?comp=block&blockid=QUJD", nil, "400 InvalidHeaderValue"},
		{"PUT", "/b?comp=blocklist", nil, "400 InvalidXmlDocument"},
		{"PUT", "/b?comp=lease", nil, "501 NotImplemented"},
		{"GET", "/b?a=%zz", nil, "400 InvalidUri"},
		{"GET", "/b", http.Header{"Range": {"bytes=-5"}}, "400 InvalidHeaderValue"},
		{"GET", "/b", nil, "404 BlobNotFound"},
		{"GET", "?restype=container&comp=list&maxresults=0", nil, "400 OutOfRangeQueryParameterValue"},
		{"GET", "?restype=container&comp=list&maxresults=x", nil, "400 InvalidQueryParameterValue"},
		{"GET", "?restype=container&comp=list&marker=%21", nil, "400 InvalidQueryParameterValue"},
		{"PATCH", "/b", nil, "501 NotImplemented"},
	} {
		if got, _ := request(t, e, row.method, "/cairntest/refusals"+row.path, "good", row.header, nil); got != row.want {
			t.Errorf("%s %s %v: %s, want %s", row.method, row.path, row.header, got, row.want)
		}
	}
	chunked := io.MultiReader(strings.NewReader("of unknown length"))
	if got, _ := request(t, e, "PUT", "/cairntest/refusals/b", "good", blockBlob, chunked); got != "411 MissingContentLengthHeader" {
		t.Errorf("chunked put: %s", got)
	}
	for scheme, want := range map[string]string{
		"SharedKey cairntest:AAAA": "403 AuthenticationFailed", "SharedKey nonsense": "403 AuthenticationFailed",
		"SharedKey otheraccount:AAAA": "403 AuthenticationFailed", "Basic Zm9vOmJhcg==": "400 InvalidAuthenticationInfo",
	} {
		if got, _ := request(t, e, "GET", "/cairntest/refusals/b", "", http.Header{"Authorization": {scheme}}, nil); got != want {
			t.Errorf("Authorization %q: %s, want %s", scheme, got, want)
		}
	}
	stale := http.Header{"Authorization": {"SharedKey cairntest:AAAA"}, "X-Ms-Date": {time.Now().UTC().Add(-time.Hour).Format(http.TimeFormat)}}
	if got, _ := request(t, e, "GET", "/cairntest/refusals/b", "", stale, nil); got != "403 AuthenticationFailed" {
		t.Errorf("a stale date: %s", got)
	}
}

// TestBrokenUpload: a connection that breaks inside the body leaves no blob and no file.
func TestBrokenUpload(t *testing.T) {
	root := t.TempDir()
	server, err := blobserver.Open(blobtest.Config(root))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	served := make(chan struct{})
	plain := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(served)
		server.ServeHTTP(w, r)
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go plain.Serve(listener)
	defer plain.Close()
	if created, err := server.CreateContainer("cairntest", "broken"); !created || err != nil {
		t.Fatal(created, err)
	}
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PUT /cairntest/broken/b HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer good\r\nx-ms-blob-type: BlockBlob\r\nContent-Length: 1000\r\n\r\nonly this")
	conn.Close()
	<-served
	if left := files(t, root); len(left) != 0 {
		t.Errorf("left %q", left)
	}
}

// files lists blobs, blocks and temporary files below a root.
func files(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "container.json" && d.Name() != "lock" && filepath.Base(filepath.Dir(path)) != "locks" {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestManagement(t *testing.T) {
	root := t.TempDir()
	server, err := blobserver.Open(blobtest.Config(root))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for _, want := range []bool{true, false} {
		if created, err := server.CreateContainer("cairntest", "managed"); created != want || err != nil {
			t.Errorf("CreateContainer = %v, %v, want %v", created, err, want)
		}
	}
	if names, err := server.Containers("cairntest"); err != nil || len(names) != 1 || names[0] != "managed" {
		t.Errorf("Containers = %q, %v", names, err)
	}
	broken := errors.New("the source broke off")
	for _, failure := range []error{nil, broken} {
		if err := server.Put("cairntest", "managed", "folder/blob", "text/plain", func(w io.Writer) error {
			_, err := io.WriteString(w, "text")
			return errors.Join(err, failure)
		}); !errors.Is(err, failure) {
			t.Errorf("Put = %v, want %v", err, failure)
		}
	}
	if left, err := filepath.Glob(filepath.Join(root, "tmp", "*", "*")); err != nil || len(left) != 1 || filepath.Base(left[0]) != "lock" {
		t.Errorf("left behind: %q, %v", left, err)
	}
	if err := server.Put("cairntest", "absent", "blob", "text/plain", func(io.Writer) error { return nil }); err == nil {
		t.Error("a blob was put into a container that does not exist")
	}
	for range 2 {
		if err := server.DeleteContainer("cairntest", "managed"); err != nil {
			t.Error(err)
		}
		if err := server.DeleteAccount("cairntest"); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "..", "a/b", "Upper", "-a-", "a--b"} {
		if _, err := server.CreateContainer("cairntest", name); err == nil {
			t.Errorf("container %q was created", name)
		}
		if err := server.DeleteAccount(name); err == nil {
			t.Errorf("account %q was deleted", name)
		}
	}
}

// TestUploadSucceedsWhenBlocksCannotBeDropped puts a file in the place of the folder of uncommitted blocks: what has become visible is
// not reported as failed.
func TestUploadSucceedsWhenBlocksCannotBeDropped(t *testing.T) {
	root := t.TempDir()
	var log strings.Builder
	config := blobtest.Config(root)
	config.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
	server, err := blobserver.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	e := blobtest.StartServer(t, func(http.Handler) http.Handler { return server })
	c := e.NewContainer(t, "drop")
	folder := filepath.Join(root, "accounts", e.Account, "drop", "blocks")
	if err := errors.Join(os.Remove(folder), os.WriteFile(folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	b := c.NewBlockBlobClient("blob")
	if _, err := b.Upload(t.Context(), streaming.NopCloser(strings.NewReader("x")), nil); err != nil {
		t.Errorf("put: %s", blobtest.Answer(err))
	}
	if _, err := b.GetProperties(t.Context(), nil); err != nil {
		t.Errorf("get: %s", blobtest.Answer(err))
	}
	if !strings.Contains(log.String(), "not a directory") {
		t.Errorf("the log does not say why the blocks stayed: %s", &log)
	}
}

func TestAbandonedBlocksAreDropped(t *testing.T) {
	root := t.TempDir()
	server, err := blobserver.Open(blobtest.Config(root))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	e := blobtest.StartServer(t, func(http.Handler) http.Handler { return server })
	c := e.NewContainer(t, "blocks")
	for _, name := range []string{"old", "new"} {
		if _, err := c.NewBlockBlobClient(name).StageBlock(t.Context(), "QUJD", streaming.NopCloser(strings.NewReader("x")), nil); err != nil {
			t.Fatal(err)
		}
	}
	if dropped, err := server.Sweep(time.Now().Add(-time.Hour)); dropped != 0 || err != nil {
		t.Errorf("dropped %d fresh blocks, %v", dropped, err)
	}
	week := time.Now().Add(-8 * 24 * time.Hour)
	if err := os.Chtimes(files(t, root)[0], week, week); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop() // Run sweeps once before it looks
	if err := server.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if left := files(t, root); len(left) != 1 {
		t.Errorf("%d blocks are left, want the fresh one", len(left))
	}
}

func TestSourceAddress(t *testing.T) {
	e := blobtest.StartServer(t)
	e.NewContainer(t, "addresses")
	credential, err := container.NewSharedKeyCredential(e.Account, e.Key)
	if err != nil {
		t.Fatal(err)
	}
	for first, row := range map[string]struct{ last, want string }{
		"127.0.0.1": {"", "ok"}, "127.0.0.0": {"127.0.0.9", "ok"}, "10.0.0.1": {"10.0.0.9", "403 AuthorizationSourceIPMismatch"},
	} {
		signed, err := sas.BlobSignatureValues{
			ContainerName: "addresses", Permissions: "l", ExpiryTime: time.Now().Add(time.Hour),
			IPRange: sas.IPRange{Start: net.ParseIP(first), End: net.ParseIP(row.last)},
		}.SignWithSharedKey(credential)
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.Container(t, e.AccountURL()+"/addresses?"+signed.Encode()).NewListBlobsFlatPager(nil).NextPage(t.Context())
		if got := blobtest.Answer(err); got != row.want {
			t.Errorf("from %s to %s: %s, want %s", first, row.last, got, row.want)
		}
	}
}

// TestManyBlobs lists 12,000 blobs in pages, in order, also from a folder larger than a walk's batch.
func TestManyBlobs(t *testing.T) {
	const n = 12_000
	e := blobtest.StartServer(t)
	c := e.NewContainer(t, "many")
	want := make([]string, n)
	next := make(chan string)
	var writers sync.WaitGroup
	for range 32 {
		writers.Go(func() {
			for name := range next {
				if _, err := c.NewBlockBlobClient(name).Upload(t.Context(), streaming.NopCloser(strings.NewReader(name)), nil); err != nil {
					t.Error(blobtest.Answer(err))
				}
			}
		})
	}
	for i := range want {
		want[i] = fmt.Sprintf("flat/%05d", i)
		if i >= 9000 {
			want[i] = fmt.Sprintf("tree/%02d/%02d", (i-9000)/100, i%100)
		}
		next <- want[i]
	}
	close(next)
	writers.Wait()

	var got []string
	pages := 0
	for pager := c.NewListBlobsFlatPager(nil); pager.More(); pages++ {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Segment.BlobItems {
			got = append(got, *item.Name)
		}
	}
	if pages != 3 {
		t.Errorf("%d pages, want 3 of at most 5000", pages)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var folders []string
	size := int32(7)
	pager := c.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{Prefix: ptr("tree/"), MaxResults: &size})
	for pager.More() {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Segment.BlobPrefixes {
			folders = append(folders, *p.Name)
		}
	}
	if len(folders) != 30 || folders[29] != "tree/29/" {
		t.Errorf("folders %q", folders)
	}
}

func ptr[T any](v T) *T { return &v }

// TestFullDisk serves from a file system of 16 MiB: what does not fit is refused with a clear code, and leaves nothing.
func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	e := startProcess(t, root, "full").endpoint
	c := e.NewContainer(t, "full")
	big := func() io.ReadSeekCloser { return streaming.NopCloser(strings.NewReader(strings.Repeat("x", 12<<20))) }
	if _, err := c.NewBlockBlobClient("first").Upload(t.Context(), big(), nil); err != nil {
		t.Fatal(blobtest.Answer(err))
	}
	_, err := c.NewBlockBlobClient("second").Upload(t.Context(), big(), nil)
	if got := blobtest.Answer(err); got != "507 InsufficientStorage" {
		t.Errorf("put: %s", got)
	}
	_, err = c.NewBlockBlobClient("second").StageBlock(t.Context(), "QUJD", big(), nil)
	if got := blobtest.Answer(err); got != "507 InsufficientStorage" {
		t.Errorf("stage: %s", got)
	}
	store, err := blob.Open(e.AccountURL()+"/full", blob.Options{Key: e.Key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create(t.Context(), "third", big()); !errors.Is(err, blob.ErrFull) {
		t.Errorf("Create = %v, want ErrFull", err)
	}
	for info, err := range store.List(t.Context(), "") {
		if err != nil || info.Name != "first" {
			t.Errorf("listed %q, %v", info.Name, err)
		}
	}
	if err := store.Delete(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create(t.Context(), "second", strings.NewReader(strings.Repeat("x", 6<<20))); err != nil {
		t.Errorf("after space was freed: %v", err)
	}
}
