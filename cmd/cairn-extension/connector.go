package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/cairn-backup/cairn/config"
	"github.com/cairn-backup/cairn/internal/buildinfo"
	"github.com/cairn-backup/cairn/internal/connector"
	"github.com/cairn-backup/cairn/internal/link"
)

// connectorOptions are the connector's flags.
type connectorOptions struct {
	kubeconfig string
	credential string
	image      string
	health     string
}

func connectorCommand() *cobra.Command {
	var o connectorOptions
	cmd := &cobra.Command{
		Use:   "connector",
		Short: "Join this cluster to the Backup service: install the extension, carry requests, report their state",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runConnector(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "the cluster; without it, the one that the pod runs in")
	f.StringVar(&o.credential, "credential", filepath.Join(config.CredentialDir, config.CredentialKey), "file with the credential for the service")
	f.StringVar(&o.image, "image", os.Getenv(config.ImageVariable), "image that the extension runs from ($"+config.ImageVariable+")")
	f.StringVar(&o.health, "health-address", ":8081", "where /healthz and /readyz answer")
	return cmd
}

func runConnector(ctx context.Context, o connectorOptions) error {
	if o.image == "" {
		return errors.New("--image: which image should the extension run from?")
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	klog.SetSlogLogger(log)
	cluster, err := findCluster(o.kubeconfig)
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	c := &connector.Connector{
		Link: &link.Client{
			Credential: func() (link.Credential, error) { return readCredential(o.credential) },
			UserAgent:  "cairn-connector/" + buildinfo.Version,
		},
		Cluster: cluster,
		Image:   o.image,
		Version: buildinfo.Version,
		Log:     log,
		Now:     time.Now,
	}
	log.Info("connector starts", "version", buildinfo.Version, "image", o.image)
	server := &http.Server{Addr: o.health, Handler: c.Probes(), ReadHeaderTimeout: 5 * time.Second}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Run(ctx) })
	g.Go(func() error {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("answer probes: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
	return g.Wait()
}

// findCluster is the kubeconfig's cluster, or without one that of the pod.
func findCluster(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

func readCredential(file string) (link.Credential, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return link.Credential{}, err
	}
	var c link.Credential
	if err := json.Unmarshal(data, &c); err != nil {
		return link.Credential{}, fmt.Errorf("%s is not a credential", file) // without the decoder's words: it holds a secret
	}
	if c.Endpoint == "" || c.ClientID == "" || c.ClientSecret == "" {
		return link.Credential{}, fmt.Errorf("%s lacks an endpoint, a client ID or a secret", file)
	}
	return c, nil
}
