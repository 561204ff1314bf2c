package inventory_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/inventory"
	"github.com/cairn-backup/cairn/internal/kubetest"
)

var cluster *kubetest.Cluster

func TestMain(m *testing.M) { os.Exit(kubetest.Main(m, &cluster)) }

const pointID = "0123456789abcdef0123456789abcdef"

// memory is storage in memory.
type memory struct {
	mu    sync.Mutex
	blobs map[string][]byte
	full  error // what Create answers
}

func (m *memory) Create(_ context.Context, name string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err := errors.Join(err, m.full); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blobs == nil {
		m.blobs = map[string][]byte{}
	}
	m.blobs[name] = data
	return nil
}

func (m *memory) Open(_ context.Context, name string) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, found := m.blobs[name]
	if !found {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// faults changes the API server's answers on their way.
type faults func(request *http.Request, next http.RoundTripper) (*http.Response, error)

func (f faults) config() *rest.Config {
	c := rest.CopyConfig(cluster.Config)
	if f != nil {
		c.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) { return f(r, next) })
		})
	}
	return c
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }

// status is an answer of an API server.
func status(r *http.Request, code int, reason metav1.StatusReason) (*http.Response, error) {
	body, err := json.Marshal(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: int32(code), Reason: reason, Message: "made by the test"})
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, err
}

// captured is a finished bundle.
type captured struct {
	objects map[string][]map[string]any // by "plural.group"
	kinds   map[string]bundle.Kind
	report  []bundle.Outcome
	done    int64
}

// names returns "namespace/name" of the objects of a kind in the namespaces that begin with prefix.
func (c captured) names(kind, prefix string) []string {
	var names []string
	for _, o := range c.objects[kind] {
		metadata, _ := o["metadata"].(map[string]any)
		namespace, _ := metadata["namespace"].(string)
		name, _ := metadata["name"].(string)
		if strings.HasPrefix(namespace+name, prefix) {
			names = append(names, strings.TrimPrefix(namespace+"/"+name, "/"))
		}
	}
	return names
}

func (c captured) outcome(resource, code string) []bundle.Outcome {
	var found []bundle.Outcome
	for _, o := range c.report {
		if strings.HasPrefix(o.Resource, resource) && o.Code == code {
			found = append(found, o)
		}
	}
	return found
}

// capture makes a bundle and reads it. afterCut runs between the cut and the listing.
func capture(t *testing.T, filter v1alpha1.Filter, f faults, store *memory, afterCut func()) (captured, error) {
	t.Helper()
	ctx := t.Context()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	config := f.config()
	kinds, report, err := inventory.Kinds(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	lister, err := inventory.NewLister(config)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := lister.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	scope := inventory.NewScope(filter)
	_, volumes, err := lister.Claims(ctx, scope, revision)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for name := range volumes {
		names[name] = true
	}
	if afterCut != nil {
		afterCut()
	}
	writer, err := bundle.NewWriter(store, "p/", pointID, 1, key.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Int64
	run := inventory.Capture{Lister: lister, Writer: writer, Kinds: kinds, Scope: scope, Revision: revision, Volumes: names,
		Progress: func(n int64) { done.Add(n) }, Retry: time.Millisecond}
	outcomes, err := run.Run(ctx)
	if err != nil {
		return captured{}, err
	}
	if err := errors.Join(writer.Volumes(ctx, nil), writer.Report(ctx, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Commit(ctx, bundle.RecoveryPoint{}); err != nil {
		t.Fatal(err)
	}
	return read(t, store, key.String(), captured{report: append(report, outcomes...), done: done.Load()}), nil
}

func read(t *testing.T, store *memory, key string, c captured) captured {
	t.Helper()
	reader, err := bundle.NewReader(t.Context(), store, "p/", pointID, key)
	if err != nil {
		t.Fatal(err)
	}
	c.objects, c.kinds = map[string][]map[string]any{}, map[string]bundle.Kind{}
	var total int64
	for _, k := range reader.RecoveryPoint().Kinds {
		name := strings.TrimSuffix(k.Plural+"."+k.Group(), ".")
		c.kinds[name] = k
		for raw, err := range reader.Objects(t.Context(), k) {
			if err != nil {
				t.Fatal(err)
			}
			var object map[string]any
			if err := json.Unmarshal(raw, &object); err != nil {
				t.Fatal(err)
			}
			if object["apiVersion"] != k.APIVersion || object["kind"] != k.Kind {
				t.Errorf("%s: an object says that it is %v %v", name, object["apiVersion"], object["kind"])
			}
			c.objects[name] = append(c.objects[name], object)
			total++
		}
	}
	if c.done != total {
		t.Errorf("progress counted %d objects, the bundle has %d", c.done, total)
	}
	return c
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := cluster.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func configMap(namespace, name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string]string{"text": "a \"quoted\" line\nand another }]"}}
}

func TestTheBundleShowsOneInstant(t *testing.T) {
	create(t, namespace("instant"), configMap("instant", "before"), configMap("instant", "goes"))
	got, err := capture(t, v1alpha1.Filter{}, nil, &memory{}, func() {
		create(t, configMap("instant", "after"))
		if err := cluster.Client.Delete(t.Context(), configMap("instant", "goes")); err != nil {
			t.Fatal(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"instant/before", "instant/goes"}, got.names("configmaps", "instant")); diff != "" {
		t.Error(diff)
	}
}

func TestAllPagesAreRead(t *testing.T) {
	create(t, namespace("pages"))
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 150 {
				create(t, configMap("pages", fmt.Sprintf("m-%d-%d", worker, i)))
			}
		})
	}
	all.Wait()
	got, err := capture(t, v1alpha1.Filter{IncludedNamespaces: []string{"pages"}}, nil, &memory{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.names("configmaps", "pages")); n != 1200 {
		t.Errorf("%d objects, want 1200", n)
	}
}

func TestFilterChoosesNamespacesAndClusterScope(t *testing.T) {
	create(t, namespace("filter-a"), namespace("filter-b"), configMap("filter-a", "x"), configMap("filter-b", "x"))
	cluster.Volume(t, "filter-a", "data", "disk.test")
	cluster.Volume(t, "filter-b", "data", "disk.test")
	cases := map[string]struct {
		filter             v1alpha1.Filter
		maps, spaces, disk []string
		roles              bool
	}{
		"all":                            {v1alpha1.Filter{IncludeClusterScopeResources: true}, []string{"filter-a/x", "filter-b/x"}, []string{"filter-a", "filter-b"}, []string{"pv-filter-a-data", "pv-filter-b-data"}, true},
		"one included, no cluster scope": {v1alpha1.Filter{IncludedNamespaces: []string{"filter-a", "kube-system"}}, []string{"filter-a/x"}, []string{"filter-a"}, []string{"pv-filter-a-data"}, false},
		"one excluded":                   {v1alpha1.Filter{ExcludedNamespaces: []string{"filter-a"}}, []string{"filter-b/x"}, []string{"filter-b"}, []string{"pv-filter-b-data"}, false},
		"many included":                  {v1alpha1.Filter{IncludedNamespaces: []string{"filter-a", "f1", "f2", "f3", "f4"}}, []string{"filter-a/x"}, []string{"filter-a"}, []string{"pv-filter-a-data"}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := capture(t, c.filter, nil, &memory{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := [][]string{c.maps, c.spaces, c.disk}
			have := [][]string{got.names("configmaps", "filter"), got.names("namespaces", "filter"), got.names("persistentvolumes", "pv-filter")}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Error(diff)
			}
			if roles := len(got.objects["clusterroles.rbac.authorization.k8s.io"]) > 0; roles != c.roles {
				t.Errorf("cluster roles taken: %v", roles)
			}
			for _, system := range []string{"kube-system", "kube-public", "kube-node-lease", v1alpha1.Namespace} {
				if names := got.names("namespaces", system); len(names) > 0 {
					t.Errorf("%s is taken", system)
				}
			}
			for _, k := range got.kinds {
				if k.Group() == v1alpha1.Group || k.Plural == "events" || k.Plural == "leases" {
					t.Errorf("kind %s is taken", k.Plural)
				}
			}
		})
	}
}

func TestWhatIsLeftOutIsReported(t *testing.T) {
	labelled, annotated := configMap("left", "labelled"), configMap("left", "annotated")
	labelled.Labels = map[string]string{"velero.io/exclude-from-backup": "true"}
	annotated.Annotations = map[string]string{"velero.io/exclude-from-backup": "true"}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "left", Name: "made",
		Labels: map[string]string{"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}}, AddressType: "IPv4"}
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "left", Name: name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "u", Controller: new(true)}}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}, Volumes: []corev1.Volume{
				{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}},
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}},
			}}}
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "left", Name: "default"}}
	create(t, namespace("left"), account, labelled, annotated, slice, pod("web-1"), pod("web-2"))
	got, err := capture(t, v1alpha1.Filter{IncludedNamespaces: []string{"left", "nowhere"}}, nil, &memory{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if names := got.names("configmaps", "left"); len(names) != 0 {
		t.Errorf("taken although excluded: %v", names)
	}
	counts := map[string]int{}
	var warnings []string
	for _, o := range got.report {
		counts[o.Code]++
		if o.Result.Warning() {
			warnings = append(warnings, o.Resource+" "+o.Code)
		}
	}
	if diff := cmp.Diff([]string{"namespaces/nowhere UserErrorNamespaceNotFound", "pods/left/web-1 VolumeTypeNotSupported"}, warnings); diff != "" {
		t.Error(diff)
	}
	if counts["ExcludedByLabel"] != 2 || counts["VolumeTypeNotSupported"] != 2 || counts["ManagedByControlPlane"] != 1 || counts["KindLeftOutByDesign"] == 0 {
		t.Errorf("outcomes by code: %v", counts)
	}
}

func TestAForgottenRevisionEndsTheAttempt(t *testing.T) {
	gone := faults(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "/secrets") {
			return status(r, http.StatusGone, metav1.StatusReasonExpired)
		}
		return next.RoundTrip(r)
	})
	store := &memory{}
	if _, err := capture(t, v1alpha1.Filter{}, gone, store, nil); !errors.Is(err, inventory.ErrExpired) {
		t.Errorf("got %v, want %v", err, inventory.ErrExpired)
	}
}

func TestAKindThatCannotBeListedIsAWarning(t *testing.T) {
	for name, answer := range map[string]struct {
		code   int
		reason metav1.StatusReason
	}{"forbidden": {403, metav1.StatusReasonForbidden}, "conversion broken": {500, metav1.StatusReasonInternalError}} {
		t.Run(name, func(t *testing.T) {
			broken := faults(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
				if strings.HasSuffix(r.URL.Path, "/secrets") {
					return status(r, answer.code, answer.reason)
				}
				return next.RoundTrip(r)
			})
			got, err := capture(t, v1alpha1.Filter{}, broken, &memory{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			found := got.outcome("secrets", "KindNotListed")
			if len(found) != 1 || !found[0].Result.Warning() || !strings.Contains(found[0].Message, "made by the test") {
				t.Errorf("outcomes %v", found)
			}
		})
	}
}

// cutOff is a body that breaks off after some bytes.
type cutOff struct {
	io.ReadCloser
	left int
}

func (c *cutOff) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("connection reset by the test")
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

func TestAListThatBreaksOffIsReadAgain(t *testing.T) {
	create(t, namespace("cut"))
	for i := range 20 {
		create(t, configMap("cut", fmt.Sprintf("m-%02d", i)))
	}
	var tries atomic.Int32
	breaks := faults(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		answer, err := next.RoundTrip(r)
		if err == nil && strings.HasSuffix(r.URL.Path, "/namespaces/cut/configmaps") && tries.Add(1) < 3 {
			answer.Body = &cutOff{answer.Body, 3000}
		}
		return answer, err
	})
	got, err := capture(t, v1alpha1.Filter{IncludedNamespaces: []string{"cut"}}, breaks, &memory{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.names("configmaps", "cut")); n != 20 || tries.Load() < 3 {
		t.Errorf("%d objects after %d tries, want 20", n, tries.Load())
	}
}

func TestAServerThatIgnoresTheRevisionIsMarked(t *testing.T) {
	ignores := faults(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "/clusterroles") {
			query := r.URL.Query()
			query.Del("resourceVersion")
			query.Del("resourceVersionMatch")
			r = r.Clone(r.Context())
			r.URL.RawQuery = query.Encode()
		}
		return next.RoundTrip(r)
	})
	got, err := capture(t, v1alpha1.Filter{IncludeClusterScopeResources: true}, ignores, &memory{}, func() { create(t, namespace("ignores")) })
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range got.kinds {
		if want := name == "clusterroles.rbac.authorization.k8s.io"; k.Live != want {
			t.Errorf("%s: live %v", name, k.Live)
		}
	}
	if len(got.outcome("clusterroles", "KindListedLive")) != 1 {
		t.Error("the report does not say so")
	}
}

func TestStorageThatFailsEndsTheAttempt(t *testing.T) {
	full := errors.New("disk full")
	if _, err := capture(t, v1alpha1.Filter{}, nil, &memory{full: full}, nil); !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
}
