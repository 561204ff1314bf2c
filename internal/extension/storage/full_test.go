package storage_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/blob/blobtest"
	"github.com/cairn-backup/cairn/internal/extension/storage"
)

// TestFullStorageHasACode runs itself again in a process whose temporary files are on a disk of 1 MiB, which the blob server fills.
func TestFullStorageHasACode(t *testing.T) {
	const variable = "CAIRN_TEST_SMALL_DISK"
	if os.Getenv(variable) == "" {
		again := exec.Command(os.Args[0], "-test.run=^TestFullStorageHasACode$", "-test.v")
		again.Env = append(os.Environ(), variable+"=1", "TMPDIR="+t.TempDir())
		again.SysProcAttr = privateMounts()
		if out, err := again.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", os.TempDir(), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	e := blobtest.StartServer(t)
	e.NewContainer(t, "points")
	c := open(t, connected(t, e, "points", blob.ExtensionPermissions), v1alpha1.StorageLocation{})
	err := c.Create(t.Context(), "big", strings.NewReader(strings.Repeat("x", 2<<20)))
	issue, ok := storage.AsIssue(err)
	if !ok || issue.Code != "BackupStorageLocationFull" || issue.Action == "" || !storage.Permanent(err) {
		t.Errorf("%v: %+v, permanent %v", err, issue, storage.Permanent(err))
	}
	for name, err := range c.List(t.Context(), "") {
		t.Errorf("%q is there, %v", name, err)
	}
}

// privateMounts are those of a process that may mount what nobody else sees, root or not.
func privateMounts() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attr
}
