package apply_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/apply"
	"github.com/cairn-backup/cairn/internal/plan"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }

// refusal is what an admission webhook makes the API server answer.
func refusal(r *http.Request) *http.Response {
	body := `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "admission webhook \"no.example.com\" denied the request"}`
	return &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}
}

func isRequest(r *http.Request, method, resource string) bool {
	return r.Method == method && strings.Contains(r.URL.Path, "/"+resource)
}

// claimWorld is a namespace with a claim, whose name is that of the namespace, in a recovery point and nowhere else. between stands before the API server.
func claimWorld(t *testing.T, ns string, between func(*http.Request) *http.Response) (w *world, id string) {
	t.Helper()
	w = newWorld(t, func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if answer := between(r); answer != nil {
				return answer, nil
			}
			return next.RoundTrip(r)
		})
	})
	w.create(t, strings.ReplaceAll(`{apiVersion: v1, kind: Namespace, metadata: {name: {NS}}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: {NS}}, provisioner: fake.csi.example.com}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: {NS}, namespace: {NS}}, spec: {accessModes: [ReadWriteOnce], storageClassName: {NS}, resources: {requests: {storage: 1Gi}}}}`, "{NS}", ns))
	id = w.backup(t, w.all(t, "-", ns), volumeRecord(ns, ns, 0))
	w.removeNamespace(t, ns)
	t.Cleanup(func() {
		w := newWorld(t)
		for r, namespace := range map[schema.GroupVersionResource]string{{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}: "", namespaceResource: ""} {
			if err := w.cluster.Dynamic.Resource(r).Namespace(namespace).Delete(context.Background(), ns, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		}
	})
	return w, id
}

// sweep sweeps what one restore left, as if those of all other tests ran.
func (w *world) sweep(t *testing.T, uid types.UID, running bool) (int, error) {
	t.Helper()
	return apply.Sweep(t.Context(), w.cluster, time.Now(), func(ctx context.Context) (map[types.UID]bool, error) {
		busy := map[types.UID]bool{}
		list, err := w.cluster.Dynamic.Resource(contentResource).List(ctx, metav1.ListOptions{LabelSelector: apply.RestoreLabel})
		if err != nil {
			return nil, err
		}
		for _, content := range list.Items {
			busy[types.UID(content.GetLabels()[apply.RestoreLabel])] = true
		}
		busy[uid] = running
		return busy, nil
	})
}

func TestSnapshotObjectsThatCannotBeRemovedFailNoRestore(t *testing.T) {
	t.Parallel()
	const ns, uid = "unremovable", types.UID("11111111-0000-4000-8000-000000000020")
	var allowed atomic.Bool
	w, id := claimWorld(t, ns, func(r *http.Request) *http.Response {
		if !allowed.Load() && isRequest(r, http.MethodDelete, "volumesnapshots/") {
			return refusal(r)
		}
		return nil
	})
	w.withProvisioner(t, ns)
	a, err := w.run(t, id, uid, plan.Request{RestoreVolumeData: true})
	if err != nil {
		t.Fatal(err)
	}
	if tally := a.Tally(); tally.Volumes != 1 || tally.WarningCount != 0 {
		t.Errorf("tally: %+v", tally)
	}
	allowed.Store(true)
	n, err := w.sweep(t, uid, false)
	if n != 1 || err != nil {
		t.Errorf("swept %d, %v; want 1", n, err)
	}
}

func TestAClaimThatIsRefusedFailsAloneThoughItsSnapshotObjectsStay(t *testing.T) {
	t.Parallel()
	const ns, uid = "turned-down", types.UID("11111111-0000-4000-8000-000000000021")
	w, id := claimWorld(t, ns, func(r *http.Request) *http.Response {
		if !isRequest(r, http.MethodDelete, "volumesnapshots/") && !(isRequest(r, http.MethodPost, "persistentvolumeclaims") && bodyHas(r, "dataSource")) {
			return nil
		}
		return refusal(r)
	})
	a, err := w.run(t, id, uid, plan.Request{RestoreVolumeData: true})
	if err != nil {
		t.Fatal(err)
	}
	if o := a.outcome(t, "persistentvolumeclaims/turned-down/turned-down"); o.Result != bundle.RestoreFailed || o.Code != apply.CodeCreateRefused {
		t.Errorf("%+v", o)
	}
	w.remove(t, contentResource, "", apply.SnapshotName(uid, ns, ns))
}

// bodyHas looks into a request's body and leaves it as it was.
func bodyHas(r *http.Request, text string) bool {
	data, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(data))
	return err == nil && bytes.Contains(data, []byte(text))
}

func TestAContentWithoutItsVolumeSnapshotIsTakenBack(t *testing.T) {
	t.Parallel()
	const ns, uid = "halfway", types.UID("11111111-0000-4000-8000-000000000022")
	w, id := claimWorld(t, ns, func(r *http.Request) *http.Response {
		if isRequest(r, http.MethodPost, "volumesnapshots") {
			return refusal(r)
		}
		return nil
	})
	a, err := w.run(t, id, uid, plan.Request{RestoreVolumeData: true})
	if err != nil {
		t.Fatal(err)
	}
	if o := a.outcome(t, "persistentvolumeclaims/halfway/halfway"); o.Result != bundle.RestoreFailed || o.Code != apply.CodeSnapshotNotImported {
		t.Errorf("%+v", o)
	}
	if w.get(t, contentResource, "", apply.SnapshotName(uid, ns, ns)) != nil {
		t.Error("the content is left, and nobody needs it")
	}
}

// What an earlier attempt left may be going away: a claim must not be made from it.
func TestSnapshotObjectsThatVanishAreMadeAnew(t *testing.T) {
	t.Parallel()
	const ns, uid = "made-anew", types.UID("11111111-0000-4000-8000-000000000023")
	name := apply.SnapshotName(uid, ns, ns)
	var posts atomic.Int32
	plain := newWorld(t)
	w, id := claimWorld(t, ns, func(r *http.Request) *http.Response {
		if !isRequest(r, http.MethodPost, "volumesnapshotcontents") || !bodyHas(r, name) {
			return nil
		}
		if posts.Add(1) == 2 { // it has been asked for in vain, and is asked for again
			_, err := plain.cluster.Dynamic.Resource(contentResource).Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{})
			if err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	plain.create(t, strings.ReplaceAll(`{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshotContent, metadata: {name: {NAME}, finalizers: [example.com/snapshotter]},
spec: {deletionPolicy: Retain, driver: d, source: {snapshotHandle: h}, volumeSnapshotRef: {kind: VolumeSnapshot, namespace: made-anew, name: {NAME}}}}`, "{NAME}", name))
	if err := plain.cluster.Dynamic.Resource(contentResource).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.withProvisioner(t, ns)
	a, err := w.run(t, id, uid, plan.Request{RestoreVolumeData: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string(nil), a.warnings()); diff != "" {
		t.Error("warnings:", diff)
	}
	if n := posts.Load(); n < 2 {
		t.Errorf("the content was asked for %d times: the one that goes away was taken for it", n)
	}
}
