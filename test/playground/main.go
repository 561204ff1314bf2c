// Command playground is behind `make up`, `make down` and `make demo`: all of Cairn on this machine, with a real Kubernetes
// cluster, for a person to play with. It needs root and Go, and installs the Debian packages that the cluster needs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairn-backup/cairn/test/walkthrough"
	"github.com/cairn-backup/cairn/test/world"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	repo, err := os.Getwd()
	if err != nil {
		fmt.Fprintln(os.Stderr, "playground:", err)
		os.Exit(1)
	}
	up := world.Config{Repo: repo, Dir: filepath.Join(repo, ".up"), Port: 8443, Out: os.Stdout,
		Clusters: []world.Cluster{{Name: "a", ARMName: "aks-production"}}}
	demo := up
	demo.Dir, demo.Port, demo.Clusters = filepath.Join(repo, ".demo"), 8453, []world.Cluster{{Name: "demo", ARMName: "aks-production"}}

	root := &cobra.Command{Use: "playground", Short: "All of Cairn on this machine, on a real cluster", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(
		&cobra.Command{Use: "up", Short: "Start it, or complete it", RunE: func(*cobra.Command, []string) error { return runUp(ctx, up) }},
		&cobra.Command{Use: "down", Short: "End it, and what a demo or a test left running, and remove every trace", RunE: func(*cobra.Command, []string) error {
			return errors.Join(world.Down(ctx, up), world.Down(ctx, demo), world.Down(ctx, world.Config{Repo: repo, Dir: world.TestDir(repo), Out: os.Stdout}))
		}},
		&cobra.Command{Use: "demo", Short: "Show docs/walkthrough.md happen", RunE: func(*cobra.Command, []string) error { return runDemo(ctx, demo) }},
	)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "playground:", err)
		os.Exit(1)
	}
}

func runUp(ctx context.Context, cfg world.Config) error {
	w, err := world.Up(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Printf("\nCairn is up. Use it:\n\n    source %s\n    az account show\n    kubectl get nodes\n\nEnd it with `make down`.\n", w.EnvFile())
	return nil
}

// runDemo shows the walk-through in a world of its own, which it removes again, so that it works the same every time.
func runDemo(ctx context.Context, cfg world.Config) (err error) {
	begun := time.Now()
	if err := world.Down(ctx, cfg); err != nil {
		return fmt.Errorf("remove what an earlier demo left: %w", err)
	}
	w, err := world.Up(ctx, cfg)
	if err != nil {
		return err
	}
	if err := show(ctx, w); err != nil {
		return fmt.Errorf("%w\n\nThe world is left as it is, to be looked at: source %s; end it with `make down`", err, w.EnvFile())
	}
	fmt.Printf("\nThe demo took %s. Removing its world.\n", time.Since(begun).Round(time.Second))
	return world.Down(ctx, cfg)
}

func show(ctx context.Context, w *world.World) error {
	text, err := os.ReadFile(filepath.Join(w.Repo, "docs", "walkthrough.md"))
	if err != nil {
		return err
	}
	blocks, err := walkthrough.Blocks(string(text))
	if err != nil {
		return fmt.Errorf("docs/walkthrough.md: %w", err)
	}
	shell, err := walkthrough.Start(ctx, w.Repo, w.Env(), os.Stdout)
	if err != nil {
		return err
	}
	defer shell.Close()
	heading := ""
	for _, b := range blocks {
		if b.Heading != heading {
			heading = b.Heading
			fmt.Printf("\n\033[1m== %s\033[0m\n", heading)
		}
		fmt.Printf("\033[2m%s\033[0m", b.Script)
		begun := time.Now()
		if _, err := shell.Run(b.Script); err != nil {
			return fmt.Errorf("docs/walkthrough.md, line %d: %w", b.Line, err)
		}
		fmt.Printf("\033[2m   (%.1fs)\033[0m\n", time.Since(begun).Seconds())
	}
	return nil
}
