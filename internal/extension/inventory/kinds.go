package inventory

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
)

// leftOutKinds are the kinds that no backup takes, with the reason that the report gives. Everything else that can be listed is taken.
var leftOutKinds = map[schema.GroupResource]string{
	{Group: "", Resource: "events"}:                                          "events are a log that the cluster forgets within hours",
	{Group: "events.k8s.io", Resource: "events"}:                             "events are a log that the cluster forgets within hours",
	{Group: "", Resource: "nodes"}:                                           "nodes register themselves",
	{Group: "", Resource: "componentstatuses"}:                               "component statuses are measured, not stored",
	{Group: "storage.k8s.io", Resource: "csinodes"}:                          "nodes register themselves",
	{Group: "storage.k8s.io", Resource: "csistoragecapacities"}:              "CSI drivers publish their capacity themselves",
	{Group: "storage.k8s.io", Resource: "volumeattachments"}:                 "attachments belong to this cluster's nodes",
	{Group: "coordination.k8s.io", Resource: "leases"}:                       "leases say who is alive now; an old one would keep the living out",
	{Group: "coordination.k8s.io", Resource: "leasecandidates"}:              "leases say who is alive now; an old one would keep the living out",
	{Group: "resource.k8s.io", Resource: "resourceslices"}:                   "nodes publish their devices themselves",
	{Group: "networking.k8s.io", Resource: "ipaddresses"}:                    "the control plane allocates addresses from the Services",
	{Group: "internal.apiserver.k8s.io", Resource: "storageversions"}:        "API servers register themselves",
	{Group: "storagemigration.k8s.io", Resource: "storageversionmigrations"}: "migrations concern this cluster's etcd",
}

// leftOutGroups are API groups that serve measurements, not stored objects, and our own requests.
var leftOutGroups = map[string]string{
	"metrics.k8s.io":          "metrics are measured, not stored",
	"custom.metrics.k8s.io":   "metrics are measured, not stored",
	"external.metrics.k8s.io": "metrics are measured, not stored",
	v1alpha1.Group:            "requests to this extension are not workload",
}

// kindNotListed is the code of a warning about a kind that is not in the bundle though it should be.
const kindNotListed = "KindNotListed"

// Kinds returns all kinds to be taken, in the API server's preferred versions, and what the report says of the others. Aggregated APIs are
// marked live: their servers need not know our revision.
func Kinds(ctx context.Context, config *rest.Config) ([]bundle.Kind, []bundle.Outcome, error) {
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("client for the API server's kinds: %w", err)
	}
	live, err := aggregated(ctx, client.RESTClient())
	if err != nil {
		return nil, nil, err
	}
	lists, err := client.ServerPreferredResourcesWithContext(ctx)
	failed, err := brokenGroups(err)
	if err != nil {
		return nil, nil, fmt.Errorf("ask the API server for its kinds: %w", err)
	}
	var kinds []bundle.Kind
	report := failed
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, nil, fmt.Errorf("the API server names a group version %q: %w", list.GroupVersion, err)
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") {
				continue
			}
			at := schema.GroupVersion{Group: cmp.Or(r.Group, gv.Group), Version: cmp.Or(r.Version, gv.Version)}
			gr := schema.GroupResource{Group: at.Group, Resource: r.Name}
			if why := cmp.Or(leftOutKinds[gr], leftOutGroups[gr.Group]); why != "" {
				report = append(report, bundle.Outcome{Resource: gr.String(), Result: bundle.Info, Code: "KindLeftOutByDesign", Message: why})
				continue
			}
			kinds = append(kinds, bundle.Kind{APIVersion: at.String(), Kind: r.Kind, Plural: r.Name, Namespaced: r.Namespaced, Live: live[at]})
		}
	}
	slices.SortFunc(kinds, func(a, b bundle.Kind) int {
		return cmp.Or(cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Plural, b.Plural))
	})
	return kinds, report, nil
}

// brokenGroups turns the groups that discovery could not ask into outcomes; another error is returned as it is.
func brokenGroups(err error) ([]bundle.Outcome, error) {
	var broken *discovery.ErrGroupDiscoveryFailed
	if err == nil || !errors.As(err, &broken) {
		return nil, err
	}
	var report []bundle.Outcome
	for gv, cause := range broken.Groups {
		if leftOutGroups[gv.Group] != "" {
			continue
		}
		report = append(report, bundle.Outcome{Resource: "*." + gv.Group, Result: bundle.Skipped, Code: kindNotListed,
			Message: fmt.Sprintf("the API server could not tell the kinds of %s: %v", gv, cause),
			Action:  "Repair the APIService " + gv.Version + "." + gv.Group + " or delete it, and back up again."})
	}
	slices.SortFunc(report, func(a, b bundle.Outcome) int { return cmp.Compare(a.Resource, b.Resource) })
	return report, nil
}

// aggregated returns the group versions that are served by API servers of their own.
func aggregated(ctx context.Context, client rest.Interface) (map[schema.GroupVersion]bool, error) {
	body, err := client.Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices").SetHeader("Accept", "application/json").Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the aggregated APIs: %w", err)
	}
	// The body has been read when it is closed.
	defer func() { _ = body.Close() }()
	live := map[schema.GroupVersion]bool{}
	_, err = splitList(body, bundle.MaxLine, func(item []byte) error {
		var service struct {
			Spec struct {
				Group, Version string
				Service        *struct{ Name string }
			}
		}
		if err := json.Unmarshal(item, &service); err != nil {
			return err
		}
		if service.Spec.Service != nil {
			live[schema.GroupVersion{Group: service.Spec.Group, Version: service.Spec.Version}] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the aggregated APIs: %w", err)
	}
	return live, nil
}
