package compat_test

import (
	"fmt"
	"testing"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// body makes the instance with a policy of the vault and a tag.
func (w *world) body(policy, tag string) map[string]any {
	body := w.instanceBody()
	body["tags"] = map[string]any{"t": tag}
	body["properties"].(map[string]any)["policyInfo"] = map[string]any{"policyId": w.vault + "/backupPolicies/" + policy}
	return body
}

// wantInstance checks what an instance is.
func (w *world) wantInstance(t *testing.T, a daemontest.Answer, state, policy, tag string) {
	t.Helper()
	if got := fmt.Sprint(a.At("properties", "currentProtectionState"), a.At("properties", "policyInfo", "policyId"), a.At("tags", "t")); got != fmt.Sprint(state, w.vault+"/backupPolicies/"+policy, tag) {
		t.Errorf("the instance is %s, want %s %s %s", got, state, policy, tag)
	}
}

// change puts the instance and waits until the operation has ended; it returns how, and its error's code.
func (w *world) change(t *testing.T, policy, tag string) (status, code any) {
	t.Helper()
	a := w.Do("PUT", w.instance, w.body(policy, tag)).Want(201)
	eventually(t, "the change", func() error {
		got := w.Do("GET", a.Header.Get("Azure-AsyncOperation"), nil).Want(200)
		if status, code = got.At("status"), got.At("error", "code"); status == "Inprogress" {
			return fmt.Errorf("it is %v", status)
		}
		return nil
	})
	return status, code
}

// TestChangeTakesEffectWhenItIsValidated changes an instance that works: it stays as it is until the cluster has agreed, and if the
// cluster does not.
func TestChangeTakesEffectWhenItIsValidated(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.Do("PUT", w.vault+"/backupPolicies/weekly", policyBody).Want(200)
	w.Do("PUT", w.instance, w.body(policyName, "old")).Want(201)
	w.awaitState(t, w.instance, "ProtectionConfigured")
	w.cluster.next("ValidateForBackup")

	w.cluster.hold("ValidateForBackup")
	made := w.Do("PUT", w.instance, w.body("weekly", "new")).Want(201)
	w.wantInstance(t, made, "UpdatingProtection", policyName, "old")
	if got := made.At("properties", "provisioningState"); got != "Provisioning" {
		t.Errorf("it is %v", got)
	}
	w.wantInstance(t, w.Do("GET", w.instance, nil).Want(200), "UpdatingProtection", policyName, "old")
	wantRefusal(t, w.Do("DELETE", w.vault+"/backupPolicies/weekly", nil), 409, "UserErrorPolicyInUse", w.instance, "uses it")
	wantRefusal(t, w.Do("PUT", w.vault+"/backupInstances/second", w.body("weekly", "x")), 400, "UserErrorDppDatasourceAlreadyHasBackupInstance",
		"properties.dataSourceInfo.resourceID", "already associated")
	w.cluster.say(w.cluster.next("ValidateForBackup"), refusedStatus("UserErrorNamespaceNotFound", "there is no namespace shop"))
	if got := w.Do("GET", made.Header.Get("Azure-AsyncOperation"), nil).Want(200); got.At("status") != "Failed" || got.At("error", "code") != "UserErrorNamespaceNotFound" {
		t.Errorf("the operation: %v", got.JSON)
	}
	after := w.Do("GET", w.instance, nil).Want(200)
	w.wantInstance(t, after, "ProtectionConfigured", policyName, "old")
	if after.At("properties", "provisioningState") != "Succeeded" || after.At("properties", "protectionErrorDetails") != nil {
		t.Errorf("the instance: %v", after.JSON)
	}
	w.finish(t, w.start(t, "/backup", adhoc))
	w.Do("PUT", w.instance, w.body(policyName, "old")).Want(200)

	w.cluster.answer("ValidateForBackup", completed)
	if status, code := w.change(t, "weekly", "new"); status != "Succeeded" {
		t.Errorf("the operation: %v %v", status, code)
	}
	w.wantInstance(t, w.Do("GET", w.instance, nil).Want(200), "ProtectionConfigured", "weekly", "new")
	w.Do("DELETE", w.vault+"/backupPolicies/"+policyName, nil).Want(200)
}

// TestChangeDoesNotResumeProtection changes instances that were stopped and suspended, once with success and once without.
func TestChangeDoesNotResumeProtection(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	for i, move := range []struct{ action, back, state string }{
		{"stopProtection", "resumeProtection", "ProtectionStopped"}, {"suspendBackups", "resumeBackups", "BackupsSuspended"},
	} {
		w.Do("POST", w.instance+"/"+move.action, nil).Want(202)
		w.cluster.answer("ValidateForBackup", completed)
		if status, code := w.change(t, policyName, fmt.Sprint(i)); status != "Succeeded" {
			t.Errorf("the operation: %v %v", status, code)
		}
		w.wantInstance(t, w.Do("GET", w.instance, nil).Want(200), move.state, policyName, fmt.Sprint(i))
		w.cluster.answer("ValidateForBackup", refused("UserErrorNamespaceNotFound", "there is no namespace shop", "Make it."))
		if status, code := w.change(t, policyName, "failing"); status != "Failed" || code != "UserErrorNamespaceNotFound" {
			t.Errorf("the operation: %v %v", status, code)
		}
		w.wantInstance(t, w.Do("GET", w.instance, nil).Want(200), move.state, policyName, fmt.Sprint(i))
		w.Do("POST", w.instance+"/"+move.back, nil).Want(202)
		w.awaitState(t, w.instance, "ProtectionConfigured")
	}
}
