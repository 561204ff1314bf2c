package compat_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// small asks for pages of two items.
type small struct{}

func (small) Do(r *policy.Request) (*http.Response, error) {
	q := r.Raw().URL.Query()
	if r.Raw().Method == http.MethodGet && q.Get("$top") == "" {
		q.Set("$top", "2")
		r.Raw().URL.RawQuery = q.Encode()
	}
	return r.Next()
}

// names reads a list to its end; between is called after each page but the last.
func names[T any](t *testing.T, pager *runtime.Pager[T], page func(T) []*string, between func()) (all []string, pages int) {
	t.Helper()
	for pager.More() {
		got, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pages++
		if n := len(page(got)); n > 2 {
			t.Errorf("a page has %d items", n)
		}
		for _, name := range page(got) {
			all = append(all, *name)
		}
		if pager.More() && between != nil {
			between()
		}
	}
	return all, pages
}

// TestPages reads lists page by page with Azure's client, while items are added.
func TestPages(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	options := w.Options()
	options.PerCallPolicies = append(options.PerCallPolicies, small{})
	clients, err := dp.NewClientFactory(w.Env["AZURE_SUBSCRIPTION_ID"], w.Admin(), options)
	if err != nil {
		t.Fatal(err)
	}
	var jobs []string
	backUp := func() {
		t.Helper()
		job := w.start(t, "/backup", adhoc)
		w.finish(t, job)
		jobs = append([]string{job[strings.LastIndex(job, "/")+1:]}, jobs...)
	}
	for range 5 {
		backUp()
	}
	before := slices.Clone(jobs)
	// What comes meanwhile is newer than where the reader is: nothing is told twice or left out.
	got, pages := names(t, clients.NewJobsClient().NewListPager(group, vaultName, nil), func(p dp.JobsClientListResponse) (out []*string) {
		for _, j := range p.Value {
			out = append(out, j.Name)
		}
		return out
	}, backUp)
	if !slices.Equal(got, before) || pages != 3 {
		t.Errorf("%d pages of jobs: %v, want %v", pages, got, before)
	}
	points, pages := names(t, clients.NewRecoveryPointsClient().NewListPager(group, vaultName, "prod", nil), func(p dp.RecoveryPointsClientListResponse) (out []*string) {
		for _, r := range p.Value {
			out = append(out, r.Name)
		}
		return out
	}, nil)
	if slices.Sort(points); len(slices.Compact(points)) != len(jobs) || pages != 4 {
		t.Errorf("%d pages of recovery points: %v of %d", pages, points, len(jobs))
	}
	for _, name := range []string{"one", "two", "three", "four"} {
		w.Do("PUT", w.vault+"/backupPolicies/"+name, policyBody).Want(200)
	}
	policies, pages := names(t, clients.NewBackupPoliciesClient().NewListPager(group, vaultName, nil), func(p dp.BackupPoliciesClientListResponse) (out []*string) {
		for _, r := range p.Value {
			out = append(out, r.Name)
		}
		return out
	}, func() { w.Do("PUT", w.vault+"/backupPolicies/aaa", policyBody).Want(200) })
	if want := []string{"daily", "four", "one", "three", "two"}; !slices.Equal(policies, want) || pages != 3 {
		t.Errorf("%d pages of policies: %v, want %v", pages, policies, want)
	}
	for i := range 3 {
		w.Do("PUT", fmt.Sprintf("%s-%d", w.vault, i), map[string]any{"location": location, "properties": map[string]any{
			"storageSettings": []any{map[string]any{"datastoreType": "VaultStore", "type": "LocallyRedundant"}}}}).Want(201)
	}
	vaults, pages := names(t, clients.NewBackupVaultsClient().NewGetInSubscriptionPager(nil), func(p dp.BackupVaultsClientGetInSubscriptionResponse) (out []*string) {
		for _, r := range p.Value {
			out = append(out, r.Name)
		}
		return out
	}, nil)
	if want := []string{vaultName, vaultName + "-0", vaultName + "-1", vaultName + "-2"}; !slices.Equal(vaults, want) || pages != 2 {
		t.Errorf("%d pages of vaults: %v, want %v", pages, vaults, want)
	}
}

// TestNextLink leads on at the address that the client used, with its query; a token that was changed, or is another list's, is refused.
func TestNextLink(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	for _, name := range []string{"one", "two"} {
		w.Do("PUT", w.vault+"/backupPolicies/"+name, policyBody).Want(200)
	}
	list := w.vault + "/backupPolicies"
	at := strings.Replace(w.Env["CAIRN_ENDPOINT"], "localhost", "127.0.0.1", 1)
	first := w.Do("GET", at+list+"?$TOP=1&x-note=a%20b", nil).Want(200)
	next, ok := first.At("nextLink").(string)
	u, err := url.Parse(next)
	if !ok || err != nil || !strings.HasPrefix(next, at+list+"?") || u.Query().Get("x-note") != "a b" || u.Query().Get("api-version") != daemontest.APIVersion {
		t.Fatalf("the next page: %v", first.JSON)
	}
	token := u.Query().Get("$skipToken")
	second := w.Do("GET", next, nil).Want(200)
	last := w.Do("GET", list+"?$top=5&$SkipToken="+token, nil).Want(200)
	if second.At("value", 0, "name") != "one" || last.At("value", 1, "name") != "two" || last.At("nextLink") != nil {
		t.Errorf("the pages after the first: %v, %v", second.JSON, last.JSON)
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1]++
	for what, path := range map[string]string{
		"no token":            list + "?$skipToken=nonsense",
		"a changed token":     list + "?$skipToken=" + base64.RawURLEncoding.EncodeToString(raw),
		"another list's":      w.vault + "/backupJobs?$skipToken=" + token,
		"another filter's":    list + "?$filter=a%20eq%20b&$skipToken=" + token,
		"no items":            list + "?$top=0",
		"not a number":        list + "?$top=all",
		"a filter by nothing": w.vault + "/backupJobs?$filter=colour%20eq%20'red'",
	} {
		if got := w.Do("GET", path, nil); got.Status != 400 || got.At("error", "code") != "BMSUserErrorInvalidInput" {
			t.Errorf("%s: %d %v", what, got.Status, got.JSON)
		}
	}
}

// TestJobFilters finds jobs by what people look for.
func TestJobFilters(t *testing.T) {
	clock := &clock{at: time.Now()}
	w := setUp(t, daemontest.Start(t, daemon.Config{Now: clock.Now}))
	w.protect(t)
	first := w.start(t, "/backup", adhoc)
	w.finish(t, first)
	clock.advance(time.Minute)
	w.cluster.answer("Backup", refused("UserErrorBackupStorageLocationNotReady", "the container does not answer", "Start it."))
	second := w.start(t, "/backup", adhoc)
	w.finish(t, second)
	point := fmt.Sprint(w.points(t)[0].(map[string]any)["name"])
	clock.advance(time.Minute)
	third := w.start(t, "/restore", strings.NewReplacer("CLUSTER", w.cluster.id, "POINT", point).Replace(guideRestore))
	w.finish(t, third)
	begun := w.Do("GET", second, nil).Want(200).At("properties", "startTime")
	for filter, want := range map[string][]string{
		"":                      {third, second, first},
		"operation eq 'Backup'": {second, first},
		"operation eq 'ondemandbackup' and status eq 'Completed'":          {first},
		"operation eq 'ScheduledBackup'":                                   {},
		"operationCategory eq 'Restore'":                                   {third},
		"status eq 'Failed'":                                               {second},
		"backupInstanceId eq '" + w.instance + "'":                         {third, second, first},
		"backupInstanceId eq '" + w.instance + "2'":                        {},
		"dataSourceId eq '" + strings.ToUpper(w.cluster.id) + "'":          {third, second, first},
		fmt.Sprintf("startTime ge %v", begun):                              {third, second},
		fmt.Sprintf("startTime le datetime'%v'", begun):                    {second, first},
		fmt.Sprintf("endTime ge '%v'", begun):                              {third, second},
		fmt.Sprintf("startTime eq '%v' and endTime eq '%v'", begun, begun): {second},
	} {
		got := []string{}
		list, _ := w.Do("GET", w.vault+"/backupJobs?$filter="+url.QueryEscape(filter), nil).Want(200).At("value").([]any)
		for _, j := range list {
			got = append(got, fmt.Sprint(j.(map[string]any)["id"]))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
	for _, wrong := range []string{"startTime eq 'soon'", "status ne 'Failed'", "status eq ''", "status eq 'a' and status eq 'b'", "startTime lt '2026-01-01'"} {
		w.Do("GET", w.vault+"/backupJobs?$filter="+url.QueryEscape(wrong), nil).Want(400)
	}
}
