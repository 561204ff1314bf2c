package host_test

import (
	"slices"
	"testing"

	"github.com/cairn-backup/cairn/test/cluster/internal/host"
)

func TestHierarchies(t *testing.T) {
	for _, tt := range []struct {
		what, mounts string
		points       []string
		v2           bool
	}{
		{
			what: "version 1 beside the unified hierarchy",
			mounts: "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n" +
				"cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
			points: []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory"},
		},
		{
			what:   "version 2 alone",
			mounts: "/dev/vda / ext4 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n",
			points: []string{"/sys/fs/cgroup"},
			v2:     true,
		},
		{what: "none", mounts: "proc /proc proc rw 0 0\n\nshort\n", v2: true},
	} {
		points, v2 := host.Hierarchies(tt.mounts)
		if !slices.Equal(points, tt.points) || v2 != tt.v2 {
			t.Errorf("%s: %v, version 2 %t; want %v, %t", tt.what, points, v2, tt.points, tt.v2)
		}
	}
}
