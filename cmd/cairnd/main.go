// Command cairnd is the Backup service: Azure's resource manager and blob storage, as far as backing up Kubernetes needs them,
// over HTTPS, with its state in one folder, or in a PostgreSQL database too.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/cairn-backup/cairn/internal/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "cairnd:", err)
			os.Exit(1)
		}
		os.Exit(2)
	}
}

// databaseVariable is the environment variable for a database whose URL has its password.
const databaseVariable = "CAIRN_DATABASE"

// hasPassword says whether a URL has a password, as far as it can be read; one that cannot be is refused by whoever opens it.
func hasPassword(database string) bool {
	u, err := url.Parse(database)
	if err != nil {
		return false
	}
	_, set := u.User.Password()
	return set || u.Query().Has("password")
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("cairnd", flag.ContinueOnError)
	flags.SetOutput(out)
	config := daemon.Config{Log: slog.New(slog.NewTextHandler(out, nil))}
	flags.StringVar(&config.Data, "data", "", "the folder that holds everything; made when it is absent (required)")
	flags.StringVar(&config.Database, "database", "", "a PostgreSQL database, postgres://USER@HOST:PORT/NAME, for several replicas; its password comes from "+
		"PGPASSFILE or PGPASSWORD, or all of it from "+databaseVariable+" (default SQLite in the folder)")
	flags.StringVar(&config.Listen, "listen", ":8443", "the address to serve the API on")
	flags.StringVar(&config.BlobListen, "blob-listen", ":8444", "the address to serve blobs on")
	flags.StringVar(&config.PublicURL, "public-url", "", "how clients and clusters reach the API, https://HOST:PORT (default localhost)")
	flags.StringVar(&config.BlobURL, "blob-url", "", "how clients and clusters reach the blobs, https://HOST:PORT (default localhost)")
	flags.IntVar(&config.Limits.OnDemandBackups, "on-demand-backups-per-day", 10, "how many backups of an instance can be started by hand within 24 hours; 0 is no limit")
	flags.IntVar(&config.Limits.Restores, "restores-per-day", 10, "how many restores of an instance can be started within 24 hours; 0 is no limit")
	flags.StringVar(&config.OIDCIssuer, "oidc-issuer", "", "an OpenID Connect issuer whose tokens are accepted too: its URL as in its tokens")
	flags.StringVar(&config.OIDCAudience, "oidc-audience", "", "the audience that the issuer's tokens must have")
	flags.StringVar(&config.OIDCCAFile, "oidc-ca", "", "the authority that signed the issuer's certificate, PEM (default the system's)")
	flags.DurationVar(&config.ScheduleJitter, "schedule-jitter", 0, "spread scheduled backups: each starts by up to that much later")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if config.Data == "" || flags.NArg() > 0 {
		return errors.New("usage: cairnd --data DIR [--database postgres://USER@HOST:PORT/NAME] [--public-url https://HOST:8443] [--blob-url https://HOST:8444] [--listen ADDR] [--blob-listen ADDR] [--schedule-jitter DURATION]")
	}
	if hasPassword(config.Database) {
		return fmt.Errorf("--database has a password in it, which everybody on this machine can see: put it into the file that PGPASSFILE names, or the whole URL into %s", databaseVariable)
	}
	config.Database = cmp.Or(config.Database, os.Getenv(databaseVariable))
	d, err := daemon.Start(ctx, config)
	if err != nil {
		return err
	}
	return d.Wait()
}
