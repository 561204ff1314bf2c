package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// victims are what may die in the middle of a backup or a restore, and how.
var victims = map[string]func(t *testing.T){
	"extension": func(t *testing.T) { killPod(t, "cairn-extension", "manager") },
	"connector": func(t *testing.T) { killPod(t, "cairn-extension", "connector") },
	"cairnd": func(t *testing.T) {
		if err := w.KillService(); err != nil {
			t.Fatal(err)
		}
		if err := w.StartService(t.Context()); err != nil {
			t.Fatal(err)
		}
	},
	"apiserver": func(t *testing.T) {
		if err := w.TestCluster(t.Context(), "kill", cluster.Name, "kube-apiserver"); err != nil {
			t.Fatal(err)
		}
	},
}

// killPod kills the process of this world's cluster that runs program with the argument sub.
func killPod(t *testing.T, program, sub string) {
	t.Helper()
	var killed bool
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(text), "\x00")
		if filepath.Base(args[0]) != program || len(args) < 2 || args[1] != sub {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || !strings.Contains(string(cgroup), "/tc-"+cluster.Name+"/") {
			continue // another world's
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		killed = true
	}
	if !killed {
		t.Fatalf("no process %s %s runs in cluster %s", program, sub, cluster.Name)
	}
}

// atStep waits until the request of a job stands at a step or has passed it, as its status says.
func atStep(t *testing.T, kind, jobID, step string) {
	t.Helper()
	name := jobID[strings.LastIndex(jobID, "/")+1:]
	eventually(t, time.Minute, kind+" "+name+" at "+step, func() error {
		out, err := bash(t.Context(), "kubectl -n dataprotection-microsoft get "+kind+"s.clusterbackup.dataprotection.microsoft.com "+name+
			" -o jsonpath='{.status.progress.steps[*].name} {.status.phase}'")
		if err != nil {
			return errors.New(out)
		}
		if !strings.Contains(out, step) {
			return fmt.Errorf("its steps: %s", out)
		}
		return nil
	})
}

// TestBackupsSurviveKills kills each part at each step of a backup: afterwards there is one whole recovery point, and nothing that no recovery
// point owns.
func TestBackupsSurviveKills(t *testing.T) {
	protect(t)
	prepareWorkload(t, "killed")
	t.Cleanup(func() { destroyWorkload(t, "killed") })
	makeInstanceOnce(t, "killed", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["killed"]}`)
	for _, step := range []string{"Cut", "Snapshot", "Upload", "Commit", "Release"} {
		for victim, kill := range victims {
			t.Run(step+"/"+victim, func(t *testing.T) {
				before := snapshots(t)
				slowSnapshots(t, step == "Snapshot" || step == "Cut")
				id := startBackup(t, "killed")
				atStep(t, "backup", id, step)
				kill(t)
				slowSnapshots(t, false)
				j := finish(t, id)
				if j.Properties.Status != "Completed" {
					t.Fatalf("the backup ended as %s: %+v", j.Properties.Status, j.Properties)
				}
				checkNothingLeft(t)
				if added := len(snapshots(t)) - len(before); added != 1 {
					t.Errorf("storage holds %d more snapshots; the recovery point owns 1", added)
				}
			})
		}
	}
	checkBundlesWhole(t)
}

// TestRestoresSurviveKills does the same for a restore: afterwards the data is back, and what was created is counted as created.
func TestRestoresSurviveKills(t *testing.T) {
	protect(t)
	prepareWorkload(t, "revived")
	makeInstanceOnce(t, "revived", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["revived"]}`)
	_, recoveryPoint := backup(t, "revived")
	t.Cleanup(func() { destroyWorkload(t, "revived") })
	for _, step := range []string{"Plan", "Apply", "Wait"} {
		for victim, kill := range victims {
			t.Run(step+"/"+victim, func(t *testing.T) {
				destroyWorkload(t, "revived")
				id := startRestore(t, "revived", recoveryPoint, "revived")
				atStep(t, "restore", id, step)
				kill(t)
				j := finish(t, id)
				if j.Properties.Status != "Completed" {
					t.Fatalf("the restore ended as %s: %+v", j.Properties.Status, j.Properties)
				}
				checkWorkload(t, "revived")
				checkNothingLeft(t)
			})
		}
	}
}

func makeInstanceOnce(t *testing.T, name, parameters string) {
	t.Helper()
	if _, err := bash(t.Context(), "az dataprotection backup-instance show"+where+"-n "+name); err != nil {
		makeInstance(t, name, parameters)
	}
}

// slowSnapshots makes the storage take its time, so that a backup stands at its Snapshot step for a while.
func slowSnapshots(t *testing.T, slow bool) {
	t.Helper()
	args := []string{"fault", cluster.Name, "CreateSnapshot"}
	if slow {
		args = append(args, "--delay", "2s")
	} else {
		args = append(args, "--clear")
	}
	if err := w.TestCluster(context.WithoutCancel(t.Context()), args...); err != nil {
		t.Fatal(err)
	}
}

// snapshots lists the snapshots that storage holds.
func snapshots(t *testing.T) []string {
	t.Helper()
	out, err := w.TestClusterOutput(t.Context(), "disks")
	if err != nil {
		t.Fatal(err)
	}
	var cloud struct{ Snapshots []struct{ ID string } }
	if err := json.Unmarshal([]byte(out), &cloud); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var handles []string
	for _, s := range cloud.Snapshots {
		handles = append(handles, s.ID)
	}
	return handles
}

// checkNothingLeft says whether the cluster still has objects that a backup or restore needed only while it ran.
func checkNothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "the snapshot objects to go", func() error {
		out, err := bash(t.Context(), "kubectl get volumesnapshots,volumesnapshotcontents -A -o name")
		if err != nil {
			return errors.New(out)
		}
		if strings.TrimSpace(out) != "" && !strings.Contains(out, "No resources found") {
			return errors.New(out)
		}
		return nil
	})
}

// checkBundlesWhole says whether every blob in the container belongs to a recovery point that was committed, and all of its blobs are there.
func checkBundlesWhole(t *testing.T) {
	t.Helper()
	names := strings.Fields(sh(t, "az storage blob list --account-name $(az storage account list --query '[0].name' -o tsv) --container-name "+container(t)+" --query '[].name' -o tsv"))
	folders := map[string]bool{}
	for _, n := range names {
		if strings.HasSuffix(n, "/recoverypoint.json") {
			folders[strings.TrimSuffix(n, "recoverypoint.json")] = true
		}
	}
	for _, n := range names {
		owned := false
		for f := range folders {
			owned = owned || strings.HasPrefix(n, f)
		}
		if !owned {
			t.Errorf("%s belongs to no recovery point", n)
		}
	}
}

func container(t *testing.T) string {
	t.Helper()
	return sh(t, `az aks extension show -g `+group+` --cluster-name `+armName+` --name azure-aks-backup --query 'configurationSettings."configuration.backupStorageLocation.bucket"' -o tsv`)
}
