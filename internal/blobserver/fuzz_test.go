package blobserver_test

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/blob/blobtest"
	"github.com/cairn-backup/cairn/internal/blobserver"
)

// FuzzRequest sends anything that is HTTP, with rights on everything: it is served or refused with a code, and never fails.
func FuzzRequest(f *testing.F) {
	server, err := blobserver.Open(blobtest.Config(f.TempDir()))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := server.Close(); err != nil {
			f.Error(err)
		}
	})
	if _, err := server.CreateContainer("cairntest", "fuzz"); err != nil {
		f.Fatal(err)
	}
	const at = "/" + "cairntest" + "/fuzz"
	for _, s := range []string{
		"PUT " + at + "/a HTTP/1.1\r\nHost: h\r\nx-ms-blob-type: BlockBlob\r\nx-ms-meta-k: v\r\nContent-Length: 3\r\n\r\nabc",
		"PUT " + at + "/a HTTP/1.1\r\nHost: h\r\nx-ms-blob-type: BlockBlob\r\nIf-None-Match: *\r\nContent-MD5: AAAA\r\nContent-Length: 0\r\n\r\n",
		"PUT " + at + "/b?comp=block&blockid=QUJD HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
		"PUT " + at + "/b?comp=blocklist HTTP/1.1\r\nHost: h\r\nContent-Length: 55\r\n\r\n<BlockList><Uncommitted>QUJD</Uncommitted></BlockList>\n",
		"GET " + at + "/a HTTP/1.1\r\nHost: h\r\nx-ms-range: bytes=1-\r\nIf-Modified-Since: Mon, 02 Jan 2006 15:04:05 GMT\r\n\r\n",
		"HEAD " + at + "/a HTTP/1.1\r\nHost: h\r\nIf-Match: \"x\"\r\n\r\n",
		"GET " + at + "?restype=container&comp=list&prefix=a%2F&delimiter=%2F&maxresults=2&marker=YQ&include=metadata HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET " + at + "/b?comp=blocklist&blocklisttype=all HTTP/1.1\r\nHost: h\r\n\r\n",
		"DELETE " + at + "/a?snapshot=x HTTP/1.1\r\nHost: h\r\nx-ms-delete-snapshots: include\r\n\r\n",
		"GET /?comp=list HTTP/1.1\r\nHost: " + "cairntest" + ".blob.test\r\n\r\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil || r.Host == "" {
			return // not a request
		}
		r = r.WithContext(context.Background())
		r.Header.Set("Authorization", "Bearer good")
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != http.StatusNotImplemented || w.Code >= 400 && w.Header().Get("x-ms-error-code") == "" {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	})
}
