package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDisaster backs up a shop with a database, loses it all, and restores it: every row, every block and every object.
func TestDisaster(t *testing.T) {
	protect(t)
	sh(t, "kubectl apply -f test/e2e/testdata/disaster.yaml")
	sh(t, "kubectl wait --for=condition=Established crd/orders.shop.example.com --timeout=60s && kubectl apply -f test/e2e/testdata/orders.yaml")
	waitShop(t)
	sh(t, psql+`-q -f - < <(kubectl -n shop-db get configmap postgres -o jsonpath='{.data.init\.sql}')`)
	sh(t, psql+`-c CHECKPOINT`)
	sh(t, `kubectl -n shop exec deploy/web -- sh -c 'seq 1 20000 > /files/numbers && dd if=/dev/urandom of=/dev/raw-disk bs=1M count=40 conv=fsync 2>/dev/null && echo gone > /scratch/ephemeral && sync'`)

	before := shop(t)
	j, recoveryPoint := backup(t, instance)
	if j.Properties.Status != "Completed" {
		t.Fatalf("the backup ended as %s: %+v", j.Properties.Status, j.Properties)
	}

	sh(t, "kubectl delete namespace shop shop-db --timeout=180s && kubectl delete crd orders.shop.example.com --timeout=60s")
	r := restore(t, instance, recoveryPoint, "shop", "shop-db")
	if r.Properties.Status != "Completed" {
		t.Fatalf("the restore ended as %s: %+v", r.Properties.Status, r.Properties)
	}
	waitShop(t)
	after := shop(t)
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("the shop differs (-before +after):\n%s", d)
	}
	if got := sh(t, "kubectl -n shop exec deploy/web -- ls /scratch"); got != "" {
		t.Errorf("an emptyDir came back with %q", got)
	}
	sh(t, "kubectl delete namespace shop shop-db --timeout=180s && kubectl delete crd orders.shop.example.com --timeout=60s")
}

// TestDeletingAnInstanceDeletesItsBackups, in storage and in the cluster's storage, and nothing of anybody else's.
func TestDeletingAnInstanceDeletesItsBackups(t *testing.T) {
	protect(t)
	prepareWorkload(t, "doomed")
	t.Cleanup(func() { destroyWorkload(t, "doomed") })
	snapshotsBefore, blobsBefore := snapshots(t), blobNames(t)
	makeInstanceOnce(t, "doomed", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["doomed"]}`)
	for range 2 {
		if j, _ := backup(t, "doomed"); j.Properties.Status != "Completed" {
			t.Fatalf("the backup ended as %s: %+v", j.Properties.Status, j.Properties)
		}
	}
	if added := len(snapshots(t)) - len(snapshotsBefore); added != 2 {
		t.Errorf("storage holds %d more snapshots, not 2", added)
	}
	sh(t, "az dataprotection backup-vault update"+where+"--soft-delete-state Off")
	sh(t, "az dataprotection backup-instance delete"+where+"-n doomed --yes")
	if d := cmp.Diff(snapshotsBefore, snapshots(t)); d != "" {
		t.Errorf("the snapshots (-before +after):\n%s", d)
	}
	if d := cmp.Diff(blobsBefore, blobNames(t)); d != "" {
		t.Errorf("the blobs (-before +after):\n%s", d)
	}
	checkNothingLeft(t)
}

const psql = `kubectl -n shop-db exec -i postgres-0 -- psql -h 127.0.0.1 -U postgres -v ON_ERROR_STOP=1 -At `

func waitShop(t *testing.T) {
	t.Helper()
	sh(t, "kubectl -n shop-db rollout status statefulset/postgres --timeout=180s && kubectl -n shop rollout status deployment/web --timeout=180s")
}

// state is all that a user relies on in the shop.
type state struct {
	Rows, Table, Files, Block string
	Objects                   map[string]map[string]any
}

func shop(t *testing.T) state {
	t.Helper()
	return state{
		Rows:    sh(t, psql+`-c 'SELECT count(*) FROM orders'`),
		Table:   sh(t, psql+`-c "SELECT md5(string_agg(id || item || price, ',' ORDER BY id)) FROM orders"`),
		Files:   sh(t, "kubectl -n shop exec deploy/web -- sha256sum /files/numbers"),
		Block:   sh(t, "kubectl -n shop exec deploy/web -- sha256sum /dev/raw-disk"),
		Objects: objects(t, "shop", "shop-db"),
	}
}

// objects returns every object of the namespaces, and the shop's cluster-scoped ones, without the fields that must differ in a restored
// object.
func objects(t *testing.T, namespaces ...string) map[string]map[string]any {
	t.Helper()
	found := map[string]map[string]any{}
	kinds := slices.DeleteFunc(strings.Fields(sh(t, "kubectl api-resources --verbs=list --namespaced -o name")), func(kind string) bool { return madeAnew[kind] })
	for _, ns := range namespaces {
		collect(t, found, fmt.Sprintf("kubectl -n %s get %s -o json", ns, strings.Join(kinds, ",")))
		collect(t, found, "kubectl get namespace -o json --field-selector metadata.name="+ns)
	}
	collect(t, found, "kubectl get crd -o json --field-selector metadata.name=orders.shop.example.com")
	return found
}

// madeAnew are the kinds whose objects the cluster makes from others: a restore leaves them to it.
var madeAnew = map[string]bool{
	"pods": true, "events": true, "events.events.k8s.io": true, "endpoints": true, "endpointslices.discovery.k8s.io": true,
	"replicasets.apps": true, "controllerrevisions.apps": true, "leases.coordination.k8s.io": true, "bindings": true,
}

func collect(t *testing.T, found map[string]map[string]any, command string) {
	t.Helper()
	var list struct{ Items []map[string]any }
	shJSON(t, &list, command)
	for _, o := range list.Items {
		meta := o["metadata"].(map[string]any)
		key := fmt.Sprintf("%v/%v/%v/%v", o["apiVersion"], o["kind"], meta["namespace"], meta["name"])
		found[key] = comparable(t, o)
	}
}

// mustDiffer are the fields that a restored object cannot share with the one that was backed up, and why.
var mustDiffer = [][]string{
	{"metadata", "uid"}, {"metadata", "resourceVersion"}, {"metadata", "creationTimestamp"}, // the API server's own
	{"metadata", "generation"}, {"metadata", "managedFields"}, // its bookkeeping
	{"status"},                                                                // what controllers observe, not what users ask for
	{"spec", "volumeName"}, {"spec", "dataSource"}, {"spec", "dataSourceRef"}, // a claim is bound to a new volume, made from a snapshot
	{"spec", "clusterIP"}, {"spec", "clusterIPs"}, // a service's address is allocated anew, unless it is None
	{"metadata", "annotations", "pv.kubernetes.io/bind-completed"},                  // the volume controller's notes
	{"metadata", "annotations", "pv.kubernetes.io/bound-by-controller"},             //
	{"metadata", "annotations", "volume.kubernetes.io/storage-provisioner"},         //
	{"metadata", "annotations", "volume.beta.kubernetes.io/storage-provisioner"},    //
	{"metadata", "annotations", "volume.kubernetes.io/selected-node"},               // the scheduler's
	{"metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"}, // compared as what it configured
}

func comparable(t *testing.T, object map[string]any) map[string]any {
	t.Helper()
	if spec, ok := object["spec"].(map[string]any); ok && object["kind"] == "Service" && spec["clusterIP"] == "None" {
		spec["headless"] = true // a headless service must stay one
	}
	for _, path := range mustDiffer {
		remove(object, path)
	}
	if m := object["metadata"].(map[string]any); m["annotations"] != nil && len(m["annotations"].(map[string]any)) == 0 {
		delete(m, "annotations")
	}
	// Through JSON again, so that numbers compare as numbers.
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var clean map[string]any
	if err := json.Unmarshal(text, &clean); err != nil {
		t.Fatal(err)
	}
	return clean
}

func remove(object map[string]any, path []string) {
	for _, key := range path[:len(path)-1] {
		next, ok := object[key].(map[string]any)
		if !ok {
			return
		}
		object = next
	}
	delete(object, path[len(path)-1])
}
