package compat_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/link"
)

// away is a world whose time a test advances, with an instance.
type away struct {
	*world
	now   *clock
	began time.Time
	data  string
}

func setUpAway(t *testing.T) *away {
	t.Helper()
	// Yesterday's noon: no slot of the policy is near, and the certificates made then are good.
	now, data := &clock{at: time.Now().UTC().Truncate(24 * time.Hour).Add(-12 * time.Hour)}, t.TempDir()
	w := &away{world: setUp(t, daemontest.Start(t, daemon.Config{Data: data, Now: now.Now})), now: now, began: now.Now(), data: data}
	w.protect(t)
	return w
}

// ask asks with a token of now: they expire with the daemon's time.
func (w *away) ask(method, path string, body any) daemontest.Answer {
	return w.As(w.Token(w.Env["AZURE_CLIENT_ID"], w.Env["AZURE_CLIENT_SECRET"], "https://management.azure.com"), method, path, body)
}

// begin starts a job, whose request the cluster begins and holds.
func (w *away) begin(t *testing.T, kind string, body, progress any) (job string, r link.Request) {
	t.Helper()
	w.cluster.hold(kind)
	a := w.ask("POST", w.instance+"/"+strings.ToLower(kind), body).Want(202)
	job = fmt.Sprint(w.ask("GET", a.Header.Get("Azure-AsyncOperation"), nil).Want(200).At("properties", "jobId"))
	r = w.cluster.next(kind)
	w.cluster.say(r, progress)
	return job, r
}

// stayAway lets the cluster be silent for so long that the service waits for nothing any more, and then be back.
func (w *away) stayAway(t *testing.T) {
	t.Helper()
	w.now.advance(61 * time.Minute)
	if err := w.Service.GiveUp(t.Context(), w.began); err != nil {
		t.Fatal(err)
	}
	w.cluster.tell(t.Context())
}

// remove deletes the instance, and waits until it is gone.
func (w *away) remove(t *testing.T) {
	t.Helper()
	w.ask("DELETE", w.instance, nil).Want(202)
	eventually(t, "the deletion", func() error {
		if a := w.ask("GET", w.instance, nil); a.Status != 404 {
			return fmt.Errorf("%d %v", a.Status, a.JSON)
		}
		return nil
	})
}

// protectAgain makes the instance again.
func (w *away) protectAgain(t *testing.T) {
	t.Helper()
	w.ask("PUT", w.instance, w.instanceBody()).Want(201)
	eventually(t, "protection", func() error {
		if got := w.ask("GET", w.instance, nil).Want(200).At("properties", "currentProtectionState"); got != "ProtectionConfigured" {
			return fmt.Errorf("it is %v", got)
		}
		return nil
	})
}

// wantDeleted waits until the cluster has deleted a backup's recovery point, and no recovery point is known.
func (w *away) wantDeleted(t *testing.T, r link.Request) {
	t.Helper()
	var made v1alpha1.BackupSpec
	unmarshal(t, r.Spec, &made)
	var spec v1alpha1.DeleteBackupSpec
	for spec.RecoveryPointID != made.RecoveryPointID {
		unmarshal(t, w.cluster.next("DeleteBackup").Spec, &spec)
	}
	if len(spec.Snapshots) != 1 || spec.Snapshots[0].Handle != "/snapshots/1" || spec.Location != made.Location {
		t.Errorf("what is to be deleted: %+v", spec)
	}
	eventually(t, "the rows", func() error {
		if rows := dump(t, w.data)["recovery_points"]; len(rows) != 0 {
			return fmt.Errorf("there are %v", rows)
		}
		return nil
	})
}

// TestLateBackupOfADeletedInstance is one whose recovery point nobody could delete any more: it is deleted when it turns up.
func TestLateBackupOfADeletedInstance(t *testing.T) {
	w := setUpAway(t)
	job, r := w.begin(t, "Backup", adhoc, uploading(10))
	w.stayAway(t)
	w.remove(t)
	w.protectAgain(t) // one of the same name is another
	w.cluster.say(r, committed(v1alpha1.PhaseCompleted))
	w.wantDeleted(t, r)
	got := w.ask("GET", job, nil).Want(200)
	if says := fmt.Sprint(got.At("properties", "extendedInfo", "warningDetails", 0, "warning", "message")); !strings.Contains(says, "is deleted") {
		t.Errorf("the job says %q", says)
	}
}

// TestLateBackupOfADeletedVault must not keep the cluster from reporting anything else.
func TestLateBackupOfADeletedVault(t *testing.T) {
	w := setUpAway(t)
	_, r := w.begin(t, "Backup", adhoc, uploading(10))
	w.stayAway(t)
	w.remove(t)
	w.ask("DELETE", w.vault, nil).Want(202)
	w.cluster.say(r, uploading(20))
	w.cluster.say(r, committed(v1alpha1.PhaseCompleted))
	w.wantDeleted(t, r)
}

// TestLateBackupOfAnInstanceThatIsBeingDeleted comes between the deletions of the others.
func TestLateBackupOfAnInstanceThatIsBeingDeleted(t *testing.T) {
	w := setUpAway(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	w.cluster.next("Backup")
	_, r := w.begin(t, "Backup", adhoc, uploading(10))
	w.stayAway(t)
	w.cluster.hold("DeleteBackup")
	w.ask("DELETE", w.instance, nil).Want(202)
	first := w.cluster.next("DeleteBackup")
	w.cluster.answer("DeleteBackup", completed)
	w.cluster.say(r, committed(v1alpha1.PhaseCompleted))
	w.cluster.say(first, completed(first)[0])
	w.wantDeleted(t, r)
	w.ask("GET", w.instance, nil).Want(404)
}

// TestLateRestoreOfADeletedVault cannot be handed out, since its key is gone; everything else must be.
func TestLateRestoreOfADeletedVault(t *testing.T) {
	w := setUpAway(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	point := fmt.Sprint(w.points(t)[0].(map[string]any)["name"])
	_, r := w.begin(t, "Restore", strings.NewReplacer("CLUSTER", w.cluster.id, "POINT", point).Replace(guideRestore),
		v1alpha1.RestoreStatus{Status: v1alpha1.Status{Phase: v1alpha1.PhaseInProgress, Attempt: 1}})
	w.stayAway(t)
	w.remove(t)
	w.ask("DELETE", w.vault, nil).Want(202)
	for range 2 {
		desired, err := w.cluster.client.Desired(t.Context(), "", 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(desired.Requests) != 0 || desired.Extension == nil {
			t.Errorf("what the cluster should have: %+v", desired)
		}
		// A vault of the same name has another key.
		w.ask("PUT", w.vault, map[string]any{"location": location, "properties": map[string]any{
			"storageSettings": []any{map[string]any{"datastoreType": "VaultStore", "type": "LocallyRedundant"}}}}).Want(201)
	}
	w.cluster.say(r, restored(r)[0])
}
