package connector_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cairn-backup/cairn/internal/connector"
	"github.com/cairn-backup/cairn/internal/link"
)

func TestStateIsTheClustersOwnWords(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	young, old := metav1.NewTime(now.Add(-10*time.Second)), metav1.NewTime(now.Add(-2*time.Minute))
	deployment := func(conditions ...appsv1.DeploymentCondition) *appsv1.Deployment {
		return &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Generation: 2},
			Status:     appsv1.DeploymentStatus{ObservedGeneration: 2, UpdatedReplicas: 1, Conditions: conditions},
		}
	}
	pod := func(created metav1.Time, status corev1.PodStatus) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: created}, Status: status}
	}
	waiting := func(reason, message string, last *corev1.ContainerStateTerminated) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			Name:                 "manager",
			State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
			LastTerminationState: corev1.ContainerState{Terminated: last},
		}}}
	}
	available := deployment()
	available.Status.AvailableReplicas = 1
	stale := available.DeepCopy()
	stale.Status.ObservedGeneration = 1
	pull := waiting("ImagePullBackOff", `Back-off pulling image "x"`, nil)

	for name, c := range map[string]struct {
		d     *appsv1.Deployment
		pod   *corev1.Pod
		state string
		words string
	}{
		"available":             {d: available, state: link.ExtensionReady},
		"available, but before": {d: stale, state: link.ExtensionInstalling, words: "Waiting for the extension's pods."},
		"no pod yet":            {d: deployment(), state: link.ExtensionInstalling, words: "Waiting for the extension's pods."},
		"being created":         {d: deployment(), pod: pod(old, waiting("ContainerCreating", "", nil)), state: link.ExtensionInstalling, words: "pod p: container manager: ContainerCreating"},
		"no image yet":          {d: deployment(), pod: pod(young, pull), state: link.ExtensionInstalling, words: `pod p: container manager: ImagePullBackOff: Back-off pulling image "x"`},
		"no image":              {d: deployment(), pod: pod(old, pull), state: link.ExtensionFailed, words: `pod p: container manager: ImagePullBackOff: Back-off pulling image "x"`},
		"crashes": {
			d: deployment(),
			pod: pod(old, waiting("CrashLoopBackOff", "back-off 10s",
				&corev1.ContainerStateTerminated{ExitCode: 2, Reason: "Error", Message: "panic: no\n\ngoroutine 1\n"})),
			state: link.ExtensionFailed,
			words: "pod p: container manager: CrashLoopBackOff: back-off 10s (its last run ended with code 2, Error: panic: no | goroutine 1)",
		},
		"out of memory": {
			d:     deployment(),
			pod:   pod(old, waiting("CrashLoopBackOff", "back-off 10s", &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled", Message: "all is well"})),
			state: link.ExtensionFailed,
			words: "pod p: container manager: CrashLoopBackOff: back-off 10s (its last run ended with code 137, OOMKilled: it needs more memory than its limit allows)",
		},
		"no room": {
			d: deployment(),
			pod: pod(old, corev1.PodStatus{Conditions: []corev1.PodCondition{{
				Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available: 1 Insufficient cpu."}}}),
			state: link.ExtensionFailed,
			words: "pod p: Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.",
		},
		"quota": {
			d: deployment(appsv1.DeploymentCondition{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue,
				LastTransitionTime: old, Message: `pods "x" is forbidden: exceeded quota: q`}),
			state: link.ExtensionFailed,
			words: `pods "x" is forbidden: exceeded quota: q`,
		},
		"too long": {
			d: deployment(appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse,
				Message: `ReplicaSet "x" has timed out progressing.`}),
			state: link.ExtensionFailed,
			words: `ReplicaSet "x" has timed out progressing.`,
		},
		"not ready": {
			d: deployment(),
			pod: pod(old, corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Name: "manager", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}),
			state: link.ExtensionInstalling,
			words: "pod p: container manager: running, not ready",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var pods []*corev1.Pod
			if c.pod != nil {
				pods = append(pods, c.pod)
			}
			state, words := connector.DeploymentState(c.d, pods, now)
			if state != c.state || words != c.words {
				t.Errorf("got %s %q\nwant %s %q", state, words, c.state, c.words)
			}
		})
	}
}

func TestLastWordsAreBounded(t *testing.T) {
	now := time.Now()
	p := &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
		State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: strings.Repeat("ä", 5000) + "the end"}}}}}}
	_, words := connector.DeploymentState(&appsv1.Deployment{}, []*corev1.Pod{p}, now)
	if len(words) > 800 || !strings.Contains(words, "the end") {
		t.Errorf("%d bytes: %s", len(words), words)
	}
}

func TestSettingsBecomeValues(t *testing.T) {
	got := connector.Values(map[string]string{
		"blobContainer": "c", "storageAccount": "s", // the service's business
		"CPULimit": "2", "memoryRequest": "128Mi", "resources.limits.memory": "4400Mi",
	}, "image:1")
	want := map[string]any{
		"image": "image:1",
		"resources": map[string]any{
			"limits":   map[string]any{"cpu": "2", "memory": "4400Mi"},
			"requests": map[string]any{"memory": "128Mi"},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestChartVersionIsSemantic(t *testing.T) {
	for version, want := range map[string]string{
		"0.1.0":            "0.1.0",
		"v1.2.3":           "1.2.3",
		"v1.2.3-4-gabcdef": "1.2.3-4-gabcdef",
		"dev":              "0.0.0-gdev",
		"0123456":          "0.0.0-g0123456",
		"dca9ad1-dirty":    "0.0.0-gdca9ad1-dirty",
		"a/b c":            "0.0.0-ga-b-c",
	} {
		if got := connector.ChartVersion(version); got != want {
			t.Errorf("%s: got %s, want %s", version, got, want)
		}
	}
}
