package apply_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/apply"
	"github.com/cairn-backup/cairn/internal/plan"
)

var (
	namespaceResource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	secretResource    = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	configMapResource = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	serviceResource   = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	accountResource   = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
	claimResource     = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	volumeResource    = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}
	snapshotResource  = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}
	contentResource   = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshotcontents"}
	crdResource       = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// shops is the custom resource of a namespace's application.
func shops(namespace string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: namespace + ".example.com", Version: "v1", Resource: "shops"}
}

// application has an object of nearly every kind that users make. {NS} is its namespace, {PORT} a node port.
const application = `
{apiVersion: v1, kind: Namespace, metadata: {name: "{NS}", labels: {team: web}, annotations: {a: b}}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: "shops.{NS}.example.com", labels: {test: "{NS}"}}
spec:
  group: "{NS}.example.com"
  scope: Namespaced
  names: {kind: Shop, listKind: ShopList, plural: shops, singular: shop}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
{apiVersion: "{NS}.example.com/v1", kind: Shop, metadata: {name: main, namespace: "{NS}", finalizers: [example.com/cleanup]}, spec: {size: 3, ratio: 0.5, deep: {list: [1, two, {three: 3}]}}}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: "{NS}", labels: {test: "{NS}"}}, value: 7}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "{NS}", labels: {test: "{NS}"}}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: "{NS}", labels: {test: "{NS}"}}, provisioner: fake.csi.example.com, volumeBindingMode: Immediate}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: "{NS}", labels: {app: web}, annotations: {note: kept}}, data: {a: "1"}, binaryData: {b: AAEC}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: frozen, namespace: "{NS}"}, immutable: true, data: {a: "1"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: password, namespace: "{NS}"}, type: Opaque, data: {password: c2VjcmV0}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot, namespace: "{NS}"}, imagePullSecrets: [{name: registry}]}
---
{apiVersion: v1, kind: Secret, metadata: {name: robot-token, namespace: "{NS}", annotations: {kubernetes.io/service-account.name: robot}}, type: kubernetes.io/service-account-token}
---
{apiVersion: v1, kind: LimitRange, metadata: {name: limits, namespace: "{NS}"}, spec: {limits: [{type: Container, default: {cpu: 100m}, defaultRequest: {cpu: 50m}}]}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader, namespace: "{NS}"}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: reader, namespace: "{NS}"}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}, subjects: [{kind: ServiceAccount, name: robot, namespace: "{NS}"}]}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: "{NS}"}, spec: {type: NodePort, selector: {app: web}, ports: [{name: a, port: 80}, {name: b, port: 81, nodePort: {PORT}}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: balanced, namespace: "{NS}"}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: "{NS}"}, spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: outside, namespace: "{NS}"}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: elsewhere, namespace: "{NS}"}, spec: {type: ExternalName, externalName: example.com}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: outside-1, namespace: "{NS}", labels: {kubernetes.io/service-name: outside}}, addressType: IPv4, endpoints: [{addresses: [192.0.2.1]}], ports: [{port: 80}]}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed, namespace: "{NS}"}, spec: {podSelector: {}, policyTypes: [Ingress]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: "{NS}"}, spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: "{NS}"}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {priorityClassName: "{NS}", containers: [{name: c, image: busybox}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: "{NS}"}, spec: {serviceName: db, replicas: 1, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: busybox}]}}, volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], storageClassName: "{NS}", resources: {requests: {storage: 1Gi}}}}]}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent, namespace: "{NS}"}, spec: {selector: {matchLabels: {app: agent}}, template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: c, image: busybox}]}}}}
---
{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: bare, namespace: "{NS}"}, spec: {replicas: 0, selector: {matchLabels: {app: bare}}, template: {metadata: {labels: {app: bare}}, spec: {containers: [{name: c, image: busybox}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: import, namespace: "{NS}"}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly, namespace: "{NS}"}, spec: {schedule: "0 3 1 1 *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox}]}}}}}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: web, namespace: "{NS}"}, spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web, namespace: "{NS}"}, spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: alone, namespace: "{NS}"}, spec: {serviceAccountName: robot, containers: [{name: c, image: busybox}]}}
---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: quota, namespace: "{NS}"}, spec: {hard: {pods: "50", count/configmaps: "10"}}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: "{NS}", labels: {test: "{NS}"}}, webhooks: [{name: a.example.com, failurePolicy: Fail, sideEffects: None, admissionReviewVersions: [v1], namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "{NS}"}}, clientConfig: {service: {name: web, namespace: "{NS}"}}, rules: [{apiGroups: [none.example.com], apiVersions: [v1], operations: [CREATE], resources: [things]}]}]}
`

// install creates the application, and what its operator would: a Secret owned by the Shop.
func (w *world) install(t *testing.T, namespace, port string) {
	t.Helper()
	w.create(t, strings.NewReplacer("{NS}", namespace, "{PORT}", port).Replace(application))
	shop := w.get(t, shops(namespace), namespace, "main")
	w.create(t, fmt.Sprintf(`{apiVersion: v1, kind: Secret, metadata: {name: generated, namespace: %s, ownerReferences: [{apiVersion: %s.example.com/v1, kind: Shop, name: main, uid: %s, controller: true}]}, data: {p: cGFzcw==}}`,
		namespace, namespace, shop.GetUID()))
	w.provision(t, namespace, "data-db-0")
	eventually(t, "the default account is there", func() bool { return w.get(t, accountResource, namespace, "default") != nil })
	if _, err := w.cluster.Dynamic.Resource(accountResource).Namespace(namespace).Patch(t.Context(), "default", types.MergePatchType,
		[]byte(`{"imagePullSecrets":[{"name":"registry"}]}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "controllers have done their work", func() bool {
		rs, err := w.cluster.Dynamic.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		token := w.get(t, secretResource, namespace, "robot-token")
		data, _, _ := unstructured.NestedString(token.Object, "data", "token")
		return len(rs.Items) == 2 && data != ""
	})
}

// provision does a provisioner's work: it makes a volume for a claim, which the control plane binds.
func (w *world) provision(t *testing.T, namespace, claim string) {
	t.Helper()
	var found *unstructured.Unstructured
	eventually(t, "claim "+claim+" is made", func() bool { found = w.get(t, claimResource, namespace, claim); return found != nil })
	w.volumeFor(t, found)
	eventually(t, "claim "+claim+" is bound", func() bool {
		phase, _, _ := unstructured.NestedString(w.get(t, claimResource, namespace, claim).Object, "status", "phase")
		return phase == "Bound"
	})
}

func (w *world) volumeFor(t *testing.T, claim *unstructured.Unstructured) {
	t.Helper()
	size, _, _ := unstructured.NestedString(claim.Object, "spec", "resources", "requests", "storage")
	class, _, _ := unstructured.NestedString(claim.Object, "spec", "storageClassName")
	mode, _, _ := unstructured.NestedString(claim.Object, "spec", "volumeMode")
	w.create(t, fmt.Sprintf(`{apiVersion: v1, kind: PersistentVolume, metadata: {name: pvc-%s, annotations: {pv.kubernetes.io/provisioned-by: fake.csi.example.com}},
spec: {capacity: {storage: %s}, accessModes: [ReadWriteOnce], storageClassName: %s, volumeMode: %s, persistentVolumeReclaimPolicy: Retain, csi: {driver: fake.csi.example.com, volumeHandle: v-%s},
claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: %s, name: %s, uid: %s}}}`,
		claim.GetUID(), size, class, mode, claim.GetUID(), claim.GetNamespace(), claim.GetName(), claim.GetUID()))
}

// uninstall deletes all of it.
func (w *world) uninstall(t *testing.T, namespace string) {
	t.Helper()
	if shop := w.get(t, shops(namespace), namespace, "main"); shop != nil {
		_, err := w.cluster.Dynamic.Resource(shops(namespace)).Namespace(namespace).Patch(t.Context(), "main", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	w.removeNamespace(t, namespace)
	w.remove(t, crdResource, "", "shops."+namespace+".example.com")
	for _, r := range []schema.GroupVersionResource{
		{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
		{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"},
	} {
		w.remove(t, r, "", namespace)
	}
}

var everything = plan.Request{Filter: v1alpha1.Filter{IncludeClusterScopeResources: true}, RestoreVolumeData: true}

// withProvisioner provisions the claims of a namespace as they come, as long as the test runs. It takes a claim only if the snapshot
// that it names is there with a content, as a real provisioner does.
func (w *world) withProvisioner(t *testing.T, namespace string) {
	t.Helper()
	watch, err := w.cluster.Dynamic.Resource(claimResource).Namespace(namespace).Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(watch.Stop)
	go func() {
		for event := range watch.ResultChan() {
			claim, ok := event.Object.(*unstructured.Unstructured)
			if !ok || event.Type != "ADDED" {
				continue
			}
			name, _, _ := unstructured.NestedString(claim.Object, "spec", "dataSource", "name")
			if name != "" && (w.get(t, snapshotResource, namespace, name) == nil || w.get(t, contentResource, "", name) == nil) {
				t.Errorf("claim %s names snapshot %s, which is not there", claim.GetName(), name)
			}
			w.volumeFor(t, claim)
		}
	}()
}

func volumeRecord(namespace, claim string, size int64) bundle.Volume {
	return bundle.Volume{Namespace: namespace, Claim: claim, Driver: "fake.csi.example.com", SnapshotHandle: "snap-" + claim, RestoreSizeBytes: size}
}

// mayDiffer takes out of an object what is not the same after a restore: what the plan does not create, and the source that a claim got.
func mayDiffer(k bundle.Kind, o unstructured.Unstructured) map[string]any {
	r := plan.Resource{Group: k.Group(), Version: k.Version(), Resource: k.Plural, Kind: k.Kind, Namespaced: k.Namespaced}
	refs := o.GetOwnerReferences()
	c := o.DeepCopy().Object
	plan.Transform(r, c)
	var owners []any
	for _, ref := range refs {
		owners = append(owners, ref.Kind+" "+ref.Name)
	}
	c["owners"] = owners
	if spec, ok := c["spec"].(map[string]any); ok && k.Kind == "PersistentVolumeClaim" {
		delete(spec, "dataSource")
		delete(spec, "dataSourceRef")
		delete(spec, "volumeName")
	}
	return c
}

func TestEverythingComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const ns = "comes-back"
	w.install(t, ns, "31771")
	before := w.all(t, ns, ns)
	id := w.backup(t, before, volumeRecord(ns, "data-db-0", 2<<30))
	w.uninstall(t, ns)

	w.withProvisioner(t, ns)
	a, err := w.run(t, id, "11111111-0000-4000-8000-000000000001", everything)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, list := range before {
		total += int64(len(list))
	}
	got := a.Tally()
	if got.Created+got.Skipped != total || got.Failed != 0 || got.Total != total || got.NotSelected != 0 {
		t.Errorf("%d objects; tally %+v", total, got)
	}
	if got.Volumes != 1 || got.VolumesTotal != 1 || got.Bytes == 0 {
		t.Errorf("volumes %d of %d, %d bytes", got.Volumes, got.VolumesTotal, got.Bytes)
	}
	for _, l := range a.lines {
		if l.Result == bundle.RestoreSkipped && l.Code != plan.RecreatedByCluster && l.Code != plan.RecreatedByOwner && l.Code != plan.VolumeProvisionedAnew {
			t.Errorf("skipped: %+v", l)
		}
	}

	after := w.all(t, ns, ns)
	for k, list := range before {
		for _, o := range list {
			resource := plan.Resource{Group: k.Group(), Resource: k.Plural}.Name(o.GetNamespace(), o.GetName())
			if a.outcome(t, resource).Result != bundle.RestoreCreated {
				continue
			}
			var found *unstructured.Unstructured
			for i := range after[k] {
				if after[k][i].GetName() == o.GetName() && after[k][i].GetNamespace() == o.GetNamespace() {
					found = &after[k][i]
				}
			}
			if found == nil {
				t.Errorf("%s is said to be created and is not there", resource)
				continue
			}
			want := mayDiffer(k, o)
			if k.Kind == "PersistentVolumeClaim" {
				// The snapshot is larger than the claim was.
				want["spec"].(map[string]any)["resources"].(map[string]any)["requests"].(map[string]any)["storage"] = "2Gi"
			}
			if diff := cmp.Diff(want, mayDiffer(k, *found)); diff != "" {
				t.Errorf("%s differs (-before +after):\n%s", resource, diff)
			}
		}
	}

	if port, _, _ := unstructured.NestedSlice(w.get(t, serviceResource, ns, "web").Object, "spec", "ports"); port[1].(map[string]any)["nodePort"] != int64(31771) {
		t.Errorf("the explicit node port is lost: %v", port)
	}
	shop, secret := w.get(t, shops(ns), ns, "main"), w.get(t, secretResource, ns, "generated")
	if refs := secret.GetOwnerReferences(); len(refs) != 1 || refs[0].UID != shop.GetUID() {
		t.Errorf("the secret's owner: %v, the shop is %s", refs, shop.GetUID())
	}
	if w.get(t, contentResource, "", snapshotOf(t, w, ns, "data-db-0")) != nil {
		t.Error("the snapshot content is left")
	}
	if got.WorkloadsReady == nil || *got.WorkloadsReady {
		t.Error("there is no node, and yet the workloads are said to be ready")
	}
	want := []string{
		"WorkloadNotReady deployments.apps/comes-back/web", "WorkloadNotReady jobs.batch/comes-back/import", "WorkloadNotReady pods/comes-back/alone", "WorkloadNotReady statefulsets.apps/comes-back/db",
	}
	if diff := cmp.Diff(want, a.warnings()); diff != "" {
		t.Error("warnings:", diff)
	}
	w.uninstall(t, ns)
}

// snapshotOf is the name of the snapshot that a claim was made from.
func snapshotOf(t *testing.T, w *world, namespace, claim string) string {
	t.Helper()
	name, _, _ := unstructured.NestedString(w.get(t, claimResource, namespace, claim).Object, "spec", "dataSource", "name")
	if name == "" {
		t.Fatalf("claim %s has no source", claim)
	}
	return name
}

func TestKilledRestoreCarriesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const ns = "killed"
	w.install(t, ns, "31772")
	before := w.all(t, ns, ns)
	id := w.backup(t, before, volumeRecord(ns, "data-db-0", 0))
	w.uninstall(t, ns)

	w.withProvisioner(t, ns)
	const uid = "11111111-0000-4000-8000-000000000002"
	for stop := 1; ; stop += 6 {
		a, err := w.run(t, id, uid, everything, func(a *attempt, _ *apply.Options) { a.stopAfter = stop })
		if err == nil {
			break // it was through before it could be killed
		}
		if a.stopAfter == 0 || len(a.lines) < stop {
			t.Fatal(err)
		}
	}
	a, err := w.run(t, id, uid, everything)
	if err != nil {
		t.Fatal(err)
	}
	got := a.Tally()
	if got.Failed != 0 || got.Volumes != 1 {
		t.Errorf("tally %+v", got)
	}
	for _, l := range a.lines {
		if l.Code == plan.AlreadyExists || l.Code == plan.AlreadyExistsAndDiffers {
			t.Errorf("created by an earlier attempt, but counted as %+v", l)
		}
	}
	secret, shop := w.get(t, secretResource, ns, "generated"), w.get(t, shops(ns), ns, "main")
	if refs := secret.GetOwnerReferences(); len(refs) != 1 || refs[0].UID != shop.GetUID() {
		t.Errorf("the secret's owner: %v", refs)
	}
	w.uninstall(t, ns)
}

func TestSkipLeavesWhatExists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const ns = "exists"
	w.install(t, ns, "31773")
	before := w.all(t, ns, ns)
	id := w.backup(t, before, volumeRecord(ns, "data-db-0", 0))
	if _, err := w.cluster.Dynamic.Resource(configMapResource).Namespace(ns).Patch(t.Context(), "settings", types.MergePatchType, []byte(`{"data":{"a":"changed"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.remove(t, secretResource, ns, "password")

	a, err := w.run(t, id, "11111111-0000-4000-8000-000000000003", everything)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Tally(); got.Created != 1 || got.Failed != 0 {
		t.Errorf("tally %+v", got)
	}
	if o := a.outcome(t, "configmaps/exists/settings"); o.Result != bundle.RestoreSkipped || o.Code != plan.AlreadyExistsAndDiffers {
		t.Errorf("settings: %+v", o)
	}
	if o := a.outcome(t, "configmaps/exists/frozen"); o.Code != plan.AlreadyExists {
		t.Errorf("frozen: %+v", o)
	}
	if o := a.outcome(t, "secrets/exists/password"); o.Result != bundle.RestoreCreated {
		t.Errorf("password: %+v", o)
	}
	if v, _, _ := unstructured.NestedString(w.get(t, configMapResource, ns, "settings").Object, "data", "a"); v != "changed" {
		t.Errorf("an existing object was overwritten: %q", v)
	}
	if diff := cmp.Diff([]string{"VolumeDataNotRestored persistentvolumeclaims/exists/data-db-0"}, a.warnings()); diff != "" {
		t.Error("warnings:", diff)
	}
	if list, err := w.cluster.Dynamic.Resource(contentResource).List(t.Context(), metav1.ListOptions{LabelSelector: apply.RestoreLabel + "=11111111-0000-4000-8000-000000000003"}); err != nil || len(list.Items) != 0 {
		t.Errorf("snapshot contents are left: %v, %v", list, err)
	}
	w.uninstall(t, ns)
}

func TestOneNamespaceOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, `{apiVersion: v1, kind: Namespace, metadata: {name: only-a}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: only-b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: only-a}, data: {}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: only-b}, data: {}}`)
	id := w.backup(t, w.all(t, "-", "only-a", "only-b"))
	w.removeNamespace(t, "only-a")
	w.removeNamespace(t, "only-b")

	a, err := w.run(t, id, "11111111-0000-4000-8000-000000000004", plan.Request{Filter: v1alpha1.Filter{IncludedNamespaces: []string{"only-a", "no-such"}}})
	if err != nil {
		t.Fatal(err)
	}
	if w.get(t, configMapResource, "only-a", "a") == nil {
		t.Error("what was asked for is not there")
	}
	if w.get(t, namespaceResource, "", "only-b") != nil {
		t.Error("the other namespace was restored, too")
	}
	if got := a.Tally(); got.NotSelected == 0 {
		t.Errorf("tally %+v", got)
	}
	if diff := cmp.Diff([]string{"UserErrorNamespaceNotFound namespaces/no-such"}, a.warnings()); diff != "" {
		t.Error("warnings:", diff)
	}
	w.removeNamespace(t, "only-a")
}

func TestRefusalsAreListedWithTheServersWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const ns = "refused"
	w.create(t, `{apiVersion: v1, kind: Namespace, metadata: {name: refused}}`)
	kinds := map[string]bundle.Kind{}
	for _, k := range w.kinds(t) {
		kinds[k.Kind] = k
	}
	object := func(text string) unstructured.Unstructured {
		return unstructured.Unstructured{Object: object(t, text)}
	}
	id := w.backup(t, map[bundle.Kind][]unstructured.Unstructured{
		kinds["Namespace"]: {object(`{apiVersion: v1, kind: Namespace, metadata: {name: refused}}`)},
		kinds["Service"]:   {object(`{apiVersion: v1, kind: Service, metadata: {name: Not_A_Name, namespace: refused}, spec: {ports: [{port: 99999}]}}`)},
		kinds["ConfigMap"]: {
			object(`{apiVersion: v1, kind: ConfigMap, metadata: {name: fine, namespace: refused}}`),
			object(`{apiVersion: v1, kind: ConfigMap, metadata: {name: homeless, namespace: not-there}}`)},
		{APIVersion: "gone.example.com/v1", Kind: "Gone", Plural: "gones", Namespaced: true}: {object(`{apiVersion: gone.example.com/v1, kind: Gone, metadata: {name: a, namespace: refused}}`)},
	})
	a, err := w.run(t, id, "11111111-0000-4000-8000-000000000005", plan.Request{})
	if err != nil {
		t.Fatal(err)
	}
	for resource, want := range map[string][2]string{
		"services/refused/Not_A_Name":      {apply.CodeCreateRefused, "Invalid value"},
		"configmaps/not-there/homeless":    {apply.CodeCreateRefused, `namespaces "not-there" not found`},
		"gones.gone.example.com/refused/a": {plan.KindNotServed, "does not know the kind"},
	} {
		if o := a.outcome(t, resource); o.Result != bundle.RestoreFailed || o.Code != want[0] || !strings.Contains(o.Message, want[1]) {
			t.Errorf("%+v, want %v", o, want)
		}
	}
	if got := a.Tally(); got.Created != 1 || got.Failed != 3 || len(got.Failures) != 3 {
		t.Errorf("tally %+v", got)
	}
	w.removeNamespace(t, ns)
}

func TestATakenNodePortIsReassigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const service = `{apiVersion: v1, kind: Service, metadata: {name: web, namespace: ports-%s}, spec: {type: NodePort, ports: [{port: 80, nodePort: 31888}]}}`
	w.create(t, `{apiVersion: v1, kind: Namespace, metadata: {name: ports-a}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: ports-b}}
---
`+fmt.Sprintf(service, "a"))
	id := w.backup(t, w.all(t, "-", "ports-a"))
	w.removeNamespace(t, "ports-a")
	eventually(t, "the port is free again", func() bool {
		w.create(t, fmt.Sprintf(service, "b"))
		return true
	})
	a, err := w.run(t, id, "11111111-0000-4000-8000-000000000006", plan.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"NodePortReassigned services/ports-a/web"}, a.warnings()); diff != "" {
		t.Error("warnings:", diff)
	}
	if w.get(t, serviceResource, "ports-a", "web") == nil {
		t.Error("the service is not there")
	}
	w.removeNamespace(t, "ports-a")
	w.removeNamespace(t, "ports-b")
}

func TestARestoreWaitsForANamespaceThatVanishes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, `{apiVersion: v1, kind: Namespace, metadata: {name: vanishing}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: vanishing, finalizers: [example.com/slow]}, data: {}}`)
	id := w.backup(t, w.all(t, "-", "vanishing"))
	if err := w.cluster.Dynamic.Resource(namespaceResource).Delete(t.Context(), "vanishing", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*time.Second, func() {
		_, _ = w.cluster.Dynamic.Resource(configMapResource).Namespace("vanishing").Patch(t.Context(), "a", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	})
	a, err := w.run(t, id, "11111111-0000-4000-8000-000000000007", plan.Request{}, func(_ *attempt, o *apply.Options) { o.Patience = 30 * time.Second })
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Tally(); got.Failed != 0 || got.Created < 2 {
		t.Errorf("tally %+v: %+v", got, a.lines)
	}
}

func TestSnapshotObjectsOfLateClaimsAreSwept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const ns = "late"
	w.create(t, `{apiVersion: v1, kind: Namespace, metadata: {name: late}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: late}, provisioner: fake.csi.example.com, volumeBindingMode: WaitForFirstConsumer}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: late}, spec: {accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: late, resources: {requests: {storage: 1Gi}}}}`)
	id := w.backup(t, w.all(t, "-", ns), volumeRecord(ns, "data", 0))
	w.removeNamespace(t, ns)
	const uid = types.UID("11111111-0000-4000-8000-000000000008")
	a, err := w.run(t, id, uid, plan.Request{RestoreVolumeData: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ClaimWaitsForConsumer persistentvolumeclaims/late/data"}, a.warnings()); diff != "" {
		t.Error("warnings:", diff)
	}
	name := snapshotOf(t, w, ns, "data")
	content := w.get(t, contentResource, "", name)
	if content == nil {
		t.Fatal("the snapshot's content is not there any more, and the claim needs it")
	}
	if mode, _, _ := unstructured.NestedString(content.Object, "spec", "sourceVolumeMode"); mode != "Block" {
		t.Errorf("volume mode %q", mode)
	}
	sweep := func(running bool) int {
		n, err := w.sweep(t, uid, running)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := sweep(false); n != 0 {
		t.Errorf("swept %d, and the claim is not bound", n)
	}
	w.provision(t, ns, "data")
	if n := sweep(true); n != 0 {
		t.Errorf("swept %d of a restore that runs", n)
	}
	if n := sweep(false); n != 1 {
		t.Errorf("swept %d, want 1", n)
	}
	if w.get(t, contentResource, "", name) != nil || w.get(t, snapshotResource, ns, name) != nil {
		t.Error("snapshot objects are left")
	}
	w.removeNamespace(t, ns)
	w.remove(t, schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}, "", "late")
}

// The snapshot controller deletes a VolumeSnapshot and may forget to tell the snapshotter, which then holds the content for ever.
func TestTheSweeperTellsTheSnapshotterWhatTheControllerForgot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, strings.NewReplacer("RESTORE", apply.RestoreLabel, "CLAIM", v1alpha1.Group+"/claim").Replace(`{apiVersion: v1, kind: Namespace, metadata: {name: forgotten}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: forgotten}, spec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Gi}},
dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: of-the-next-restore}}}
---
{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshotContent, metadata: {name: forgotten-1-without-claim, labels: {RESTORE: u}},
spec: {deletionPolicy: Retain, driver: d, source: {snapshotHandle: h}, volumeSnapshotRef: {kind: VolumeSnapshot, namespace: forgotten, name: x}}}
---
{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshotContent, metadata: {name: forgotten-2, labels: {RESTORE: u}, annotations: {CLAIM: data}, finalizers: [example.com/snapshotter]},
spec: {deletionPolicy: Delete, driver: d, source: {snapshotHandle: h}, volumeSnapshotRef: {kind: VolumeSnapshot, namespace: forgotten, name: forgotten-2}}}`))
	t.Cleanup(func() {
		for _, name := range []string{"forgotten-1-without-claim", "forgotten-2"} {
			patch := []byte(`{"metadata": {"finalizers": null}}`)
			if _, err := w.cluster.Dynamic.Resource(contentResource).Patch(context.Background(), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
			if err := w.cluster.Dynamic.Resource(contentResource).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		}
	})
	var before string
	for _, want := range []int{1, 0} {
		n, err := w.sweep(t, "u", false)
		if n != want || err == nil {
			t.Errorf("swept %d, error %v; want %d, and that the strange one is an error and does not keep the other one from being swept", n, err, want)
		}
		content := w.get(t, contentResource, "", "forgotten-2")
		if policy, _, _ := unstructured.NestedString(content.Object, "spec", "deletionPolicy"); policy != "Retain" || content.GetDeletionTimestamp() == nil {
			t.Errorf("policy %q, deleted %v", policy, content.GetDeletionTimestamp())
		}
		notes := content.GetAnnotations()
		if notes["snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"] == "" || notes[v1alpha1.Group+"/reminded"] == before {
			t.Errorf("the snapshotter was not told anew: %v", notes)
		}
		before = notes[v1alpha1.Group+"/reminded"]
	}
}

func TestDamagedRecoveryPointCreatesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, `{apiVersion: v1, kind: Namespace, metadata: {name: damaged}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: damaged}, data: {}}`)
	id := w.backup(t, w.all(t, "-", "damaged"))
	w.removeNamespace(t, "damaged")
	w.damage(t, id, "configmaps")
	_, err := w.run(t, id, "11111111-0000-4000-8000-000000000009", plan.Request{})
	if err == nil || !strings.Contains(err.Error(), "configmaps") {
		t.Errorf("got %v", err)
	}
	if w.get(t, namespaceResource, "", "damaged") != nil {
		t.Error("something was created")
	}
}

func TestCheckForesees(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const ns = "foreseen"
	w.create(t, `{apiVersion: v1, kind: Namespace, metadata: {name: foreseen}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: foreseen}, provisioner: fake.csi.example.com}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: foreseen}, spec: {accessModes: [ReadWriteOnce], storageClassName: foreseen, resources: {requests: {storage: 1Gi}}}}`)
	objects := w.all(t, "-", ns)
	objects[bundle.Kind{APIVersion: "gone.example.com/v1", Kind: "Gone", Plural: "gones", Namespaced: true}] = []unstructured.Unstructured{
		{Object: object(t, `{apiVersion: gone.example.com/v1, kind: Gone, metadata: {name: a, namespace: foreseen}}`)}}
	id := w.backup(t, objects, volumeRecord(ns, "data", 0))
	rp, err := bundle.NewReader(t.Context(), w.store, "bi/", id, w.key.String())
	if err != nil {
		t.Fatal(err)
	}
	r := apply.New(apply.Options{Cluster: w.cluster, UID: "u", Request: plan.Request{RestoreVolumeData: true}, Now: time.Now,
		Report: func(bundle.RestoreOutcome) error { return nil }, Workers: 1, Patience: time.Second, Interval: time.Second})
	if err := r.Check(t.Context(), rp); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"UserErrorSourceandTargetClusterCRDVersionMismatch gones.gone.example.com",
		"VolumeDataNotRestored persistentvolumeclaims/foreseen/data",
		"VolumeDriverMissing csidrivers.storage.k8s.io/fake.csi.example.com",
	}
	if diff := cmp.Diff(want, (&attempt{Restore: r}).warnings()); diff != "" {
		t.Error(diff)
	}
	w.removeNamespace(t, ns)
	w.remove(t, schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}, "", "foreseen")
}
