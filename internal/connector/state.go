package connector

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/cairn-backup/cairn/config"
	"github.com/cairn-backup/cairn/internal/link"
)

// patience is how long a pod may say that it cannot start, or the API server be out of reach, before the installation
// counts as failed. The state turns back when things go well after all.
const patience = 45 * time.Second

// lastWords bounds what is told of a crashed container's output.
const lastWords = 600

// installation is how far the connector is with the release. The zero value: there is none, and should be none.
type installation struct {
	name       string
	generation int64
	revision   int // of the release, which its objects are stamped with; 0 while it is not applied
	removing   bool
	err        error     // why the release could not be applied or removed
	failing    time.Time // since when
}

// definite reports whether err is the API server's or the chart's verdict, rather than trouble in reaching somebody.
func definite(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) ||
		strings.Contains(err.Error(), "values don't meet the specifications of the schema")
}

// extensionState says how the extension is, from what the connector did and what the cluster shows.
func extensionState(i installation, version string, d *appsv1.Deployment, pods []*corev1.Pod, now time.Time) *link.ExtensionState {
	if i.name == "" {
		return nil
	}
	s := &link.ExtensionState{Name: i.name, Generation: i.generation, Version: version}
	switch {
	case i.removing:
		s.State = link.ExtensionUninstalling
		if i.err != nil {
			s.Message = i.err.Error()
		}
	case i.err != nil:
		s.State, s.Message = link.ExtensionInstalling, i.err.Error()
		if definite(i.err) || now.Sub(i.failing) >= patience {
			s.State = link.ExtensionFailed
		}
	case d == nil || d.Annotations[config.RevisionAnnotation] != strconv.Itoa(i.revision):
		s.State, s.Message = link.ExtensionInstalling, "The Helm release is being applied."
	default:
		s.State, s.Message = deploymentState(d, pods, now)
	}
	return s
}

// deploymentState is Ready when all pods are, Failed when one says that it cannot start and has had the time to, else
// Installing. The message is the cluster's own words.
func deploymentState(d *appsv1.Deployment, pods []*corev1.Pod, now time.Time) (state, message string) {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	observed := d.Status.ObservedGeneration >= d.Generation
	if observed && d.Status.UpdatedReplicas >= want && d.Status.AvailableReplicas >= want {
		return link.ExtensionReady, ""
	}
	state = link.ExtensionInstalling
	var words []string
	for _, c := range d.Status.Conditions {
		switch {
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			// No pod could even be made: quota, or an admission policy or webhook.
			words = append(words, c.Message)
			if now.Sub(c.LastTransitionTime.Time) >= patience {
				state = link.ExtensionFailed
			}
		case c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && observed:
			words = append(words, c.Message)
			state = link.ExtensionFailed
		}
	}
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range pods {
		said, stuck := podWords(p)
		for _, w := range said {
			words = append(words, fmt.Sprintf("pod %s: %s", p.Name, w))
		}
		if stuck && now.Sub(p.CreationTimestamp.Time) >= patience {
			state = link.ExtensionFailed
		}
	}
	if len(words) == 0 {
		words = []string{"Waiting for the extension's pods."}
	}
	return state, strings.Join(words, "; ")
}

// podWords is what a pod says about why it is not ready; stuck, when it is waiting for somebody to do something.
func podWords(p *corev1.Pod) (words []string, stuck bool) {
	if p.DeletionTimestamp != nil {
		return []string{"terminating"}, false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			words = append(words, c.Reason+": "+c.Message)
			stuck = true
		}
	}
	if p.Status.Phase == corev1.PodFailed {
		words = append(words, strings.Trim(p.Status.Reason+": "+p.Status.Message, ": "))
	}
	for _, c := range p.Status.ContainerStatuses {
		w, s := containerWords(c)
		if w != "" {
			words = append(words, fmt.Sprintf("container %s: %s", c.Name, w))
		}
		stuck = stuck || s
	}
	return words, stuck
}

func containerWords(c corev1.ContainerStatus) (words string, stuck bool) {
	switch {
	case c.Ready:
		return "", false
	case c.State.Waiting != nil:
		w := c.State.Waiting
		if w.Reason == "ContainerCreating" || w.Reason == "PodInitializing" {
			return w.Reason, false
		}
		return strings.Trim(w.Reason+": "+w.Message+before(c.LastTerminationState.Terminated), ": "), true
	case c.State.Terminated != nil:
		return ended(c.State.Terminated), true
	case c.State.Running != nil:
		return "running, not ready" + before(c.LastTerminationState.Terminated), c.RestartCount > 0
	}
	return "", false
}

// before tells in brackets how a container's last run ended, if there was one.
func before(t *corev1.ContainerStateTerminated) string {
	if t == nil {
		return ""
	}
	return " (its last run " + ended(t) + ")"
}

// ended tells how a run ended, in its own words: the last of them, on one line.
func ended(t *corev1.ContainerStateTerminated) string {
	s := fmt.Sprintf("ended with code %d, %s", t.ExitCode, t.Reason)
	if t.Reason == "OOMKilled" {
		return s + ": it needs more memory than its limit allows" // its words know nothing of it
	}
	said := strings.Join(strings.FieldsFunc(t.Message, func(c rune) bool { return c == '\n' || c == '\r' }), " | ")
	if len(said) > lastWords {
		said = "… " + strings.ToValidUTF8(said[len(said)-lastWords:], "")
	}
	if said == "" {
		return s
	}
	return s + ": " + said
}
