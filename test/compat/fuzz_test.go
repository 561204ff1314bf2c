package compat_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// FuzzBodies sends anything as a policy, an instance and a restore: whatever it is, the service answers with JSON, and never
// that it has failed itself.
func FuzzBodies(f *testing.F) {
	w := setUp(f, daemontest.Start(f, daemon.Config{Log: slog.New(slog.DiscardHandler)}))
	w.protect(f)
	w.finish(f, w.start(f, "/backup", adhoc))
	w.cluster.stop()
	fill := strings.NewReplacer("CLUSTER", w.cluster.id, "POINT", strings.Repeat("0", 32)).Replace
	for _, seed := range []string{policyBody, fill(guideRestore), fill(azureRestore), `{"properties":{"policyRules":[null]}}`, `{"tags":{"a_b":null}}`, "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, c := range []struct{ method, path string }{
			{"PUT", w.vault + "/backupPolicies/fuzz"}, {"PUT", w.vault + "/backupInstances/fuzz"}, {"PUT", w.vault + "fuzz"}, {"PATCH", w.vault},
			{"POST", w.vault + "/validateForBackup"}, {"POST", w.instance + "/backup"}, {"POST", w.instance + "/restore"}, {"POST", w.instance + "/validateRestore"},
		} {
			status, answer := send(t, w, c.method, c.path, body)
			if status >= 500 || status >= 400 && (answer.Error.Code == "" || answer.Error.Message == "") {
				t.Errorf("%s %s: %d %+v", c.method, c.path, status, answer)
			}
		}
	})
}

type failed struct {
	Error struct{ Code, Message string }
}

// send asks without the world's own helpers, which belong to the goroutine of the test itself.
func send(t *testing.T, w *world, method, path, body string) (int, failed) {
	t.Helper()
	return sendAs(t, w, w.AdminToken(), method, path, body)
}

// sendAs is send with another token.
func sendAs(t *testing.T, w *world, token, method, path, body string) (int, failed) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, w.Env["CAIRN_ENDPOINT"]+path+"?api-version="+daemontest.APIVersion, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, failed{}
	}
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := w.HTTP.Do(r)
	if err != nil {
		t.Error(err)
		return 0, failed{}
	}
	defer response.Body.Close()
	var answer failed
	if response.StatusCode >= 400 {
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			t.Error(err)
		}
	}
	return response.StatusCode, answer
}

// FuzzReports lets a connector report anything, on a backup that runs and on others: the service takes it or refuses it, and goes on.
func FuzzReports(f *testing.F) {
	w := setUp(f, daemontest.Start(f, daemon.Config{Log: slog.New(slog.DiscardHandler)}))
	w.protect(f)
	w.cluster.hold("Backup")
	w.start(f, "/backup", adhoc)
	r := w.cluster.next("Backup")
	w.cluster.stop()
	token := w.Token(w.cluster.credential.ClientID, w.cluster.credential.ClientSecret, "https://management.azure.com")
	for _, status := range []any{uploading(40), restored(r)[0], completed(r)[0], json.RawMessage(`{"phase":"Sorcery","progress":{"objectsDone":-1,"steps":[{}]},"committed":true}`), json.RawMessage(`null`)} {
		body, err := json.Marshal(status)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(r.Kind, string(body), `{"name":"azure-aks-backup","generation":1,"state":"Ready"}`)
	}
	f.Add("Restore", `{"phase":"Completed"}`, `{"state":"x","generation":-1}`)
	f.Fuzz(func(t *testing.T, kind, status, extension string) {
		name, err := json.Marshal(kind)
		if err != nil {
			t.Fatal(err)
		}
		body := `{"connectorVersion":"v","kubernetesVersion":"v","nodeCount":1,"extension":` + extension + `,"requests":[{"kind":` + string(name) + `,"name":"` + r.Name + `","status":` + status + `}]}`
		if code, answer := sendAs(t, w, token, "POST", "/link/v1/report", body); code >= 500 || code >= 400 && (answer.Error.Code == "" || answer.Error.Message == "") {
			t.Errorf("%d %+v", code, answer)
		}
		if code, answer := send(t, w, "GET", w.vault+"/backupJobs", ""); code != 200 {
			t.Errorf("the jobs: %d %+v", code, answer)
		}
	})
}
