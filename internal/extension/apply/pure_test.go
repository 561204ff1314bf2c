package apply_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/cairn-backup/cairn/internal/extension/apply"
)

func TestClassify(t *testing.T) {
	gr, gk := schema.GroupResource{Resource: "services"}, schema.GroupKind{Kind: "Service"}
	vanishing := apierrors.NewForbidden(gr, "a", errors.New("namespace shop is being terminated"))
	vanishing.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	port := apierrors.NewInvalid(gk, "a", field.ErrorList{field.Invalid(field.NewPath("spec", "ports").Index(0).Child("nodePort"), 30000, "provided port is already allocated")})
	unserved := apierrors.NewGenericServerResponse(http.StatusNotFound, "post", gr, "", "the server could not find the requested resource", 0, true)
	cases := map[string]struct {
		err  error
		want apply.Answer
	}{
		"no error":             {nil, apply.Done},
		"exists":               {apierrors.NewAlreadyExists(gr, "a"), apply.Exists},
		"a conflict":           {apierrors.NewConflict(gr, "a", errors.New("x")), apply.Again},
		"a timeout":            {apierrors.NewTimeoutError("x", 1), apply.Again},
		"too many requests":    {apierrors.NewTooManyRequests("x", 1), apply.Again},
		"service unavailable":  {apierrors.NewServiceUnavailable("x"), apply.Again},
		"internal error":       {apierrors.NewInternalError(errors.New("conversion webhook for example.com/v1, Kind=Shop failed")), apply.Later},
		"a webhook is away":    {apierrors.NewInternalError(errors.New(`failed calling webhook "a.b.c": connection refused`)), apply.Later},
		"a quota is new":       {apierrors.NewForbidden(gr, "a", errors.New("status unknown for quota: q, resources: pods")), apply.Later},
		"a quota is exceeded":  {apierrors.NewForbidden(gr, "a", errors.New("exceeded quota: q")), apply.Refused},
		"a webhook denies":     {apierrors.NewForbidden(gr, "a", errors.New(`admission webhook "a" denied the request`)), apply.Refused},
		"namespace vanishes":   {vanishing, apply.Vanishing},
		"no such namespace":    {apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shop"), apply.Refused},
		"a kind not served":    {unserved, apply.Unserved},
		"a node port is taken": {port, apply.PortTaken},
		"another field":        {apierrors.NewInvalid(gk, "a", field.ErrorList{field.Required(field.NewPath("spec"), "x")}), apply.Refused},
		"connection refused":   {&url.Error{Op: "Post", Err: syscall.ECONNREFUSED}, apply.Again},
		"connection broke":     {io.ErrUnexpectedEOF, apply.Again},
		"the request ran late": {context.DeadlineExceeded, apply.Again},
		"we stop":              {fmt.Errorf("x: %w", context.Canceled), apply.GivenUp},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := apply.Classify(c.err); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var o map[string]any
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return integers(o).(map[string]any)
}

// integers makes integers of whole numbers, as the API machinery decodes them.
func integers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = integers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = integers(v[i])
		}
	case float64:
		return int64(v)
	}
	return v
}

func TestReady(t *testing.T) {
	cases := map[string]struct {
		kind, object string
		want         bool
	}{
		"all replicas":             {"deployments.apps", `{metadata: {generation: 2}, spec: {replicas: 2}, status: {observedGeneration: 2, readyReplicas: 2}}`, true},
		"too few":                  {"deployments.apps", `{metadata: {generation: 2}, spec: {replicas: 2}, status: {observedGeneration: 2, readyReplicas: 1}}`, false},
		"not seen yet":             {"statefulsets.apps", `{metadata: {generation: 2}, spec: {replicas: 0}, status: {observedGeneration: 1}}`, false},
		"scaled to nothing":        {"statefulsets.apps", `{metadata: {generation: 1}, spec: {replicas: 0}, status: {observedGeneration: 1}}`, true},
		"replicas not said":        {"replicasets.apps", `{status: {readyReplicas: 0}}`, false},
		"no status at all":         {"daemonsets.apps", `{metadata: {generation: 1}}`, false},
		"a daemon set":             {"daemonsets.apps", `{metadata: {generation: 1}, status: {observedGeneration: 1, numberReady: 3, desiredNumberScheduled: 3}}`, true},
		"a pod that runs":          {"pods", `{status: {phase: Running, conditions: [{type: Ready, status: "True"}]}}`, true},
		"a pod that does not":      {"pods", `{status: {phase: Pending}}`, false},
		"a pod that ended well":    {"pods", `{status: {phase: Succeeded}}`, true},
		"a job with a pod":         {"jobs.batch", `{status: {active: 1, ready: 1}}`, true},
		"a job without one":        {"jobs.batch", `{status: {active: 1, ready: 0}}`, false},
		"a job that ended":         {"jobs.batch", `{status: {succeeded: 1}}`, true},
		"a suspended job":          {"jobs.batch", `{spec: {suspend: true}}`, true},
		"something without a pod":  {"configmaps", `{}`, true},
		"a status of another type": {"deployments.apps", `{status: 7}`, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got, _ := apply.Ready(c.kind, object(t, c.object)); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestTroubleNamesTheCause(t *testing.T) {
	cases := map[string]struct{ pod, want string }{
		"unschedulable": {`{status: {phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: Unschedulable, message: no nodes}]}}`, "Unschedulable: no nodes"},
		"no image": {`{status: {phase: Pending, containerStatuses: [{name: web, state: {waiting: {reason: ImagePullBackOff, message: not found}}}]}}`,
			"container web: ImagePullBackOff: not found"},
		"crashes in init": {`{status: {phase: Pending, initContainerStatuses: [{name: init, state: {waiting: {reason: CrashLoopBackOff}}}]}}`, "container init: CrashLoopBackOff"},
		"being created":   {`{status: {phase: Pending, containerStatuses: [{name: web, state: {waiting: {reason: ContainerCreating}}}]}}`, "the pod is Pending and not ready"},
		"ready":           {`{status: {phase: Running, conditions: [{type: Ready, status: "True"}]}}`, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := apply.Trouble(object(t, c.pod)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestMergeOwners(t *testing.T) {
	yes := true
	a := metav1.OwnerReference{Name: "a", UID: "1", Controller: &yes}
	b := metav1.OwnerReference{Name: "b", UID: "2"}
	other := metav1.OwnerReference{Name: "c", UID: "3", Controller: &yes}
	cases := map[string]struct {
		have, add []metav1.OwnerReference
		want      string
		changed   bool
	}{
		"none yet":               {nil, []metav1.OwnerReference{a, b}, "a b", true},
		"already there":          {[]metav1.OwnerReference{a}, []metav1.OwnerReference{a}, "a", false},
		"another was faster":     {[]metav1.OwnerReference{other}, []metav1.OwnerReference{a}, "c", false},
		"another, but we add on": {[]metav1.OwnerReference{other}, []metav1.OwnerReference{a, b}, "c b", true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, changed := apply.MergeOwners(c.have, c.add)
			var names []string
			for _, r := range got {
				names = append(names, r.Name)
			}
			if diff := cmp.Diff(c.want, strings.Join(names, " ")); diff != "" || changed != c.changed {
				t.Errorf("changed %v; %s", changed, diff)
			}
		})
	}
}
