package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cairn-backup/cairn/internal/armserver"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/blobserver"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

// Config is what cairnd is told.
type Config struct {
	// Data is the folder that holds everything. One daemon at a time may use it, or any number that have the same PostgreSQL database.
	Data string
	// Database is the URL of a PostgreSQL database that holds the state; empty for SQLite in the folder.
	Database string
	// Listen and BlobListen are addresses to listen on, such as :8443; port 0 takes a free one.
	Listen     string
	BlobListen string
	// PublicURL and BlobURL are how clients and clusters reach the two: https, host and port. Empty means localhost and
	// the port that is listened on, which is no good for clusters.
	PublicURL string
	BlobURL   string
	// Limits are how many jobs can be started by hand; the zero value is no limit.
	Limits service.Limits
	// OIDCIssuer is the URL of an OpenID Connect issuer whose tokens are accepted beside the service's own, and OIDCAudience what must be among their
	// audiences; both or none. OIDCCAFile is the PEM of the authority that signed its certificate; empty for the system's.
	OIDCIssuer   string
	OIDCAudience string
	OIDCCAFile   string
	// ScheduleJitter is by how much scheduled backups may start later than their time, to spread them.
	ScheduleJitter time.Duration
	// Log is slog.Default when nil, Now time.Now.
	Log *slog.Logger
	Now func() time.Time
}

// Daemon is a running cairnd.
type Daemon struct {
	// Service is what it serves.
	Service *service.Service
	// CAFile is the certificate of the authority that signed the server's certificate.
	CAFile string
	// Address and BlobAddress are what it listens on.
	Address, BlobAddress string

	config  Config
	blobs   *blobserver.Server
	arm     *http.Server
	blob    *http.Server
	closing chan struct{}
	stop    context.CancelFunc
	group   *errgroup.Group
	close   func() error
}

// grace is how long requests that are under way may take when the daemon ends.
const grace = 10 * time.Second

// Start opens everything and serves in the background, until Close, or until ctx ends.
func Start(ctx context.Context, config Config) (d *Daemon, err error) {
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Data, err = filepath.Abs(config.Data); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := os.MkdirAll(config.Data, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	d = &Daemon{config: config, closing: make(chan struct{})}
	var opened []func() error
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(opened))
		}
	}()
	api, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return nil, err
	}
	opened = append(opened, ignoreClosed(api.Close))
	blob, err := net.Listen("tcp", config.BlobListen)
	if err != nil {
		return nil, err
	}
	opened = append(opened, ignoreClosed(blob.Close))
	if err := d.open(ctx, api.Addr(), blob.Addr(), &opened); err != nil {
		return nil, err
	}
	d.Address, d.BlobAddress = api.Addr().String(), blob.Addr().String()
	d.close = sync.OnceValue(func() error { return d.end(opened) })
	d.serve(ctx, api, blob)
	config.Log.Info("serving", "url", d.Service.PublicURL, "blobs", d.Service.BlobURL, "data", config.Data,
		"administrator", d.AdminFile(), "certificateAuthority", d.CAFile)
	return d, nil
}

// closeAll closes in the opposite order of opening.
func closeAll(opened []func() error) error {
	var errs []error
	for _, c := range slices.Backward(opened) {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// ignoreClosed is for listeners, which their servers have closed by then.
func ignoreClosed(f func() error) func() error {
	return func() error {
		if err := f(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

// address is a base URL: as configured, or on localhost.
func address(configured string, listening net.Addr) (string, string, error) {
	if configured == "" {
		tcp, ok := listening.(*net.TCPAddr)
		if !ok {
			return "", "", fmt.Errorf("%s is not a TCP address", listening)
		}
		return fmt.Sprintf("https://localhost:%d", tcp.Port), "localhost", nil
	}
	u, err := url.Parse(configured)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", "", fmt.Errorf("%q must be of the form https://host:port", configured)
	}
	return "https://" + u.Host, u.Hostname(), nil
}

// open opens the data folder and wires the service.
func (d *Daemon) open(ctx context.Context, api, blob net.Addr, opened *[]func() error) error {
	c := d.config
	publicURL, publicHost, err := address(c.PublicURL, api)
	if err != nil {
		return fmt.Errorf("public URL: %w", err)
	}
	blobURL, blobHost, err := address(c.BlobURL, blob)
	if err != nil {
		return fmt.Errorf("blob URL: %w", err)
	}
	if c.Database != "" && !store.IsURL(c.Database) {
		return errors.New("the database must be a PostgreSQL server's, postgres://USER@HOST:PORT/NAME; without one the state is kept in the data folder")
	}
	inUse, err := useFolder(c.Data, c.Database != "")
	if err != nil {
		return err
	}
	*opened = append(*opened, inUse.Close)
	// What the first start makes, replicas that start at once must make once.
	starting, err := startAlone(ctx, c.Data)
	if err != nil {
		return err
	}
	defer starting.Close() // nothing was written to it
	keys := pki{dir: filepath.Join(c.Data, "pki"), now: c.Now()}
	hosts := []string{publicHost, blobHost, "localhost", "127.0.0.1", "::1"}
	if net.ParseIP(blobHost) == nil {
		hosts = append(hosts, "*.blob."+blobHost) // az and others put the account before the host
	}
	certificate, bundle, err := keys.server(hosts)
	if err != nil {
		return err
	}
	d.CAFile = keys.CAFile()
	db, err := store.Open(ctx, cmp.Or(c.Database, filepath.Join(c.Data, "state.db")), c.Now)
	if err != nil {
		return err
	}
	*opened = append(*opened, db.Close)
	d.Service = &service.Service{DB: db, Now: c.Now, Log: c.Log, PublicURL: publicURL, BlobURL: blobURL, CABundle: bundle, Closing: d.closing,
		Limits: c.Limits, ScheduleJitter: c.ScheduleJitter}
	*opened = append(*opened, func() error { d.Service.FlushAudit(); return nil })
	if d.blobs, err = blobserver.Open(blobserver.Config{
		Root: filepath.Join(c.Data, "blobs"), Accounts: d.account, Authorize: d.authorize, Now: c.Now, Log: c.Log,
	}); err != nil {
		return fmt.Errorf("blobs: %w", err)
	}
	*opened = append(*opened, d.blobs.Close)
	d.Service.Blobs = d.blobs
	id, err := folderID(c.Data)
	if err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if err := db.Update(ctx, func(tx *store.Tx) error {
		if err := belongs(tx, c.Data, id); err != nil {
			return err
		}
		var err error
		if d.Service.TenantID, d.Service.SubscriptionID, err = settings(tx); err != nil {
			return err
		}
		return d.admin(tx)
	}); err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	if d.Service.Issuer, err = auth.NewIssuer(filepath.Join(c.Data, "token.key"), publicURL, d.Service.TenantID, c.Now); err != nil {
		return err
	}
	if d.Service.External, err = external(c); err != nil {
		return fmt.Errorf("external issuer: %w", err)
	}
	d.arm, d.blob = d.server(d.handler(), certificate), d.server(d.blobs, certificate)
	return nil
}

// external is the issuer that the configuration names, nil for none.
func external(c Config) (*auth.External, error) {
	if c.OIDCIssuer == "" && c.OIDCAudience == "" && c.OIDCCAFile == "" {
		return nil, nil
	}
	if u, err := url.Parse(c.OIDCIssuer); err != nil || u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q must be the issuer's https URL, exactly as it stands in its tokens", c.OIDCIssuer)
	}
	if c.OIDCAudience == "" {
		return nil, errors.New("its tokens' audience is needed too, so that tokens that it issues for other services are not accepted")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if c.OIDCCAFile != "" {
		pem, err := os.ReadFile(c.OIDCCAFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", c.OIDCCAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return auth.NewExternal(c.OIDCIssuer, c.OIDCAudience, transport, c.Now, c.Log), nil
}

// account and authorize are what the blob endpoint asks the service.
func (d *Daemon) account(ctx context.Context, name string) (blobserver.Account, error) {
	keys, err := d.Service.BlobKeys(ctx, name)
	if errors.Is(err, service.ErrNoAccount) {
		err = fmt.Errorf("%w: %w", blobserver.ErrAccountNotFound, err)
	} else if errors.Is(err, store.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", blobserver.ErrUnavailable, err)
	}
	return blobserver.Account{Keys: keys}, err
}

func (d *Daemon) authorize(ctx context.Context, token string, a blobserver.Access) error {
	err := d.Service.AuthorizeBlob(ctx, token, d.endpoints().StorageAudiences(), a.Account, a.Container, a.Actions)
	switch {
	case errors.Is(err, auth.ErrToken):
		return fmt.Errorf("%w: %w", blobserver.ErrInvalidToken, err)
	case errors.Is(err, auth.ErrIssuer):
		return fmt.Errorf("%w: %w", blobserver.ErrUnavailable, err)
	case errors.Is(err, service.ErrNotAllowed):
		return fmt.Errorf("%w: %w", blobserver.ErrForbidden, err)
	case errors.Is(err, service.ErrNoAccount):
		return fmt.Errorf("%w: %w", blobserver.ErrAccountNotFound, err)
	case errors.Is(err, store.ErrUnavailable):
		return fmt.Errorf("%w: %w", blobserver.ErrUnavailable, err)
	}
	return err
}

// wrongSecretPenalty makes guessing secrets slow, and is not felt by whoever has mistyped one.
const wrongSecretPenalty = 500 * time.Millisecond

func (d *Daemon) endpoints() *auth.Endpoints {
	return &auth.Endpoints{Issuer: d.Service.Issuer, Directory: d.Service, PublicURL: d.Service.PublicURL, BlobURL: d.Service.BlobURL, Log: d.config.Log, Penalty: wrongSecretPenalty,
		Refused: func(r *http.Request, clientID string) {
			d.Service.AuditRefusedLogin(r.Context(), clientID, armserver.Correlation(r), armserver.RemoteAddress(r))
		}}
}

// handler serves what needs no token from a mux, and everything else from the resource manager's table. The mux would
// redirect paths that are not clean, with a page in HTML: slashes at the beginning are collapsed, and other such paths are the table's.
func (d *Daemon) handler() http.Handler {
	endpoints := d.endpoints()
	open := http.NewServeMux()
	endpoints.Register(open)
	open.HandleFunc("GET /healthz", d.healthz)
	table := armserver.New(d.Service, slices.Concat(endpoints.ManagementAudiences(), endpoints.GraphAudiences()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for strings.HasPrefix(r.URL.Path, "//") {
			r.URL.Path, r.URL.RawPath = r.URL.Path[1:], strings.TrimPrefix(r.URL.RawPath, "/")
		}
		// Handler only finds; the mux must serve, since it sets the path's values.
		if _, pattern := open.Handler(r); pattern != "" && path.Clean(r.URL.Path) == r.URL.Path {
			open.ServeHTTP(w, r)
			return
		}
		table.ServeHTTP(w, r)
	})
}

func (d *Daemon) healthz(w http.ResponseWriter, r *http.Request) {
	if err := d.Service.DB.View(r.Context(), func(tx *store.Tx) error {
		_, err := tx.Setting("tenant")
		return err
	}); err != nil {
		d.config.Log.Error("not healthy", "error", err)
		http.Error(w, "the state cannot be read: see the log", http.StatusServiceUnavailable)
		return
	}
	// A prober that went away is not told.
	_, _ = w.Write([]byte("ok\n"))
}

func (d *Daemon) server(h http.Handler, certificate tls.Certificate) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		ErrorLog:  slog.NewLogLogger(d.config.Log.Handler(), slog.LevelDebug),
	}
}

func (d *Daemon) serve(ctx context.Context, api, blob net.Listener) {
	ctx, d.stop = context.WithCancel(ctx)
	d.group, ctx = errgroup.WithContext(ctx)
	for _, s := range []struct {
		server   *http.Server
		listener net.Listener
	}{{d.arm, api}, {d.blob, blob}} {
		d.group.Go(func() error {
			if err := s.server.ServeTLS(s.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	d.group.Go(func() error { return d.Service.Run(ctx) })
	d.group.Go(func() error { return d.blobs.Run(ctx) })
	d.group.Go(func() error {
		<-ctx.Done()
		return d.shutdown()
	})
}

// shutdown lets requests that are under way end, for a while; calls that are held open are told by Closing.
func (d *Daemon) shutdown() error {
	close(d.closing)
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var errs []error
	for _, s := range []*http.Server{d.arm, d.blob} {
		if err := s.Shutdown(ctx); err != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// Wait returns when the daemon has ended: by Close, by its context, or because serving failed.
func (d *Daemon) Wait() error { return d.close() }

// Close ends the daemon gracefully.
func (d *Daemon) Close() error {
	d.stop()
	return d.close()
}

func (d *Daemon) end(opened []func() error) error {
	err := d.group.Wait()
	d.stop()
	return errors.Join(err, closeAll(opened))
}
