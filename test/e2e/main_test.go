// Package e2e holds Cairn to its word on a real cluster: the guide, the disaster, the kills and the bad days. All tests share one
// world (test/world); each makes its own namespaces and looks for what it left behind.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/cairn-backup/cairn/test/world"
)

// w is the world that the tests share.
var w *world.World

var cluster = world.Cluster{Name: "e2e", ARMName: "aks-production"}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// run brings the world up, runs the tests and takes it down. With CAIRN_E2E_KEEP set a world that is up is used as it is, and left up:
// for a developer's short loop.
func run(m *testing.M) (int, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ctrl.SetLogger(logr.Discard()) // the tests say themselves what went wrong
	repo, err := filepath.Abs("../..")
	if err != nil {
		return 0, err
	}
	cfg := world.Config{Repo: repo, Dir: world.TestDir(repo), Port: 8463, BlobFront: 8465, Out: os.Stderr, Clusters: []world.Cluster{cluster}}
	keep := os.Getenv("CAIRN_E2E_KEEP") != ""
	if !keep {
		if err := world.Down(ctx, cfg); err != nil {
			return 0, err
		}
	}
	w, err = world.Up(ctx, cfg)
	if err != nil {
		return 0, err
	}
	if err := blobFront.serve(ctx, w); err != nil {
		return 0, err
	}
	code := m.Run()
	if keep {
		return code, nil
	}
	if code != 0 {
		saveLogs(ctx)
	}
	return code, world.Down(ctx, cfg)
}

// saveLogs prints the ends of the logs that explain a failure, since the world goes away.
func saveLogs(ctx context.Context) {
	for _, cmd := range []string{
		"tail -n 60 " + w.Dir + "/log/cairnd.log",
		"kubectl get pods -A -o wide",
		"kubectl -n dataprotection-microsoft logs --tail=80 --all-containers --prefix -l app.kubernetes.io/part-of=cairn",
		"kubectl get backups.clusterbackup.dataprotection.microsoft.com,restores.clusterbackup.dataprotection.microsoft.com -A -o yaml | head -c 20000",
		"kubectl get volumesnapshots,volumesnapshotcontents,pvc,pv -A",
	} {
		out, err := bash(ctx, cmd)
		fmt.Fprintf(os.Stderr, "---- %s (%v)\n%s\n", cmd, err, out)
	}
}

// eventually waits until check passes, for as long as patience.
func eventually(t *testing.T, patience time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}
