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
	"github.com/cairn-backup/cairn/internal/apiserver"
	"github.com/cairn-backup/cairn/internal/buildinfo"
	"github.com/cairn-backup/cairn/internal/extension/apply"
	"github.com/cairn-backup/cairn/internal/extension/controller"
)

// managerOptions are the manager's flags.
type managerOptions struct {
	kubeconfig string
	health     string
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
	return cmd
}

func runManager(ctx context.Context, o managerOptions) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	klog.SetSlogLogger(log)
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	cluster, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	cluster.QPS = -1 // the API server's priority and fairness is the governor
	cluster.UserAgent = "cairn-extension/" + buildinfo.Version
	cluster.Wrap(apiserver.NewAsker().Wrap)
	s := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(s), v1alpha1.AddToScheme(s), snapshotv1.AddToScheme(s)); err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(cluster, ctrl.Options{
		Scheme:                 s,
		Cache:                  cache.Options{DefaultNamespaces: map[string]cache.Config{v1alpha1.Namespace: {}}}, // requests live here
		Metrics:                server.Options{BindAddress: "0"},
		HealthProbeBindAddress: o.health,
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
