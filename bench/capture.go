package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/blobserver"
	"github.com/cairn-backup/cairn/internal/kubetest"
)

// objectSize is the size of the data of an object: a middling Secret or Deployment.
const objectSize = 1500

// bench is what the captures run in.
type bench struct {
	cluster   *kubetest.Cluster
	dir       string
	extension string // the program
	seeded    int
}

// result is one capture.
type result struct {
	objects int64
	bytes   int64
	took    time.Duration
	peak    int64 // KiB
}

// capture backs clusters of growing size up, each time with a fresh process, and prints a table.
func capture(ctx context.Context, sizes []int) (err error) {
	b := &bench{}
	if b.dir, err = os.MkdirTemp("", "cairn-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.extension = filepath.Join(b.dir, "cairn-extension")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", b.extension, "github.com/cairn-backup/cairn/cmd/cairn-extension").CombinedOutput(); err != nil {
		return fmt.Errorf("build the extension: %w\n%s", err, out)
	}
	if b.cluster, err = kubetest.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cluster.Stop()) }()
	stop, err := b.storage(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "objects\tseconds\tobjects/s\tbundle MiB\tpeak memory MiB\t")
	for _, size := range sizes {
		if err := b.seed(ctx, size); err != nil {
			return err
		}
		r, err := b.backup(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%d\t%.1f\t%.0f\t%.1f\t%.0f\t\n", r.objects, r.took.Seconds(), float64(r.objects)/r.took.Seconds(), float64(r.bytes)/(1<<20), float64(r.peak)/1024)
	}
	return table.Flush()
}

// storage serves a container and writes the credentials into the cluster, as cairnd and the connector do.
func (b *bench) storage(ctx context.Context) (stop func() error, err error) {
	key := "YmVuY2htYXJrcyBuZWVkIG5vIHNlY3JldCwgYnV0IGEga2V5IG9mIHNvbWUgbGVuZ3Ro"
	server, err := blobserver.Open(blobserver.Config{
		Root: filepath.Join(b.dir, "blobs"), Log: slog.New(slog.DiscardHandler),
		Accounts: func(context.Context, string) (blobserver.Account, error) {
			return blobserver.Account{Keys: []string{key}}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	endpoint := httptest.NewTLSServer(server)
	stop = func() error {
		endpoint.Close()
		return server.Close()
	}
	if _, err := server.CreateContainer("bench", "points"); err != nil {
		return nil, errors.Join(err, stop())
	}
	sas, err := blob.ContainerSAS("bench", key, "points", blob.ExtensionPermissions, time.Now().Add(12*time.Hour))
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: endpoint.Certificate().Raw})
	meta := metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: v1alpha1.SecretStorage}
	err = errors.Join(
		b.cluster.Client.Create(ctx, &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"sas": []byte(sas), "ca.crt": ca}}),
		b.cluster.Client.Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"containerURL": endpoint.URL + "/bench/points"}}))
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// seed creates objects until there are so many.
func (b *bench) seed(ctx context.Context, total int) error {
	fmt.Fprintf(os.Stderr, "seeding %d objects\n", total-b.seeded)
	const namespaces = 20
	for n := range namespaces {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%02d", n)}}
		if err := client.IgnoreAlreadyExists(b.cluster.Client.Create(ctx, namespace)); err != nil {
			return err
		}
	}
	text := strings.Repeat("0123456789abcdef", objectSize/16)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for ; b.seeded < total; b.seeded++ {
		number := b.seeded
		group.Go(func() error {
			return b.cluster.Client.Create(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("bench-%02d", number%namespaces), Name: fmt.Sprintf("settings-%06d", number), Labels: map[string]string{"app": "bench"}},
				Data:       map[string]string{"number": strconv.Itoa(number * 7919), "text": text}})
		})
	}
	return group.Wait()
}

// backup runs a fresh manager and one Backup.
func (b *bench) backup(ctx context.Context) (result, error) {
	kubeconfig, err := b.cluster.Kubeconfig(b.dir, fmt.Sprintf("manager-%d", b.seeded))
	if err != nil {
		return result{}, err
	}
	var log bytes.Buffer
	manager := exec.CommandContext(ctx, b.extension, "manager", "--kubeconfig", kubeconfig, "--health-address", "0")
	manager.Stderr = &log
	manager.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := manager.Start(); err != nil {
		return result{}, err
	}
	r, err := b.follow(ctx, manager.Process.Pid)
	killed := manager.Process.Kill()
	// It was killed, and Wait says so.
	_ = manager.Wait()
	if err != nil {
		return result{}, fmt.Errorf("%w\nthe extension's log:\n%s", err, log.String())
	}
	return r, killed
}

// follow makes a Backup and watches it to its end.
func (b *bench) follow(ctx context.Context, pid int) (result, error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return result{}, err
	}
	backup := &v1alpha1.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: fmt.Sprintf("bench-%d", b.seeded)}, Spec: v1alpha1.BackupSpec{
		RecoveryPointID: fmt.Sprintf("%032x", b.seeded), Location: v1alpha1.StorageLocation{Prefix: "bench/"}, Recipient: key.Recipient().String(),
		Filter: v1alpha1.Filter{IncludeClusterScopeResources: true}}}
	if err := b.cluster.Client.Create(ctx, backup); err != nil {
		return result{}, err
	}
	watch, err := b.cluster.Client.Watch(ctx, &v1alpha1.BackupList{}, client.InNamespace(v1alpha1.Namespace))
	if err != nil {
		return result{}, err
	}
	defer watch.Stop()
	var began time.Time
	for event := range watch.ResultChan() {
		seen, ok := event.Object.(*v1alpha1.Backup)
		if !ok || seen.Name != backup.Name {
			continue
		}
		if began.IsZero() && seen.Status.Phase != "" {
			began = time.Now()
		}
		if !seen.Status.Phase.Final() {
			continue
		}
		if seen.Status.Phase != v1alpha1.PhaseCompleted {
			return result{}, fmt.Errorf("the backup ended as %s: %+v", seen.Status.Phase, seen.Status)
		}
		peak, err := peakMemory(pid)
		return result{objects: seen.Status.Progress.ObjectsDone, bytes: seen.Status.Progress.Bytes, took: time.Since(began), peak: peak}, err
	}
	return result{}, errors.Join(errors.New("the watch of the backup ended"), ctx.Err())
}

// peakMemory returns the most memory that a process has had resident, in KiB.
func peakMemory(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmHWM:" {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, errors.New("the kernel does not tell the peak memory")
}
