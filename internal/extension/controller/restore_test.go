package controller_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/blob/blobtest"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/apply"
	"github.com/cairn-backup/cairn/internal/extension/controller"
	"github.com/cairn-backup/cairn/internal/extension/storage"
	"github.com/cairn-backup/cairn/internal/kubetest"
)

// restoreWorld is an API server, a blob endpoint, and the reconcilers of restores in a process of their own, which can be killed.
type restoreWorld struct {
	cluster    *kubetest.Cluster
	store      *storage.Container
	key        *age.X25519Identity
	kubeconfig string
	points     atomic.Int64
}

// managerEnv names the kubeconfig of the process that TestRestoreManager is.
const managerEnv = "CAIRN_TEST_RESTORE_MANAGER"

// TestRestoreManager is no test but the process with the reconcilers: startManager runs it.
func TestRestoreManager(t *testing.T) {
	file := os.Getenv(managerEnv)
	if file == "" {
		return
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	mgr, err := ctrl.NewManager(config, ctrl.Options{Scheme: kubetest.Scheme(), Metrics: server.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	holding := rest.CopyConfig(config)
	holding.Wrap(hold)
	d, err := dynamic.NewForConfig(holding)
	if err != nil {
		t.Fatal(err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	restores := controller.Restores{Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Cluster: apply.Cluster{Dynamic: d, Discovery: disco},
		Log: log, Now: time.Now, Patience: 5 * time.Second, Interval: 200 * time.Millisecond}
	if err := restores.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	if err := (&controller.RestoreValidations{Restores: restores}).SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	if err := mgr.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// heldPrefix begins the names of namespaces in which no ConfigMap is created: who tries waits until it is told to stop.
const heldPrefix = "held-"

func hold(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/namespaces/"+heldPrefix) && strings.HasSuffix(r.URL.Path, "/configmaps") {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		return next.RoundTrip(r)
	})
}

// startManager starts the process with the reconcilers; kill ends it as the kernel would for lack of memory.
func (w *restoreWorld) startManager(t *testing.T) (kill func()) {
	t.Helper()
	command := exec.Command(os.Args[0], "-test.run=^TestRestoreManager$", "-test.timeout=10m")
	command.Env = append(os.Environ(), managerEnv+"="+w.kubeconfig)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	dead := false
	kill = func() {
		if dead {
			return
		}
		dead = true
		if err := command.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = command.Wait() // it was killed, and says so
	}
	t.Cleanup(kill)
	return kill
}

func newRestoreWorld(t *testing.T) *restoreWorld {
	t.Helper()
	cluster, err := kubetest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Stop(); err != nil {
			t.Error(err)
		}
	})
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	w := &restoreWorld{cluster: cluster, key: key}
	if w.kubeconfig, err = cluster.Kubeconfig(t.TempDir(), "manager"); err != nil {
		t.Fatal(err)
	}
	endpoint := blobtest.StartServer(t)
	endpoint.NewContainer(t, "backups")
	sas, err := blob.ContainerSAS(endpoint.Account, endpoint.Key, "backups", blob.ExtensionPermissions, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: name}
	}
	for _, o := range []client.Object{
		&corev1.Secret{ObjectMeta: meta(v1alpha1.SecretStorage), Data: map[string][]byte{"sas": []byte(sas), "ca.crt": endpoint.CA}},
		&corev1.ConfigMap{ObjectMeta: meta(v1alpha1.ConfigMapStorage), Data: map[string]string{"containerURL": endpoint.AccountURL() + "/backups"}},
		&corev1.Secret{ObjectMeta: meta("identity"), Data: map[string][]byte{"identity": []byte(key.String() + "\n")}},
	} {
		if err := cluster.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if w.store, err = storage.Open(t.Context(), cluster.Client, v1alpha1.StorageLocation{}); err != nil {
		t.Fatal(err)
	}
	return w
}

// recoveryPoint writes a recovery point with a namespace and so many ConfigMaps in it.
func (w *restoreWorld) recoveryPoint(t *testing.T, namespace string, configMaps int) string {
	t.Helper()
	id := fmt.Sprintf("%032x", w.points.Add(1))
	writer, err := bundle.NewWriter(w.store, "bi/", id, 1, w.key.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	write := func(kind bundle.Kind, n int, object func(i int) any) {
		lines := writer.Kind(t.Context(), kind)
		for i := range n {
			text, err := json.Marshal(object(i))
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
	write(bundle.Kind{APIVersion: "v1", Kind: "Namespace", Plural: "namespaces"}, 1, func(int) any {
		return &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	})
	write(bundle.Kind{APIVersion: "v1", Kind: "ConfigMap", Plural: "configmaps", Namespaced: true}, configMaps, func(i int) any {
		return &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("c%05d", i)}, Data: map[string]string{"n": fmt.Sprint(i)}}
	})
	if err := writer.Volumes(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := writer.Report(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Commit(t.Context(), bundle.RecoveryPoint{}); err != nil {
		t.Fatal(err)
	}
	return id
}

func restoreSpec(id string) v1alpha1.RestoreSpec {
	return v1alpha1.RestoreSpec{RecoveryPointID: id, Location: v1alpha1.StorageLocation{Prefix: "bi/"}, IdentitySecret: "identity",
		ConflictPolicy: v1alpha1.ConflictSkip, RestoreVolumeData: true}
}

// start asks for a restore.
func (w *restoreWorld) start(t *testing.T, name string, spec v1alpha1.RestoreSpec) {
	t.Helper()
	if err := w.cluster.Client.Create(t.Context(), &v1alpha1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: name}, Spec: spec}); err != nil {
		t.Fatal(err)
	}
}

// keep holds a restore, so that it can be looked at when it has been deleted.
func (w *restoreWorld) keep(t *testing.T, name string) {
	t.Helper()
	held := &v1alpha1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: name}}
	patch := client.RawPatch(types.JSONPatchType, []byte(`[{"op": "add", "path": "/metadata/finalizers/-", "value": "cairn.test/keep"}]`))
	if err := w.cluster.Client.Patch(t.Context(), held, patch); err != nil {
		t.Fatal(err)
	}
}

// await waits until a restore is as wanted.
func (w *restoreWorld) await(t *testing.T, name, what string, wanted func(v1alpha1.RestoreStatus) bool) v1alpha1.RestoreStatus {
	t.Helper()
	var restore v1alpha1.Restore
	awaitCondition(t, "restore "+name+" is "+what, func() bool {
		if err := w.cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: v1alpha1.Namespace, Name: name}, &restore); err != nil {
			t.Fatal(err)
		}
		return wanted(restore.Status)
	})
	return restore.Status
}

func awaitCondition(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

func ended(s v1alpha1.RestoreStatus) bool { return s.Phase.Final() }

func (w *restoreWorld) configMaps(t *testing.T, namespace string) int {
	t.Helper()
	var list corev1.ConfigMapList
	if err := w.cluster.Client.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	return len(list.Items)
}

// report counts the lines of a restore's report by their result.
func (w *restoreWorld) report(t *testing.T, name string) map[bundle.RestoreResult]int {
	t.Helper()
	counts := map[bundle.RestoreResult]int{}
	for line, err := range bundle.ReadRestoreReport(t.Context(), w.store, name, w.key.String()) {
		if err != nil {
			t.Fatal(err)
		}
		counts[line.Result]++
	}
	return counts
}

func TestRestores(t *testing.T) {
	w := newRestoreWorld(t)
	w.startManager(t)
	t.Run("a restore goes through its steps and says so", w.testSteps)
	t.Run("a restore that cannot begin says why", w.testRefusals)
	t.Run("a validation says what a restore would meet", w.testValidation)
	t.Run("a request that was deleted is not worked on", w.testDeleted)
}

func (w *restoreWorld) testSteps(t *testing.T) {
	id := w.recoveryPoint(t, "steps", 50)
	w.start(t, "steps", restoreSpec(id))
	s := w.await(t, "steps", "ended", ended)
	if s.Phase != v1alpha1.PhaseCompleted || s.Created != 51 || s.Skipped != 0 || s.Failed != 0 || s.Attempt != 1 {
		t.Errorf("status %+v", s)
	}
	if p := s.Progress; p.ObjectsDone != 51 || p.ObjectsTotal != 51 || p.Bytes == 0 || p.Step != "" {
		t.Errorf("progress %+v", p)
	}
	var steps []string
	for _, step := range s.Progress.Steps {
		steps = append(steps, step.Name)
		if step.Ended == nil {
			t.Errorf("step %s did not end", step.Name)
		}
	}
	if got := strings.Join(steps, " "); got != "Plan Apply Wait" {
		t.Errorf("steps %q", got)
	}
	if s.WorkloadsReady == nil || !*s.WorkloadsReady || s.Started == nil || s.Ended == nil {
		t.Errorf("status %+v", s)
	}
	if got := w.report(t, s.ReportName); got[bundle.RestoreCreated] != 51 || len(got) != 1 {
		t.Errorf("report %v", got)
	}

	w.start(t, "again", restoreSpec(id))
	s = w.await(t, "again", "ended", ended)
	if s.Phase != v1alpha1.PhaseCompleted || s.Created != 0 || s.Skipped != 51 {
		t.Errorf("a second restore of the same: %+v", s)
	}
}

func (w *restoreWorld) testRefusals(t *testing.T) {
	id := w.recoveryPoint(t, "refusals", 1)
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"other": other.String(), "nonsense": "AGE-SECRET-KEY-1NONSENSE"} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: name}, Data: map[string][]byte{"identity": []byte(data)}}
		if err := w.cluster.Client.Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]struct {
		change func(*v1alpha1.RestoreSpec)
		code   string
	}{
		"no-such-point":     {func(s *v1alpha1.RestoreSpec) { s.RecoveryPointID = strings.Repeat("f", 32) }, controller.CodeRecoveryPointNotFound},
		"no-secret":         {func(s *v1alpha1.RestoreSpec) { s.IdentitySecret = "none" }, controller.CodeIdentityNotFound},
		"empty-secret":      {func(s *v1alpha1.RestoreSpec) { s.IdentitySecret = v1alpha1.SecretStorage }, controller.CodeIdentityNotFound},
		"another-identity":  {func(s *v1alpha1.RestoreSpec) { s.IdentitySecret = "other" }, controller.CodeRecoveryPointUnreadable},
		"nonsense-identity": {func(s *v1alpha1.RestoreSpec) { s.IdentitySecret = "nonsense" }, controller.CodeRecoveryPointUnreadable},
		"no-such-namespace": {func(s *v1alpha1.RestoreSpec) { s.Filter.IncludedNamespaces = []string{"nowhere"} }, "UserErrorNamespaceNotFound"},
	}
	for name, c := range cases {
		spec := restoreSpec(id)
		c.change(&spec)
		w.start(t, name, spec)
		s := w.await(t, name, "ended", ended)
		if s.Phase != v1alpha1.PhaseFailed || len(s.Errors) != 1 || s.Errors[0].Code != c.code || s.Errors[0].Message == "" || s.Errors[0].Action == "" {
			t.Errorf("%s: %s %+v, want %s", name, s.Phase, s.Errors, c.code)
		}
		if text := fmt.Sprint(s); strings.Contains(text, "AGE-SECRET-KEY") {
			t.Errorf("%s: the status shows a key", name)
		}
	}
	if w.configMaps(t, "refusals") != 0 {
		t.Error("something was restored")
	}
}

func (w *restoreWorld) testValidation(t *testing.T) {
	id := w.recoveryPoint(t, "validated", 3)
	for name, c := range map[string]struct {
		id    string
		phase v1alpha1.Phase
		code  string
	}{
		"good": {id, v1alpha1.PhaseCompleted, ""},
		"bad":  {strings.Repeat("e", 32), v1alpha1.PhaseFailed, controller.CodeRecoveryPointNotFound},
	} {
		v := &v1alpha1.ValidateForRestore{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: name}, Spec: restoreSpec(c.id)}
		if err := w.cluster.Client.Create(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		awaitCondition(t, "validation "+name+" ended", func() bool {
			if err := w.cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(v), v); err != nil {
				t.Fatal(err)
			}
			return v.Status.Phase.Final()
		})
		if v.Status.Phase != c.phase || c.code != "" && v.Status.Errors[0].Code != c.code {
			t.Errorf("%s: %+v", name, v.Status)
		}
	}
	if w.configMaps(t, "validated") != 0 {
		t.Error("a validation restored something")
	}
}

// testDeleted occupies the reconcilers with restores that do not end by themselves, so that the next one shows that they were stopped.
func (w *restoreWorld) testDeleted(t *testing.T) {
	deleted := []string{heldPrefix + "1", heldPrefix + "2"} // so many are carried out at once
	for _, name := range deleted {
		w.start(t, name, restoreSpec(w.recoveryPoint(t, name, 1)))
		w.await(t, name, "at work", func(s v1alpha1.RestoreStatus) bool { return s.Progress.Step == v1alpha1.StepApply })
	}
	for _, name := range deleted {
		w.keep(t, name)
		if err := w.cluster.Client.Delete(t.Context(), &v1alpha1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range deleted {
		s := w.await(t, name, "ended", ended)
		if s.Phase != v1alpha1.PhaseFailed || s.Created != 1 || s.Errors[0].Code != v1alpha1.CodeDeleted || !strings.Contains(s.Errors[0].Message, "The 1 objects that it had created stay") || s.Progress.Step != "" {
			t.Errorf("how a restore ended that was deleted: %+v", s)
		}
	}
	w.start(t, "next", restoreSpec(w.recoveryPoint(t, "next", 1)))
	w.await(t, "next", "ended", ended)
}

// TestKilledRestoreEndsWithTheRightCounts kills the process again and again while it works.
func TestKilledRestoreEndsWithTheRightCounts(t *testing.T) {
	w := newRestoreWorld(t)
	const n = 2000
	w.start(t, "killed", restoreSpec(w.recoveryPoint(t, "killed", n)))
	done := func(min int64) func(v1alpha1.RestoreStatus) bool {
		return func(s v1alpha1.RestoreStatus) bool { return s.Phase.Final() || int64(w.configMaps(t, "killed")) >= min }
	}
	for i, min := range []int64{0, 1, 300, 900} {
		kill := w.startManager(t)
		w.await(t, "killed", fmt.Sprintf("in attempt %d", i+1), func(s v1alpha1.RestoreStatus) bool { return s.Attempt == int32(i+1) })
		w.await(t, "killed", fmt.Sprintf("%d objects far", min), done(min))
		kill()
	}
	w.startManager(t)
	s := w.await(t, "killed", "ended", ended)
	if s.Phase != v1alpha1.PhaseCompleted || s.Created != n+1 || s.Skipped != 0 || s.Failed != 0 || s.Attempt != 5 {
		t.Errorf("status %+v", s)
	}
	if got := w.configMaps(t, "killed"); got != n {
		t.Errorf("%d objects are there, want %d", got, n)
	}
	if got := w.report(t, s.ReportName); got[bundle.RestoreCreated] != n+1 || len(got) != 1 {
		t.Errorf("report %v", got)
	}
}

func TestRestoreOutcome(t *testing.T) {
	warned := []v1alpha1.Issue{{Code: "X"}}
	cases := map[string]struct {
		tally apply.Tally
		want  v1alpha1.Phase
	}{
		"all created":                {apply.Tally{Created: 3}, v1alpha1.PhaseCompleted},
		"all there already":          {apply.Tally{Skipped: 3}, v1alpha1.PhaseCompleted},
		"nothing in it":              {apply.Tally{}, v1alpha1.PhaseCompleted},
		"one failed":                 {apply.Tally{Created: 2, Failed: 1, Warnings: warned, WarningCount: 1}, v1alpha1.PhaseCompletedWithWarnings},
		"a warning":                  {apply.Tally{Created: 2, Warnings: warned, WarningCount: 1}, v1alpha1.PhaseCompletedWithWarnings},
		"none could be created":      {apply.Tally{Skipped: 2, Failed: 1, Failures: warned, Warnings: warned, WarningCount: 1}, v1alpha1.PhaseFailed},
		"the namespace is not there": {apply.Tally{Warnings: warned, WarningCount: 1}, v1alpha1.PhaseFailed},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			phase, issues := controller.RestoreOutcome(c.tally)
			if phase != c.want || (phase == v1alpha1.PhaseFailed) != (len(issues) > 0) {
				t.Errorf("got %s %v, want %s", phase, issues, c.want)
			}
		})
	}
}
