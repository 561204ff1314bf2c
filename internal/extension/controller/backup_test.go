package controller_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/blob/blobtest"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/controller"
	"github.com/cairn-backup/cairn/internal/extension/inventory"
	"github.com/cairn-backup/cairn/internal/extension/snapshot"
	"github.com/cairn-backup/cairn/internal/extension/storage"
	"github.com/cairn-backup/cairn/internal/kubetest"
)

const driver = kubetest.Driver

var gigabyte = resource.MustParse("1Gi")

// site is a namespace with a workload, a blob container, and snapshot storage.
type site struct {
	t         *testing.T
	namespace string
	endpoint  *blobtest.Endpoint
	snapshots *kubetest.Storage
	key       *age.X25519Identity

	serving atomic.Int32 // requests to the container that are being carried out

	mu   sync.Mutex
	blob func(w http.ResponseWriter, r *http.Request, next http.Handler) // what happens to requests to the container
}

var sites atomic.Int32

func newSite(t *testing.T, volumes int) *site {
	t.Helper()
	number := sites.Add(1)
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, namespace: fmt.Sprintf("shop-%d", number), snapshots: kubetest.StartStorage(t, cluster), key: key}
	s.endpoint = blobtest.StartServer(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.serving.Add(1)
			defer s.serving.Add(-1)
			s.mu.Lock()
			handle := s.blob
			s.mu.Unlock()
			if handle == nil {
				next.ServeHTTP(w, r)
				return
			}
			handle(w, r, next)
		})
	})
	s.endpoint.NewContainer(t, "points")
	s.credentials("points", blob.ExtensionPermissions)
	ensure(t, &snapshotv1.VolumeSnapshotClass{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Driver: driver, DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete})
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}})
	for i := range 5 {
		create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: fmt.Sprintf("settings-%d", i)}, Data: map[string]string{"a": "b"}})
	}
	for i := range volumes {
		cluster.Volume(t, s.namespace, fmt.Sprintf("data-%d", i), driver)
	}
	return s
}

// onBlob sets what happens to requests to the container; nil means that they are served.
func (s *site) onBlob(handle func(http.ResponseWriter, *http.Request, http.Handler)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blob = handle
}

// credentials writes what the connector would.
func (s *site) credentials(container, permissions string) {
	s.t.Helper()
	sas, err := blob.ContainerSAS(s.endpoint.Account, s.endpoint.Key, container, permissions, time.Now().Add(time.Hour))
	if err != nil {
		s.t.Fatal(err)
	}
	meta := metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: v1alpha1.SecretStorage}
	ensure(s.t, &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"sas": []byte(sas), "ca.crt": s.endpoint.CA}})
	ensure(s.t, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"containerURL": s.endpoint.AccountURL() + "/" + container}})
}

func create(t *testing.T, object client.Object) {
	t.Helper()
	if err := cluster.Client.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

// ensure creates an object or replaces it.
func ensure(t *testing.T, object client.Object) {
	t.Helper()
	err := cluster.Client.Delete(t.Context(), object)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	object.SetResourceVersion("")
	create(t, object)
}

// newBackup makes a Backup of the site's namespace.
func (s *site) newBackup(change ...func(*v1alpha1.BackupSpec)) *v1alpha1.Backup {
	s.t.Helper()
	b := &v1alpha1.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, GenerateName: "b-"},
		Spec: v1alpha1.BackupSpec{RecoveryPointID: fmt.Sprintf("%032x", time.Now().UnixNano()), Location: v1alpha1.StorageLocation{Prefix: "bi-1/"},
			Recipient: s.key.Recipient().String(), SnapshotVolumes: true, Origin: map[string]string{"vault": "v"},
			Filter: v1alpha1.Filter{IncludedNamespaces: []string{s.namespace}}}}
	for _, f := range change {
		f(&b.Spec)
	}
	create(s.t, b)
	return b
}

// backups returns a reconciler as a new process would have it. Each wrap stands between it and the API server.
func (s *site) backups(wrap ...func(http.RoundTripper) http.RoundTripper) *controller.Backups {
	s.t.Helper()
	config := rest.CopyConfig(cluster.Config)
	for _, w := range wrap {
		config.Wrap(w)
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: kubetest.Scheme(), Mapper: cluster.Client.RESTMapper()})
	if err != nil {
		s.t.Fatal(err)
	}
	return &controller.Backups{Client: c, Reader: c, Config: config, Log: slog.New(slog.DiscardHandler), Now: time.Now, Generator: "test",
		Pause: 10 * time.Millisecond, Snapshots: snapshot.Taker{Removal: time.Minute, GiveUp: 300 * time.Millisecond}}
}

// finish reconciles a Backup until it has ended.
func (s *site) finish(r reconcile.Reconciler, b *v1alpha1.Backup) v1alpha1.BackupStatus {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	reconcileUntil(ctx, s.t, r, b, func() bool { return b.Status.Phase.Final() && len(b.Finalizers) == 0 })
	return b.Status
}

// reconcileUntil does what a manager does.
func reconcileUntil(ctx context.Context, t *testing.T, r reconcile.Reconciler, object client.Object, reached func() bool) {
	t.Helper()
	for {
		result, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(object)})
		if ctx.Err() != nil {
			t.Fatalf("%s did not get there: %+v", object.GetName(), object)
		}
		if got := cluster.Client.Get(ctx, client.ObjectKeyFromObject(object), object); got != nil {
			t.Fatal(got)
		}
		if reached() {
			return
		}
		if err == nil && result.RequeueAfter == 0 {
			t.Fatalf("%s is left alone: %+v", object.GetName(), object)
		}
		select {
		case <-ctx.Done():
		case <-time.After(result.RequeueAfter):
		}
	}
}

// storage opens the container as the extension does.
func (s *site) storage() *storage.Container {
	s.t.Helper()
	store, err := storage.Open(s.t.Context(), cluster.Client, v1alpha1.StorageLocation{})
	if err != nil {
		s.t.Fatal(err)
	}
	return store
}

func (s *site) blobs(prefix string) []string {
	s.t.Helper()
	var names []string
	for name, err := range s.storage().List(s.t.Context(), prefix) {
		if err != nil {
			s.t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

// whole checks that a Backup left one whole recovery point and nothing else.
func (s *site) whole(b *v1alpha1.Backup) *bundle.Reader {
	s.t.Helper()
	r, err := bundle.NewReader(s.t.Context(), s.storage(), b.Spec.Location.Prefix, b.Spec.RecoveryPointID, s.key.String())
	if err != nil {
		s.t.Fatal(err)
	}
	folder := bundle.Folder(b.Spec.Location.Prefix, b.Spec.RecoveryPointID)
	want := []string{folder + "recoverypoint.json"}
	for _, f := range r.RecoveryPoint().Files {
		want = append(want, folder+f.Name)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, s.blobs(folder)); diff != "" {
		s.t.Errorf("blobs (-of the recovery point +in storage):\n%s", diff)
	}
	handles := map[string]string{}
	for volume, err := range r.Volumes(s.t.Context()) {
		if err != nil {
			s.t.Fatal(err)
		}
		handles[volume.SnapshotHandle] = volume.VolumeHandle
	}
	if diff := cmp.Diff(handles, s.snapshots.Snapshots()); diff != "" {
		s.t.Errorf("snapshots (-of the recovery point +in storage):\n%s", diff)
	}
	ledger := map[string]bool{}
	for _, record := range b.Status.Snapshots {
		ledger[record.Handle] = true
		if handles[record.Handle] == "" {
			s.t.Errorf("the status has a snapshot %+v that the bundle has not", record)
		}
	}
	if len(ledger) != len(handles) {
		s.t.Errorf("%d snapshots in the status, %d in the bundle", len(ledger), len(handles))
	}
	s.clean(b)
	return r
}

// nothing checks that a failed Backup left nothing.
func (s *site) nothing(b *v1alpha1.Backup) {
	s.t.Helper()
	if left := s.snapshots.Snapshots(); len(left) != 0 {
		s.t.Errorf("snapshots are left in storage: %v", left)
	}
	s.clean(b)
}

// clean checks that no object in the cluster is left.
func (s *site) clean(b *v1alpha1.Backup) {
	s.t.Helper()
	var snapshots snapshotv1.VolumeSnapshotList
	var contents snapshotv1.VolumeSnapshotContentList
	if err := errors.Join(cluster.Client.List(s.t.Context(), &snapshots), cluster.Client.List(s.t.Context(), &contents)); err != nil {
		s.t.Fatal(err)
	}
	if len(snapshots.Items)+len(contents.Items) != 0 {
		s.t.Errorf("%d VolumeSnapshots and %d contents are left", len(snapshots.Items), len(contents.Items))
	}
	if len(b.Finalizers) != 0 {
		s.t.Errorf("finalizers are left: %v", b.Finalizers)
	}
}

func TestABackupMakesARecoveryPoint(t *testing.T) {
	s := newSite(t, 3)
	b := s.newBackup()
	var writes atomic.Int32
	status := s.finish(s.backups(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, "/status") {
				writes.Add(1)
			}
			return next.RoundTrip(r)
		})
	}), b)
	if status.Phase != v1alpha1.PhaseCompleted || status.Attempt != 1 || !status.Committed || len(status.Snapshots) != 3 || status.Progress.VolumesDone != 3 {
		t.Errorf("status: %+v", status)
	}
	var steps []string
	for _, step := range status.Progress.Steps {
		steps = append(steps, step.Name)
		if step.Ended == nil {
			t.Errorf("step %s has not ended", step.Name)
		}
	}
	if diff := cmp.Diff([]string{"Cut", "Snapshot", "Upload", "Commit", "Release"}, steps); diff != "" {
		t.Error(diff)
	}
	if n := writes.Load(); n > 20 {
		t.Errorf("the status was written %d times", n)
	}
	rp := s.whole(b).RecoveryPoint()
	if rp.Totals.Objects != status.Progress.ObjectsDone || rp.Totals.Volumes != 3 || rp.ResourceVersion != status.ResourceVersion || rp.Origin["vault"] != "v" || rp.Cluster.UID == "" || rp.Cluster.GitVersion == "" {
		t.Errorf("recovery point: %+v\nstatus: %+v", rp, status)
	}
	if result, err := s.backups().Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(b)}); err != nil || result.RequeueAfter != 0 {
		t.Errorf("an ended backup is begun again: %v %v", result, err)
	}

	d := &v1alpha1.DeleteBackup{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, GenerateName: "d-"},
		Spec: v1alpha1.DeleteBackupSpec{RecoveryPointID: b.Spec.RecoveryPointID, Location: b.Spec.Location, Snapshots: status.Snapshots}}
	create(t, d)
	r := s.deletions()
	reconcileUntil(t.Context(), t, r, d, func() bool { return d.Status.Phase.Final() })
	if d.Status.Phase != v1alpha1.PhaseCompleted || len(s.blobs("")) != 0 {
		t.Errorf("status %+v, blobs left %v", d.Status, s.blobs(""))
	}
	s.nothing(b)
}

func (s *site) deletions() *controller.Deletions {
	return &controller.Deletions{Client: cluster.Client, Reader: cluster.Client, Log: slog.New(slog.DiscardHandler), Now: time.Now, Removal: time.Minute, Pause: time.Millisecond}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }

// killer ends a process at its n-th write to the API server or to storage: from then on nothing it sends arrives.
type killer struct {
	kill  context.CancelFunc
	at    int32 // even: before the write arrives; odd: after it arrived and before its answer does
	count atomic.Int32
	dead  atomic.Bool
}

var errKilled = errors.New("killed by the test")

// pass decides about a write: whether it is sent, and whether its answer comes back.
func (k *killer) pass(write bool) (send, answer bool) {
	if k.dead.Load() {
		return false, false
	}
	if !write || k.count.Add(1)-1 != k.at/2 {
		return true, true
	}
	k.dead.Store(true)
	return k.at%2 == 1, false
}

func isWrite(r *http.Request) bool { return r.Method != http.MethodGet && r.Method != http.MethodHead }

func (k *killer) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		send, answer := k.pass(isWrite(r))
		if send && answer {
			return next.RoundTrip(r)
		}
		if send {
			if response, err := next.RoundTrip(r); err == nil {
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
			}
		}
		k.kill()
		return nil, errKilled
	})
}

func (k *killer) blob(w http.ResponseWriter, r *http.Request, next http.Handler) {
	send, answer := k.pass(isWrite(r))
	if send && answer {
		next.ServeHTTP(w, r)
		return
	}
	if send {
		next.ServeHTTP(discard{http.Header{}}, r)
	}
	k.kill()
	panic(http.ErrAbortHandler)
}

// discard is a client that has gone.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// TestAKillAtAnyWriteLeavesOneWholeRecoveryPoint kills the extension before and after every request by which it changes something.
func TestAKillAtAnyWriteLeavesOneWholeRecoveryPoint(t *testing.T) {
	s := newSite(t, 1)
	attempts := map[int32]int{}
	for at := int32(0); ; at++ {
		b := s.newBackup()
		ctx, cancel := context.WithCancel(t.Context())
		k := &killer{kill: cancel, at: at}
		s.onBlob(k.blob)
		_, _ = s.backups(k.wrap).Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(b)})
		cancel()
		s.onBlob(nil)
		eventually(t, "what it had asked of storage is done", func() bool { return s.serving.Load() == 0 })
		status := s.finish(s.backups(), b)
		if status.Phase != v1alpha1.PhaseCompleted {
			t.Fatalf("killed at %d: %+v", at, status)
		}
		s.whole(b)
		attempts[status.Attempt]++
		d := snapshot.Taker{Client: cluster.Client, RecoveryPointID: b.Spec.RecoveryPointID, Now: time.Now}
		if left, err := d.DeleteHandles(t.Context(), status.Snapshots); err != nil || len(left) != 0 {
			t.Fatal(left, err)
		}
		if t.Failed() {
			t.Fatalf("killed at %d, status %+v", at, status)
		}
		if !k.dead.Load() {
			break // there was no such write
		}
	}
	t.Logf("backups by attempts: %v", attempts)
	if attempts[1] < 5 || attempts[2] < 10 {
		t.Errorf("backups by attempts: %v; kills did not happen everywhere", attempts)
	}
}

func TestBackupsThatFailSayWhyAndLeaveNothing(t *testing.T) {
	cases := map[string]struct {
		prepare  func(*site)
		spec     func(*v1alpha1.BackupSpec)
		wrap     func(http.RoundTripper) http.RoundTripper
		code     string
		attempts int32
	}{
		"container missing":       {prepare: func(s *site) { s.credentials("missing", blob.ExtensionPermissions) }, code: storage.CodeNotReady, attempts: 3},
		"no permission to write":  {prepare: func(s *site) { s.credentials("points", "rl") }, code: storage.CodeMissingPermission, attempts: 1},
		"no credentials":          {prepare: (*site).forget, code: storage.CodeNotConfigured, attempts: 1},
		"recipient wrong":         {spec: func(b *v1alpha1.BackupSpec) { b.Recipient = "age1wrong" }, code: controller.CodeInvalidRequest, attempts: 1},
		"revision always too old": {wrap: answer(http.StatusGone, metav1.StatusReasonExpired, "/configmaps"), code: controller.CodeCutExpired, attempts: 3},
		"claims cannot be listed": {wrap: answer(http.StatusForbidden, metav1.StatusReasonForbidden, "/persistentvolumeclaims"), code: controller.CodeMissingPermission, attempts: 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 2)
			if c.prepare != nil {
				c.prepare(s)
			}
			var specs []func(*v1alpha1.BackupSpec)
			if c.spec != nil {
				specs = append(specs, c.spec)
			}
			b := s.newBackup(specs...)
			var wraps []func(http.RoundTripper) http.RoundTripper
			if c.wrap != nil {
				wraps = append(wraps, c.wrap)
			}
			status := s.finish(s.backups(wraps...), b)
			if status.Phase != v1alpha1.PhaseFailed || len(status.Errors) != 1 || status.Errors[0].Code != c.code || status.Attempt != c.attempts {
				t.Fatalf("want code %s after %d attempts: %+v", c.code, c.attempts, status)
			}
			if e := status.Errors[0]; e.Message == "" || e.Action == "" || strings.Contains(e.Message, "sig=") {
				t.Errorf("error: %+v", e)
			}
			s.credentials("points", blob.ExtensionPermissions)
			s.nothing(b)
			if left := s.blobs(""); len(left) != 0 {
				t.Errorf("blobs are left: %v", left)
			}
		})
	}
}

func TestBlobsThatCouldNotBeRemovedAreRemovedLater(t *testing.T) {
	s := newSite(t, 0)
	b := s.newBackup()
	folder := bundle.AttemptFolder(b.Spec.Location.Prefix, b.Spec.RecoveryPointID, 1)
	if err := s.storage().Create(t.Context(), folder+"stored", strings.NewReader("as if the first attempt had")); err != nil {
		t.Fatal(err)
	}
	var refused atomic.Bool
	s.onBlob(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Query().Get("prefix") == folder && !refused.Swap(true) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
	s.finish(s.backups(answer(http.StatusGone, metav1.StatusReasonExpired, "/configmaps")), b)
	if left := s.blobs(""); len(left) != 0 || !refused.Load() {
		t.Errorf("blobs are left: %v; their removal was refused once: %v", left, refused.Load())
	}
}

// forget removes the credentials.
func (s *site) forget() {
	if err := cluster.Client.Delete(s.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: v1alpha1.SecretStorage}}); err != nil {
		s.t.Fatal(err)
	}
}

// answer makes the API server answer requests to paths that end so.
func answer(code int, reason metav1.StatusReason, suffix string) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, suffix) {
				return next.RoundTrip(r)
			}
			body, err := json.Marshal(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: int32(code), Reason: reason, Message: "made by the test"})
			return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(string(body))), Request: r}, err
		})
	}
}

func TestWhatIsLeftOutMakesWarnings(t *testing.T) {
	s := newSite(t, 2)
	cluster.Volume(t, s.namespace, "other", "classless.test")
	create(t, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "unbound"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: gigabyte}}}})
	s.snapshots.OnTake(func(volume string) error {
		if strings.HasSuffix(volume, "data-1") {
			return errors.New("rpc error: code = ResourceExhausted desc = too many snapshots")
		}
		return nil
	})
	b := s.newBackup(func(spec *v1alpha1.BackupSpec) {
		spec.Filter.IncludedNamespaces = append(spec.Filter.IncludedNamespaces, "nowhere")
	})
	status := s.finish(s.backups(), b)
	var codes []string
	for _, w := range status.Warnings {
		codes = append(codes, w.Code)
		if w.Message == "" || w.Action == "" {
			t.Errorf("warning %+v does not say what happened and what to do", w)
		}
	}
	slices.Sort(codes)
	want := []string{snapshot.CodeClaimNotBound, snapshot.CodeClassNotFound, inventory.CodeNamespaceNotFound, snapshot.CodeLimitReached}
	slices.Sort(want)
	if diff := cmp.Diff(want, codes); diff != "" || status.Phase != v1alpha1.PhaseCompletedWithWarnings || status.WarningCount != 4 {
		t.Errorf("phase %s, %d warnings:\n%s", status.Phase, status.WarningCount, diff)
	}
	reader := s.whole(b)
	var inReport int
	for o, err := range reader.Report(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if o.Result.Warning() {
			inReport++
		}
	}
	if inReport != 4 || reader.RecoveryPoint().WarningCount != 4 {
		t.Errorf("%d warnings in the report, %d in the commit object", inReport, reader.RecoveryPoint().WarningCount)
	}
}

func TestWithoutSnapshotsOnlyObjectsAreTaken(t *testing.T) {
	s := newSite(t, 1)
	b := s.newBackup(func(spec *v1alpha1.BackupSpec) { spec.SnapshotVolumes = false })
	if status := s.finish(s.backups(), b); status.Phase != v1alpha1.PhaseCompleted || len(status.Snapshots) != 0 {
		t.Errorf("status: %+v", status)
	}
	s.whole(b)
}

// TestStorageThatGoesAtTheCommitIsAwaited loses storage just when it alone knows whether there is a recovery point.
func TestStorageThatGoesAtTheCommitIsAwaited(t *testing.T) {
	for _, stored := range []bool{true, false} {
		t.Run(fmt.Sprintf("stored %v", stored), func(t *testing.T) {
			s := newSite(t, 1)
			b := s.newBackup()
			var away atomic.Bool
			s.onBlob(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if isWrite(r) && strings.HasSuffix(r.URL.Path, "recoverypoint.json") && !away.Load() {
					away.Store(true)
					if stored {
						next.ServeHTTP(discard{http.Header{}}, r)
					}
				}
				if away.Load() {
					w.WriteHeader(http.StatusBadRequest) // unlike a lost connection it is not tried again, which would take half a minute
					return
				}
				next.ServeHTTP(w, r)
			})
			r := s.backups()
			tries := 0
			reconcileUntil(t.Context(), t, r, b, func() bool { tries++; return tries == 3 })
			if b.Status.Phase != v1alpha1.PhaseInProgress || len(s.snapshots.Snapshots()) != 1 {
				t.Errorf("status %+v, %d snapshots; nothing may be decided yet", b.Status, len(s.snapshots.Snapshots()))
			}
			s.onBlob(nil)
			status := s.finish(r, b)
			if want := map[bool]int32{true: 1, false: 2}[stored]; stored && (status.Phase != v1alpha1.PhaseCompleted || status.Attempt != want) {
				t.Errorf("status: %+v", status)
			}
			if status.Phase == v1alpha1.PhaseFailed {
				s.nothing(b)
				return
			}
			s.whole(b)
		})
	}
}

func TestARecoveryPointOfAnotherRequestIsNotTouched(t *testing.T) {
	cases := map[string]struct {
		refusals int32 // so often storage does not say what it has
		killed   bool  // after it was found that the ID is taken
		code     string
	}{
		"found at once":         {code: controller.CodeRecoveryPointExists},
		"the extension is gone": {killed: true, code: controller.CodeRecoveryPointExists},
		"storage refuses":       {refusals: 1, code: storage.CodeNotReady},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 1)
			first := s.newBackup()
			s.finish(s.backups(), first)
			second := s.newBackup(func(spec *v1alpha1.BackupSpec) { spec.RecoveryPointID = first.Spec.RecoveryPointID })
			var asked atomic.Int32
			s.onBlob(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.HasSuffix(r.URL.Path, "recoverypoint.json") && asked.Add(1) <= c.refusals {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				next.ServeHTTP(w, r)
			})
			if c.killed {
				if _, err := s.backups().Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(second)}); err != nil {
					t.Fatal(err)
				}
			}
			status := s.finish(s.backups(), second)
			if status.Phase != v1alpha1.PhaseFailed || status.Errors[0].Code != c.code {
				t.Errorf("status: %+v", status)
			}
			s.whole(first)
		})
	}
}

func TestADeletedBackupIsUndone(t *testing.T) {
	s := newSite(t, 1)
	b := s.newBackup()
	ctx, cancel := context.WithCancel(t.Context())
	s.snapshots.OnTake(func(string) error { return kubetest.NotYet })
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.backups().Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(b)})
	}()
	eventually(t, "it waits for the snapshot", func() bool {
		var list snapshotv1.VolumeSnapshotContentList
		return cluster.Client.List(t.Context(), &list) == nil && len(list.Items) == 1
	})
	cancel()
	<-done
	s.snapshots.OnTake(nil)
	// Held, so that it can be looked at when it has been deleted.
	finalizers := func(patch string) {
		t.Helper()
		if err := cluster.Client.Patch(t.Context(), b, client.RawPatch(types.JSONPatchType, []byte(patch))); err != nil {
			t.Fatal(err)
		}
	}
	finalizers(`[{"op": "add", "path": "/metadata/finalizers/-", "value": "cairn.test/keep"}]`)
	if err := cluster.Client.Delete(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if _, err := s.backups().Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(b)}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
		t.Fatal(err)
	}
	if b.Status.Phase != v1alpha1.PhaseFailed || b.Status.Errors[0].Code != v1alpha1.CodeDeleted || len(b.Status.Snapshots) != 0 || len(b.Finalizers) != 1 {
		t.Errorf("how a Backup ended that was deleted: %v %+v", b.Finalizers, b.Status)
	}
	finalizers(`[{"op": "remove", "path": "/metadata/finalizers"}]`)
	if err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(b), b); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the Backup is still there: %v", err)
	}
	b.Finalizers = nil
	s.nothing(b)
}

// Storage carries out what it was asked for when the attempt was stopped, and nobody waits for its answer any more.
func TestABackupThatIsDeletedWhileItRunsIsUndone(t *testing.T) {
	s := newSite(t, 1)
	b := s.newBackup()
	s.snapshots.OnTake(func(string) error { return kubetest.NotYet })
	reading, stopped := make(chan struct{}), make(chan struct{})
	s.onBlob(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "configmaps") {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r = r.WithContext(context.WithoutCancel(r.Context()))
			r.Body, w = io.NopCloser(bytes.NewReader(body)), discard{http.Header{}}
			close(reading)
			<-stopped
		}
		next.ServeHTTP(w, r)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := s.backups()
	reconcile := func() <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(b)})
			done <- err
		}()
		return done
	}
	content := func() *snapshotv1.VolumeSnapshotContent {
		var list snapshotv1.VolumeSnapshotContentList
		if err := cluster.Client.List(t.Context(), &list); err != nil || len(list.Items) != 1 {
			return nil
		}
		return &list.Items[0]
	}
	running := reconcile()
	<-reading
	eventually(t, "it waits for the snapshot", func() bool { return content() != nil })
	if err := cluster.Client.Delete(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := <-running; err != nil {
		t.Fatal(err)
	}
	close(stopped)
	eventually(t, "what it had asked of storage is done", func() bool { return s.serving.Load() == 0 })
	undoing := reconcile()
	eventually(t, "its snapshot is given up", func() bool { c := content(); return c != nil && c.DeletionTimestamp != nil })
	s.snapshots.OnTake(nil)
	if err := <-undoing; err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(b), b); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the Backup is still there: %v", err)
	}
	b.Finalizers = nil
	s.nothing(b)
	if left := s.blobs(""); len(left) != 0 {
		t.Errorf("blobs are left: %v", left)
	}
}

func TestABackupThatIsDeletedWhenItIsCommittedEnds(t *testing.T) {
	s := newSite(t, 1)
	b := s.newBackup()
	watch, err := cluster.Client.Watch(t.Context(), &v1alpha1.BackupList{}, client.InNamespace(b.Namespace), client.MatchingFields{"metadata.name": b.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	var deleted, asked atomic.Bool
	told := make(chan struct{}) // the extension has learnt of the deletion
	tell := sync.OnceFunc(func() { close(told) })
	s.onBlob(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch {
		case !strings.HasSuffix(r.URL.Path, "recoverypoint.json"):
		case !isWrite(r):
			asked.Store(deleted.Load())
		default:
			if err := cluster.Client.Delete(context.WithoutCancel(r.Context()), b.DeepCopy()); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
			deleted.Store(true)
			select {
			case <-told:
			case <-r.Context().Done():
			}
		}
		next.ServeHTTP(w, r)
	})
	reconciler := s.backups(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			after := deleted.Load()
			response, err := next.RoundTrip(r)
			if err == nil && after && strings.HasSuffix(r.URL.Path, "/status") {
				response.Body = closing{response.Body, tell}
			}
			return response, err
		})
	})
	if _, err := reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(b)}); err != nil {
		t.Fatal(err)
	}
	if asked.Load() {
		t.Error("the commit was given up: the extension had to ask whether it was carried out")
	}
	timeout := time.After(30 * time.Second)
	for gone := false; !gone; {
		select {
		case event := <-watch.ResultChan():
			gone = event.Type == apiwatch.Deleted
			if now, ok := event.Object.(*v1alpha1.Backup); ok {
				b = now
			}
		case <-timeout:
			t.Fatal("the Backup does not go")
		}
	}
	if !b.Status.Committed || !b.Status.Phase.Final() {
		t.Errorf("its last status: %+v", b.Status)
	}
	b.Finalizers = nil // as they were before the last one was taken off
	s.whole(b)
}

// closing is a body that tells when it has been read.
type closing struct {
	io.ReadCloser
	tell func()
}

func (c closing) Close() error {
	defer c.tell()
	return c.ReadCloser.Close()
}

func eventually(t *testing.T, what string, reached func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !reached() {
		select {
		case <-ctx.Done():
			t.Fatalf("not reached: %s", what)
		case <-tick.C:
		}
	}
}

func TestDeletionThatStorageRefusesFails(t *testing.T) {
	s := newSite(t, 0)
	s.credentials("points", "r")
	d := &v1alpha1.DeleteBackup{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, GenerateName: "d-"},
		Spec: v1alpha1.DeleteBackupSpec{RecoveryPointID: strings.Repeat("0", 32), Location: v1alpha1.StorageLocation{Prefix: "bi-1/"}}}
	create(t, d)
	reconcileUntil(t.Context(), t, s.deletions(), d, func() bool { return d.Status.Phase.Final() })
	if d.Status.Phase != v1alpha1.PhaseFailed || d.Status.Errors[0].Code != storage.CodeMissingPermission {
		t.Errorf("status: %+v", d.Status)
	}
}

func TestADeletionThatTheSnapshotterHoldsUpIsTriedOnceMore(t *testing.T) {
	for _, back := range []bool{true, false} {
		t.Run(fmt.Sprintf("the snapshotter comes back %v", back), func(t *testing.T) {
			s := newSite(t, 0)
			s.snapshots.Add("kept", "volume")
			s.snapshots.Away(false, true)
			d := &v1alpha1.DeleteBackup{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, GenerateName: "d-"},
				Spec: v1alpha1.DeleteBackupSpec{RecoveryPointID: strings.Repeat("0", 32), Location: v1alpha1.StorageLocation{Prefix: "bi-1/"},
					Snapshots: []v1alpha1.VolumeSnapshotRecord{{Driver: driver, Handle: "kept"}}}}
			create(t, d)
			r := s.deletions()
			r.Removal = 300 * time.Millisecond
			if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(d)}); err != nil {
				t.Fatal(err)
			}
			want := v1alpha1.PhaseFailed
			if back {
				s.snapshots.Away(false, false)
				r, want = s.deletions(), v1alpha1.PhaseCompleted
			}
			reconcileUntil(t.Context(), t, r, d, func() bool { return d.Status.Phase.Final() })
			if d.Status.Phase != want || d.Status.Attempt != 2 || back != (len(s.snapshots.Snapshots()) == 0) {
				t.Errorf("status: %+v, in storage: %v", d.Status, s.snapshots.Snapshots())
			}
			if !back {
				if issue := d.Status.Errors[0]; issue.Code != controller.CodeDeleteFailed || !strings.Contains(issue.Message, "snapshotter") {
					t.Errorf("issue: %+v", issue)
				}
				s.snapshots.Away(false, false)
				eventually(t, "all objects are gone", func() bool {
					var list snapshotv1.VolumeSnapshotContentList
					return cluster.Client.List(t.Context(), &list) == nil && len(list.Items) == 0
				})
			}
		})
	}
}

func TestValidateForBackup(t *testing.T) {
	cases := map[string]struct {
		prepare  func(*site)
		included []string
		phase    v1alpha1.Phase
		code     string
	}{
		"all is well":      {phase: v1alpha1.PhaseCompleted},
		"no permission":    {prepare: func(s *site) { s.credentials("points", "rl") }, phase: v1alpha1.PhaseFailed, code: storage.CodeMissingPermission},
		"no container":     {prepare: func(s *site) { s.credentials("missing", blob.ExtensionPermissions) }, phase: v1alpha1.PhaseFailed, code: storage.CodeNotReady},
		"namespace absent": {included: []string{"nowhere"}, phase: v1alpha1.PhaseCompletedWithWarnings, code: inventory.CodeNamespaceNotFound},
		"no class": {prepare: func(s *site) { cluster.Volume(t, s.namespace, "other", "classless.test") }, phase: v1alpha1.PhaseCompletedWithWarnings,
			code: snapshot.CodeClassNotFound},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 1)
			if c.prepare != nil {
				c.prepare(s)
			}
			v := &v1alpha1.ValidateForBackup{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, GenerateName: "v-"}, Spec: v1alpha1.ValidateForBackupSpec{
				Location: v1alpha1.StorageLocation{Prefix: "bi-1/"}, Filter: v1alpha1.Filter{IncludedNamespaces: append(c.included, s.namespace)}, SnapshotVolumes: true}}
			create(t, v)
			reconcileUntil(t.Context(), t, &controller.BackupValidations{Backups: s.backups()}, v, func() bool { return v.Status.Phase.Final() })
			var codes []string
			for _, issue := range append(v.Status.Errors, v.Status.Warnings...) {
				codes = append(codes, issue.Code)
			}
			if v.Status.Phase != c.phase || strings.Join(codes, " ") != c.code {
				t.Errorf("want %s with %q: %+v", c.phase, c.code, v.Status)
			}
			s.credentials("points", blob.ExtensionPermissions)
			if left := s.blobs(""); len(left) != 0 {
				t.Errorf("blobs are left: %v", left)
			}
		})
	}
}
