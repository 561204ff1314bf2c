package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cairn-backup/cairn/internal/client"
	"github.com/cairn-backup/cairn/internal/coverage"
	"github.com/cairn-backup/cairn/internal/iso8601"
	"github.com/cairn-backup/cairn/internal/plan"
)

// coverageColumns are all in every row, so that their order stays.
const coverageColumns = "[].items[].{Namespace:namespace, Volume:name || '', Size:size || '', Class:storageClass || '', Status:status, " +
	"BackupInstance:backupInstance || '', LastBackup:lastRecoveryPoint || '', Reason:code || '', Why:message || ''}"

// errNotCovered ends a command whose answer says that something is not protected.
var errNotCovered = errors.New("not everything is protected")

var (
	clusterNameArg = Arg{Names: "--cluster-name --cluster --name -n", Required: true, Help: "The cluster's name."}
	clusterRGArg   = Arg{Names: "--resource-group -g", Help: "The cluster's resource group. Default: that of the only cluster of the name."}
)

var coverageCommands = []Command{
	{Path: "coverage", Help: "Say which namespaces and volumes of a cluster backups protect, and why not the others. Ends with 4 when something is not protected.",
		Run: coverageRun, Columns: coverageColumns, Table: true, Args: append([]Arg{clusterNameArg, clusterRGArg}, kubeArgs...),
		Examples: []string{"coverage --cluster aks-production", "coverage --cluster aks-production --query \"items[?status=='NotProtected'].[namespace, name, message]\" -o tsv"}},
}

func coverageRun(ctx context.Context, in *Input) (any, error) {
	cluster, err := in.findCluster(ctx)
	if err != nil {
		return nil, err
	}
	kube, host, err := newKube(in.Text("kubeconfig"), in.Text("context"))
	if err != nil {
		return nil, err
	}
	in.progress.step("Looking into the cluster", "")
	if err := kube.isCluster(ctx, text(cluster, "id")); err != nil {
		return nil, fmt.Errorf("cluster at %s: %w", host, err)
	}
	report, err := in.coverage(ctx, kube, text(cluster, "id"))
	if err != nil {
		return nil, fmt.Errorf("cluster at %s: %w", host, err)
	}
	answer, err := reportDocument(report)
	if err != nil {
		return nil, err
	}
	in.progress.note(coverageSentence(text(cluster, "name"), report.Summary))
	if !report.Summary.Complete {
		return answer, errNotCovered
	}
	return answer, nil
}

// findCluster reads the cluster that the options name.
func (in *Input) findCluster(ctx context.Context) (any, error) {
	if in.Has("resource-group") {
		path, err := in.path(ctx, clusterPath)
		if err != nil {
			return nil, err
		}
		return in.get(ctx, path, clustersVersion)
	}
	path, err := in.path(ctx, subscriptionPath+clustersPath)
	if err != nil {
		return nil, err
	}
	all, err := in.list(ctx, path, clustersVersion, nil)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(c any) bool { return !strings.EqualFold(text(c, "name"), in.Text("cluster-name")) })
	switch len(all) {
	case 0:
		return nil, &client.Error{Status: 404, Code: "ResourceNotFound", Message: fmt.Sprintf("The cluster '%s' was not found in the subscription.", in.Text("cluster-name"))}
	case 1:
		return all[0], nil
	}
	return nil, usagef("%d clusters are named '%s': say which one with --resource-group", len(all), in.Text("cluster-name"))
}

// coverage asks the cluster what there is, and the service what it protects.
func (in *Input) coverage(ctx context.Context, kube *kube, clusterID string) (coverage.Report, error) {
	have, err := kube.inventory(ctx)
	if err != nil {
		return coverage.Report{}, err
	}
	found, err := in.list(ctx, clusterID+"/providers/Microsoft.DataProtection/backupInstances", backupVersion, nil)
	if err != nil {
		return coverage.Report{}, err
	}
	var instances []coverage.Instance
	for _, doc := range found {
		i, err := in.coveringInstance(ctx, doc)
		if err != nil {
			return coverage.Report{}, fmt.Errorf("backup instance %s: %w", text(doc, "name"), err)
		}
		instances = append(instances, i)
	}
	return coverage.Of(have, instances, time.Now()), nil
}

// coveringInstance is what coverage needs to know of an instance.
func (in *Input) coveringInstance(ctx context.Context, doc any) (coverage.Instance, error) {
	id, properties := text(doc, "id"), at(doc, "properties")
	policyID := text(properties, "policyInfo", "policyId")
	i := coverage.Instance{ID: id, Name: text(doc, "name"), Vault: lastSegment(vaultID(id)), Policy: lastSegment(policyID),
		State: text(properties, "currentProtectionState"), Problem: text(properties, "protectionErrorDetails", "message"), SnapshotVolumes: true}
	if scopes, _ := at(properties, "policyInfo", "policyParameters", "backupDatasourceParametersList").([]any); len(scopes) > 0 {
		i.IncludedNamespaces, i.ExcludedNamespaces = words(at(scopes[0], "includedNamespaces")), words(at(scopes[0], "excludedNamespaces"))
		i.SnapshotVolumes, _ = at(scopes[0], "snapshotVolumes").(bool)
	}
	policy, err := in.get(ctx, policyID, backupVersion)
	if err != nil {
		return i, err
	}
	if i.Interval, err = interval(policy); err != nil {
		return i, err
	}
	points, err := in.list(ctx, id+"/recoveryPoints", backupVersion, nil)
	if err != nil {
		return i, err
	}
	for _, p := range points {
		when, err := time.Parse(time.RFC3339, text(p, "properties", "recoveryPointTime"))
		if err != nil {
			return i, fmt.Errorf("recovery point %s: %w", text(p, "name"), err)
		}
		if when.After(i.LastPoint) {
			i.LastPoint = when
		}
	}
	schedule, err := in.get(ctx, id+"/schedule", backupVersion)
	if err != nil {
		return i, err
	}
	jobs, err := in.list(ctx, vaultID(id)+"/backupJobs", backupVersion, filter("backupInstanceId eq "+quote(id), "operation eq 'Backup'"))
	if err != nil {
		return i, err
	}
	i.Trouble = backupTrouble(schedule, newest(jobs, ended))
	i.LeftOut, err = in.leftOut(ctx, newest(jobs, func(j any) bool { return strings.HasPrefix(text(j, "properties", "status"), "Completed") }))
	return i, err
}

// newest is the job that began last, of those that fulfil the condition; nil when there is none.
func newest(jobs []any, which func(job any) bool) any {
	var found any
	for _, j := range jobs {
		if which(j) && text(j, "properties", "startTime") > text(found, "properties", "startTime") {
			found = j
		}
	}
	return found
}

// backupTrouble is what keeps backups from being made: what the next one waits for, why the last one was skipped, or why the last job has failed.
func backupTrouble(schedule, last any) string {
	if waits := text(schedule, "properties", "waiting", "message"); waits != "" {
		return waits
	}
	runs, _ := at(schedule, "properties", "runs").([]any)
	if len(runs) > 0 && text(runs[0], "outcome") == "Skipped" {
		return text(runs[0], "message")
	}
	if errors, _ := at(last, "properties", "errorDetails").([]any); len(errors) > 0 {
		return text(errors[0], "message")
	}
	return ""
}

// interval is the longest time between two backups by a policy: the shortest of its intervals, since each of them goes on for ever.
func interval(policy any) (time.Duration, error) {
	var shortest time.Duration
	rules, _ := at(policy, "properties", "policyRules").([]any)
	for _, rule := range rules {
		for _, written := range words(at(rule, "trigger", "schedule", "repeatingTimeIntervals")) {
			r, err := iso8601.ParseRepeating(written)
			if err != nil {
				return 0, fmt.Errorf("policy %s: %w", text(policy, "name"), err)
			}
			if every := r.Every.AddTo(r.Start).Sub(r.Start); shortest == 0 || every < shortest {
				shortest = every
			}
		}
	}
	return shortest, nil
}

// leftOut is what a backup left out of its recovery point, by claim.
func (in *Input) leftOut(ctx context.Context, backup any) (map[string]coverage.Reason, error) {
	if text(backup, "properties", "status") != "CompletedWithWarnings" {
		return nil, nil
	}
	job, err := in.get(ctx, text(backup, "id"), backupVersion)
	if err != nil {
		return nil, err
	}
	left := map[string]coverage.Reason{}
	warnings, _ := at(job, "properties", "extendedInfo", "warningDetails").([]any)
	for _, w := range warnings {
		if claim, ok := strings.CutPrefix(text(w, "resourceName"), "persistentvolumeclaims/"); ok {
			left[claim] = coverage.Reason{Code: text(w, "warning", "code"), Message: text(w, "warning", "message"),
				Action: strings.Join(words(at(w, "warning", "recommendedAction")), " ")}
		}
	}
	return left, nil
}

// words are the strings of a list.
func words(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, e := range list {
		if s, ok := e.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// vaultID is the ID of the vault in the ID of something in it.
func vaultID(id string) string { return inVault.FindString(id) }

var inVault = regexp.MustCompile(`(?i)^.*/backupVaults/[^/]+`)

// reportDocument is the report as it is printed: with sizes for people, too.
func reportDocument(r coverage.Report) (map[string]any, error) {
	if r.Items == nil {
		r.Items = []coverage.Item{}
	}
	doc, err := generic(r)
	if err != nil {
		return nil, err
	}
	for i, item := range doc.(map[string]any)["items"].([]any) {
		if n := r.Items[i].Bytes; n > 0 {
			item.(map[string]any)["size"] = size(n)
		}
	}
	return object(doc)
}

// coverageSentence says in one line how much is protected.
func coverageSentence(cluster string, s coverage.Summary) string {
	return fmt.Sprintf("%s: %d of %d namespaces and %d of %d volumes (%s of %s) are protected.", cluster,
		s.ProtectedNamespaces, s.Namespaces, s.ProtectedVolumes, s.Volumes, size(s.ProtectedBytes), size(s.Bytes))
}

// pageSize is how many objects the cluster is asked for at once.
const pageSize = 500

// each calls visit for all objects of a kind in the cluster. A kind that the cluster does not know has none.
func (k *kube) each(ctx context.Context, kind schema.GroupVersionResource, visit func(o *unstructured.Unstructured)) error {
	for options := (metav1.ListOptions{Limit: pageSize}); ; {
		page, err := k.objects.Resource(kind).List(ctx, options)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", kind.Resource, err)
		}
		for i := range page.Items {
			visit(&page.Items[i])
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}

// inventory lists what there is to protect.
func (k *kube) inventory(ctx context.Context) (coverage.Cluster, error) {
	var have coverage.Cluster
	drivers, volumes := map[string]bool{}, map[string]*unstructured.Unstructured{}
	owners := map[string]bool{}
	for _, kind := range []struct {
		schema.GroupVersionResource
		visit func(o *unstructured.Unstructured)
	}{
		{namespacesResource, func(o *unstructured.Unstructured) {
			have.Namespaces = append(have.Namespaces, coverage.Namespace{Name: o.GetName(), Created: o.GetCreationTimestamp().Time})
		}},
		{snapshotClassesResource, func(o *unstructured.Unstructured) { drivers[text(o.Object, "driver")] = true }},
		{volumesResource, func(o *unstructured.Unstructured) { volumes[o.GetName()] = o }},
		{claimsResource, func(o *unstructured.Unstructured) { have.Claims = append(have.Claims, claimOf(o, volumes, drivers)) }},
		{podsResource, func(o *unstructured.Unstructured) {
			for _, v := range podVolumesOf(o) {
				if key := v.Namespace + "/" + v.Owner + "/" + v.Name; !owners[key] {
					owners[key] = true
					have.PodVolumes = append(have.PodVolumes, v)
				}
			}
		}},
	} {
		if err := k.each(ctx, kind.GroupVersionResource, kind.visit); err != nil {
			return have, err
		}
	}
	return have, nil
}

// excludeKey is the label or annotation by which users keep an object out of backups.
const excludeKey = "velero.io/exclude-from-backup"

func claimOf(o *unstructured.Unstructured, volumes map[string]*unstructured.Unstructured, drivers map[string]bool) coverage.Claim {
	c := coverage.Claim{Namespace: o.GetNamespace(), Name: o.GetName(), Created: o.GetCreationTimestamp().Time, StorageClass: text(o.Object, "spec", "storageClassName"),
		Excluded: o.GetLabels()[excludeKey] == "true" || o.GetAnnotations()[excludeKey] == "true"}
	asked := text(o.Object, "spec", "resources", "requests", "storage")
	c.Volume = plan.Claim{Volume: text(o.Object, "spec", "volumeName"), Bound: text(o.Object, "status", "phase") == "Bound"}
	if v := volumes[c.Volume.Volume]; v != nil {
		c.Volume.Found, c.Volume.Driver = true, text(v.Object, "spec", "csi", "driver")
		c.Volume.HasClass = drivers[c.Volume.Driver]
		if capacity := text(v.Object, "spec", "capacity", "storage"); capacity != "" {
			asked = capacity
		}
	}
	if q, err := resource.ParseQuantity(asked); err == nil {
		c.Bytes = q.Value()
	}
	return c
}

func podVolumesOf(pod *unstructured.Unstructured) []coverage.PodVolume {
	owner := "pod " + pod.GetName()
	if o := metav1.GetControllerOf(pod); o != nil {
		owner = o.Kind + " " + o.Name
	}
	var out []coverage.PodVolume
	volumes, _ := at(pod.Object, "spec", "volumes").([]any)
	for _, v := range volumes {
		fields, _ := v.(map[string]any)
		for source := range fields {
			if source != "name" {
				out = append(out, coverage.PodVolume{Namespace: pod.GetNamespace(), Owner: owner, Name: text(v, "name"), Source: source})
			}
		}
	}
	return out
}
