package compat_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// FuzzBodies sends anything as a policy, an instance and a restore: whatever it is, the service answers with JSON, and never
// that it has failed itself.
func FuzzBodies(f *testing.F) {
	w := setUp(f, daemontest.Start(f, daemon.Config{}))
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
	r, err := http.NewRequestWithContext(t.Context(), method, w.Env["CAIRN_ENDPOINT"]+path+"?api-version="+daemontest.APIVersion, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, failed{}
	}
	r.Header.Set("Authorization", "Bearer "+w.AdminToken())
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
