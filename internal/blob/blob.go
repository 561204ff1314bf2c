// Package blob is the extension's only way to storage: one container of Azure Blob Storage, of Azurite or of cairnd's own
// endpoint, through Azure's azblob.
//
// It writes each blob once, streams in both directions with bounded memory, and turns failures into a few kinds that a caller can act on.
// It knows nothing of what the blobs hold, and is not a general client: no overwriting, no metadata, no accounts.
package blob

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/google/uuid"
)

// Info describes a committed blob.
type Info struct {
	Name    string
	Size    int64     // bytes
	ETag    string    // opaque, without quotes
	Created time.Time // UTC, whole seconds, by the store's clock
}

// Store is a set of blobs under names, each written once.
type Store interface {
	// Create streams r into a new blob and returns when it is durable. ErrExists when the name is taken, then
	// the blob there is untouched. An error of r, or the end of ctx, leaves no blob.
	Create(ctx context.Context, name string, r io.Reader) (Info, error)
	// Open returns the content of a blob as it is at this moment; broken connections are resumed. ErrNotFound when there is none.
	Open(ctx context.Context, name string) (io.ReadCloser, Info, error)
	// List yields the blobs whose names begin with prefix, in the order of names. It ends after an error.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes a blob; a missing one is no error.
	Delete(ctx context.Context, name string) error
}

// Options are how to reach and to authenticate with a container. With neither Credential nor Key the URL's SAS is used.
type Options struct {
	// CABundle is PEM of authorities to trust besides the system's.
	CABundle []byte
	// Credential gives bearer tokens for https://storage.azure.com.
	Credential azcore.TokenCredential
	// Key is the account's key in base64.
	Key string
	// Retries is how often a failed request is sent again; 0 means 3, negative means never. With 3 an endpoint that does not
	// answer at all has failed after about 25 seconds, one that refuses connections after about 5.
	Retries int
}

// Memory of a Create: up to maxInFlight blocks of blockSize. Azure takes 50,000 blocks, so that a blob may have 390 GiB.
const (
	blockSize   = 8 << 20
	maxInFlight = 2

	// Timeouts for a connection to be made, and for an answer to begin once the request is sent. A block list takes longer:
	// our server then puts the blob together, at the speed of its disk.
	dialTimeout   = 5 * time.Second
	answerTimeout = time.Minute
	commitTimeout = 15 * time.Minute
	// lingerFor is how long a request that is on its way is waited for when its sender gives up.
	lingerFor = 15 * time.Second

	// writerKey names the metadata that tells our own write, whose answer was lost, from another writer's.
	writerKey = "cairnwriter"
)

// Container is one blob container. It implements Store.
type Container struct {
	client        *container.Client
	account, name string
	retries       int32
}

// Open returns the container of a URL, https://account.blob.suffix/container or https://host:port/account/container,
// with or without a SAS. It sends nothing.
func Open(containerURL string, opts Options) (*Container, error) {
	account, name, err := parseURL(containerURL)
	if err != nil {
		return nil, err
	}
	retries := int32(cmp.Or(opts.Retries, 3))
	clientOptions, err := newClientOptions(opts.CABundle, retries)
	if err != nil {
		return nil, fmt.Errorf("blob container %s/%s: %w", account, name, err)
	}
	var client *container.Client
	switch {
	case opts.Credential != nil:
		client, err = container.NewClient(containerURL, opts.Credential, clientOptions)
	case opts.Key != "":
		var key *container.SharedKeyCredential
		if key, err = container.NewSharedKeyCredential(account, opts.Key); err == nil {
			client, err = container.NewClientWithSharedKeyCredential(containerURL, key, clientOptions)
		}
	default:
		client, err = container.NewClientWithNoCredential(containerURL, clientOptions)
	}
	if err != nil {
		return nil, fmt.Errorf("blob container %s/%s: %w", account, name, err)
	}
	return &Container{client: client, account: account, name: name, retries: retries}, nil
}

func parseURL(containerURL string) (account, name string, err error) {
	u, err := url.Parse(containerURL)
	if err != nil {
		return "", "", errors.New("the container URL is malformed; want https://account.blob.suffix/container") // may hold a SAS: not quoted
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	labels := strings.Split(u.Hostname(), ".")
	switch {
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "", parts[0] == "", len(parts) > 2:
	case len(parts) == 2:
		return parts[0], parts[1], nil
	case len(labels) > 2 && labels[1] == "blob":
		return labels[0], parts[0], nil
	}
	return "", "", fmt.Errorf("the container URL %s://%s%s names no account and container; want https://account.blob.suffix/container or https://host/account/container",
		u.Scheme, u.Host, u.Path)
}

func newClientOptions(caBundle []byte, retries int32) (*container.ClientOptions, error) {
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: answerTimeout,
		ExpectContinueTimeout: time.Second,
		MaxIdleConnsPerHost:   maxInFlight + 2,
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true, // blobs are bytes, whatever their Content-Encoding says
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if len(caBundle) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // an image without system certificates
		}
		if !pool.AppendCertsFromPEM(caBundle) {
			return nil, errors.New("the CA bundle holds no certificate; give it as PEM")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	patient := transport.Clone()
	patient.ResponseHeaderTimeout = commitTimeout
	return &container.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: &transporter{quick: &http.Client{Transport: transport}, patient: &http.Client{Transport: patient}},
		Retry:     policy.RetryOptions{MaxRetries: retries, RetryDelay: 500 * time.Millisecond, MaxRetryDelay: 4 * time.Second},
		Telemetry: policy.TelemetryOptions{ApplicationID: "cairn"},
	}}, nil
}

// transporter sends block lists with more patience than the rest.
type transporter struct{ quick, patient *http.Client }

// Do implements policy.Transporter.
func (t *transporter) Do(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && r.URL.Query().Get("comp") == "blocklist" {
		return t.patient.Do(r)
	}
	return t.quick.Do(r)
}

// Create implements Store.
func (c *Container) Create(ctx context.Context, name string, r io.Reader) (Info, error) {
	source := &source{ctx: ctx, r: r}
	ctx, done := lingering(ctx)
	defer done()
	writer := uuid.NewString()
	client := c.client.NewBlockBlobClient(name)
	answer, err := client.UploadStream(ctx, source, &blockblob.UploadStreamOptions{
		BlockSize:        blockSize,
		Concurrency:      maxInFlight,
		Metadata:         map[string]*string{writerKey: &writer},
		AccessConditions: &azblob.AccessConditions{ModifiedAccessConditions: &azblob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}},
	})
	if source.err != nil && source.err != io.EOF {
		return Info{}, fmt.Errorf("create blob %s/%s/%s: read the content: %w", c.account, c.name, name, source.err)
	}
	if err != nil {
		err = c.fail("create blob", name, err)
		if errors.Is(err, ErrExists) {
			return c.ours(ctx, name, writer, err)
		}
		return Info{}, err
	}
	return Info{Name: name, Size: source.n, ETag: etag(answer.ETag), Created: deref(answer.LastModified).UTC()}, nil
}

// ours looks whether the blob that is in the way is what this call wrote: then the first answer was lost, and the request
// sent again.
func (c *Container) ours(ctx context.Context, name, writer string, exists error) (Info, error) {
	props, err := c.client.NewBlobClient(name).GetProperties(ctx, nil)
	if err != nil {
		return Info{}, c.fail("create blob", name, err)
	}
	for key, value := range props.Metadata {
		if strings.EqualFold(key, writerKey) && deref(value) == writer {
			return Info{Name: name, Size: deref(props.ContentLength), ETag: etag(props.ETag), Created: deref(props.LastModified).UTC()}, nil
		}
	}
	return Info{}, exists
}

// Open implements Store.
func (c *Container) Open(ctx context.Context, name string) (io.ReadCloser, Info, error) {
	answer, err := c.client.NewBlobClient(name).DownloadStream(ctx, nil)
	if err != nil {
		return nil, Info{}, c.fail("read blob", name, err)
	}
	info := Info{Name: name, Size: deref(answer.ContentLength), ETag: etag(answer.ETag), Created: deref(answer.LastModified).UTC()}
	body := answer.NewRetryReader(ctx, &azblob.RetryReaderOptions{MaxRetries: max(c.retries, 0)})
	return &reader{body: body, container: c, name: name}, info, nil
}

// List implements Store.
func (c *Container) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		pages := c.client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix})
		for pages.More() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(Info{}, c.fail("list blobs", prefix, err))
				return
			}
			for _, item := range page.Segment.BlobItems {
				p := item.Properties
				info := Info{Name: deref(item.Name), Size: deref(p.ContentLength), ETag: etag(p.ETag), Created: deref(p.LastModified).UTC()}
				if !yield(info, nil) {
					return
				}
			}
		}
	}
}

// Delete implements Store.
func (c *Container) Delete(ctx context.Context, name string) error {
	_, err := c.client.NewBlobClient(name).Delete(ctx, nil)
	if err == nil || bloberror.HasCode(err, bloberror.BlobNotFound) {
		return nil
	}
	return c.fail("delete blob", name, err)
}

// lingering is a context that ends lingerFor after ctx does. A request that is given up on its way may still be carried out, later than what its
// sender then deletes: so it is waited for, in reason.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(lingerFor, cancel)
		context.AfterFunc(out, func() { timer.Stop() })
	})
	return out, func() { stop(); cancel() }
}

// source counts what is read and keeps the reader's error, so that it is told from the store's. When ctx ends, there is nothing more to read.
type source struct {
	ctx context.Context
	r   io.Reader
	n   int64
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err == nil {
		s.err = context.Cause(s.ctx)
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if given := context.Cause(s.ctx); err == io.EOF && given != nil {
		err = given
	}
	s.n, s.err = s.n+int64(n), err
	return n, err
}

// reader gives errors of a download their subject.
type reader struct {
	body      io.ReadCloser
	container *Container
	name      string
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if err != nil && err != io.EOF {
		err = r.container.fail("read blob", r.name, err)
	}
	return n, err
}

func (r *reader) Close() error { return r.body.Close() }

func etag(e *azcore.ETag) string { return strings.Trim(string(deref(e)), `"`) }

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
