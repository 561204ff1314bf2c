package blobserver_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/blobserver"
)

func FuzzRange(f *testing.F) {
	for _, s := range []string{"", "bytes=0-", "bytes=1-2", "bytes=-5", "bytes=9223372036854775807-", "bytes=+1-2", "bytes=2-1", "items=0-1", "bytes=0-0,2-3"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		r, whole, err := blobserver.ParseRange(header)
		if whole != (header == "") {
			t.Fatalf("%q: whole = %v", header, whole)
		}
		if err != nil || whole {
			return
		}
		offset, length, err := r.Within(size)
		if err == nil && (offset < 0 || length < 1 || length > size-offset) {
			t.Fatalf("%q of %d bytes: offset %d, length %d", header, size, offset, length)
		}
	})
}

func FuzzSAS(f *testing.F) {
	for _, s := range []string{
		"sv=2024-11-04&sr=c&sp=rl&se=2030-01-01T00:00:00Z&sig=AAAA", "sv=2024-11-04&ss=b&srt=sco&sp=r&st=2020-01-01&se=2030-01-01&sip=1.2.3.4-1.2.3.9&spr=https&sig=AA==",
		"sv=2015-04-05&sig=x", "sig=%", "sv=2024-11-04&se=never&sig=", "sv=2024-11-04&sv=2024-11-04&se=2030-01-01&sig=AAAA", "skoid=x&sig=AAAA", "si=policy&sig=AAAA",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		query, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		if _, err := blobserver.ParseSAS(query); err == nil && (query.Get("se") == "" || query.Get("sv") < "2018-11-09") {
			t.Fatalf("took %q, which has no expiry or an old version", raw)
		}
	})
}

func FuzzBlockList(f *testing.F) {
	for _, s := range []string{
		"", " ", "<BlockList/>", "<BlockList><Latest>QUJD</Latest><Committed>QUJD</Committed><Uncommitted>QUJD</Uncommitted></BlockList>",
		"<BlockList><Latest>QUJD</Latest>", "<BlockList></BlockList><BlockList/>", "<Other/>", "<BlockList><Newest>QUJD</Newest></BlockList>",
		"<BlockList><Latest>not base64!</Latest></BlockList>",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		refs, err := blobserver.ParseBlockList(strings.NewReader(s))
		if err == nil && !strings.Contains(s, "BlockList") {
			t.Fatalf("took %q as a list of %d blocks", s, len(refs))
		}
	})
}

func FuzzTarget(f *testing.F) {
	for _, row := range [][2]string{
		{"127.0.0.1:8444", "/account/container/blob"}, {"acc.blob.storage.test:1", "/container/a%2Fb"}, {"[::1]:1", "/acc/con//x"}, {"h", "/ACC"}, {"h", "/acc/$root/x"}, {"h", "/acc/con/%zz"}, {"h", "/../../etc/passwd"},
	} {
		f.Add(row[0], row[1])
	}
	f.Fuzz(func(t *testing.T, host, path string) {
		to, err := blobserver.ParseTarget(host, path)
		if err == nil {
			to.Level()
		}
	})
}

func TestBlockListForms(t *testing.T) {
	for text, want := range map[string]int{
		"<BlockList/>": 0, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList>\n <Latest> QUJD </Latest>\n</BlockList>\n": 1,
		"": -1, " ": -1, "<BlockList>": -1, "<BlockList/><BlockList/>": -1, "<BlockList><Latest>#</Latest></BlockList>": -1,
		"<BlockList>" + strings.Repeat("<Latest>QUJD</Latest>", 50_001) + "</BlockList>": -1,
	} {
		refs, err := blobserver.ParseBlockList(strings.NewReader(text))
		if (err != nil) != (want < 0) || (err == nil && len(refs) != want) {
			t.Errorf("%.60q: %d blocks, %v; want %d", text, len(refs), err, want)
		}
	}
}
