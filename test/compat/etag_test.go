package compat_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// TestConditions changes and deletes each resource with an ETag that is not its own, with If-None-Match, and with its own: only the last does anything.
func TestConditions(t *testing.T) {
	data := t.TempDir()
	w := setUp(t, daemontest.Start(t, daemon.Config{Data: data}))
	w.protect(t)
	rg := w.Subscription + "/resourceGroups/" + group
	guard := rg + "/providers/Microsoft.DataProtection/resourceGuards/mua"
	proxy := w.vault + "/backupResourceGuardProxies/DppResourceGuardProxy"
	link := map[string]any{"properties": map[string]any{"resourceGuardResourceId": guard}}
	w.Do("PUT", guard, `{"location":"eastus"}`).Want(200)
	w.Do("PUT", proxy, link).Want(200)
	w.Do("POST", proxy+"/unlockDelete", map[string]any{"resourceGuardOperationRequests": []any{
		guard + "/deleteResourceGuardProxyRequests/default", guard + "/deleteBackupInstanceRequests/default"}}).Want(200)
	instance := w.instanceBody()
	instance["tags"] = map[string]any{"changed": "yes"}
	policy := w.vault + "/backupPolicies/other"
	w.Do("PUT", policy, policyBody).Want(200)
	send := func(method, path string, body any, header, value string) daemontest.Answer {
		return w.Send(method, path, body, map[string]string{"Authorization": "Bearer " + w.AdminToken(), header: value})
	}
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"PUT", w.instance, instance}, {"PUT", proxy, link}, {"PUT", guard, `{"location":"eastus","tags":{"a":"b"}}`}, {"PATCH", guard, `{"tags":{"a":"c"}}`},
		{"PATCH", w.vault, `{"tags":{"a":"b"}}`}, {"DELETE", w.instance, nil}, {"DELETE", policy, nil}, {"DELETE", w.vault + "/backupPolicies/" + policyName, nil},
		{"DELETE", proxy, nil}, {"DELETE", guard, nil}, {"DELETE", w.vault, nil},
	} {
		etag := w.Do("GET", c.path, nil).Want(200).Header.Get("ETag")
		if etag == "" {
			t.Errorf("%s has no ETag", c.path)
		}
		before := dump(t, data)
		wantRefusal(t, send(c.method, c.path, c.body, "If-Match", `"stale"`), 412, "PreconditionFailed", c.path, "If-Match")
		wantRefusal(t, send(c.method, c.path, c.body, "If-None-Match", "*"), 412, "PreconditionFailed", c.path, "If-None-Match")
		if diff := cmp.Diff(before, dump(t, data)); diff != "" {
			t.Errorf("%s %s changed the database: %s", c.method, c.path, diff)
		}
		send(c.method, c.path, c.body, "If-Match", etag).Want(200, 201, 202)
		if c.method == "PUT" && c.path == w.instance {
			w.awaitState(t, w.instance, "ProtectionConfigured")
		}
		if c.method == "DELETE" && c.path != w.vault {
			wantRefusal(t, send(c.method, c.path, nil, "If-Match", "*"), 412, "PreconditionFailed", c.path, "If-Match")
		}
	}
	wantRefusal(t, send("DELETE", w.vault, nil, "If-Match", "*"), 412, "PreconditionFailed", w.vault, "If-Match")
}
