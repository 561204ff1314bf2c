package loop_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cairn-backup/cairn/test/cluster/internal/loop"
)

// A device is found by its file, whatever the file is called by then, and goes together with what is on top of it.
func TestAttachFindDetach(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("loop devices need root")
	}
	file := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if device, err := loop.Find(file); err != nil || device != "" {
		t.Fatalf("before: Find = %q, %v", device, err)
	}
	device, err := loop.Attach(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { loop.Detach(device) })
	top, err := loop.Attach(device)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { loop.Detach(top) })
	if err := os.Rename(file, file+".moved"); err != nil {
		t.Fatal(err)
	}
	file += ".moved"
	if got, err := loop.Find(file); err != nil || got != device {
		t.Fatalf("attached: Find = %q, %v; want %s", got, err, device)
	}
	own, err := loop.BackingOf(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := loop.DetachAll(func(b loop.Backing) bool { return b == own }); err != nil {
		t.Fatal(err)
	}
	all, err := loop.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.Backing == own {
			t.Errorf("%s is still attached", d.Path)
		}
	}
	if got, err := loop.Find(device); err != nil || got != "" {
		t.Errorf("the device on top: Find = %q, %v; want none", got, err)
	}
}
