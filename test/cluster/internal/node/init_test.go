package node_test

import (
	"testing"

	"github.com/cairn-backup/cairn/test/cluster/internal/node"
)

func TestHidden(t *testing.T) {
	for path, want := range map[string]bool{
		"/var/lib/x": true, "/run": true, "/etc/x": true, "/opt/x/y": true, "/dev/shm/x": true,
		"/work/x": false, "/tmp/x": false, "/variable": false, "/root/.cache": false,
	} {
		if got := node.Hidden(path); got != want {
			t.Errorf("Hidden(%s) = %t, want %t", path, got, want)
		}
	}
}
