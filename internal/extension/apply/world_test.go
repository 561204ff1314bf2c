package apply_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	"sigs.k8s.io/yaml"

	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/apply"
	"github.com/cairn-backup/cairn/internal/plan"
)

// world is a real API server with its controllers, but without nodes and storage, and recovery points in a directory.
type world struct {
	cluster apply.Cluster
	store   folder
	key     *age.X25519Identity
}

// newWorld makes a world. Each wrap stands between it and the API server.
func newWorld(t *testing.T, wrap ...transport.WrapperFunc) *world {
	t.Helper()
	config := rest.CopyConfig(server.Config)
	config.QPS, config.Burst = -1, -1
	for _, f := range wrap {
		config.Wrap(f)
	}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return &world{apply.Cluster{Dynamic: d, Discovery: disco}, folder(t.TempDir()), key}
}

// folder is storage in a directory, write-once as the real one.
type folder string

func (f folder) Create(_ context.Context, name string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	file := filepath.Join(string(f), name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	return errors.Join(err, out.Close())
}

func (f folder) Open(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(f), name))
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// kinds lists the kinds that can be listed and created, as a backup does.
func (w *world) kinds(t *testing.T) []bundle.Kind {
	t.Helper()
	lists, err := w.cluster.Discovery.ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	var out []bundle.Kind
	for _, l := range lists {
		for _, r := range l.APIResources {
			if slices.Contains(r.Verbs, "list") && !strings.Contains(r.Name, "/") {
				out = append(out, bundle.Kind{APIVersion: l.GroupVersion, Kind: r.Kind, Plural: r.Name, Namespaced: r.Namespaced})
			}
		}
	}
	return out
}

func gvr(k bundle.Kind) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group(), Version: k.Version(), Resource: k.Plural}
}

// create creates the objects of a text of YAML documents; {NS} is replaced by the test.
func (w *world) create(t *testing.T, text string) {
	t.Helper()
	for _, doc := range strings.Split(text, "\n---") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(o) == 0 {
			continue
		}
		u := &unstructured.Unstructured{Object: o}
		r := w.resource(t, u.GetAPIVersion(), u.GetKind())
		eventually(t, "create "+u.GetKind()+" "+u.GetName(), func() bool {
			_, err := w.cluster.Dynamic.Resource(r).Namespace(u.GetNamespace()).Create(t.Context(), u, metav1.CreateOptions{FieldManager: "kubectl-create"})
			if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) {
				t.Fatalf("create %s %s: %v", u.GetKind(), u.GetName(), err)
			}
			return err == nil || apierrors.IsAlreadyExists(err)
		})
	}
}

func (w *world) resource(t *testing.T, apiVersion, kind string) schema.GroupVersionResource {
	t.Helper()
	var found schema.GroupVersionResource
	eventually(t, apiVersion+" "+kind+" is served", func() bool {
		list, err := w.cluster.Discovery.ServerResourcesForGroupVersion(apiVersion)
		if err != nil {
			return false
		}
		for _, r := range list.APIResources {
			if r.Kind == kind && !strings.Contains(r.Name, "/") {
				gv, err := schema.ParseGroupVersion(apiVersion)
				if err != nil {
					t.Fatal(err)
				}
				found = gv.WithResource(r.Name)
				return true
			}
		}
		return false
	})
	return found
}

func (w *world) get(t *testing.T, r schema.GroupVersionResource, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	o, err := w.cluster.Dynamic.Resource(r).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// all lists the objects that a filter is about: those of the namespaces, and cluster-scoped ones with the label test=name.
func (w *world) all(t *testing.T, label string, namespaces ...string) map[bundle.Kind][]unstructured.Unstructured {
	t.Helper()
	out := map[bundle.Kind][]unstructured.Unstructured{}
	for _, k := range w.kinds(t) {
		list, err := w.cluster.Dynamic.Resource(gvr(k)).List(t.Context(), metav1.ListOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			continue
		}
		if err != nil {
			t.Fatal(k, err)
		}
		for _, o := range list.Items {
			ours := slices.Contains(namespaces, o.GetNamespace()) || o.GetLabels()["test"] == label ||
				k.Kind == "Namespace" && slices.Contains(namespaces, o.GetName())
			if k.Kind == "PersistentVolume" {
				ns, _, _ := unstructured.NestedString(o.Object, "spec", "claimRef", "namespace")
				ours = slices.Contains(namespaces, ns)
			}
			if ours {
				out[k] = append(out[k], o)
			}
		}
	}
	return out
}

var recoveryPoints atomic.Int64

// backup writes a recovery point of objects, and returns its ID.
func (w *world) backup(t *testing.T, objects map[bundle.Kind][]unstructured.Unstructured, volumes ...bundle.Volume) string {
	t.Helper()
	id := fmt.Sprintf("%032x", recoveryPoints.Add(1))
	writer, err := bundle.NewWriter(w.store, "bi/", id, 1, w.key.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	for k, list := range objects {
		lines := writer.Kind(t.Context(), k)
		for _, o := range list {
			text, err := json.Marshal(o.Object)
			if err != nil {
				t.Fatal(err)
			}
			if err := lines.Write(text); err != nil {
				t.Fatal(err)
			}
		}
		if err := lines.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(writer.Volumes(t.Context(), volumes), writer.Report(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Commit(t.Context(), bundle.RecoveryPoint{}); err != nil {
		t.Fatal(err)
	}
	return id
}

// attempt is one attempt at a restore, and its report.
type attempt struct {
	*apply.Restore
	mu    sync.Mutex
	lines []bundle.RestoreOutcome
	// stopAfter cancels the attempt when so many objects have their outcome; 0 means never.
	stopAfter int
	cancel    context.CancelFunc
}

// run makes an attempt. Its error is the one that ended it.
func (w *world) run(t *testing.T, id string, uid types.UID, req plan.Request, change ...func(*attempt, *apply.Options)) (*attempt, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := &attempt{cancel: cancel}
	opts := apply.Options{
		Cluster: w.cluster, UID: uid, Request: req, Log: slog.New(slog.DiscardHandler), Now: time.Now, Workers: 8, Patience: 4 * time.Second, Interval: 200 * time.Millisecond,
		Report: func(o bundle.RestoreOutcome) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.lines = append(a.lines, o)
			if a.stopAfter > 0 && len(a.lines) == a.stopAfter {
				cancel()
			}
			return nil
		},
	}
	for _, f := range change {
		f(a, &opts)
	}
	a.Restore = apply.New(opts)
	rp, err := bundle.NewReader(ctx, apply.CountReads(w.store, a.CountBytes), "bi/", id, w.key.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Plan(ctx, rp); err != nil {
		return a, err
	}
	if err := a.Apply(ctx); err != nil {
		return a, err
	}
	return a, a.Wait(ctx)
}

// outcome finds the one outcome of an object in the report.
func (a *attempt) outcome(t *testing.T, resource string) bundle.RestoreOutcome {
	t.Helper()
	var found []bundle.RestoreOutcome
	for _, l := range a.lines {
		if l.Resource == resource && l.Result != bundle.RestoreWarning && l.Result != bundle.RestoreNote {
			found = append(found, l)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d outcomes: %v", resource, len(found), found)
	}
	return found[0]
}

// warnings are the codes of the warnings, with what they are about.
func (a *attempt) warnings() []string {
	var out []string
	for _, w := range a.Tally().Warnings {
		out = append(out, w.Code+" "+w.Resource)
	}
	slices.Sort(out)
	return out
}

// removeNamespace deletes a namespace and waits until it is gone.
func (w *world) removeNamespace(t *testing.T, name string) {
	t.Helper()
	w.remove(t, schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, "", name)
}

func (w *world) remove(t *testing.T, r schema.GroupVersionResource, namespace, name string) {
	t.Helper()
	none := int64(0)
	err := w.cluster.Dynamic.Resource(r).Namespace(namespace).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &none})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	eventually(t, r.Resource+" "+name+" is gone", func() bool { return w.get(t, r, namespace, name) == nil })
}

// damage changes a byte in the file of a kind.
func (w *world) damage(t *testing.T, id, plural string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(string(w.store), "bi", id, "a1/resources", plural+".*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(files[0], data, 0o644); err != nil {
		t.Fatal(err)
	}
}
