package e2e

import (
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/api/v1alpha1"
)

// warned says whether a job warns of something with a code, about a resource.
func warned(j job, code, resource string) bool {
	for _, w := range j.Properties.ExtendedInfo.WarningDetails {
		if w.Warning.Code == code && strings.Contains(w.ResourceName, resource) {
			return true
		}
	}
	return false
}

// TestWhatIsLeftOutIsSaid backs up volumes that cannot be snapshotted: the job says which, why and what to do, and is not simply Completed.
func TestWhatIsLeftOutIsSaid(t *testing.T) {
	protect(t)
	sh(t, "kubectl create namespace leftout && kubectl -n leftout apply -f test/e2e/testdata/leftout.yaml")
	t.Cleanup(func() { destroyWorkload(t, "leftout") })
	sh(t, "kubectl -n leftout wait --for=condition=Ready pod/holder --timeout=120s")
	makeInstanceOnce(t, "leftout", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["leftout","never-was"]}`)
	j, recoveryPoint := backup(t, "leftout")
	if j.Properties.Status != "CompletedWithWarnings" || recoveryPoint == "" {
		t.Errorf("the job ended as %s with recovery point %q", j.Properties.Status, recoveryPoint)
	}
	for _, want := range [][2]string{
		{"VolumeSnapshotClassNotFound", "leftout/share"},
		{"VolumeTypeNotSupported", "leftout/machine"},
		{"UserErrorPVCNotBoundToVolume", "leftout/unbound"},
		{"UserErrorNamespaceNotFound", "never-was"},
	} {
		if !warned(j, want[0], want[1]) {
			t.Errorf("no %s about %s in %+v", want[0], want[1], j.Properties.ExtendedInfo.WarningDetails)
		}
	}
	for _, w := range j.Properties.ExtendedInfo.WarningDetails {
		if w.Warning.Message == "" || len(w.Warning.RecommendedAction) == 0 || w.Warning.RecommendedAction[0] == "" {
			t.Errorf("%s does not say what happened and what to do: %+v", w.Warning.Code, w)
		}
	}
}

// TestAVolumeWhoseSnapshotFailsIsSaid lets the storage refuse one snapshot for good.
func TestAVolumeWhoseSnapshotFailsIsSaid(t *testing.T) {
	protect(t)
	prepareWorkload(t, "refused")
	t.Cleanup(func() { destroyWorkload(t, "refused") })
	makeInstanceOnce(t, "refused", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["refused"]}`)
	if err := w.TestCluster(t.Context(), "fault", cluster.Name, "CreateSnapshot", "--fail", "-1", "--code", "InvalidArgument", "--message", "the disk is of a kind that has no snapshots"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slow(t, "CreateSnapshot", false) })
	before := snapshots(t)
	j, _ := backup(t, "refused")
	if j.Properties.Status != "CompletedWithWarnings" {
		t.Errorf("the job ended as %s: %+v", j.Properties.Status, j.Properties)
	}
	said := false
	for _, w := range j.Properties.ExtendedInfo.WarningDetails {
		said = said || strings.Contains(w.ResourceName, "refused/data-writer-0") && strings.Contains(w.Warning.Message, "the disk is of a kind that has no snapshots")
	}
	if !said {
		t.Errorf("the storage's own words are not in %+v", j.Properties.ExtendedInfo.WarningDetails)
	}
	checkNothingLeft(t)
	if after := snapshots(t); len(after) != len(before) {
		t.Errorf("%d snapshots before, %d after", len(before), len(after))
	}
}

// TestBackupWithoutItsContainerFails takes the container away: the backup fails with the storage's code, and leaves no snapshot behind.
func TestBackupWithoutItsContainerFails(t *testing.T) {
	protect(t)
	prepareWorkload(t, "homeless")
	t.Cleanup(func() { destroyWorkload(t, "homeless") })
	makeInstanceOnce(t, "homeless", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["homeless"]}`)
	account, name := account(t), container(t)
	before := snapshots(t)
	sh(t, "az storage container delete --account-name "+account+" --name "+name)
	t.Cleanup(func() { sh(t, "az storage container create --account-name "+account+" --name "+name) })
	j, recoveryPoint := backup(t, "homeless")
	if j.Properties.Status != "Failed" || recoveryPoint != "" {
		t.Errorf("the job ended as %s with recovery point %q", j.Properties.Status, recoveryPoint)
	}
	if len(j.Properties.ErrorDetails) == 0 || j.Properties.ErrorDetails[0].Code != "UserErrorBackupStorageLocationNotReady" {
		t.Errorf("the errors: %+v", j.Properties.ErrorDetails)
	}
	checkNothingLeft(t)
	if after := snapshots(t); len(after) != len(before) {
		t.Errorf("%d snapshots before, %d after", len(before), len(after))
	}
}

// TestBackupWhileStorageIsAwayFails cuts the blob endpoint off under a backup that has taken its snapshots: the backup fails and says what is away, and
// leaves no snapshot behind. When the endpoint is back, so are backups, and nothing needs mending.
func TestBackupWhileStorageIsAwayFails(t *testing.T) {
	protect(t)
	prepareWorkload(t, "cutoff")
	t.Cleanup(func() { destroyWorkload(t, "cutoff") })
	makeInstanceOnce(t, "cutoff", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["cutoff"]}`)
	before := snapshots(t)
	id := killAt(t, &v1alpha1.BackupList{}, v1alpha1.StepUpload, holdBlobs(writesOther), func() {
		sh(t, "az dataprotection backup-instance adhoc-backup"+where+"-n cutoff --rule-name BackupDaily --no-wait")
	}, func(*testing.T) { blobFront.down.Store(true) })
	t.Cleanup(func() { blobFront.down.Store(false) })
	j := finish(t, id)
	if j.Properties.Status != "Failed" || j.Properties.ExtendedInfo.TargetRecoverPoint != nil {
		t.Errorf("the job ended as %s: %+v", j.Properties.Status, j.Properties)
	}
	if e := j.Properties.ErrorDetails; len(e) == 0 || e[0].Code != "UserErrorBackupStorageLocationNotReady" || len(e[0].RecommendedAction) == 0 {
		t.Errorf("the errors: %+v", e)
	}
	checkNothingLeft(t)
	if after := snapshots(t); len(after) != len(before) {
		t.Errorf("%d snapshots before, %d after", len(before), len(after))
	}
	blobFront.down.Store(false)
	if j, _ := backup(t, "cutoff"); j.Properties.Status != "Completed" {
		t.Errorf("with the endpoint back the backup ended as %s: %+v", j.Properties.Status, j.Properties)
	}
}

// TestRefusals asks for what cannot be, at the command line: each has its code, says what to do, and exits as az does.
func TestRefusals(t *testing.T) {
	protect(t)
	for name, c := range map[string]struct{ command, code string }{
		"unknown recovery point": {restoreCommand(t, strings.Repeat("0", 32)), "RecoveryPoint"},
		"unknown rule":           {"az dataprotection backup-instance adhoc-backup" + where + "-n " + instance + " --rule-name Never", "Never"},
		"unknown instance":       {"az dataprotection backup-instance adhoc-backup" + where + "-n no-such-instance --rule-name BackupDaily", "NotFound"},
		"unknown vault":          {"az dataprotection backup-vault show -g " + group + " --vault-name no-such-vault", "NotFound"},
		"second extension": {"az aks extension create -g " + group + " --cluster-name " + armName + " --name another --extension-type microsoft.dataprotection.kubernetes" +
			" --scope cluster --configuration-settings blobContainer=" + container(t) + " storageAccount=" + account(t) + " storageAccountResourceGroup=" + group + " storageAccountSubscriptionId=$(az account show --query id -o tsv)", "multiple"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := bash(t.Context(), c.command)
			if err == nil {
				t.Fatalf("no error: %s", out)
			}
			if !strings.Contains(strings.ToLower(out), strings.ToLower(c.code)) {
				t.Errorf("%q is not in: %s", c.code, out)
			}
		})
	}
}

func restoreCommand(t *testing.T, recoveryPoint string) string {
	t.Helper()
	return "az dataprotection backup-instance restore trigger" + where + "-n " + instance + ` --restore-request '{"objectType":"AzureKubernetesServiceRestoreRequest","recoveryPointId":"` +
		recoveryPoint + `","restoreTargetInfo":{"restoreLocation":"eastus","objectType":"RestoreTargetInfo","targetDetails":{"targetResourceArmId":"` + clusterID(t) + `"}}}'`
}
