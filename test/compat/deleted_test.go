package compat_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/link"
)

// secure changes the vault's security settings.
func (w *world) secure(t *testing.T, settings string) {
	t.Helper()
	w.Do("PATCH", w.vault, `{"properties":{"securitySettings":`+settings+`}}`).Want(200)
}

// deleted are the vault's deleted instances.
func (w *world) deleted(t *testing.T) []any {
	t.Helper()
	list, ok := w.Do("GET", w.vault+"/deletedBackupInstances", nil).Want(200).At("value").([]any)
	if !ok {
		t.Fatal("the list has no value")
	}
	return list
}

// TestSoftDeletedInstanceComesBack deletes an instance and brings it back, with Azure's client.
func TestSoftDeletedInstanceComesBack(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.secure(t, `{"softDeleteSettings":{"state":"On","retentionDurationInDays":14}}`)
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	before := w.Do("GET", w.instance, nil).Want(200)
	ctx, clients := t.Context(), sdk(t, w.World)
	deleting, err := clients.NewBackupInstancesClient().BeginDelete(ctx, group, vaultName, "prod", nil)
	follow(t, deleting, err)
	w.Do("GET", w.instance, nil).Want(404)
	w.Do("POST", w.instance+"/backup", adhoc).Want(404)
	w.Do("DELETE", w.instance, nil).Want(204)

	got, err := clients.NewDeletedBackupInstancesClient().Get(ctx, group, vaultName, "prod", nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := *got.Properties.CurrentProtectionState; s != dp.CurrentProtectionStateSoftDeleted || *got.Properties.ProtectionStatus.Status != "SoftDeleted" || *got.Properties.ObjectType != "DeletedBackupInstance" {
		t.Errorf("the deleted instance is %s", s)
	}
	at, err := time.Parse(time.RFC3339, *got.Properties.DeletionInfo.DeletionTime)
	if err != nil {
		t.Fatal(err)
	}
	if purge := at.Add(14 * 24 * time.Hour).Format(time.RFC3339Nano); *got.Properties.DeletionInfo.ScheduledPurgeTime != purge {
		t.Errorf("it is purged at %s, want %s", *got.Properties.DeletionInfo.ScheduledPurgeTime, purge)
	}
	show := w.Do("GET", w.vault+"/deletedBackupInstances/prod", nil).Want(200)
	sdkReads(t, "a deleted instance", show, &dp.DeletedBackupInstanceResource{})

	// What is kept so that it can come back keeps what it needs.
	wantRefusal(t, w.Do("PUT", w.instance, w.instanceBody()), 409, "UserErrorBackupInstanceSoftDeleted", w.vault+"/deletedBackupInstances/prod", "is kept until")
	wantRefusal(t, w.Do("DELETE", w.vault+"/backupPolicies/"+policyName, nil), 409, "UserErrorPolicyInUse", w.vault+"/deletedBackupInstances/prod", "can be brought back until")
	wantRefusal(t, w.Do("DELETE", w.vault, nil), 409, "ServiceResourceNotEmpty", w.vault, "deleted backup instances")
	w.Do("DELETE", w.Subscription+"/resourceGroups/"+group, nil).Want(409)

	undeleting, err := clients.NewDeletedBackupInstancesClient().BeginUndelete(ctx, group, vaultName, "prod", nil)
	follow(t, undeleting, err)
	back := w.Do("GET", w.instance, nil).Want(200)
	if back.At("properties", "currentProtectionState") != "ProtectionStopped" || back.At("properties", "objectType") != "BackupInstance" || len(w.deleted(t)) != 0 ||
		back.At("properties", "friendlyName") != before.At("properties", "friendlyName") || back.At("id") != before.At("id") || back.At("type") != before.At("type") {
		t.Errorf("what came back: %v", back.JSON)
	}
	points := w.points(t)
	if len(points) != 1 {
		t.Fatalf("%d recovery points came back", len(points))
	}
	w.finish(t, w.start(t, "/restore", strings.NewReplacer("CLUSTER", w.cluster.id, "POINT", fmt.Sprint(points[0].(map[string]any)["name"])).Replace(guideRestore)))
	w.Do("POST", w.instance+"/resumeProtection", nil).Want(202)
	w.finish(t, w.start(t, "/backup", adhoc))
	select {
	case r := <-w.cluster.arrived["DeleteBackup"]:
		t.Errorf("the cluster was asked to delete: %s", r.Spec)
	default:
	}
	wantRefusal(t, w.Do("POST", w.vault+"/deletedBackupInstances/never/undelete", nil), 404, "UserErrorGenericResourceNotFound", w.vault+"/deletedBackupInstances/never", "no deleted backup instance")
}

// TestSoftDeletedInstanceIsPurged lets the time pass in which a deleted instance can be brought back.
func TestSoftDeletedInstanceIsPurged(t *testing.T) {
	now := &clock{at: time.Now()}
	w := setUp(t, daemontest.Start(t, daemon.Config{Now: now.Now}))
	w.secure(t, `{"softDeleteSettings":{"state":"AlwaysOn","retentionDurationInDays":20}}`)
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	w.Do("DELETE", w.instance, nil).Want(202)
	after := func(d time.Duration) {
		t.Helper()
		w.later(now, d)
		if err := w.Service.PurgeDeleted(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	after(20*24*time.Hour - time.Second)
	if n := len(w.deleted(t)); n != 1 {
		t.Fatalf("%d deleted instances before their time", n)
	}
	after(time.Second)
	if n := len(w.deleted(t)); n != 0 {
		t.Errorf("%d deleted instances after their time", n)
	}
	w.cluster.next("DeleteBackup")
	w.Do("POST", w.vault+"/deletedBackupInstances/prod/undelete", nil).Want(404)
	// Its name is free, and one without recovery points has nothing that could come back.
	w.protect(t)
	w.Do("DELETE", w.instance, nil).Want(202)
	if n := len(w.deleted(t)); n != 0 {
		t.Errorf("%d deleted instances without a recovery point", n)
	}
	w.Do("DELETE", w.vault, nil).Want(202)
}

// TestSync asks the cluster again whether backups can be made.
func TestSync(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	sync := func(want string) {
		t.Helper()
		a := w.Do("POST", w.instance+"/sync", `{"syncType":"ForceResync"}`).Want(202)
		eventually(t, "the sync", func() error {
			if got := w.Do("GET", a.Header.Get("Azure-AsyncOperation"), nil).Want(200); got.At("status") != want {
				return fmt.Errorf("it is %v", got.JSON)
			}
			return nil
		})
	}
	state := func(want, code any) {
		t.Helper()
		i := w.Do("GET", w.instance, nil).Want(200)
		if i.At("properties", "currentProtectionState") != want || i.At("properties", "protectionErrorDetails", "code") != code {
			t.Errorf("the protection: %v, want %v %v", i.JSON, want, code)
		}
	}
	sync("Succeeded")
	state("ProtectionConfigured", nil)
	const gone = "UserErrorNamespaceNotFound"
	w.cluster.answer("ValidateForBackup", refused(gone, "there is no namespace shop", "Make it."))
	sync("Failed")
	state("ProtectionError", gone)
	w.Do("POST", w.instance+"/backup", adhoc).Want(400)
	// Stopping and resuming repairs nothing.
	w.Do("POST", w.instance+"/stopProtection", nil).Want(202)
	state("ProtectionStopped", gone)
	sync("Failed")
	state("ProtectionStopped", gone)
	w.Do("POST", w.instance+"/resumeProtection", nil).Want(202)
	state("ProtectionError", gone)
	w.cluster.answer("ValidateForBackup", completed)
	sync("Succeeded")
	state("ProtectionConfigured", nil)
	w.finish(t, w.start(t, "/backup", adhoc))
	w.Do("POST", w.instance+"/sync", `{"syncType":"Sometimes"}`).Want(400)
}

// TestLateRecoveryPointOfADeletedInstance has a backup end that was given up, after its instance was deleted: what can be brought back has it too.
func TestLateRecoveryPointOfADeletedInstance(t *testing.T) {
	w := setUpAway(t)
	w.secure(t, `{"softDeleteSettings":{"state":"On"}}`)
	w.finish(t, w.start(t, "/backup", adhoc))
	w.cluster.next("Backup")
	_, r := w.begin(t, "Backup", adhoc, uploading(40))
	w.stayAway(t)
	w.LogIn()
	w.Do("DELETE", w.instance, nil).Want(202)
	w.cluster.say(r, committed(v1alpha1.PhaseCompleted))
	w.Do("POST", w.vault+"/deletedBackupInstances/prod/undelete", nil).Want(200)
	if n := len(w.points(t)); n != 2 {
		t.Errorf("%d recovery points", n)
	}
}

// TestUndeletedInstanceMeetsItsSuccessor brings an instance back whose cluster has got another one with the same policy: it cannot be resumed beside it.
func TestUndeletedInstanceMeetsItsSuccessor(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.secure(t, `{"softDeleteSettings":{"state":"On"}}`)
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	w.Do("DELETE", w.instance, nil).Want(202)
	second := w.vault + "/backupInstances/second"
	w.Do("PUT", second, w.instanceBody()).Want(201)
	w.awaitState(t, second, "ProtectionConfigured")
	w.Do("POST", w.vault+"/deletedBackupInstances/prod/undelete", nil).Want(200)
	a := w.Do("POST", w.instance+"/resumeProtection", nil)
	wantRefusal(t, a, 400, "UserErrorDppDatasourceAlreadyHasBackupInstance", "properties.dataSourceInfo.resourceID", "second")
	w.Do("DELETE", second, nil).Want(202)
	w.Do("POST", w.instance+"/resumeProtection", nil).Want(202)
}

// TestImmutableVaultKeepsItsRecoveryPoints refuses to delete what has not expired.
func TestImmutableVaultKeepsItsRecoveryPoints(t *testing.T) {
	now := &clock{at: time.Now()}
	w := setUp(t, daemontest.Start(t, daemon.Config{Now: now.Now}))
	w.protect(t)
	w.cluster.answer("Backup", func(link.Request) []any {
		s, at := committed(v1alpha1.PhaseCompleted), metav1.NewTime(now.Now())
		s.RecoveryPointTime = &at
		return []any{s}
	})
	w.finish(t, w.start(t, "/backup", adhoc))
	for _, state := range []string{"Unlocked", "Locked"} {
		w.secure(t, `{"softDeleteSettings":{"state":"On"},"immutabilitySettings":{"state":"`+state+`"}}`)
		wantRefusal(t, w.Do("DELETE", w.instance, nil), 400, "UserErrorOperationDeniedOnImmutableItem", w.instance, "1 recovery points")
	}
	// What may be done: nothing is lost by it before its time.
	for _, action := range []string{"suspendBackups", "stopProtection", "resumeProtection", "suspendBackups"} {
		w.Do("POST", w.instance+"/"+action, nil).Want(202)
	}
	// The newest recovery point outlives its lifetime, and may be deleted then.
	w.later(now, 40*24*time.Hour)
	if n := len(w.points(t)); n != 1 {
		t.Fatalf("%d recovery points", n)
	}
	w.Do("DELETE", w.instance, nil).Want(202)
	if n := len(w.deleted(t)); n != 1 {
		t.Errorf("%d deleted instances", n)
	}
}
