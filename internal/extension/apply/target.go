package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"

	"github.com/cairn-backup/cairn/internal/plan"
)

// Cluster is how to reach the cluster that is restored to.
type Cluster struct {
	Dynamic   dynamic.Interface
	Discovery discovery.DiscoveryInterface
}

// The resources that this package asks for by name.
var (
	claims         = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	pods           = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	storageClasses = schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}
	definitions    = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	snapshots      = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}
	contents       = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshotcontents"}
)

// page is the size of a page of a listing.
const page = 500

// target is what discovery says: for the plan, and to find the kind of an owner.
type target struct {
	plan.Target
	kinds map[schema.GroupVersionKind]plan.Resource
}

// discover asks the API server what it serves. Groups whose server does not answer are left out: their kinds count as not served.
func (c Cluster) discover() (target, error) {
	_, lists, err := c.Discovery.ServerGroupsAndResources()
	var partial *discovery.ErrGroupDiscoveryFailed
	if err != nil && !errors.As(err, &partial) {
		return target{}, fmt.Errorf("ask the API server what it serves: %w", err)
	}
	t := target{plan.Target{Kinds: map[schema.GroupResource]plan.Served{}}, map[schema.GroupVersionKind]plan.Resource{}}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return target{}, fmt.Errorf("discovery: %w", err)
		}
		for _, r := range list.APIResources {
			gr := schema.GroupResource{Group: gv.Group, Resource: r.Name}
			served := t.Kinds[gr]
			served.Versions = append(served.Versions, gv.Version)
			served.Creatable = served.Creatable || slices.Contains(r.Verbs, "create")
			t.Kinds[gr] = served
			if slices.Contains(r.Verbs, "get") && !slices.Contains([]byte(r.Name), '/') {
				t.kinds[gv.WithKind(r.Kind)] = plan.Resource{Group: gv.Group, Version: gv.Version, Resource: r.Name, Kind: r.Kind, Namespaced: r.Namespaced}
			}
		}
	}
	return t, nil
}

// class is what a restore must know of a storage class.
type class struct {
	provisioner string
	// late says that volumes are made when a pod needs them.
	late bool
}

func (c Cluster) storageClasses(ctx context.Context) (map[string]class, error) {
	out := map[string]class{}
	err := c.each(ctx, storageClasses, "", metav1.ListOptions{}, func(o *unstructured.Unstructured) error {
		mode, _, err := unstructured.NestedString(o.Object, "volumeBindingMode")
		if err != nil {
			return err
		}
		provisioner, _, err := unstructured.NestedString(o.Object, "provisioner")
		out[o.GetName()] = class{provisioner: provisioner, late: mode == "WaitForFirstConsumer"}
		return err
	})
	return out, err
}

func provisioners(classes map[string]class) map[string]string {
	out := make(map[string]string, len(classes))
	for name, c := range classes {
		out[name] = c.provisioner
	}
	return out
}

// each lists the objects of a kind, page by page.
func (c Cluster) each(ctx context.Context, r schema.GroupVersionResource, namespace string, opts metav1.ListOptions, f func(*unstructured.Unstructured) error) error {
	opts.Limit = page
	for {
		list, err := c.Dynamic.Resource(r).Namespace(namespace).List(ctx, opts)
		if err != nil {
			return fmt.Errorf("list %s: %w", r.GroupResource(), err)
		}
		for i := range list.Items {
			if err := f(&list.Items[i]); err != nil {
				return fmt.Errorf("%s %s/%s: %w", r.GroupResource(), list.Items[i].GetNamespace(), list.Items[i].GetName(), err)
			}
		}
		if opts.Continue = list.GetContinue(); opts.Continue == "" {
			return nil
		}
	}
}
