package node

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cairn-backup/cairn/test/cluster/internal/config"
)

// restartAfter is how long a program that ended stays down: long enough that one that cannot start does not eat the
// machine, short enough not to slow kill tests.
const restartAfter = 500 * time.Millisecond

// Supervise starts the node's programs, each as soon as what it needs answers, and starts again those that end. It
// returns when ctx is done.
func Supervise(ctx context.Context, n config.Node) error {
	api, err := newGate(n)
	if err != nil {
		return err
	}
	stages := map[config.Stage]<-chan struct{}{
		config.AtOnce:      closed(),
		config.APIReady:    api.open(ctx, "/readyz"),
		config.SnapshotAPI: api.open(ctx, "/apis/snapshot.storage.k8s.io/v1/volumesnapshots?limit=1"),
	}
	var running sync.WaitGroup
	for _, c := range n.Components() {
		running.Go(func() {
			select {
			case <-stages[c.After]:
				keep(ctx, n, c)
			case <-ctx.Done():
			}
		})
	}
	running.Wait()
	return nil
}

// keep runs one program over and over. What it prints and why it ended is in its log.
func keep(ctx context.Context, n config.Node, c config.Component) {
	for ctx.Err() == nil {
		if err := run(ctx, n, c); err != nil {
			// The log file itself is the trouble; this goes to the node's own.
			fmt.Fprintf(os.Stderr, "%s: %v\n", c.Name, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(restartAfter):
		}
	}
}

func run(ctx context.Context, n config.Node, c config.Component) error {
	log, err := os.OpenFile(n.Log(c.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, c.Program, c.Args...)
	cmd.Args[0] = c.Name
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"HOME=/root", "PATH=" + n.Bin + ":" + filepath.Join(n.Debian, "usr/bin") + ":" + filepath.Join(n.Debian, "usr/sbin") + ":/usr/sbin:/usr/bin:/sbin:/bin"}
	err = cmd.Run()
	_, err = fmt.Fprintf(log, "--- testcluster: %s %s ended: %v\n", time.Now().Format(time.RFC3339), c.Name, err)
	return err
}

// gate tells when parts of the API answer.
type gate struct {
	client *http.Client
	server string
}

func newGate(n config.Node) (*gate, error) {
	k, err := clientcmd.BuildConfigFromFlags("", n.PKI("admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	k.Timeout = 5 * time.Second
	client, err := rest.HTTPClientFor(k)
	if err != nil {
		return nil, err
	}
	return &gate{client, n.Server()}, nil
}

// open is closed once path has been answered with 200.
func (g *gate) open(ctx context.Context, path string) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		for ctx.Err() == nil {
			if g.answers(ctx, path) {
				close(done)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return done
}

func (g *gate) answers(ctx context.Context, path string) bool {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, g.server+path, nil)
	if err != nil {
		return false
	}
	r, err := g.client.Do(q)
	if err != nil {
		return false
	}
	defer r.Body.Close()
	return r.StatusCode == http.StatusOK
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
