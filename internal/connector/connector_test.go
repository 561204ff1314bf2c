package connector_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	helmstatus "helm.sh/helm/v4/pkg/release/common"
	helmrelease "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/config"
	"github.com/cairn-backup/cairn/internal/connector"
	"github.com/cairn-backup/cairn/internal/kubetest"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/link/linktest"
)

const (
	image   = "registry.test/cairn-extension:1"
	release = "azure-aks-backup"
	ns      = v1alpha1.Namespace
)

// child is set in the environment of this program when it is to be a connector that is killed.
const child = "CAIRN_TEST_CONNECTOR"

// cluster is this package's API server.
var cluster *kubetest.Cluster

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		beConnector()
	}
	os.Exit(kubetest.Main(m, &cluster))
}

// world is a real API server that the connector's manifests were applied to, and a service that the test plays.
type world struct {
	*linktest.Server
	t       *testing.T
	admin   *rest.Config
	typed   kubernetes.Interface
	dynamic dynamic.Interface
	ready   func() error // the connector's that runs
}

func begin(t *testing.T) *world {
	w := &world{Server: linktest.Start(t), t: t, admin: cluster.Config}
	w.typed = kubernetes.NewForConfigOrDie(w.admin)
	w.dynamic = dynamic.NewForConfigOrDie(w.admin)
	w.clean()
	manifests, err := config.ConnectorManifests(config.ConnectorParams{Image: image, Credential: w.Credential()})
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discovery.NewDiscoveryClientForConfigOrDie(w.admin)))
	for _, o := range manifests {
		m, err := mapper.RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
		if err != nil {
			t.Fatal(err)
		}
		var objects dynamic.ResourceInterface = w.dynamic.Resource(m.Resource)
		if m.Scope.Name() == meta.RESTScopeNameNamespace {
			objects = w.dynamic.Resource(m.Resource).Namespace(o.GetNamespace())
		}
		if _, err := objects.Apply(t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: "cairn", Force: true}); err != nil {
			t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	return w
}

// clean removes what earlier tests left, the request kinds included.
func (w *world) clean() {
	w.t.Helper()
	ctx, all := w.t.Context(), metav1.ListOptions{}
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	gone := func(errs ...error) {
		w.t.Helper()
		for _, err := range errs {
			if err != nil && !apierrors.IsNotFound(err) {
				w.t.Fatal(err)
			}
		}
	}
	gone(
		w.typed.AppsV1().Deployments(ns).DeleteCollection(ctx, now, all),
		w.typed.CoreV1().Secrets(ns).DeleteCollection(ctx, now, all),
		w.typed.CoreV1().ConfigMaps(ns).DeleteCollection(ctx, now, all),
		w.typed.CoreV1().ServiceAccounts(ns).DeleteCollection(ctx, now, all),
		w.typed.RbacV1().RoleBindings(ns).DeleteCollection(ctx, now, all),
		w.typed.RbacV1().ClusterRoleBindings().Delete(ctx, "cairn-extension", now),
	)
	crds, err := config.CRDs()
	gone(err)
	definitions := w.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for _, crd := range crds {
		gone(definitions.Delete(ctx, crd.GetName(), now))
	}
	looks := 0
	w.eventually("the request kinds are gone", func() bool {
		left := false
		for _, crd := range crds {
			if !w.exists(definitions.Get(ctx, crd.GetName(), metav1.GetOptions{})) {
				continue
			}
			left = true
			// An API server can overlook a deletion soon after the definition was made: its finalizer meets a conflict with another of its controllers, and
			// waits for a change that has been already. Any change makes it look again, else its resync after five minutes.
			if looks++; looks%100 == 0 {
				touch := fmt.Sprintf(`{"metadata":{"annotations":{"touched":"%d"}}}`, looks)
				_, err := definitions.Patch(ctx, crd.GetName(), types.MergePatchType, []byte(touch), metav1.PatchOptions{})
				gone(err)
			}
		}
		return !left
	})
}

// asConnector is the way to the API server with the connector's rights and no more.
func (w *world) asConnector() *rest.Config {
	c := rest.CopyConfig(w.admin)
	c.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + ns + ":" + config.ConnectorName,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + ns, "system:authenticated"},
	}
	return c
}

// connect runs a connector until the returned function is called, or the test ends.
func (w *world) connect() (stop func()) {
	c := &connector.Connector{
		Link:    &link.Client{Credential: func() (link.Credential, error) { return w.Credential(), nil }},
		Cluster: w.asConnector(),
		Image:   image,
		Version: "1.0.0",
		Log:     slog.New(slog.NewTextHandler(w.t.Output(), nil)),
		Now:     time.Now,
	}
	w.ready = c.Ready
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("connector: %v", err)
		}
	}
	w.t.Cleanup(stop)
	return stop
}

// eventually returns when ok does, and fails the test after three minutes.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.After(3 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("in vain: %s", what)
		}
	}
}

func (w *world) objects(kind string) dynamic.ResourceInterface {
	gvr := v1alpha1.GroupVersion.WithResource(strings.ToLower(kind) + "s")
	return w.dynamic.Resource(gvr).Namespace(ns)
}

// exists reports whether an object is there; any error but "not found" fails the test.
func (w *world) exists(_ any, err error) bool {
	if err != nil && !apierrors.IsNotFound(err) {
		w.t.Fatal(err)
	}
	return err == nil
}

// setStatus is what the extension does.
func (w *world) setStatus(kind, name string, status map[string]any) {
	w.t.Helper()
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.objects(kind).Patch(w.t.Context(), name, "application/merge-patch+json", patch, metav1.PatchOptions{}, "status"); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) deployment() *appsv1.Deployment {
	w.t.Helper()
	d, err := w.typed.AppsV1().Deployments(ns).Get(w.t.Context(), config.ExtensionDeployment, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// startPods is what Kubernetes does: the Deployment's pods are ready, or not.
func (w *world) startPods(ready bool) {
	w.t.Helper()
	d := w.deployment()
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, UpdatedReplicas: 1}
	if ready {
		d.Status.ReadyReplicas, d.Status.AvailableReplicas = 1, 1
	} else {
		d.Status.UnavailableReplicas = 1
	}
	if _, err := w.typed.AppsV1().Deployments(ns).UpdateStatus(w.t.Context(), d, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func extension(generation int64, settings map[string]string) *link.Extension {
	return &link.Extension{Name: release, Generation: generation, Settings: settings, ContainerURL: "https://10.0.0.1:8444/a/c", SAS: "sig=first", CABundle: "pem"}
}

func is(state string, generation int64) func(linktest.View) bool {
	return func(v linktest.View) bool {
		e := v.Last.Extension
		return e != nil && e.State == state && e.Generation == generation
	}
}

func backup(name string) link.Request {
	return link.Request{Kind: "Backup", Name: name, Spec: json.RawMessage(`{"recoveryPointID":"0123456789abcdef0123456789abcdef",
		"location":{"prefix":"p/"},"recipient":"age1x","filter":{"includeClusterScopeResources":true},"snapshotVolumes":true}`)}
}

func restore(name string) link.Request {
	return link.Request{Kind: "Restore", Name: name, Secret: map[string]string{"identity": "AGE-SECRET-KEY-1X"}, Spec: json.RawMessage(
		`{"recoveryPointID":"0123456789abcdef0123456789abcdef","location":{"prefix":"p/"},"identitySecret":"` + name + `",
		"filter":{"includeClusterScopeResources":true},"conflictPolicy":"Skip","restoreVolumeData":true}`)}
}

func TestExtensionComesChangesAndGoes(t *testing.T) {
	w := begin(t)
	w.connect()
	w.Await(t, "a first report", func(v linktest.View) bool {
		return v.Reports > 0 && v.Last.Extension == nil && v.Last.KubernetesVersion != ""
	})

	w.Wish(func(d *link.Desired) { d.Extension = extension(1, map[string]string{"memoryLimit": "2Gi"}) })
	v := w.Await(t, "installing", is(link.ExtensionInstalling, 1))
	if v.Last.Extension.Version != "1.0.0" || v.Last.Extension.Message == "" {
		t.Errorf("%+v", v.Last.Extension)
	}
	w.startPods(true)
	w.Await(t, "ready", is(link.ExtensionReady, 1))
	c := w.deployment().Spec.Template.Spec.Containers[0]
	if c.Image != image || c.Resources.Limits.Memory().String() != "2Gi" || c.Resources.Limits.Cpu().String() != "1" {
		t.Errorf("%s %v", c.Image, c.Resources)
	}
	secret, err := w.typed.CoreV1().Secrets(ns).Get(t.Context(), v1alpha1.SecretStorage, metav1.GetOptions{})
	if err != nil || string(secret.Data["sas"]) != "sig=first" || string(secret.Data["ca.crt"]) != "pem" {
		t.Errorf("storage secret: %v", err)
	}
	configMap, err := w.typed.CoreV1().ConfigMaps(ns).Get(t.Context(), v1alpha1.ConfigMapStorage, metav1.GetOptions{})
	if err != nil || configMap.Data["containerURL"] != "https://10.0.0.1:8444/a/c" {
		t.Errorf("storage config map: %v", err)
	}

	t.Run("new credentials without a new release", func(t *testing.T) {
		before := w.deployment()
		w.Wish(func(d *link.Desired) { e := *d.Extension; e.SAS = "sig=second"; e.CABundle = ""; d.Extension = &e })
		w.eventually("the new credentials", func() bool {
			s, err := w.typed.CoreV1().Secrets(ns).Get(t.Context(), v1alpha1.SecretStorage, metav1.GetOptions{})
			return err == nil && string(s.Data["sas"]) == "sig=second" && s.Data["ca.crt"] == nil
		})
		if after := w.deployment(); after.ResourceVersion != before.ResourceVersion {
			t.Error("the Deployment was touched")
		}
	})

	t.Run("pods that stop answering", func(t *testing.T) {
		w.startPods(false)
		w.Await(t, "installing again", is(link.ExtensionInstalling, 1))
		w.startPods(true)
		w.Await(t, "ready again", is(link.ExtensionReady, 1))
	})

	t.Run("other settings", func(t *testing.T) {
		w.Wish(func(d *link.Desired) { d.Extension = extension(2, map[string]string{"memoryLimit": "3Gi"}) })
		// Kubernetes still shows the old pods as available: that is not an answer to the new generation.
		w.Await(t, "installing the second", is(link.ExtensionInstalling, 2))
		w.startPods(true)
		w.Await(t, "ready with the second", is(link.ExtensionReady, 2))
		if got := w.deployment().Spec.Template.Spec.Containers[0].Resources.Limits.Memory().String(); got != "3Gi" {
			t.Errorf("memory limit %s", got)
		}
	})

	t.Run("settings that make no sense", func(t *testing.T) {
		w.Wish(func(d *link.Desired) { d.Extension = extension(3, map[string]string{"memoryLimit": "plenty"}) })
		v := w.Await(t, "failed", is(link.ExtensionFailed, 3))
		if !strings.Contains(v.Last.Extension.Message, "memory") {
			t.Errorf("%q does not say what is wrong", v.Last.Extension.Message)
		}
		w.Wish(func(d *link.Desired) { d.Extension = extension(4, map[string]string{"memoryLimit": "100Mi"}) })
		v = w.Await(t, "failed by the API server", is(link.ExtensionFailed, 4))
		if !strings.Contains(v.Last.Extension.Message, "must be less than or equal to memory limit") {
			t.Errorf("%q does not say what is wrong", v.Last.Extension.Message)
		}
		w.Wish(func(d *link.Desired) { d.Extension = extension(5, nil) })
		w.Await(t, "installing after all", is(link.ExtensionInstalling, 5))
		w.startPods(true)
		w.Await(t, "ready after all", is(link.ExtensionReady, 5))
	})

	t.Run("a Deployment that somebody deleted", func(t *testing.T) {
		uid := w.deployment().UID
		if err := w.typed.AppsV1().Deployments(ns).Delete(t.Context(), config.ExtensionDeployment, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.eventually("the Deployment is back", func() bool {
			d, err := w.typed.AppsV1().Deployments(ns).Get(t.Context(), config.ExtensionDeployment, metav1.GetOptions{})
			return err == nil && d.UID != uid
		})
		w.startPods(true)
		w.Await(t, "ready", is(link.ExtensionReady, 5))
	})

	w.Wish(func(d *link.Desired) { d.Extension = nil })
	w.Await(t, "gone", func(v linktest.View) bool { return v.Last.Extension == nil })
	w.assertNothingInstalled()
}

// assertNothingInstalled checks that of an uninstalled extension only the request kinds are left.
func (w *world) assertNothingInstalled() {
	w.t.Helper()
	ctx, get := w.t.Context(), metav1.GetOptions{}
	for what, there := range map[string]bool{
		"deployment":         w.exists(w.typed.AppsV1().Deployments(ns).Get(ctx, config.ExtensionDeployment, get)),
		"service account":    w.exists(w.typed.CoreV1().ServiceAccounts(ns).Get(ctx, "cairn-extension", get)),
		"cluster binding":    w.exists(w.typed.RbacV1().ClusterRoleBindings().Get(ctx, "cairn-extension", get)),
		"storage secret":     w.exists(w.typed.CoreV1().Secrets(ns).Get(ctx, v1alpha1.SecretStorage, get)),
		"storage config map": w.exists(w.typed.CoreV1().ConfigMaps(ns).Get(ctx, v1alpha1.ConfigMapStorage, get)),
	} {
		if there {
			w.t.Errorf("the %s is left", what)
		}
	}
	secrets, err := w.typed.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil || len(secrets.Items) > 0 {
		w.t.Errorf("%d Helm records are left, %v", len(secrets.Items), err)
	}
	for _, kind := range []string{"Backup", "Restore", "DeleteBackup", "ValidateForBackup", "ValidateForRestore"} {
		if _, err := w.objects(kind).List(ctx, metav1.ListOptions{}); err != nil {
			w.t.Errorf("the kind %s is gone: %v", kind, err)
		}
	}
}

func TestExtensionEndsItsRequestsBeforeItGoes(t *testing.T) {
	w := begin(t)
	w.connect()
	w.Wish(func(d *link.Desired) { d.Extension, d.Requests = extension(1, nil), []link.Request{backup("b1")} })
	w.Await(t, "installing", is(link.ExtensionInstalling, 1))
	w.startPods(true)
	w.Await(t, "ready", is(link.ExtensionReady, 1))
	finalizers := func(list string) {
		t.Helper()
		_, err := w.objects("Backup").Patch(t.Context(), "b1", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":`+list+`}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("the request", func() bool { return w.exists(w.objects("Backup").Get(t.Context(), "b1", metav1.GetOptions{})) })
	finalizers(`["clusterbackup.dataprotection.microsoft.com/backup"]`)
	w.Wish(func(d *link.Desired) { d.Extension, d.Requests = nil, nil })
	w.eventually("the request is being removed", func() bool {
		b, err := w.objects("Backup").Get(t.Context(), "b1", metav1.GetOptions{})
		return err == nil && b.GetDeletionTimestamp() != nil
	})
	w.Await(t, "uninstalling", is(link.ExtensionUninstalling, 0))
	if w.deployment().DeletionTimestamp != nil {
		t.Error("the extension was uninstalled before it had ended its request")
	}
	finalizers(`[]`)
	w.Await(t, "gone", func(v linktest.View) bool { return v.Last.Extension == nil })
	w.assertNothingInstalled()
}

func TestRequestsAreCarriedAndRemoved(t *testing.T) {
	w := begin(t)
	stop := w.connect()
	w.Wish(func(d *link.Desired) { d.Requests = []link.Request{backup("b1"), restore("r1")} })
	w.Await(t, "both are known", func(v linktest.View) bool {
		return v.Requests["b1"].Kind == "Backup" && v.Requests["r1"].Kind == "Restore"
	})

	r1, err := w.objects("Restore").Get(t.Context(), "r1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("the identity is owned by its restore", func() bool {
		s, err := w.typed.CoreV1().Secrets(ns).Get(t.Context(), "r1", metav1.GetOptions{})
		return err == nil && string(s.Data["identity"]) == "AGE-SECRET-KEY-1X" &&
			len(s.OwnerReferences) == 1 && s.OwnerReferences[0].UID == r1.GetUID()
	})

	t.Run("progress is told as it is", func(t *testing.T) {
		w.setStatus("Backup", "b1", map[string]any{"phase": "InProgress", "progress": map[string]any{"bytes": int64(9007199254740993)}})
		v := w.Await(t, "progress", func(v linktest.View) bool { return strings.Contains(string(v.Requests["b1"].Status), "InProgress") })
		if !strings.Contains(string(v.Requests["b1"].Status), "9007199254740993") {
			t.Errorf("%s", v.Requests["b1"].Status)
		}
	})

	t.Run("what it did not make it does not touch", func(t *testing.T) {
		mine := w.raw("Backup", "mine")
		if _, err := w.objects("Backup").Create(t.Context(), mine, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("a service that is away deletes nothing", func(t *testing.T) {
		stop()
		w.SetFailing(true)
		calls := w.View().Logins
		stop = w.connect()
		w.Await(t, "the connector tries", func(v linktest.View) bool { return v.Logins > calls })
		if !w.exists(w.objects("Backup").Get(t.Context(), "b1", metav1.GetOptions{})) {
			t.Error("b1 was deleted")
		}
		if err := w.ready(); err == nil {
			t.Error("ready without a service")
		}
		reports := w.View().Reports
		w.SetFailing(false)
		w.Await(t, "all is reported after a start", func(v linktest.View) bool { return v.Reports > reports && len(v.Last.Requests) == 2 })
		w.eventually("ready again", func() bool { return w.ready() == nil })
	})

	t.Run("an end", func(t *testing.T) {
		w.setStatus("Backup", "b1", map[string]any{"phase": "Completed", "committed": true})
		w.Await(t, "the end", func(v linktest.View) bool { return strings.Contains(string(v.Requests["b1"].Status), "Completed") })
		if !w.exists(w.objects("Backup").Get(t.Context(), "b1", metav1.GetOptions{})) {
			t.Error("b1 was deleted before the service had acknowledged its end")
		}
		w.Wish(func(d *link.Desired) { d.Requests = []link.Request{restore("r1")} })
		w.eventually("b1 is removed", func() bool { return !w.exists(w.objects("Backup").Get(t.Context(), "b1", metav1.GetOptions{})) })
	})

	t.Run("a service that forgot an end is told again", func(t *testing.T) {
		w.setStatus("Restore", "r1", map[string]any{"phase": "Failed"})
		w.Await(t, "the end", func(v linktest.View) bool { return strings.Contains(string(v.Requests["r1"].Status), "Failed") })
		reports := w.View().Reports
		w.Wish(func(*link.Desired) {})
		w.Await(t, "the end, again", func(v linktest.View) bool { return v.Reports > reports && len(v.Last.Requests) == 1 })
	})

	t.Run("an end is told though its object was deleted", func(t *testing.T) {
		w.Wish(func(d *link.Desired) { d.Requests = []link.Request{backup("b2")} })
		w.Await(t, "it is known", func(v linktest.View) bool { return v.Requests["b2"].Kind == "Backup" })
		w.SetFailing(true)
		w.setStatus("Backup", "b2", map[string]any{"phase": "Completed", "committed": true})
		if err := w.objects("Backup").Delete(t.Context(), "b2", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.SetFailing(false)
		w.Await(t, "the end", func(v linktest.View) bool { return strings.Contains(string(v.Requests["b2"].Status), "Completed") })
		if w.exists(w.objects("Backup").Get(t.Context(), "b2", metav1.GetOptions{})) {
			t.Error("b2 was made anew, and had ended")
		}
	})

	t.Run("a request that is withdrawn goes, and its end is told", func(t *testing.T) {
		w.Wish(func(d *link.Desired) { d.Requests = []link.Request{backup("b3")} })
		w.Await(t, "it is known", func(v linktest.View) bool { return v.Requests["b3"].Kind == "Backup" })
		finalizers := func(list string) {
			t.Helper()
			if _, err := w.objects("Backup").Patch(t.Context(), "b3", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":`+list+`}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		finalizers(`["clusterbackup.dataprotection.microsoft.com/backup"]`) // as the extension does when it begins
		withdrawn, never := backup("b3"), restore("r3")
		withdrawn.Withdrawn, never.Withdrawn = true, true
		w.Wish(func(d *link.Desired) { d.Requests = []link.Request{withdrawn, never} })
		w.eventually("it is being removed", func() bool {
			u, err := w.objects("Backup").Get(t.Context(), "b3", metav1.GetOptions{})
			return err == nil && u.GetDeletionTimestamp() != nil
		})
		v := w.Await(t, "one that never had an object has failed", func(v linktest.View) bool { return strings.Contains(string(v.Requests["r3"].Status), "Failed") })
		if !strings.Contains(string(v.Requests["r3"].Status), v1alpha1.CodeDeleted) || w.exists(w.objects("Restore").Get(t.Context(), "r3", metav1.GetOptions{})) {
			t.Errorf("the request that was never made: %s", v.Requests["r3"].Status)
		}
		if strings.Contains(string(v.Requests["b3"].Status), "Failed") {
			t.Errorf("b3 has not ended: %s", v.Requests["b3"].Status)
		}
		w.setStatus("Backup", "b3", map[string]any{"phase": "Failed", "errors": []any{map[string]any{"code": "Undone", "message": "it is undone"}}})
		finalizers(`[]`)
		w.Await(t, "its end", func(v linktest.View) bool { return strings.Contains(string(v.Requests["b3"].Status), "Undone") })
		w.eventually("it is gone", func() bool { return !w.exists(w.objects("Backup").Get(t.Context(), "b3", metav1.GetOptions{})) })
	})

	t.Run("a Secret that was not tied to its object goes with it", func(t *testing.T) {
		stop()
		// As a connector leaves it that is killed in between, and is away until the restore has ended.
		left := &corev1.Secret{}
		left.Name, left.Labels = "r2", map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByConnector}
		if _, err := w.typed.CoreV1().Secrets(ns).Create(t.Context(), left, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		ended := w.raw("Restore", "r2")
		ended.SetLabels(left.Labels)
		var spec map[string]any
		if err := json.Unmarshal(restore("r2").Spec, &spec); err != nil {
			t.Fatal(err)
		}
		ended.Object["spec"] = spec
		if _, err := w.objects("Restore").Create(t.Context(), ended, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.setStatus("Restore", "r2", map[string]any{"phase": "Completed"})
		w.Wish(func(d *link.Desired) { d.Requests = []link.Request{restore("r2")} })
		stop = w.connect()
		w.Await(t, "the end", func(v linktest.View) bool { return strings.Contains(string(v.Requests["r2"].Status), "Completed") })
		w.Wish(func(d *link.Desired) { d.Requests = nil })
		w.eventually("both are gone", func() bool {
			return !w.exists(w.objects("Restore").Get(t.Context(), "r2", metav1.GetOptions{})) &&
				!w.exists(w.typed.CoreV1().Secrets(ns).Get(t.Context(), "r2", metav1.GetOptions{}))
		})
	})

	t.Run("a Secret without its object is removed at the next start", func(t *testing.T) {
		stop()
		left := &corev1.Secret{}
		left.Name, left.Labels = "r0", map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByConnector}
		if _, err := w.typed.CoreV1().Secrets(ns).Create(t.Context(), left, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.connect()
		w.eventually("the Secret is gone", func() bool {
			return !w.exists(w.typed.CoreV1().Secrets(ns).Get(t.Context(), "r0", metav1.GetOptions{}))
		})
		if !w.exists(w.objects("Backup").Get(t.Context(), "mine", metav1.GetOptions{})) {
			t.Error("a Backup that the connector did not make was deleted")
		}
	})
}

// raw is a request object as a user would make it.
func (w *world) raw(kind, name string) *unstructured.Unstructured {
	var spec map[string]any
	if err := json.Unmarshal(backup(name).Spec, &spec); err != nil {
		w.t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	u.SetName(name)
	return u
}

func TestRefusedRequestFailsInTheClustersWords(t *testing.T) {
	w := begin(t)
	w.connect()
	bad := restore("bad")
	bad.Spec = json.RawMessage(strings.Replace(string(bad.Spec), "Skip", "Explode", 1))
	newer := backup("newer")
	newer.Spec = json.RawMessage(`{"unheardOf":1,` + string(newer.Spec[1:]))
	w.Wish(func(d *link.Desired) {
		d.Requests = []link.Request{bad, newer, {Kind: "Dance", Name: "dance", Spec: json.RawMessage(`{}`)}, backup("good")}
	})
	for name, words := range map[string]string{"bad": "conflictPolicy", "newer": "unheardOf", "dance": "does not know the kind"} {
		v := w.Await(t, name+" has failed", func(v linktest.View) bool { return v.Requests[name].Name != "" })
		var s v1alpha1.Status
		if err := json.Unmarshal(v.Requests[name].Status, &s); err != nil {
			t.Fatal(err)
		}
		if s.Phase != v1alpha1.PhaseFailed || len(s.Errors) != 1 || s.Errors[0].Code != connector.IssueRequestRefused || !strings.Contains(s.Errors[0].Message, words) {
			t.Errorf("%s: %s", name, v.Requests[name].Status)
		}
	}
	w.Await(t, "the good one is made", func(v linktest.View) bool { return v.Requests["good"].Name != "" })
	if w.exists(w.typed.CoreV1().Secrets(ns).Get(t.Context(), "bad", metav1.GetOptions{})) {
		t.Error("the refused restore's identity is left")
	}
}

func TestPodsObeyTheRestrictedStandard(t *testing.T) {
	w := begin(t)
	w.connect()
	w.Wish(func(d *link.Desired) { d.Extension = extension(1, nil) })
	w.Await(t, "installing", is(link.ExtensionInstalling, 1))
	try := func(template corev1.PodTemplateSpec) error {
		template.Spec.ServiceAccountName = ""
		_, err := w.typed.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "x-"}, Spec: template.Spec,
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	list, err := w.typed.AppsV1().Deployments(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("%d Deployments, %v", len(list.Items), err)
	}
	if _, err := w.typed.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for _, d := range list.Items {
		if err := try(d.Spec.Template); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
		c := d.Spec.Template.Spec.Containers[0]
		if !*c.SecurityContext.ReadOnlyRootFilesystem || c.LivenessProbe == nil || c.ReadinessProbe == nil || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s: %+v", d.Name, c)
		}
		c.SecurityContext.Capabilities = nil
		if err := try(d.Spec.Template); !apierrors.IsForbidden(err) {
			t.Errorf("%s: the standard is not enforced: %v", d.Name, err)
		}
	}
}

func TestConnectorMayDoNoMoreThanItsWork(t *testing.T) {
	w := begin(t)
	as := dynamic.NewForConfigOrDie(w.asConnector())
	typed := kubernetes.NewForConfigOrDie(w.asConnector())
	binding := func(name, role string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": name},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
			"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": config.ConnectorName, "namespace": ns}},
		}}
	}
	bindings := as.Resource(schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"})
	apply := metav1.ApplyOptions{FieldManager: "test", Force: true}
	for what, try := range map[string]func() error{
		"bind cluster-admin": func() error {
			_, err := bindings.Apply(t.Context(), "cairn-extension", binding("cairn-extension", "cluster-admin"), apply)
			return err
		},
		"bind under another name": func() error {
			_, err := bindings.Apply(t.Context(), "other", binding("other", "cairn-extension"), apply)
			return err
		},
		"read Secrets elsewhere": func() error {
			_, err := typed.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{})
			return err
		},
		"list pods elsewhere": func() error {
			_, err := typed.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
			return err
		},
		"delete a request kind": func() error {
			return as.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).
				Delete(t.Context(), "backups."+v1alpha1.Group, metav1.DeleteOptions{})
		},
		"make another Deployment": func() error {
			d := &appsv1.Deployment{}
			d.Name = "other"
			_, err := typed.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{})
			return err
		},
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// childOptions is what a connector in a process of its own is told.
type childOptions struct {
	Credential link.Credential
	Cluster    struct {
		Host, User    string
		CA, Cert, Key []byte
		Groups        []string
	}
}

// beConnector is a connector in a process of its own, which can be killed.
func beConnector() {
	var o childOptions
	if err := json.Unmarshal([]byte(os.Getenv(child)), &o); err != nil {
		panic(err)
	}
	c := &connector.Connector{
		Link: &link.Client{Credential: func() (link.Credential, error) { return o.Credential, nil }},
		Cluster: &rest.Config{
			Host:            o.Cluster.Host,
			TLSClientConfig: rest.TLSClientConfig{CAData: o.Cluster.CA, CertData: o.Cluster.Cert, KeyData: o.Cluster.Key},
			Impersonate:     rest.ImpersonationConfig{UserName: o.Cluster.User, Groups: o.Cluster.Groups},
		},
		Image:   image,
		Version: "1.0.0",
		Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Now:     time.Now,
	}
	if err := c.Run(context.Background()); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// startChild starts a connector that can be killed; kill returns when it is dead.
func (w *world) startChild() (kill func()) {
	w.t.Helper()
	as := w.asConnector()
	var o childOptions
	o.Credential = w.Credential()
	o.Cluster.Host, o.Cluster.User, o.Cluster.Groups = as.Host, as.Impersonate.UserName, as.Impersonate.Groups
	o.Cluster.CA, o.Cluster.Cert, o.Cluster.Key = as.CAData, as.CertData, as.KeyData
	env, err := json.Marshal(o)
	if err != nil {
		w.t.Fatal(err)
	}
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		w.t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), child+"="+string(env))
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	dead := false
	kill = func() {
		if dead {
			return
		}
		dead = true
		if err := cmd.Process.Kill(); err != nil {
			w.t.Error(err)
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			w.t.Errorf("the connector ended by itself: %v\n%s", err, log.String())
		}
	}
	w.t.Cleanup(kill)
	return kill
}

// where says how far a killed connector had come.
func (w *world) where() string {
	w.t.Helper()
	secrets, err := w.typed.CoreV1().Secrets(ns).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	var at []string
	for _, s := range secrets.Items {
		switch {
		case s.Labels["owner"] == "helm":
			at = append(at, "release "+s.Labels["version"]+" "+s.Labels["status"])
		case s.Name != config.ConnectorName:
			at = append(at, fmt.Sprintf("secret %s with %d owners", s.Name, len(s.OwnerReferences)))
		}
	}
	return strings.Join(at, ", ")
}

func TestKilledAnywhereEndsRight(t *testing.T) {
	w := begin(t)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for round := range int64(12) {
		w.Wish(func(d *link.Desired) {
			d.Extension, d.Requests = nil, nil
			if round%4 != 3 {
				d.Extension = extension(round, map[string]string{"memoryLimit": fmt.Sprintf("%dMi", 1000+round)})
				d.Requests = []link.Request{backup(fmt.Sprintf("b%d", round)), restore(fmt.Sprintf("r%d", round))}
			}
		})
		kill := w.startChild()
		calls := w.View().Calls
		w.Await(t, "the connector is at work", func(v linktest.View) bool { return v.Calls > calls })
		// The moment is what is tested: anywhere in the second in which everything happens.
		<-time.After(time.Duration(random.IntN(700)) * time.Millisecond)
		kill()
		t.Logf("round %d: killed at %s", round, w.where())
	}
	w.Wish(func(d *link.Desired) {
		d.Extension = extension(99, nil)
		d.Requests = []link.Request{backup("last")}
	})
	w.connect()
	w.Await(t, "installing", is(link.ExtensionInstalling, 99))
	w.startPods(true)
	w.Await(t, "ready", is(link.ExtensionReady, 99))
	w.eventually("only the last request is left", func() bool {
		backups, err := w.objects("Backup").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		restores, err := w.objects("Restore").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(backups.Items) == 1 && backups.Items[0].GetName() == "last" && len(restores.Items) == 0
	})
	w.Wish(func(d *link.Desired) { d.Extension, d.Requests = nil, nil })
	w.Await(t, "gone", func(v linktest.View) bool { return v.Last.Extension == nil })
	w.assertNothingInstalled()
}

// A Helm release that its installer was killed over is "pending", and Helm by itself refuses to touch it ever again.
func TestInterruptedReleaseIsTakenUp(t *testing.T) {
	w := begin(t)
	stop := w.connect()
	w.Wish(func(d *link.Desired) { d.Extension = extension(1, nil) })
	w.Await(t, "installing", is(link.ExtensionInstalling, 1))
	stop()
	records := storage.Init(driver.NewSecrets(w.typed.CoreV1().Secrets(ns)))
	last, err := records.Last(release)
	if err != nil {
		t.Fatal(err)
	}
	last.(*helmrelease.Release).SetStatus(helmstatus.StatusPendingInstall, "")
	if err := records.Update(last); err != nil {
		t.Fatal(err)
	}
	if err := w.typed.AppsV1().Deployments(ns).Delete(t.Context(), config.ExtensionDeployment, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.connect()
	w.eventually("the Deployment is there", func() bool {
		return w.exists(w.typed.AppsV1().Deployments(ns).Get(t.Context(), config.ExtensionDeployment, metav1.GetOptions{}))
	})
	w.startPods(true)
	w.Await(t, "ready", is(link.ExtensionReady, 1))
}
