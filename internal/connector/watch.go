package connector

import (
	"encoding/json"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/config"
)

// watch is what the connector sees of the cluster: its own requests, the extension's Deployment and pods, the nodes.
type watch struct {
	cluster  informers.SharedInformerFactory
	nspace   informers.SharedInformerFactory
	requests dynamicinformer.DynamicSharedInformerFactory

	nodes       corelisters.NodeLister
	deployments appslisters.DeploymentLister
	pods        corelisters.PodLister
	ofKind      map[string]cache.SharedIndexInformer

	done     chan struct{}
	doneOnce sync.Once
}

// newWatch prepares the watches and ties them to the loops. They start with startObjects and startRequests.
func newWatch(r *run) (*watch, error) {
	w := &watch{
		cluster: informers.NewSharedInformerFactoryWithOptions(r.typed, 0, informers.WithTransform(slimNode)),
		nspace:  informers.NewSharedInformerFactoryWithOptions(r.typed, 0, informers.WithNamespace(v1alpha1.Namespace)),
		requests: dynamicinformer.NewFilteredDynamicSharedInformerFactory(r.dynamic, 0, v1alpha1.Namespace, func(o *metav1.ListOptions) {
			o.LabelSelector = labels.Set{v1alpha1.ManagedByLabel: v1alpha1.ManagedByConnector}.String()
		}),
		ofKind: map[string]cache.SharedIndexInformer{},
		done:   make(chan struct{}),
	}
	w.nodes = w.cluster.Core().V1().Nodes().Lister()
	w.deployments = w.nspace.Apps().V1().Deployments().Lister()
	w.pods = w.nspace.Core().V1().Pods().Lister()
	tell := handler(func(any) { r.toTell.set() })
	gone := cache.ResourceEventHandlerFuncs{DeleteFunc: func(any) { r.toInstall.set() }}
	var failed error
	add := func(i cache.SharedIndexInformer, h cache.ResourceEventHandler) {
		if _, err := i.AddEventHandler(h); err != nil {
			failed = fmt.Errorf("connector: watch: %w", err)
		}
	}
	add(w.cluster.Core().V1().Nodes().Informer(), tell)
	add(w.nspace.Core().V1().Pods().Informer(), tell)
	add(w.nspace.Apps().V1().Deployments().Informer(), tell)
	add(w.nspace.Apps().V1().Deployments().Informer(), gone)
	for _, kind := range kinds {
		gvr, _ := resource(kind)
		w.ofKind[kind] = w.requests.ForResource(gvr).Informer()
		add(w.ofKind[kind], handler(func(o any) {
			r.keepEnd(kind, o)
			r.toCarry.set()
			r.toTell.set()
			if u, ok := o.(*unstructured.Unstructured); ok && phase(u).Final() {
				r.toTellNow.set()
			}
		}))
	}
	return w, failed
}

// handler calls f for whatever happens to an object, with the object as it is now.
func handler(f func(any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    f,
		UpdateFunc: func(_, o any) { f(o) },
		DeleteFunc: f,
	}
}

// slimNode keeps of a node only what is counted.
func slimNode(o any) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion},
		Status:     corev1.NodeStatus{Conditions: n.Status.Conditions},
	}, nil
}

// startObjects returns when the nodes, Deployments and pods have been read once, or false when the watch was stopped.
func (w *watch) startObjects() bool {
	w.cluster.Start(w.done)
	w.nspace.Start(w.done)
	for _, synced := range []map[any]bool{anyKeys(w.cluster.WaitForCacheSync(w.done)), anyKeys(w.nspace.WaitForCacheSync(w.done))} {
		for _, ok := range synced {
			if !ok {
				return false
			}
		}
	}
	return true
}

// startRequests does the same for the requests. Their kinds must be defined.
func (w *watch) startRequests() bool {
	w.requests.Start(w.done)
	for _, ok := range w.requests.WaitForCacheSync(w.done) {
		if !ok {
			return false
		}
	}
	return true
}

func anyKeys[K comparable](m map[K]bool) map[any]bool {
	out := make(map[any]bool, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// stop ends all watches; it may be called more than once.
func (w *watch) stop() {
	w.doneOnce.Do(func() { close(w.done) })
	w.cluster.Shutdown()
	w.nspace.Shutdown()
	w.requests.Shutdown()
}

// readyNodes counts the nodes that are Ready.
func (w *watch) readyNodes() int {
	nodes, err := w.nodes.List(labels.Everything())
	if err != nil {
		return 0 // a lister over a cache has no error to give
	}
	n := 0
	for _, node := range nodes {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				n++
			}
		}
	}
	return n
}

// extension returns the extension's Deployment, nil if there is none, and its pods.
func (w *watch) extension() (*appsv1.Deployment, []*corev1.Pod) {
	d, err := w.deployments.Deployments(v1alpha1.Namespace).Get(config.ExtensionDeployment)
	if err != nil {
		return nil, nil // a lister over a cache knows no error but "not found"
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return d, nil
	}
	pods, err := w.pods.Pods(v1alpha1.Namespace).List(selector)
	if err != nil {
		return d, nil
	}
	return d, pods
}

// own returns all request objects of the connector's.
func (w *watch) own() map[key]*unstructured.Unstructured {
	own := map[key]*unstructured.Unstructured{}
	for kind, informer := range w.ofKind {
		for _, o := range informer.GetStore().List() {
			if u, ok := o.(*unstructured.Unstructured); ok {
				own[key{kind, u.GetName()}] = u
			}
		}
	}
	return own
}

// phase is a request object's.
func phase(u *unstructured.Unstructured) v1alpha1.Phase {
	p, _, err := unstructured.NestedString(u.Object, "status", "phase")
	if err != nil {
		return ""
	}
	return v1alpha1.Phase(p)
}

// status is a request object's as JSON: {} until the extension has written one.
func status(u *unstructured.Unstructured) (json.RawMessage, error) {
	s, ok := u.Object["status"]
	if !ok {
		return json.RawMessage(`{}`), nil
	}
	return json.Marshal(s)
}
