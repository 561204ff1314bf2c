// Command cairn-extension is what runs in a cluster, one image with two roles: `connector` joins the cluster to the Backup
// service, `manager` carries out its requests. It wires and decides nothing.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // public authorities: the image has no others

	"github.com/cairn-backup/cairn/internal/buildinfo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "cairn-extension",
		Short:         "Cairn's programs for the cluster",
		Version:       buildinfo.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(managerCommand(), connectorCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cairn-extension:", err)
		stop()
		os.Exit(1)
	}
}
