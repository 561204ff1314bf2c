// Command bench measures what users wait for, on a real API server and a real blob endpoint, with the extension as a process of its own:
//
//	capture   objects per second, and the extension's peak memory, of backups of growing size
//
// It needs the test cluster's programs (`cd test/cluster && go run . build`) and leaves nothing behind. Numbers depend on the machine, which API server,
// storage and extension share here: compare runs on one machine only.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	sizes := flag.String("objects", "5000,20000,50000", "numbers of objects to capture, growing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *sizes)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, sizes string) error {
	var numbers []int
	for _, text := range strings.Split(sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("--objects: %w", err)
		}
		numbers = append(numbers, n)
	}
	return capture(ctx, numbers)
}
