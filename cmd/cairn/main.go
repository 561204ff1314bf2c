// Command cairn backs up and restores Kubernetes clusters with a Cairn service. Called as az, it is the same program: its
// commands are those of Azure's.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/cairn-backup/cairn/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := cli.Program{Name: os.Args[0], Args: os.Args[1:], Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	code := p.Run(ctx)
	stop()
	os.Exit(code)
}
