package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/go-logr/logr"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/buildinfo"
	"github.com/cairn-backup/cairn/internal/extension/apply"
	"github.com/cairn-backup/cairn/internal/extension/controller"
)

// managerOptions are the manager's flags.
type managerOptions struct {
	kubeconfig string
	health     string
	metrics    string
	leader     bool
	verbose    bool
}

func managerCommand() *cobra.Command {
	var o managerOptions
	cmd := &cobra.Command{
		Use:   "manager",
		Short: "Carry out backups, restores, deletions and validations in this cluster",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runManager(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "the cluster; without it, the one that the pod runs in")
	f.StringVar(&o.health, "health-address", ":8081", "where /healthz and /readyz answer; 0 means nowhere")
	f.StringVar(&o.metrics, "metrics-address", "0", "where /metrics answers; 0 means nowhere")
	f.BoolVar(&o.leader, "leader-elect", false, "work only while holding a lease, for those who run more than one; after a crash the next one waits 15 seconds for it")
	f.BoolVar(&o.verbose, "verbose", false, "log the reconcilers' own doings too")
	return cmd
}

func runManager(ctx context.Context, o managerOptions) error {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(log)
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	cluster, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	cluster.QPS = -1 // the API server's priority and fairness is the governor
	cluster.UserAgent = "cairn-extension/" + buildinfo.Version
	s := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(s), v1alpha1.AddToScheme(s), snapshotv1.AddToScheme(s)); err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(cluster, ctrl.Options{
		Scheme:                 s,
		Cache:                  cache.Options{DefaultNamespaces: map[string]cache.Config{v1alpha1.Namespace: {}}}, // requests live here
		Metrics:                server.Options{BindAddress: o.metrics},
		HealthProbeBindAddress: o.health,
		LeaderElection:         o.leader, LeaderElectionID: "cairn-extension", LeaderElectionNamespace: v1alpha1.Namespace, LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return fmt.Errorf("start the manager: %w", err)
	}
	if err := errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping)); err != nil {
		return err
	}
	if err := addReconcilers(mgr, cluster, log); err != nil {
		return err
	}
	log.Info("manager starts", "version", buildinfo.Version)
	return mgr.Start(ctx)
}

// addReconcilers wires one reconciler per request kind.
func addReconcilers(mgr ctrl.Manager, cluster *rest.Config, log *slog.Logger) error {
	watching, err := client.NewWithWatch(cluster, client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("client of the cluster: %w", err)
	}
	anyKind, err := dynamic.NewForConfig(cluster)
	if err != nil {
		return fmt.Errorf("client of the cluster: %w", err)
	}
	kinds, err := discovery.NewDiscoveryClientForConfig(cluster)
	if err != nil {
		return fmt.Errorf("client of the cluster: %w", err)
	}
	reader := mgr.GetAPIReader()
	backups := &controller.Backups{Client: watching, Reader: reader, Config: cluster, Log: log, Now: time.Now,
		Generator: "cairn-extension " + cmp.Or(buildinfo.Version, "dev")}
	restores := controller.Restores{Client: watching, Reader: reader, Cluster: apply.Cluster{Dynamic: anyKind, Discovery: kinds}, Log: log, Now: time.Now,
		Patience: 5 * time.Minute, Interval: time.Second}
	for _, reconciler := range []interface{ SetupWithManager(ctrl.Manager) error }{
		backups,
		&controller.BackupValidations{Backups: backups},
		&controller.Deletions{Client: watching, Reader: reader, Log: log, Now: time.Now},
		&restores,
		&controller.RestoreValidations{Restores: restores},
	} {
		if err := reconciler.SetupWithManager(mgr); err != nil {
			return fmt.Errorf("set up %T: %w", reconciler, err)
		}
	}
	return mgr.Add(&controller.RestoreSweeper{Reader: reader, Cluster: restores.Cluster, Log: log, Now: time.Now, Every: time.Minute})
}
