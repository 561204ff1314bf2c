package plan_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/plan"
)

// everything is a target that serves all kinds of the tests.
func everything() plan.Target {
	t := plan.Target{Kinds: map[schema.GroupResource]plan.Served{}}
	for _, r := range kinds {
		t.Kinds[r.GroupResource()] = plan.Served{Versions: []string{r.Version}, Creatable: true}
	}
	return t
}

func allKinds() []plan.Resource {
	all := slices.Collect(maps.Values(kinds))
	plan.SortByWave(all)
	return all
}

func TestDecide(t *testing.T) {
	all := v1alpha1.Filter{IncludeClusterScopeResources: true}
	shopOnly := v1alpha1.Filter{IncludedNamespaces: []string{"shop"}}
	cases := map[string]struct {
		filter v1alpha1.Filter
		kind   string
		object string
		action plan.Action
		code   string
	}{
		"a plain object":                {all, "configmaps", `{metadata: {name: a, namespace: shop}}`, plan.Create, ""},
		"another namespace":             {shopOnly, "configmaps", `{metadata: {name: a, namespace: other}}`, plan.Exclude, plan.NotSelected},
		"an excluded namespace":         {v1alpha1.Filter{ExcludedNamespaces: []string{"shop"}}, "configmaps", `{metadata: {name: a, namespace: shop}}`, plan.Exclude, plan.NotSelected},
		"kube-system even if included":  {v1alpha1.Filter{IncludedNamespaces: []string{"kube-system"}}, "configmaps", `{metadata: {name: a, namespace: kube-system}}`, plan.Exclude, plan.NotSelected},
		"the extension's namespace":     {all, "secrets", `{metadata: {name: a, namespace: dataprotection-microsoft}}`, plan.Exclude, plan.NotSelected},
		"a chosen namespace":            {shopOnly, "namespaces", `{metadata: {name: shop}}`, plan.Create, ""},
		"a namespace not chosen":        {shopOnly, "namespaces", `{metadata: {name: other}}`, plan.Exclude, plan.NotSelected},
		"cluster-scoped, asked for":     {all, "priorityclasses", `{metadata: {name: high}}`, plan.Create, ""},
		"cluster-scoped, not asked for": {shopOnly, "priorityclasses", `{metadata: {name: high}}`, plan.Exclude, plan.NotSelected},
		"a system priority":             {all, "priorityclasses", `{metadata: {name: system-node-critical}}`, plan.Skip, plan.RecreatedByCluster},
		"being deleted":                 {all, "configmaps", `{metadata: {name: a, namespace: shop, deletionTimestamp: "2026-01-01T00:00:00Z"}}`, plan.Skip, plan.BeingDeleted},
		"in a namespace being deleted":  {all, "configmaps", `{metadata: {name: a, namespace: dying}}`, plan.Skip, plan.BeingDeleted},
		"a node":                        {all, "nodes", `{metadata: {name: x}}`, plan.Skip, plan.RecreatedByCluster},
		"an event":                      {all, "events", `{metadata: {name: x, namespace: shop}}`, plan.Skip, plan.RecreatedByCluster},
		"a lease":                       {all, "leases", `{metadata: {name: x, namespace: shop}}`, plan.Skip, plan.RecreatedByCluster},
		"the root certificate":          {all, "configmaps", `{metadata: {name: kube-root-ca.crt, namespace: shop}}`, plan.Skip, plan.RecreatedByCluster},
		"the API server's service":      {all, "services", `{metadata: {name: kubernetes, namespace: default}}`, plan.Skip, plan.RecreatedByCluster},
		"a built-in role":               {all, "clusterroles", `{metadata: {name: admin, labels: {kubernetes.io/bootstrapping: rbac-defaults}}}`, plan.Skip, plan.RecreatedByCluster},
		"a local API service":           {all, "apiservices", `{metadata: {name: v1.}, spec: {version: v1}}`, plan.Skip, plan.RecreatedByCluster},
		"a remote API service":          {all, "apiservices", `{metadata: {name: v1.x.y}, spec: {service: {name: a, namespace: b}}}`, plan.Create, ""},
		"a user's snapshot":             {all, "volumesnapshots", `{metadata: {name: a, namespace: shop}}`, plan.Skip, plan.PointInTimeObject},
		"a request of ours":             {all, "restores", `{metadata: {name: a, namespace: shop}}`, plan.Skip, plan.RequestOfExtension},
		"a user's hook":                 {all, "backuphooks", `{metadata: {name: a, namespace: shop}}`, plan.Create, ""},
		"the definition of a request":   {all, "customresourcedefinitions", `{metadata: {name: backups.x}, spec: {group: clusterbackup.dataprotection.microsoft.com, names: {plural: backups}}}`, plan.Skip, plan.RequestOfExtension},
		"a slice of the control plane":  {all, "endpointslices", `{metadata: {name: a, namespace: shop, labels: {endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}}`, plan.Skip, plan.RecreatedByCluster},
		"a slice of a user":             {all, "endpointslices", `{metadata: {name: a, namespace: shop}}`, plan.Create, ""},
		"endpoints of the control plane": {all, "endpoints", `{metadata: {name: a, namespace: shop, labels: {endpoints.kubernetes.io/managed-by: endpoint-controller}}}`,
			plan.Skip, plan.RecreatedByCluster},
		"a pod of a replica set":    {all, "pods", `{metadata: {name: a, namespace: shop, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: r, uid: u, controller: true}]}}`, plan.Skip, plan.RecreatedByOwner},
		"a pod of an operator":      {all, "pods", `{metadata: {name: a, namespace: shop, ownerReferences: [{apiVersion: example.com/v1, kind: Shop, name: r, uid: u, controller: true}]}}`, plan.Skip, plan.RecreatedByOwner},
		"a pod of an unknown owner": {all, "pods", `{metadata: {name: a, namespace: shop, ownerReferences: [{apiVersion: gone.com/v1, kind: Gone, name: r, uid: u, controller: true}]}}`, plan.Create, ""},
		"a pod that merely refers":  {all, "pods", `{metadata: {name: a, namespace: shop, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: r, uid: u}]}}`, plan.Create, ""},
		"a static pod":              {all, "pods", `{metadata: {name: a, namespace: shop, annotations: {kubernetes.io/config.mirror: x}}}`, plan.Skip, plan.RecreatedByCluster},
		"a pod that ended":          {all, "pods", `{metadata: {name: a, namespace: shop}, status: {phase: Succeeded}}`, plan.Skip, plan.AlreadyCompleted},
		"a job that ended":          {all, "jobs", `{metadata: {name: a, namespace: shop}, status: {conditions: [{type: Failed, status: "True"}]}}`, plan.Skip, plan.AlreadyCompleted},
		"a job that runs":           {all, "jobs", `{metadata: {name: a, namespace: shop}, status: {conditions: [{type: Failed, status: "False"}]}}`, plan.Create, ""},
		"a replica set of a Deployment": {all, "replicasets", `{metadata: {name: a, namespace: shop, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: r, uid: u, controller: true}]}}`,
			plan.Skip, plan.RecreatedByOwner},
		"a replica set of an operator": {all, "replicasets", `{metadata: {name: a, namespace: shop, ownerReferences: [{apiVersion: example.com/v1, kind: Shop, name: r, uid: u, controller: true}]}}`, plan.Create, ""},
		"a secret of an operator":      {all, "secrets", `{metadata: {name: a, namespace: shop, ownerReferences: [{apiVersion: example.com/v1, kind: Shop, name: r, uid: u, controller: true}]}}`, plan.Create, ""},
		"no name":                      {all, "secrets", `{metadata: {namespace: shop}}`, plan.Block, plan.MalformedObject},
		"no namespace":                 {all, "secrets", `{metadata: {name: a}}`, plan.Block, plan.MalformedObject},
		"not even metadata":            {all, "secrets", `{metadata: 7}`, plan.Block, plan.MalformedObject},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			facts := plan.NewFacts(nil, nil)
			facts.Learn(kinds["namespaces"], decode(t, `{metadata: {name: dying, deletionTimestamp: "2026-01-01T00:00:00Z"}}`), true)
			p := plan.New(plan.Request{Filter: c.filter}, allKinds(), facts, everything())
			d := p.Decide(kinds[c.kind], decode(t, c.object))
			if d.Action != c.action || d.Code != c.code {
				t.Errorf("got %s %q (%s), want %s %q", d.Action, d.Code, d.Message, c.action, c.code)
			}
			if d.Code != "" && d.Message == "" {
				t.Error("no message")
			}
		})
	}
}

func TestKindsThatTheTargetLacks(t *testing.T) {
	shop := `{metadata: {name: a, namespace: shop}}`
	crd := `{metadata: {name: shops.example.com}, spec: {group: example.com, names: {plural: shops}, versions: [{name: v1, served: true}]}}`
	other := plan.Served{Versions: []string{"v2"}, Creatable: true}
	cases := map[string]struct {
		served      *plan.Served
		crdInBundle bool
		scope       bool
		want        string
	}{
		"unknown":                         {nil, false, true, plan.KindNotServed},
		"another version":                 {&other, false, true, plan.KindNotServed},
		"not creatable":                   {&plan.Served{Versions: []string{"v1"}}, false, true, plan.KindNotCreatable},
		"defined in the recovery point":   {nil, true, true, ""},
		"defined, but not to be restored": {nil, true, false, plan.KindNotServed},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			target, facts := everything(), plan.NewFacts(nil, nil)
			delete(target.Kinds, kinds["shops"].GroupResource())
			if c.served != nil {
				target.Kinds[kinds["shops"].GroupResource()] = *c.served
			}
			if c.crdInBundle {
				facts.Learn(kinds["customresourcedefinitions"], decode(t, crd), c.scope)
			}
			p := plan.New(plan.Request{Filter: v1alpha1.Filter{IncludeClusterScopeResources: c.scope}}, allKinds(), facts, target)
			if d := p.Decide(kinds["shops"], decode(t, shop)); d.Code != c.want {
				t.Errorf("got %s %q, want %q", d.Action, d.Code, c.want)
			}
		})
	}
}

const (
	dynamicPV = `{metadata: {name: pv, annotations: {pv.kubernetes.io/provisioned-by: disk.csi.azure.com}}, spec: {claimRef: {namespace: shop, name: data}}, status: {phase: Bound}}`
	staticPV  = `{metadata: {name: pv}, spec: {claimRef: {namespace: shop, name: data}}, status: {phase: Bound}}`
)

func TestVolumes(t *testing.T) {
	record := plan.VolumeRecord{Namespace: "shop", Claim: "data", Driver: "disk.csi.azure.com", Handle: "/snap/1", RestoreSizeBytes: 3 << 30}
	small := record
	small.RestoreSizeBytes = 1 << 20
	classes := map[string]string{"managed-csi": "disk.csi.azure.com", "files": "file.csi.azure.com"}
	cases := map[string]struct {
		volume, class string
		records       []plan.VolumeRecord
		noData        bool
		claim, pv     plan.Action
		pvCode        string
		source        plan.VolumeSource
		size          string
		warning       string
		code          string
	}{
		"from its snapshot": {volume: dynamicPV, class: "managed-csi", records: []plan.VolumeRecord{record},
			claim: plan.Create, pv: plan.Skip, pvCode: plan.VolumeProvisionedAnew, source: plan.FromSnapshot, size: "3Gi"},
		"a snapshot smaller than the claim": {volume: dynamicPV, class: "managed-csi", records: []plan.VolumeRecord{small},
			claim: plan.Create, pv: plan.Skip, pvCode: plan.VolumeProvisionedAnew, source: plan.FromSnapshot, size: "2Gi"},
		"without data, as asked": {volume: dynamicPV, class: "managed-csi", records: []plan.VolumeRecord{record}, noData: true,
			claim: plan.Create, pv: plan.Skip, pvCode: plan.VolumeProvisionedAnew, source: plan.FromNothing, size: "2Gi"},
		"left out of the backup": {volume: dynamicPV, class: "managed-csi",
			claim: plan.Create, pv: plan.Skip, pvCode: plan.VolumeProvisionedAnew, source: plan.FromNothing, size: "2Gi", warning: plan.VolumeDataNotInRecoveryPoint},
		"no such class": {volume: dynamicPV, class: "gone", records: []plan.VolumeRecord{record},
			claim: plan.Create, pv: plan.Skip, pvCode: plan.VolumeProvisionedAnew, source: plan.FromSnapshot, size: "3Gi", warning: plan.StorageClassMissing},
		"class of another driver": {volume: dynamicPV, class: "files", records: []plan.VolumeRecord{record},
			claim: plan.Block, pv: plan.Skip, pvCode: plan.VolumeProvisionedAnew, source: plan.FromNothing, size: "2Gi", code: plan.VolumeDriverMismatch},
		"made by hand": {volume: staticPV, class: "",
			claim: plan.Create, pv: plan.Create, source: plan.FromVolume, size: "2Gi", warning: plan.VolumeReattached},
		"made by hand, snapshot of no use": {volume: staticPV, class: "", records: []plan.VolumeRecord{record},
			claim: plan.Create, pv: plan.Create, source: plan.FromVolume, size: "2Gi", warning: plan.VolumeReattached},
		"made by hand, from its snapshot": {volume: staticPV, class: "managed-csi", records: []plan.VolumeRecord{record},
			claim: plan.Create, pv: plan.Skip, pvCode: plan.VolumeProvisionedAnew, source: plan.FromSnapshot, size: "3Gi"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			claim := func() map[string]any {
				o := decode(t, `{metadata: {name: data, namespace: shop}, spec: {volumeName: pv, volumeMode: Block, resources: {requests: {storage: 2Gi}}}}`)
				o["spec"].(map[string]any)["storageClassName"] = c.class
				return o
			}
			facts := plan.NewFacts(c.records, classes)
			facts.Learn(kinds["persistentvolumes"], decode(t, c.volume), false)
			facts.Learn(kinds["persistentvolumeclaims"], claim(), false)
			p := plan.New(plan.Request{RestoreVolumeData: !c.noData}, allKinds(), facts, everything())

			if d := p.Decide(kinds["persistentvolumes"], decode(t, c.volume)); d.Action != c.pv || d.Code != c.pvCode {
				t.Errorf("volume: got %s %q, want %s %q", d.Action, d.Code, c.pv, c.pvCode)
			}
			o := claim()
			d := p.Decide(kinds["persistentvolumeclaims"], o)
			if d.Action != c.claim || d.Source != c.source || d.Code != c.code {
				t.Errorf("claim: got %s %s %q, want %s %s %q", d.Action, d.Source, d.Code, c.claim, c.source, c.code)
			}
			if d.Source == plan.FromSnapshot && d.Record.Handle != "/snap/1" {
				t.Errorf("record %+v", d.Record)
			}
			spec := o["spec"].(map[string]any)
			if got := spec["resources"].(map[string]any)["requests"].(map[string]any)["storage"]; got != c.size {
				t.Errorf("asks for %v, want %v", got, c.size)
			}
			if _, has := spec["volumeName"]; has != (c.source == plan.FromVolume) {
				t.Errorf("volumeName there: %v", has)
			}
			var warnings []string
			for _, w := range d.Warnings {
				warnings = append(warnings, w.Code)
			}
			if got := strings.Join(warnings, " "); got != c.warning {
				t.Errorf("warnings %q, want %q", got, c.warning)
			}
		})
	}
}

func TestAnUnboundClaimHasNoDataToMiss(t *testing.T) {
	p := plan.New(plan.Request{RestoreVolumeData: true}, allKinds(), plan.NewFacts(nil, map[string]string{"c": "d"}), everything())
	d := p.Decide(kinds["persistentvolumeclaims"], decode(t, `{metadata: {name: a, namespace: b}, spec: {storageClassName: c}}`))
	if d.Action != plan.Create || len(d.Warnings) != 0 {
		t.Errorf("got %+v", d)
	}
}

func TestOwnersAreTakenOutAndHandedOver(t *testing.T) {
	p := plan.New(plan.Request{}, allKinds(), plan.NewFacts(nil, nil), everything())
	o := decode(t, `{metadata: {name: a, namespace: shop, ownerReferences: [{apiVersion: example.com/v1, kind: Shop, name: main, uid: old, controller: true}]}}`)
	d := p.Decide(kinds["secrets"], o)
	if len(d.Owners) != 1 || d.Owners[0].Name != "main" {
		t.Errorf("owners %+v", d.Owners)
	}
	if _, there := o["metadata"].(map[string]any)["ownerReferences"]; there {
		t.Error("the object still has its old owners")
	}
}

func TestWavesKeepWhatOthersNeedInFront(t *testing.T) {
	order := allKinds()
	at := func(name string) plan.Wave {
		if !slices.ContainsFunc(order, func(r plan.Resource) bool { return r.Resource == name }) {
			t.Fatal("no kind", name)
		}
		return plan.WaveOf(kinds[name])
	}
	for _, chain := range [][]string{
		{"customresourcedefinitions", "namespaces", "storageclasses", "secrets", "persistentvolumeclaims", "services", "deployments", "shops", "validatingwebhookconfigurations"},
		{"namespaces", "limitranges", "pods", "resourcequotas"},
		{"namespaces", "networkpolicies", "statefulsets"},
		{"volumesnapshotclasses", "persistentvolumeclaims"},
		{"shops", "apiservices"},
	} {
		for i := range len(chain) - 1 {
			if at(chain[i]) >= at(chain[i+1]) {
				t.Errorf("%s is not before %s", chain[i], chain[i+1])
			}
		}
	}
	if !slices.IsSortedFunc(order, func(a, b plan.Resource) int { return int(plan.WaveOf(a)) - int(plan.WaveOf(b)) }) {
		t.Error("SortByWave does not sort by wave")
	}
}

// serverAllotted are the fields of metadata that no created object may have.
var serverAllotted = []string{"uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink", "deletionTimestamp", "ownerReferences"}

// anyObject draws an object with all kinds of fields, among them such that the API server allots, and such of a wrong type.
func anyObject(t *rapid.T, r plan.Resource) map[string]any {
	text := rapid.SampledFrom([]string{"shop", "other", "kube-system", "a", "None", ""})
	var value func(depth int) any
	value = func(depth int) any {
		switch n := rapid.IntRange(0, 5).Draw(t, "type"); {
		case n == 0:
			return int64(rapid.IntRange(0, 40000).Draw(t, "number"))
		case n == 1:
			return rapid.Bool().Draw(t, "flag")
		case n == 2 && depth > 0:
			return []any{value(depth - 1)}
		case n == 3 && depth > 0:
			return map[string]any{text.Draw(t, "key"): value(depth - 1)}
		default:
			return text.Draw(t, "text")
		}
	}
	fill := func(o map[string]any, names ...string) map[string]any {
		for _, n := range names {
			if rapid.Bool().Draw(t, n) {
				o[n] = value(3)
			}
		}
		return o
	}
	meta := fill(map[string]any{}, append(serverAllotted, "finalizers", "labels", "annotations")...)
	meta["name"] = rapid.StringMatching(`[a-z]{1,5}`).Draw(t, "name")
	if r.Namespaced {
		meta["namespace"] = rapid.SampledFrom([]string{"shop", "other", "kube-system"}).Draw(t, "namespace")
	}
	spec := fill(map[string]any{}, "nodeName", "volumes", "containers", "ports", "clusterIP", "clusterIPs", "selector", "template",
		"volumeName", "claimRef", "resources", "storageClassName", "dataSource", "finalizers", "healthCheckNodePort")
	o := fill(map[string]any{"apiVersion": "v1", "kind": r.Kind}, "data", "type", "aggregationRule", "subsets", "endpoints", "status")
	o["metadata"], o["spec"] = meta, spec
	return o
}

// TestEveryObjectGetsOneAnswer also shows that no shape of an object makes the plan panic, that what is to be created has nothing of
// the old cluster, and that a second transformation changes nothing.
func TestEveryObjectGetsOneAnswer(t *testing.T) {
	all := allKinds()
	rapid.Check(t, func(t *rapid.T) {
		r := rapid.SampledFrom(all).Draw(t, "kind")
		o := anyObject(t, r)
		facts := plan.NewFacts([]plan.VolumeRecord{{Namespace: "shop", Claim: "a", Handle: "h", Driver: "d"}}, map[string]string{"a": "d"})
		for range rapid.IntRange(0, 5).Draw(t, "learned") {
			other := rapid.SampledFrom(all).Draw(t, "learned kind")
			facts.Learn(other, anyObject(t, other), rapid.Bool().Draw(t, "scope"))
		}
		p := plan.New(plan.Request{
			Filter:            v1alpha1.Filter{IncludeClusterScopeResources: rapid.Bool().Draw(t, "cluster scope")},
			RestoreVolumeData: rapid.Bool().Draw(t, "data"),
		}, all, facts, everything())

		d := p.Decide(r, o)
		switch d.Action {
		case plan.Create:
			if d.Code != "" {
				t.Fatalf("created with code %s", d.Code)
			}
		case plan.Skip, plan.Block, plan.Exclude:
			if d.Code == "" || d.Message == "" {
				t.Fatalf("%s without a reason", d.Action)
			}
			return
		default:
			t.Fatalf("action %q", d.Action)
		}
		for _, field := range serverAllotted {
			if _, there := o["metadata"].(map[string]any)[field]; there {
				t.Fatalf("metadata.%s is left", field)
			}
		}
		if _, there := o["status"]; there {
			t.Fatal("status is left")
		}
		before := clone(o)
		plan.Transform(r, o)
		if diff := cmp.Diff(before, o); diff != "" {
			t.Fatal("the second transformation changes something:", diff)
		}
	})
}

func clone(v map[string]any) map[string]any { return cloneValue(v).(map[string]any) }

func cloneValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = cloneValue(e)
		}
		return out
	case []any:
		out := make([]any, 0, len(v))
		for _, e := range v {
			out = append(out, cloneValue(e))
		}
		return out
	default:
		return v
	}
}

func TestSameLooksAtWhatUsersWrite(t *testing.T) {
	wanted := decode(t, `{metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}`)
	cases := map[string]struct {
		kind, wanted, existing string
		want                   bool
	}{
		"equal": {"services", `{metadata: {name: web}, spec: {ports: [{port: 80}]}}`,
			`{metadata: {name: web, uid: x, managedFields: [{}]}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80, nodePort: 30000}]}, status: {}}`, true},
		"another port": {"services", `{metadata: {name: web}, spec: {ports: [{port: 80}]}}`, `{metadata: {name: web}, spec: {ports: [{port: 81}]}}`, false},
		"a bound claim": {"persistentvolumeclaims", `{metadata: {name: a}, spec: {dataSource: {name: x}, resources: {}}}`,
			`{metadata: {name: a, annotations: {pv.kubernetes.io/bind-completed: "yes"}}, spec: {volumeName: pv, resources: {}}, status: {}}`, true},
		"a larger claim": {"persistentvolumeclaims", `{metadata: {name: a}, spec: {resources: {requests: {storage: 1Gi}}}}`,
			`{metadata: {name: a}, spec: {volumeName: pv, resources: {requests: {storage: 2Gi}}}}`, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := plan.Same(kinds[c.kind], decode(t, c.wanted), decode(t, c.existing)); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
	plan.Same(kinds["services"], wanted, decode(t, `{}`))
	if diff := cmp.Diff(decode(t, `{metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}`), wanted); diff != "" {
		t.Error("what is wanted was changed:", diff)
	}
}
