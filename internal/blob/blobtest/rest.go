package blobtest

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"
	"github.com/google/go-cmp/cmp"
)

// TestREST is what the Blob REST API of an endpoint must do, by Azure's own client.
func TestREST(t *testing.T, e *Endpoint) {
	t.Run("containers", func(t *testing.T) { testContainers(t, e) })
	t.Run("blob", func(t *testing.T) { testBlob(t, e) })
	t.Run("ranges", func(t *testing.T) { testRanges(t, e) })
	t.Run("blocks", func(t *testing.T) { testBlocks(t, e) })
	t.Run("conditions", func(t *testing.T) { testConditions(t, e) })
	t.Run("create race", func(t *testing.T) { testCreateRace(t, e) })
	t.Run("checksums", func(t *testing.T) { testChecksums(t, e) })
	t.Run("names", func(t *testing.T) { testNames(t, e) })
	t.Run("listing", func(t *testing.T) { testListing(t, e) })
	t.Run("service SAS", func(t *testing.T) { testServiceSAS(t, e) })
	t.Run("account SAS", func(t *testing.T) { testAccountSAS(t, e) })
	t.Run("keys", func(t *testing.T) { testKeys(t, e) })
}

// Answer is "ok", or "409 BlobAlreadyExists" for a refusal.
func Answer(err error) string {
	if err == nil {
		return "ok"
	}
	if answer, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return fmt.Sprint(answer.StatusCode, " ", answer.ErrorCode)
	}
	return err.Error()
}

func want(t *testing.T, what string, err error, answer string) {
	t.Helper()
	if got := Answer(err); got != answer {
		t.Errorf("%s: %s, want %s", what, got, answer)
	}
}

func body(s string) io.ReadSeekCloser { return streaming.NopCloser(strings.NewReader(s)) }

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func download(t *testing.T, c *blob.Client, opts *blob.DownloadStreamOptions) string {
	t.Helper()
	r := must[blob.DownloadStreamResponse](t)(c.DownloadStream(t.Context(), opts))
	defer r.Body.Close()
	return string(must[[]byte](t)(io.ReadAll(r.Body)))
}

func testContainers(t *testing.T, e *Endpoint) {
	svc := e.Service(t)
	for _, name := range []string{"cont-a", "cont-b", "cont-c", "other"} {
		_, err := svc.CreateContainer(t.Context(), name, &service.CreateContainerOptions{Metadata: map[string]*string{"owner": to.Ptr("me")}})
		want(t, "create "+name, err, "ok")
	}
	_, err := svc.CreateContainer(t.Context(), "cont-a", nil)
	want(t, "create again", err, "409 ContainerAlreadyExists")
	_, err = svc.CreateContainer(t.Context(), "Not-Valid", nil)
	want(t, "create with a bad name", err, "400 InvalidResourceName")

	props := must[container.GetPropertiesResponse](t)(svc.NewContainerClient("cont-a").GetProperties(t.Context(), nil))
	if props.ETag == nil || props.LastModified == nil || len(props.Metadata) != 1 {
		t.Errorf("properties %+v", props)
	}
	var names []string
	for pages := svc.NewListContainersPager(&service.ListContainersOptions{Prefix: to.Ptr("cont-"), MaxResults: to.Ptr[int32](2)}); pages.More(); {
		page := must[service.ListContainersResponse](t)(pages.NextPage(t.Context()))
		if len(page.ContainerItems) > 2 {
			t.Errorf("a page of %d containers, want at most 2", len(page.ContainerItems))
		}
		for _, item := range page.ContainerItems {
			names = append(names, *item.Name)
		}
	}
	if diff := cmp.Diff([]string{"cont-a", "cont-b", "cont-c"}, names); diff != "" {
		t.Error(diff)
	}
	_, err = svc.NewContainerClient("cont-a").NewBlockBlobClient("x").Upload(t.Context(), body("x"), nil)
	want(t, "put into it", err, "ok")
	_, err = svc.DeleteContainer(t.Context(), "cont-a", nil)
	want(t, "delete", err, "ok")
	_, err = svc.DeleteContainer(t.Context(), "cont-a", nil)
	want(t, "delete again", err, "404 ContainerNotFound")
	_, err = svc.NewContainerClient("cont-a").NewBlobClient("x").DownloadStream(t.Context(), nil)
	want(t, "get from the deleted container", err, "404 ContainerNotFound")
	_, err = svc.NewContainerClient("cont-a").NewBlockBlobClient("x").Upload(t.Context(), body("x"), nil)
	want(t, "put into the deleted container", err, "404 ContainerNotFound")
}

func testBlob(t *testing.T, e *Endpoint) {
	c := e.NewContainer(t, "blobs").NewBlockBlobClient("folder/a blob.txt")
	content := "hello, " + strings.Repeat("world ", 1000)
	sum := md5.Sum([]byte(content))
	put := must[blockblob.UploadResponse](t)(c.Upload(t.Context(), body(content), &blockblob.UploadOptions{
		HTTPHeaders: &blob.HTTPHeaders{BlobContentType: to.Ptr("text/plain"), BlobContentEncoding: to.Ptr("identity"), BlobCacheControl: to.Ptr("no-cache")},
		Metadata:    map[string]*string{"answer": to.Ptr("42"), "two": to.Ptr("b")},
	}))
	if put.ETag == nil || put.LastModified == nil || put.RequestID == nil || put.Version == nil {
		t.Errorf("put answered %+v", put)
	}
	head := must[blob.GetPropertiesResponse](t)(c.GetProperties(t.Context(), nil))
	if *head.ContentLength != int64(len(content)) || *head.ContentType != "text/plain" || *head.CacheControl != "no-cache" ||
		*head.ETag != *put.ETag || !bytes.Equal(head.ContentMD5, sum[:]) || *head.BlobType != blob.BlobTypeBlockBlob || len(head.Metadata) != 2 {
		t.Errorf("head answered %+v", head)
	}
	if got := download(t, c.BlobClient(), nil); got != content {
		t.Errorf("got %d bytes", len(got))
	}
	again := must[blockblob.UploadResponse](t)(c.Upload(t.Context(), body("new"), nil))
	if *again.ETag == *put.ETag {
		t.Error("overwriting kept the ETag")
	}
	if got := download(t, c.BlobClient(), nil); got != "new" {
		t.Errorf("got %q after overwriting", got)
	}
	_, err := c.Delete(t.Context(), nil)
	want(t, "delete", err, "ok")
	_, err = c.Delete(t.Context(), nil)
	want(t, "delete again", err, "404 BlobNotFound")
	_, err = c.GetProperties(t.Context(), nil)
	want(t, "head of a missing blob", err, "404 BlobNotFound")
}

func testRanges(t *testing.T, e *Endpoint) {
	c := e.NewContainer(t, "ranges").NewBlockBlobClient("digits")
	must[blockblob.UploadResponse](t)(c.Upload(t.Context(), body("0123456789"), nil))
	for _, row := range []struct {
		offset, count int64
		want          string
	}{{0, 1, "0"}, {3, 4, "3456"}, {9, 1, "9"}, {5, 0, "56789"}, {8, 100, "89"}} {
		got := download(t, c.BlobClient(), &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: row.offset, Count: row.count}})
		if got != row.want {
			t.Errorf("range %d+%d = %q, want %q", row.offset, row.count, got, row.want)
		}
	}
	r := must[blob.DownloadStreamResponse](t)(c.DownloadStream(t.Context(), &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: 2, Count: 3}}))
	r.Body.Close()
	if *r.ContentRange != "bytes 2-4/10" || *r.ContentLength != 3 {
		t.Errorf("Content-Range %q, Content-Length %d", *r.ContentRange, *r.ContentLength)
	}
	if e.Azurite {
		return // Azurite answers 200 to a range past the end
	}
	_, err := c.DownloadStream(t.Context(), &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: 10, Count: 1}})
	want(t, "range past the end", err, "416 InvalidRange")
}

func blockID(i int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "block-%04d", i))
}

func testBlocks(t *testing.T, e *Endpoint) {
	cont := e.NewContainer(t, "blocks")
	c := cont.NewBlockBlobClient("in/blocks")
	for i, s := range []string{"zero ", "one ", "two "} {
		_, err := c.StageBlock(t.Context(), blockID(i), body(s), nil)
		want(t, "stage", err, "ok")
	}
	_, err := c.GetProperties(t.Context(), nil)
	want(t, "head before the commit", err, "404 BlobNotFound")
	if names := list(t, cont, "", 0); len(names) != 0 {
		t.Errorf("listed %q before the commit", names)
	}
	staged := must[blockblob.GetBlockListResponse](t)(c.GetBlockList(t.Context(), blockblob.BlockListTypeAll, nil))
	if len(staged.UncommittedBlocks) != 3 || len(staged.CommittedBlocks) != 0 {
		t.Errorf("block list before the commit: %d uncommitted, %d committed", len(staged.UncommittedBlocks), len(staged.CommittedBlocks))
	}
	_, err = c.CommitBlockList(t.Context(), []string{blockID(0), blockID(7)}, nil)
	want(t, "commit with a missing block", err, "400 InvalidBlockList")
	_, err = c.CommitBlockList(t.Context(), []string{blockID(2), blockID(0)}, &blockblob.CommitBlockListOptions{Metadata: map[string]*string{"k": to.Ptr("v")}})
	want(t, "commit", err, "ok")
	if got := download(t, c.BlobClient(), nil); got != "two zero " {
		t.Errorf("committed %q", got)
	}
	_, err = c.CommitBlockList(t.Context(), []string{blockID(1)}, nil)
	want(t, "commit a block that was dropped by the commit", err, "400 InvalidBlockList")
	_, err = c.StageBlock(t.Context(), blockID(5), body("five "), nil)
	want(t, "stage", err, "ok")
	_, err = c.CommitBlockList(t.Context(), []string{blockID(0), blockID(5), blockID(0)}, nil)
	want(t, "commit old and new blocks", err, "ok")
	if got := download(t, c.BlobClient(), nil); got != "zero five zero " {
		t.Errorf("committed %q", got)
	}
	committed := must[blockblob.GetBlockListResponse](t)(c.GetBlockList(t.Context(), blockblob.BlockListTypeAll, nil))
	if len(committed.UncommittedBlocks) != 0 || len(committed.CommittedBlocks) != 3 || *committed.CommittedBlocks[1].Size != 5 {
		t.Errorf("block list after the commit: %+v", committed.BlockList)
	}
	_, err = c.CommitBlockList(t.Context(), nil, nil)
	want(t, "commit no block", err, "ok")
	if got := download(t, c.BlobClient(), nil); got != "" {
		t.Errorf("a blob of no blocks holds %q", got)
	}
}

type conditionRow struct {
	name                string
	cond                blob.ModifiedAccessConditions
	read, write, delete string
}

func testConditions(t *testing.T, e *Endpoint) {
	cont := e.NewContainer(t, "conditions")
	c := cont.NewBlockBlobClient("there")
	put := must[blockblob.UploadResponse](t)(c.Upload(t.Context(), body("x"), nil))
	tag, other := *put.ETag, azcore.ETag(`"0x8DEADBEEF000000"`)
	before, after := put.LastModified.Add(-time.Hour), put.LastModified.Add(time.Hour)
	rows := []conditionRow{
		{"If-Match same", blob.ModifiedAccessConditions{IfMatch: &tag}, "ok", "ok", "ok"},
		{"If-Match other", blob.ModifiedAccessConditions{IfMatch: &other}, "412 ConditionNotMet", "412 ConditionNotMet", "412 ConditionNotMet"},
		{"If-Match *", blob.ModifiedAccessConditions{IfMatch: to.Ptr(azcore.ETagAny)}, "ok", "ok", "ok"},
		{"If-None-Match same", blob.ModifiedAccessConditions{IfNoneMatch: &tag}, "304 ConditionNotMet", "412 ConditionNotMet", "412 ConditionNotMet"},
		{"If-None-Match other", blob.ModifiedAccessConditions{IfNoneMatch: &other}, "ok", "ok", "ok"},
		{"If-None-Match *", blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}, "400 UnsatisfiableCondition", "409 BlobAlreadyExists", ""},
		{"If-Modified-Since before", blob.ModifiedAccessConditions{IfModifiedSince: &before}, "ok", "ok", "ok"},
		{"If-Modified-Since after", blob.ModifiedAccessConditions{IfModifiedSince: &after}, "304 ConditionNotMet", "412 ConditionNotMet", "412 ConditionNotMet"},
		{"If-Unmodified-Since before", blob.ModifiedAccessConditions{IfUnmodifiedSince: &before}, "412 ConditionNotMet", "412 ConditionNotMet", "412 ConditionNotMet"},
		{"If-Unmodified-Since after", blob.ModifiedAccessConditions{IfUnmodifiedSince: &after}, "ok", "ok", "ok"},
	}
	for _, row := range rows {
		access := &blob.AccessConditions{ModifiedAccessConditions: &row.cond}
		renew := func() {
			t.Helper()
			put := must[blockblob.UploadResponse](t)(c.Upload(t.Context(), body("x"), nil))
			tag = *put.ETag
		}
		renew()
		got, err := c.DownloadStream(t.Context(), &blob.DownloadStreamOptions{AccessConditions: access})
		want(t, "get "+row.name, unmodified(err, got.ErrorCode), row.read)
		if err == nil && got.Body != nil {
			got.Body.Close()
		}
		_, err = c.GetProperties(t.Context(), &blob.GetPropertiesOptions{AccessConditions: access})
		want(t, "head "+row.name, err, row.read)
		_, err = c.Upload(t.Context(), body("y"), &blockblob.UploadOptions{AccessConditions: access})
		want(t, "put "+row.name, err, row.write)
		renew()
		must[blockblob.StageBlockResponse](t)(c.StageBlock(t.Context(), blockID(0), body("z"), nil))
		_, err = c.CommitBlockList(t.Context(), []string{blockID(0)}, &blockblob.CommitBlockListOptions{AccessConditions: access})
		want(t, "commit "+row.name, err, row.write)
		renew()
		if row.delete != "" {
			_, err = c.Delete(t.Context(), &blob.DeleteOptions{AccessConditions: access})
			want(t, "delete "+row.name, err, row.delete)
		}
	}
	for name, row := range map[string]struct {
		cond blob.ModifiedAccessConditions
		want string
	}{
		"If-None-Match *":  {blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}, "ok"},
		"If-Match *":       {blob.ModifiedAccessConditions{IfMatch: to.Ptr(azcore.ETagAny)}, "412 ConditionNotMet"},
		"If-Match an ETag": {blob.ModifiedAccessConditions{IfMatch: &other}, "412 ConditionNotMet"},
	} {
		missing := cont.NewBlockBlobClient("missing " + name)
		_, err := missing.Upload(t.Context(), body("y"), &blockblob.UploadOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &row.cond}})
		want(t, "put a new blob "+name, err, row.want)
	}
}

// unmodified undoes that the client takes 304 for a success.
func unmodified(err error, code *string) error {
	if err == nil && code != nil {
		return &azcore.ResponseError{StatusCode: http.StatusNotModified, ErrorCode: *code}
	}
	return err
}

func testCreateRace(t *testing.T, e *Endpoint) {
	cont := e.NewContainer(t, "race")
	any := &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}}
	for round := range 10 {
		c := cont.NewBlockBlobClient(fmt.Sprint("round/", round))
		answers := make([]string, 16)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() {
				if i%2 == 0 {
					_, err := c.Upload(t.Context(), body(fmt.Sprint("writer ", i)), &blockblob.UploadOptions{AccessConditions: any})
					answers[i] = Answer(err)
					return
				}
				_, err := c.StageBlock(t.Context(), blockID(i), body(fmt.Sprint("writer ", i)), nil)
				if err == nil {
					_, err = c.CommitBlockList(t.Context(), []string{blockID(i)}, &blockblob.CommitBlockListOptions{AccessConditions: any})
				}
				answers[i] = Answer(err)
			})
		}
		wg.Wait()
		winner := slices.Index(answers, "ok")
		if got := download(t, c.BlobClient(), nil); got != fmt.Sprint("writer ", winner) {
			t.Errorf("round %d: winner %d, blob %q", round, winner, got)
		}
		for i, a := range answers {
			if i != winner && a != "409 BlobAlreadyExists" {
				t.Errorf("round %d: writer %d was told %s", round, i, a)
			}
		}
	}
}

func testChecksums(t *testing.T, e *Endpoint) {
	cont := e.NewContainer(t, "checksums")
	c := cont.NewBlockBlobClient("sum")
	right, wrong := md5.Sum([]byte("content")), md5.Sum([]byte("other"))
	_, err := c.Upload(t.Context(), body("content"), &blockblob.UploadOptions{TransactionalValidation: blob.TransferValidationTypeMD5(right[:])})
	want(t, "put with MD5", err, "ok")
	_, err = c.Upload(t.Context(), body("content"), &blockblob.UploadOptions{TransactionalValidation: blob.TransferValidationTypeMD5(wrong[:])})
	want(t, "put with a wrong MD5", err, "400 Md5Mismatch")
	_, err = c.StageBlock(t.Context(), blockID(0), body("content"), &blockblob.StageBlockOptions{TransactionalValidation: blob.TransferValidationTypeMD5(wrong[:])})
	want(t, "stage with a wrong MD5", err, "400 Md5Mismatch")
	if got := download(t, c.BlobClient(), nil); got != "content" {
		t.Errorf("a refused put left %q", got)
	}
	if e.Azurite {
		return // Azurite does not check CRC64
	}
	sum := crc64.Checksum([]byte("content"), crc64.MakeTable(0x9A6C9329AC4BC9B5))
	_, err = c.StageBlock(t.Context(), blockID(0), body("content"), &blockblob.StageBlockOptions{TransactionalValidation: blob.TransferValidationTypeCRC64(sum)})
	want(t, "stage with CRC64", err, "ok")
	_, err = c.StageBlock(t.Context(), blockID(0), body("content"), &blockblob.StageBlockOptions{TransactionalValidation: blob.TransferValidationTypeCRC64(sum + 1)})
	want(t, "stage with a wrong CRC64", err, "400 Crc64Mismatch")
	_, err = c.StageBlock(t.Context(), blockID(0), body("content"), &blockblob.StageBlockOptions{TransactionalValidation: blob.TransferValidationTypeComputeCRC64()})
	want(t, "stage with a computed CRC64", err, "ok")
}

// list returns the names under a prefix, page by page.
func list(t *testing.T, c *container.Client, prefix string, pageSize int32) []string {
	t.Helper()
	opts := &container.ListBlobsFlatOptions{Prefix: &prefix}
	if pageSize > 0 {
		opts.MaxResults = &pageSize
	}
	var names []string
	for pages := c.NewListBlobsFlatPager(opts); pages.More(); {
		page := must[container.ListBlobsFlatResponse](t)(pages.NextPage(t.Context()))
		if pageSize > 0 && len(page.Segment.BlobItems) > int(pageSize) {
			t.Errorf("a page has %d blobs, want at most %d", len(page.Segment.BlobItems), pageSize)
		}
		for _, item := range page.Segment.BlobItems {
			names = append(names, *item.Name)
		}
	}
	return names
}

func testNames(t *testing.T, e *Endpoint) {
	cont := e.NewContainer(t, "names")
	names := []string{
		"plain", "plain/", "plain//x", "plain/x", "/leading", "...", "..", ".", "a/../../b", "%2e%2e", "100% +&=?#;:@", "b.c", "d.e",
		"tab-less 'quote' \"double\" <xml> & so", `back\slash`, "ünï/çødé/日本語/🪨", "CASE", "case",
		strings.Repeat("n", 79), strings.Repeat("n", 80), strings.Repeat("n", 80) + "/x", strings.Repeat("n", 81), strings.Repeat("n", 160), strings.Repeat("n", 1024),
		strings.Repeat("s/", 500) + "end", strings.Repeat("界", 1000),
	}
	if e.Azurite {
		// Azurite takes URLs as paths: it resolves dots and turns backslashes.
		names = slices.DeleteFunc(names, func(n string) bool {
			return strings.Trim(n, ".") == "" || strings.Contains(n, "/../") || strings.ContainsAny(n, `\`) || n[0] == '/'
		})
	}
	for _, name := range names {
		c := cont.NewBlockBlobClient(name)
		if _, err := c.Upload(t.Context(), body(name), nil); err != nil {
			t.Errorf("put %q: %s", name, Answer(err))
			continue
		}
		if got := download(t, c.BlobClient(), nil); got != name {
			t.Errorf("%q holds %q", name, got)
		}
	}
	slices.Sort(names)
	if diff := cmp.Diff(names, list(t, cont, "", 7)); diff != "" && !e.Azurite { // Azurite sorts by UTF-16
		t.Error(diff)
	}
	for _, name := range names {
		_, err := cont.NewBlobClient(name).Delete(t.Context(), nil)
		want(t, "delete "+name, err, "ok")
	}
	if left := list(t, cont, "", 0); len(left) != 0 {
		t.Errorf("left %q", left)
	}
	if e.Azurite {
		return // Azurite takes any name
	}
	for _, name := range []string{strings.Repeat("n", 1025), "nul\x00", "line\nbreak", "bad\xff utf-8"} {
		_, err := cont.NewBlockBlobClient(name).Upload(t.Context(), body(""), nil)
		want(t, fmt.Sprintf("put %.20q", name), err, "400 InvalidResourceName")
	}
}

func testListing(t *testing.T, e *Endpoint) {
	cont := e.NewContainer(t, "listing")
	for _, name := range []string{"a/1", "a/2", "a/b/3", "a/b/4", "a0", "b", "c/x/y", "c!"} {
		must[blockblob.UploadResponse](t)(cont.NewBlockBlobClient(name).Upload(t.Context(), body(name), &blockblob.UploadOptions{
			Metadata: map[string]*string{"of": to.Ptr(name)},
		}))
	}
	for _, row := range []struct {
		prefix, delimiter string
		want              []string
	}{
		{"", "/", []string{"a/*", "a0", "b", "c!", "c/*"}},
		{"a/", "/", []string{"a/1", "a/2", "a/b/*"}},
		{"a", "/", []string{"a/*", "a0"}},
		{"c", "x", []string{"c!", "c/x*"}},
		{"a/b/", "/", []string{"a/b/3", "a/b/4"}},
		{"none", "/", nil},
	} {
		for _, size := range []int32{1, 2, 5000} {
			var got []string
			opts := &container.ListBlobsHierarchyOptions{Prefix: &row.prefix, MaxResults: &size}
			for pages := cont.NewListBlobsHierarchyPager(row.delimiter, opts); pages.More(); {
				page := must[container.ListBlobsHierarchyResponse](t)(pages.NextPage(t.Context()))
				for _, item := range page.Segment.BlobItems {
					got = append(got, *item.Name)
				}
				for _, p := range page.Segment.BlobPrefixes {
					got = append(got, *p.Name+"*")
				}
			}
			slices.Sort(got)
			slices.Sort(row.want)
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("prefix %q, delimiter %q, pages of %d: %s", row.prefix, row.delimiter, size, diff)
			}
		}
	}
	pages := cont.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: to.Ptr("b"), Include: container.ListBlobsInclude{Metadata: true}})
	item := must[container.ListBlobsFlatResponse](t)(pages.NextPage(t.Context())).Segment.BlobItems[0]
	if *item.Metadata["of"] != "b" || *item.Properties.ContentLength != 1 || item.Properties.ETag == nil || item.Properties.CreationTime == nil {
		t.Errorf("listed %+v", item)
	}
	_, err := e.Service(t).NewContainerClient("no-such").NewListBlobsFlatPager(nil).NextPage(t.Context())
	want(t, "list a missing container", err, "404 ContainerNotFound")
}

// sign makes the URL of a container with a service SAS for it, or for one of its blobs.
func (e *Endpoint) sign(t *testing.T, name string, v sas.BlobSignatureValues) *container.Client {
	t.Helper()
	credential := must[*service.SharedKeyCredential](t)(service.NewSharedKeyCredential(e.Account, e.Key))
	if v.ExpiryTime.IsZero() {
		v.ExpiryTime = time.Now().Add(time.Hour)
	}
	signed := must[sas.QueryParameters](t)(v.SignWithSharedKey(credential))
	return e.Container(t, e.AccountURL()+"/"+name+"?"+signed.Encode())
}

const mismatched = "403 AuthorizationPermissionMismatch"

// refused is the answer to a signature that does not hold: Azure's, and where it differs Azurite's.
func (e *Endpoint) refused() string {
	if e.Azurite {
		return "403 AuthorizationFailure"
	}
	return "403 AuthenticationFailed"
}

func testServiceSAS(t *testing.T, e *Endpoint) {
	cont, refused := e.NewContainer(t, "sas"), e.refused()
	e.NewContainer(t, "sas-other")
	reset := func(t *testing.T) {
		t.Helper()
		must[blockblob.UploadResponse](t)(cont.NewBlockBlobClient("there").Upload(t.Context(), body("x"), nil))
	}
	inContainer := func(permissions string) sas.BlobSignatureValues {
		return sas.BlobSignatureValues{ContainerName: "sas", Permissions: permissions}
	}
	inBlob := func(permissions string) sas.BlobSignatureValues {
		return sas.BlobSignatureValues{ContainerName: "sas", BlobName: "there", Permissions: permissions}
	}
	expired, early := inContainer("rcwdl"), inContainer("rcwdl")
	expired.StartTime, expired.ExpiryTime = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	early.StartTime, early.ExpiryTime = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	elsewhere := inContainer("rcwdl")
	elsewhere.ContainerName = "sas-other"
	otherBlob := inBlob("rcwd")
	otherBlob.BlobName = "other"
	headers := inContainer("rcwdl")
	headers.ContentType, headers.Protocol = "text/x-signed", sas.ProtocolHTTPS

	for _, row := range []struct {
		name                             string
		values                           sas.BlobSignatureValues
		get, put, stage, list, del, head string
	}{
		{"all", inContainer("rcwdl"), "ok", "ok", "ok", "ok", "ok", "ok"},
		{"all, with headers", headers, "ok", "ok", "ok", "ok", "ok", "ok"},
		{"read", inContainer("r"), "ok", mismatched, mismatched, mismatched, mismatched, "ok"},
		{"list", inContainer("l"), mismatched, mismatched, mismatched, "ok", mismatched, mismatched},
		{"write", inContainer("w"), mismatched, "ok", "ok", mismatched, mismatched, mismatched},
		{"delete", inContainer("d"), mismatched, mismatched, mismatched, mismatched, "ok", mismatched},
		{"blob: all", inBlob("rcwd"), "ok", "ok", "ok", "", "ok", "ok"},
		{"blob: read", inBlob("r"), "ok", mismatched, mismatched, "", mismatched, "ok"},
		{"another blob", otherBlob, refused, refused, refused, "", refused, refused},
		{"another container", elsewhere, refused, refused, refused, refused, refused, refused},
		{"expired", expired, refused, refused, refused, refused, refused, refused},
		{"not yet valid", early, refused, refused, refused, refused, refused, refused},
	} {
		t.Run(row.name, func(t *testing.T) {
			reset(t)
			signed := e.sign(t, "sas", row.values)
			c := signed.NewBlockBlobClient("there")
			r, err := c.DownloadStream(t.Context(), nil)
			if err == nil {
				r.Body.Close()
			}
			want(t, "get", err, row.get)
			_, err = c.GetProperties(t.Context(), nil)
			want(t, "head", err, row.head)
			_, err = c.Upload(t.Context(), body("y"), nil)
			want(t, "put", err, row.put)
			_, err = c.StageBlock(t.Context(), blockID(0), body("y"), nil)
			want(t, "stage", err, row.stage)
			if row.list != "" {
				_, err = signed.NewListBlobsFlatPager(nil).NextPage(t.Context())
				want(t, "list", err, row.list)
			}
			_, err = c.Delete(t.Context(), nil)
			want(t, "delete", err, row.del)
			if _, err = signed.Delete(t.Context(), nil); err == nil {
				t.Error("a service SAS deleted the container")
			}
		})
	}
	reset(t)
	_, err := e.sign(t, "sas", inContainer("c")).NewBlockBlobClient("new").Upload(t.Context(), body("y"), nil)
	want(t, "create a new blob with permission c", err, "ok")
	_, err = e.sign(t, "sas", inContainer("c")).NewBlockBlobClient("there").Upload(t.Context(), body("y"), nil)
	if err == nil {
		t.Error("permission c overwrote a blob")
	}
	broken := e.sign(t, "sas", inContainer("rcwdl")).URL()
	flip := strings.NewReplacer("sp=rcwdl", "sp=rwdl", "sig=", "sig=A")
	_, err = e.Container(t, flip.Replace(broken)).NewBlobClient("there").GetProperties(t.Context(), nil)
	want(t, "a SAS that was changed", err, refused)
}

func testAccountSAS(t *testing.T, e *Endpoint) {
	cont := e.NewContainer(t, "account-sas")
	must[blockblob.UploadResponse](t)(cont.NewBlockBlobClient("there").Upload(t.Context(), body("x"), nil))
	credential := must[*service.SharedKeyCredential](t)(service.NewSharedKeyCredential(e.Account, e.Key))
	const wrongType = "403 AuthorizationResourceTypeMismatch"
	for _, row := range []struct {
		permissions, types string
		get, put, list     string
		containers         string
	}{
		{"rwdlac", "sco", "ok", "ok", "ok", "ok"},
		{"r", "o", "ok", mismatched, wrongType, wrongType},
		{"wl", "co", mismatched, "ok", "ok", wrongType},
		{"l", "s", wrongType, wrongType, wrongType, "ok"},
	} {
		signed := must[sas.QueryParameters](t)(sas.AccountSignatureValues{
			Permissions: row.permissions, ResourceTypes: row.types, ExpiryTime: time.Now().Add(time.Hour),
		}.SignWithSharedKey(credential))
		c := e.Container(t, e.AccountURL()+"/account-sas?"+signed.Encode())
		_, err := c.NewBlobClient("there").GetProperties(t.Context(), nil)
		want(t, row.permissions+" "+row.types+" head", err, row.get)
		_, err = c.NewBlockBlobClient("there").Upload(t.Context(), body("y"), nil)
		want(t, row.permissions+" "+row.types+" put", err, row.put)
		_, err = c.NewListBlobsFlatPager(nil).NextPage(t.Context())
		want(t, row.permissions+" "+row.types+" list", err, row.list)
		svc := must[*service.Client](t)(service.NewClientWithNoCredential(e.AccountURL()+"/?"+signed.Encode(), &service.ClientOptions{ClientOptions: e.options()}))
		_, err = svc.NewListContainersPager(nil).NextPage(t.Context())
		want(t, row.permissions+" "+row.types+" list containers", err, row.containers)
	}
}

func testKeys(t *testing.T, e *Endpoint) {
	e.NewContainer(t, "keys")
	other := *e
	other.Key = base64.StdEncoding.EncodeToString([]byte("not the key"))
	_, err := other.Service(t).NewContainerClient("keys").GetProperties(t.Context(), nil)
	if e.Azurite {
		want(t, "a wrong key", err, "400 InvalidAuthenticationInfo")
	} else {
		want(t, "a wrong key", err, "403 AuthenticationFailed")
	}

	credential := must[*service.SharedKeyCredential](t)(service.NewSharedKeyCredential(e.Account, e.Key))
	url := "https://" + e.Account + ".blob." + HostSuffix + e.URL[strings.LastIndex(e.URL, ":"):]
	svc := must[*service.Client](t)(service.NewClientWithSharedKeyCredential(url, credential, &service.ClientOptions{ClientOptions: e.options()}))
	c := svc.NewContainerClient("keys").NewBlockBlobClient("host/style ü")
	must[blockblob.UploadResponse](t)(c.Upload(t.Context(), body("x"), &blockblob.UploadOptions{
		Metadata: map[string]*string{"b_a": to.Ptr("1"), "ba": to.Ptr("2"), "b1": to.Ptr("3")}, // sorted differently by bytes
	}))
	if got := download(t, e.Service(t).NewContainerClient("keys").NewBlobClient("host/style ü"), nil); got != "x" {
		t.Errorf("written host style, read path style: %q", got)
	}
	anonymous := must[*http.Response](t)((&http.Client{Transport: e.Transport()}).Get(e.AccountURL() + "/keys?restype=container&comp=list"))
	anonymous.Body.Close()
	if code := anonymous.StatusCode; code < 400 || code >= 500 || (!e.Azurite && code != 401) {
		t.Errorf("without credentials: %d, want 401", code)
	}
}
