package coverage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/coverage"
	"github.com/cairn-backup/cairn/internal/plan"
)

var now = time.Date(2026, 2, 16, 12, 0, 0, 0, time.UTC)

func ago(hours float64) time.Time { return now.Add(-time.Duration(hours * float64(time.Hour))) }

// daily is an instance that protects everything.
func daily(change ...func(*coverage.Instance)) coverage.Instance {
	i := coverage.Instance{ID: "/v/all", Name: "all", Vault: "v", Policy: "daily", State: "ProtectionConfigured", SnapshotVolumes: true,
		Interval: 24 * time.Hour, LastPoint: ago(10)}
	for _, c := range change {
		c(&i)
	}
	return i
}

func good() plan.Claim {
	return plan.Claim{Volume: "pv", Bound: true, Found: true, Driver: "d", HasClass: true}
}

func TestReasons(t *testing.T) {
	const ok = ""
	set := func(f func(*coverage.Instance)) []coverage.Instance { return []coverage.Instance{daily(f)} }
	for name, c := range map[string]struct {
		instances []coverage.Instance
		claim     func(*coverage.Claim)
		// namespace and volume are the codes that both get.
		namespace, volume string
	}{
		"all":                    {set(func(*coverage.Instance) {}), nil, ok, ok},
		"no instance":            {nil, nil, coverage.NoInstance, coverage.NoInstance},
		"excluded":               {set(func(i *coverage.Instance) { i.ExcludedNamespaces = []string{"shop"} }), nil, coverage.NamespaceExcluded, coverage.NamespaceExcluded},
		"not included":           {set(func(i *coverage.Instance) { i.IncludedNamespaces = []string{"web"} }), nil, coverage.NamespaceNotChosen, coverage.NamespaceNotChosen},
		"included":               {set(func(i *coverage.Instance) { i.IncludedNamespaces = []string{"web", "shop"} }), nil, ok, ok},
		"no snapshots":           {set(func(i *coverage.Instance) { i.SnapshotVolumes = false }), nil, ok, plan.SnapshotNotRequested},
		"being configured":       {set(func(i *coverage.Instance) { i.State = "ConfiguringProtection" }), nil, "ConfiguringProtection", "ConfiguringProtection"},
		"being updated":          {set(func(i *coverage.Instance) { i.State = "UpdatingProtection" }), nil, ok, ok},
		"in error":               {set(func(i *coverage.Instance) { i.State = "ProtectionError" }), nil, "ProtectionError", "ProtectionError"},
		"stopped":                {set(func(i *coverage.Instance) { i.State = "ProtectionStopped" }), nil, "ProtectionStopped", "ProtectionStopped"},
		"suspended":              {set(func(i *coverage.Instance) { i.State = "BackupsSuspended" }), nil, "BackupsSuspended", "BackupsSuspended"},
		"no recovery point":      {set(func(i *coverage.Instance) { i.LastPoint = time.Time{} }), nil, coverage.NoRecoveryPoint, coverage.NoRecoveryPoint},
		"two intervals ago":      {set(func(i *coverage.Instance) { i.LastPoint = ago(48) }), nil, ok, ok},
		"older than that":        {set(func(i *coverage.Instance) { i.LastPoint = ago(48.1) }), nil, coverage.RecoveryPointTooOld, coverage.RecoveryPointTooOld},
		"old without a schedule": {set(func(i *coverage.Instance) { i.LastPoint, i.Interval = ago(90), 0 }), nil, ok, ok},
		"newer claim":            {set(func(*coverage.Instance) {}), func(c *coverage.Claim) { c.Created = ago(1) }, ok, coverage.NoRecoveryPoint},
		"of the same second": {set(func(i *coverage.Instance) { i.LastPoint = ago(1).Add(time.Second / 2) }), func(c *coverage.Claim) { c.Created = ago(1) },
			ok, coverage.NoRecoveryPoint},
		"not bound":           {set(func(*coverage.Instance) {}), func(c *coverage.Claim) { c.Volume.Bound = false }, ok, plan.ClaimNotBound},
		"volume gone":         {set(func(*coverage.Instance) {}), func(c *coverage.Claim) { c.Volume.Found = false }, ok, plan.VolumeNotFound},
		"not of a CSI driver": {set(func(*coverage.Instance) {}), func(c *coverage.Claim) { c.Volume.Driver = "" }, ok, plan.VolumeTypeNotSupported},
		"no class":            {set(func(*coverage.Instance) {}), func(c *coverage.Claim) { c.Volume.HasClass = false }, ok, plan.SnapshotClassNotFound},
		"by label":            {set(func(*coverage.Instance) {}), func(c *coverage.Claim) { c.Excluded = true }, ok, coverage.ExcludedByLabel},
		"left out last time": {set(func(i *coverage.Instance) {
			i.LeftOut = map[string]coverage.Reason{"shop/data": {Code: "VolumeSnapshotFailed", Message: "the driver said no"}}
		}), nil, ok, "VolumeSnapshotFailed"},
		"one of two is enough": {[]coverage.Instance{daily(func(i *coverage.Instance) { i.ExcludedNamespaces = []string{"shop"} }),
			daily(func(i *coverage.Instance) { i.ID, i.LastPoint = "/v/other", ago(20) })}, nil, ok, ok},
		"the nearer reason is told": {[]coverage.Instance{daily(func(i *coverage.Instance) { i.ExcludedNamespaces = []string{"shop"} }),
			daily(func(i *coverage.Instance) { i.ID, i.LastPoint = "/v/other", time.Time{} })}, nil, coverage.NoRecoveryPoint, coverage.NoRecoveryPoint},
	} {
		t.Run(name, func(t *testing.T) {
			claim := coverage.Claim{Namespace: "shop", Name: "data", Created: ago(100), Bytes: 10, Volume: good()}
			if c.claim != nil {
				c.claim(&claim)
			}
			r := coverage.Of(coverage.Cluster{Namespaces: []coverage.Namespace{{Name: "shop", Created: ago(100)}}, Claims: []coverage.Claim{claim}}, c.instances, now)
			var got []string
			for _, i := range r.Items {
				if (i.Code == "") != (i.Status == coverage.Protected) || i.Code != "" && (i.Message == "" || i.Action == "" && i.Code != "VolumeSnapshotFailed") {
					t.Errorf("%s is %s: %+v", i.Kind, i.Status, i.Reason)
				}
				got = append(got, i.Code)
			}
			if want := []string{c.namespace, c.volume}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if want := c.namespace == "" && c.volume == ""; r.Summary.Complete != want {
				t.Errorf("complete: %v, want %v", r.Summary.Complete, want)
			}
		})
	}
}

func TestTroubleIsTold(t *testing.T) {
	r := coverage.Of(coverage.Cluster{Namespaces: []coverage.Namespace{{Name: "shop"}}}, []coverage.Instance{
		daily(func(i *coverage.Instance) { i.LastPoint, i.Trouble = ago(100), "the cluster is not connected" })}, now)
	if got, want := r.Items[0].Message, "the newest recovery point is of 2026-02-12T08:00:00Z, more than two intervals of 24 hours ago: the cluster is not connected"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWhatNeedsNoBackupIsNotCounted(t *testing.T) {
	r := coverage.Of(coverage.Cluster{
		Namespaces: []coverage.Namespace{{Name: "shop"}, {Name: "kube-system"}},
		Claims: []coverage.Claim{
			{Namespace: "shop", Name: "b", Bytes: 5, Volume: good()}, {Namespace: "shop", Name: "a", Bytes: 7, Volume: plan.Claim{Volume: "x"}},
			{Namespace: "kube-system", Name: "registry", Bytes: 3, Volume: good()},
		},
		PodVolumes: []coverage.PodVolume{
			{Namespace: "shop", Owner: "DaemonSet agent", Name: "logs", Source: "hostPath"}, {Namespace: "shop", Owner: "pod x", Name: "tmp", Source: "emptyDir"},
			{Namespace: "shop", Owner: "pod x", Name: "conf", Source: "configMap"}, {Namespace: "kube-system", Owner: "DaemonSet proxy", Name: "lib", Source: "hostPath"},
		},
	}, []coverage.Instance{daily()}, now)
	var got [][]string
	for _, i := range r.Items {
		got = append(got, []string{i.Namespace, i.Name, string(i.Status), i.Code, i.Instance})
	}
	want := [][]string{
		{"kube-system", "", "NotCounted", coverage.SystemNamespace, ""},
		{"kube-system", "registry", "NotProtected", coverage.SystemNamespace, ""},
		{"shop", "", "Protected", "", "all"},
		{"shop", "a", "NotProtected", plan.ClaimNotBound, "all"},
		{"shop", "b", "Protected", "", "all"},
		{"shop", "DaemonSet agent logs", "NotProtected", plan.VolumeTypeNotSupported, ""},
		{"shop", "pod x tmp", "NotCounted", coverage.EphemeralByDesign, ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(coverage.Summary{Namespaces: 1, ProtectedNamespaces: 1, Volumes: 4, ProtectedVolumes: 1, Bytes: 15, ProtectedBytes: 5}, r.Summary); diff != "" {
		t.Error(diff)
	}
}
