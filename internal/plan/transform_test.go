package plan_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/cairn-backup/cairn/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

// kinds are the kinds of the tests, by their name without a group.
var kinds = map[string]plan.Resource{}

func init() {
	for _, r := range []plan.Resource{
		{Version: "v1", Resource: "namespaces", Kind: "Namespace"},
		{Version: "v1", Resource: "nodes", Kind: "Node"},
		{Version: "v1", Resource: "configmaps", Kind: "ConfigMap", Namespaced: true},
		{Version: "v1", Resource: "secrets", Kind: "Secret", Namespaced: true},
		{Version: "v1", Resource: "serviceaccounts", Kind: "ServiceAccount", Namespaced: true},
		{Version: "v1", Resource: "persistentvolumeclaims", Kind: "PersistentVolumeClaim", Namespaced: true},
		{Version: "v1", Resource: "persistentvolumes", Kind: "PersistentVolume"},
		{Version: "v1", Resource: "services", Kind: "Service", Namespaced: true},
		{Version: "v1", Resource: "endpoints", Kind: "Endpoints", Namespaced: true},
		{Version: "v1", Resource: "events", Kind: "Event", Namespaced: true},
		{Version: "v1", Resource: "pods", Kind: "Pod", Namespaced: true},
		{Version: "v1", Resource: "limitranges", Kind: "LimitRange", Namespaced: true},
		{Version: "v1", Resource: "resourcequotas", Kind: "ResourceQuota", Namespaced: true},
		{Group: "apps", Version: "v1", Resource: "deployments", Kind: "Deployment", Namespaced: true},
		{Group: "apps", Version: "v1", Resource: "statefulsets", Kind: "StatefulSet", Namespaced: true},
		{Group: "apps", Version: "v1", Resource: "daemonsets", Kind: "DaemonSet", Namespaced: true},
		{Group: "apps", Version: "v1", Resource: "replicasets", Kind: "ReplicaSet", Namespaced: true},
		{Group: "apps", Version: "v1", Resource: "controllerrevisions", Kind: "ControllerRevision", Namespaced: true},
		{Group: "batch", Version: "v1", Resource: "jobs", Kind: "Job", Namespaced: true},
		{Group: "batch", Version: "v1", Resource: "cronjobs", Kind: "CronJob", Namespaced: true},
		{Group: "coordination.k8s.io", Version: "v1", Resource: "leases", Kind: "Lease", Namespaced: true},
		{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices", Kind: "EndpointSlice", Namespaced: true},
		{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses", Kind: "Ingress", Namespaced: true},
		{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies", Kind: "NetworkPolicy", Namespaced: true},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles", Kind: "Role", Namespaced: true},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles", Kind: "ClusterRole"},
		{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses", Kind: "StorageClass"},
		{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses", Kind: "PriorityClass"},
		{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots", Kind: "VolumeSnapshot", Namespaced: true},
		{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshotclasses", Kind: "VolumeSnapshotClass"},
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions", Kind: "CustomResourceDefinition"},
		{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices", Kind: "APIService"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations", Kind: "ValidatingWebhookConfiguration"},
		{Group: "clusterbackup.dataprotection.microsoft.com", Version: "v1alpha1", Resource: "restores", Kind: "Restore", Namespaced: true},
		{Group: "clusterbackup.dataprotection.microsoft.com", Version: "v1alpha1", Resource: "backuphooks", Kind: "BackupHook", Namespaced: true},
		{Group: "example.com", Version: "v1", Resource: "shops", Kind: "Shop", Namespaced: true},
	} {
		kinds[r.Resource] = r
	}
}

func decode(t testing.TB, text string) map[string]any {
	t.Helper()
	var o map[string]any
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestTransformGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/transform/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no inputs", err)
	}
	for _, file := range files {
		base := strings.TrimSuffix(filepath.Base(file), ".in.yaml")
		t.Run(base, func(t *testing.T) {
			in, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			kind, _, _ := strings.Cut(base, "-")
			o := decode(t, string(in))
			plan.Transform(kinds[kind], o)
			got, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata/transform", base+".golden.yaml")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
			plan.Transform(kinds[kind], o)
			again, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(got), string(again)); diff != "" {
				t.Error("the second transformation changes something:", diff)
			}
		})
	}
}

func TestDropNodePorts(t *testing.T) {
	o := decode(t, `{spec: {healthCheckNodePort: 1, ports: [{port: 80, nodePort: 30000}, {port: 81}]}}`)
	if !plan.DropNodePorts(o) {
		t.Error("nothing was dropped")
	}
	if diff := cmp.Diff(decode(t, `{spec: {ports: [{port: 80}, {port: 81}]}}`), o); diff != "" {
		t.Error(diff)
	}
	if plan.DropNodePorts(o) {
		t.Error("there was nothing left to drop")
	}
}
