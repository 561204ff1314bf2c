package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cairn-backup/cairn/config"
)

const (
	// kubeNamespace is where everything of ours in a cluster is.
	kubeNamespace = "dataprotection-microsoft"
	fieldManager  = "cairn"
	kubeTimeout   = 30 * time.Second
)

var (
	podsResource        = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	eventsResource      = schema.GroupVersionResource{Version: "v1", Resource: "events"}
	secretsResource     = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	deploymentsResource = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	namespacesResource  = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	claimsResource      = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	volumesResource     = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}

	snapshotClassesResource = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshotclasses"}
)

// kube is the cluster that is joined, reached with the user's own rights. It knows the kinds that it applies by their
// names: discovery would cost every start of the program the registration of all of Kubernetes' types.
type kube struct{ objects dynamic.Interface }

// newKube reads the kubeconfig; host is where the cluster's API is.
func newKube(file, contextName string) (k *kube, host string, err error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = file
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: contextName})
	cfg, err := loader.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig: %w", err)
	}
	cfg.Timeout = kubeTimeout
	objects, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig: %w", err)
	}
	return &kube{objects: objects}, cfg.Host, nil
}

// openKube reads the kubeconfig and tries the cluster.
func openKube(ctx context.Context, file, contextName string) (*kube, error) {
	k, host, err := newKube(file, contextName)
	if err != nil {
		return nil, err
	}
	if _, err := k.secret(ctx, config.ConnectorName, config.CredentialKey); err != nil {
		return nil, fmt.Errorf("reach the cluster at %s: %w", host, err)
	}
	return k, nil
}

// isCluster checks that the kubeconfig leads to the cluster with the ID, as far as the connector's namespace says which one it is.
func (k *kube) isCluster(ctx context.Context, id string) error {
	namespace, err := k.objects.Resource(namespacesResource).Get(ctx, kubeNamespace, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read namespace %s: %w", kubeNamespace, err)
	}
	if err != nil {
		return fmt.Errorf("the kubeconfig leads to another cluster than '%s': to one that is not connected", id)
	}
	if is := namespace.GetAnnotations()[config.ClusterAnnotation]; is != "" && !strings.EqualFold(is, id) {
		return fmt.Errorf("the kubeconfig leads to another cluster than '%s': to '%s'", id, is)
	}
	return nil
}

// resource is where the object's kind is served. Objects without a namespace are the cluster's.
func (k *kube) resource(o *unstructured.Unstructured) dynamic.ResourceInterface {
	plural, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	if o.GetNamespace() == "" {
		return k.objects.Resource(plural)
	}
	return k.objects.Resource(plural).Namespace(o.GetNamespace())
}

// apply makes the cluster have the objects, by server-side apply, in their order.
func (k *kube) apply(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if _, err := k.resource(o).Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
			return fmt.Errorf("apply %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// remove deletes the objects, the last one first. Those that are gone already are no error.
func (k *kube) remove(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, o := range slices.Backward(objects) {
		if err := k.resource(o).Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// secret reads one key of a Secret in our namespace; nil when there is none.
func (k *kube) secret(ctx context.Context, name, key string) ([]byte, error) {
	o, err := k.objects.Resource(secretsResource).Namespace(kubeNamespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", name, err)
	}
	encoded, _, err := unstructured.NestedString(o.Object, "data", key)
	if err != nil {
		return nil, fmt.Errorf("Secret %s: %w", name, err)
	}
	return base64.StdEncoding.DecodeString(encoded)
}

// ready says whether the Deployment's present generation has all its pods ready.
func (k *kube) ready(ctx context.Context, deployment string) bool {
	o, err := k.objects.Resource(deploymentsResource).Namespace(kubeNamespace).Get(ctx, deployment, metav1.GetOptions{})
	if err != nil {
		return false
	}
	number := func(path ...string) int64 {
		n, _ := at(o.Object, path...).(int64)
		return n
	}
	wanted := number("spec", "replicas")
	return number("status", "observedGeneration") >= o.GetGeneration() && number("status", "updatedReplicas") >= wanted &&
		number("status", "readyReplicas") >= wanted && number("status", "replicas") == wanted
}

// trouble says in the cluster's own words what keeps the Deployment's pods from running; empty when nothing is known.
func (k *kube) trouble(ctx context.Context, deployment string) string {
	pods, err := k.objects.Resource(podsResource).Namespace(kubeNamespace).List(ctx,
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + deployment})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return ""
		}
		return err.Error()
	}
	for _, p := range pods.Items {
		if t := podTrouble(p.Object); t != "" {
			return "pod " + p.GetName() + ": " + t
		}
	}
	if len(pods.Items) > 0 {
		return ""
	}
	if w := k.warning(ctx, deployment); w != "" {
		return w
	}
	return "the cluster has made no pod for it"
}

// podTrouble is why a pod's container waits or has ended, or why the pod has no node.
func podTrouble(pod map[string]any) string {
	statuses, _ := at(pod, "status", "containerStatuses").([]any)
	for _, s := range statuses {
		if reason := text(s, "state", "waiting", "reason"); reason != "" && reason != "ContainerCreating" && reason != "PodInitializing" {
			why := reason + ": " + text(s, "state", "waiting", "message")
			if last := text(s, "lastState", "terminated", "message"); last != "" {
				why += ": " + last
			}
			return why
		}
		if reason := text(s, "state", "terminated", "reason"); reason != "" {
			return reason + ": " + text(s, "state", "terminated", "message")
		}
	}
	conditions, _ := at(pod, "status", "conditions").([]any)
	for _, c := range conditions {
		if text(c, "type") == "PodScheduled" && text(c, "status") == "False" {
			return text(c, "reason") + ": " + text(c, "message")
		}
	}
	return ""
}

// warning is the latest warning about an object of the Deployment: a quota or an admission policy that refuses its pods.
func (k *kube) warning(ctx context.Context, deployment string) string {
	events, err := k.objects.Resource(eventsResource).Namespace(kubeNamespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning"})
	if err != nil {
		return ""
	}
	latest, message := "", ""
	for _, e := range events.Items {
		about := text(e.Object, "involvedObject", "name")
		if len(about) < len(deployment) || about[:len(deployment)] != deployment {
			continue
		}
		if when := text(e.Object, "lastTimestamp"); when >= latest {
			latest, message = when, text(e.Object, "reason")+": "+text(e.Object, "message")
		}
	}
	return message
}
