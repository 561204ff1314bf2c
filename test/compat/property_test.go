package compat_test

import (
	"encoding/json"
	"testing"

	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cairn-backup/cairn/internal/backup"
)

// policies draws valid policies.
func policies() *rapid.Generator[backup.Policy] {
	name := rapid.StringMatching(`[A-Z][a-z]{2,8}`)
	return rapid.Custom(func(t *rapid.T) backup.Policy {
		store := backup.DataStore{ObjectType: "DataStoreInfoBase", DataStoreType: backup.OperationalStore}
		lives := func() []backup.Lifecycle {
			duration := rapid.SampledFrom([]string{"P7D", "P30D", "P11M20D", "P12W", "PT36H"}).Draw(t, "duration")
			l := backup.Lifecycle{DeleteAfter: &backup.DeleteOption{ObjectType: "AbsoluteDeleteOption", Duration: duration}, Source: &store}
			if rapid.Bool().Draw(t, "copies") {
				l.Copies = []backup.CopySetting{}
			}
			return []backup.Lifecycle{l}
		}
		priority := int64(99)
		tagging := []backup.TaggingCriteria{{IsDefault: true, Priority: &priority, Tag: &backup.TagInfo{Name: "Default"}}}
		rules := []backup.Rule{{Retention: &backup.RetentionRule{Name: "Default", IsDefault: true, Lifecycles: lives()}}}
		for i, tag := range rapid.SliceOfNDistinct(name.Filter(func(s string) bool { return s != "Default" && s != "Backup" }), 0, 4, rapid.ID[string]).Draw(t, "tags") {
			p := int64(i)
			marker := rapid.SampledFrom([]string{"FirstOfDay", "FirstOfWeek", "FirstOfMonth", "FirstOfYear", "AllBackup"}).Draw(t, "marker")
			tagging = append(tagging, backup.TaggingCriteria{Priority: &p, Tag: &backup.TagInfo{Name: tag}, Criteria: []backup.BackupCriterion{{AbsoluteCriteria: []string{marker}}}})
			rules = append(rules, backup.Rule{Retention: &backup.RetentionRule{Name: tag, Lifecycles: lives()}})
		}
		every := rapid.SampledFrom([]string{"PT4H", "PT6H", "PT8H", "PT12H", "PT24H", "P1D", "P1W"}).Draw(t, "every")
		rules = append(rules, backup.Rule{Backup: &backup.BackupRule{Name: "Backup", DataStore: &store, Trigger: &backup.Trigger{
			Schedule: &backup.Schedule{TimeZone: rapid.SampledFrom([]string{"", "UTC"}).Draw(t, "zone"), Intervals: []string{"R/2026-02-16T04:00:00+00:00/" + every}}, Tagging: tagging}}})
		policy := backup.Policy{DatasourceTypes: []string{backup.ClusterType}, Rules: rules}
		policy.Complete()
		return policy
	})
}

// TestPoliciesSurviveAzuresSDK sends any valid policy through the SDK's models and reads it back.
func TestPoliciesSurviveAzuresSDK(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := policies().Draw(t, "policy")
		if err := want.Validate().Err(); err != nil {
			t.Fatal(err)
		}
		ours := encode(t, map[string]any{"properties": want})
		var model dp.BaseBackupPolicyResource
		if err := json.Unmarshal(ours, &model); err != nil {
			t.Fatal(err)
		}
		in, err := backup.DecodeInput[backup.Policy](encode(t, model))
		if err != nil {
			t.Fatal(err)
		}
		in.Properties.Complete()
		if err := in.Properties.Validate().Err(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(ours), string(encode(t, map[string]any{"properties": *in.Properties}))); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestInstancesSurviveAzuresSDK does the same with instances and what they take.
func TestInstancesSurviveAzuresSDK(t *testing.T) {
	const id = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/prod"
	namespaces := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9]{0,10}`), 0, 4, rapid.ID[string])
	rapid.Check(t, func(t *rapid.T) {
		snapshots, clusterScope := rapid.Bool().Draw(t, "snapshots"), rapid.Bool().Draw(t, "cluster scope")
		want := backup.Instance{FriendlyName: rapid.StringMatching(`[a-z/\\]{0,12}`).Draw(t, "name"), DataSource: &backup.Datasource{ResourceID: id},
			Policy: &backup.PolicyInfo{PolicyID: "/subscriptions/s/resourceGroups/rg/providers/Microsoft.DataProtection/backupVaults/v/backupPolicies/daily",
				Parameters: &backup.PolicyParameters{Datasources: []backup.KubernetesParameters{{SnapshotVolumes: &snapshots, IncludeClusterScopeResources: &clusterScope}}}}}
		if names := namespaces.Draw(t, "namespaces"); len(names) > 0 {
			want.Policy.Parameters.Datasources[0].IncludedNamespaces = names
		}
		want.Complete()
		if err := want.Validate("properties").Err(); err != nil {
			t.Fatal(err)
		}
		ours := encode(t, map[string]any{"properties": want})
		var model dp.BackupInstanceResource
		if err := json.Unmarshal(ours, &model); err != nil {
			t.Fatal(err)
		}
		in, err := backup.DecodeInput[backup.Instance](encode(t, model))
		if err != nil {
			t.Fatal(err)
		}
		in.Properties.Complete()
		if diff := cmp.Diff(string(ours), string(encode(t, map[string]any{"properties": *in.Properties}))); diff != "" {
			t.Fatal(diff)
		}
	})
}

func encode(t *rapid.T, v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
