// Command bench measures what users wait for:
//
//	capture   objects per second, and the extension's peak memory, of backups of growing size, on a real API server and a real blob
//	          endpoint, with the extension as a process of its own
//	scale     how late scheduled backups start, how long requests take, and what cairnd needs, with 1,000 simulated clusters and up to 10,000
//	          instances whose backups are due in the same second, over the real protocol, with cairnd as a process of its own
//
// capture needs the test cluster's programs (`cd test/cluster && go run . build`). Nothing is left behind. Numbers depend on the machine, which all
// parts share here: compare runs on one machine only.
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
	sizes := flag.String("objects", "5000,20000,50000", "capture: numbers of objects, growing")
	clusters := flag.Int("clusters", 1000, "scale: the number of clusters")
	instances := flag.String("instances", "1000,5000,10000", "scale: numbers of instances, growing; at most ten times the clusters")
	database := flag.String("database", "", "scale: the URL of an empty PostgreSQL database (default SQLite)")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: bench [flags] capture|scale")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, flag.Args(), *sizes, *clusters, *instances, *database)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, objects string, clusters int, instances, database string) error {
	switch what := strings.Join(args, " "); what {
	case "capture", "":
		sizes, err := numbers("--objects", objects)
		if err != nil {
			return err
		}
		return capture(ctx, sizes)
	case "scale":
		sizes, err := numbers("--instances", instances)
		if err != nil {
			return err
		}
		return scale(ctx, clusters, sizes, database)
	default:
		return fmt.Errorf("%q cannot be measured: say capture or scale", what)
	}
}

func numbers(name, text string) ([]int, error) {
	var out []int
	for _, word := range strings.Split(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, n)
	}
	return out, nil
}
