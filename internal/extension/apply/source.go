package apply

import (
	"context"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/util/json"

	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/plan"
)

// CountReads wraps storage so that f is told how many bytes were read.
func CountReads(store bundle.Opener, f func(n int64)) bundle.Opener { return countedStore{store, f} }

type countedStore struct {
	bundle.Opener
	count func(int64)
}

func (c countedStore) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	body, err := c.Opener.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return countedBody{body, c.count}, nil
}

type countedBody struct {
	io.ReadCloser
	count func(int64)
}

func (c countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.count(int64(n))
	return n, err
}

// kind is one kind of the bundle, and how the plan calls it.
type kind struct {
	stored bundle.Kind
	plan.Resource
}

// kindsOf lists the bundle's kinds in the order of their restore.
func kindsOf(rp bundle.RecoveryPoint) []kind {
	resources := make([]plan.Resource, 0, len(rp.Kinds))
	stored := make(map[plan.Resource]bundle.Kind, len(rp.Kinds))
	for _, k := range rp.Kinds {
		r := plan.Resource{Group: k.Group(), Version: k.Version(), Resource: k.Plural, Kind: k.Kind, Namespaced: k.Namespaced}
		resources = append(resources, r)
		stored[r] = k
	}
	plan.SortByWave(resources)
	out := make([]kind, 0, len(resources))
	for _, r := range resources {
		out = append(out, kind{stored[r], r})
	}
	return out
}

func resourcesOf(kinds []kind) []plan.Resource {
	out := make([]plan.Resource, 0, len(kinds))
	for _, k := range kinds {
		out = append(out, k.Resource)
	}
	return out
}

// decode reads an object as the dynamic client would. Bundles hold lines of JSON of which nothing more is known.
func decode(k kind, line []byte) (map[string]any, error) {
	var o map[string]any
	if err := json.Unmarshal(line, &o); err != nil {
		return nil, fmt.Errorf("an object of kind %s cannot be decoded: %w", k.Resource, err)
	}
	return o, nil
}

// facts reads what the plan needs to know of volumes, classes, definitions and namespaces.
func facts(ctx context.Context, bundled *bundle.Reader, kinds []kind, req plan.Request, classes map[string]string) (*plan.Facts, error) {
	var records []plan.VolumeRecord
	for v, err := range bundled.Volumes(ctx) {
		if err != nil {
			return nil, err
		}
		records = append(records, plan.VolumeRecord{Namespace: v.Namespace, Claim: v.Claim, Driver: v.Driver, Handle: v.SnapshotHandle, RestoreSizeBytes: v.RestoreSizeBytes})
	}
	f := plan.NewFacts(records, classes)
	for _, k := range kinds {
		if !f.Wanted(k.Resource) {
			continue
		}
		for line, err := range bundled.Objects(ctx, k.stored) {
			if err != nil {
				return nil, err
			}
			o, err := decode(k, line)
			if err != nil {
				return nil, err
			}
			f.Learn(k.Resource, o, req.Filter.IncludeClusterScopeResources)
		}
	}
	return f, nil
}
