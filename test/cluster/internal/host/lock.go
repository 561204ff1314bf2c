// Package host makes and removes what test clusters own on the machine outside their nodes: the bridge and the links on
// it, cgroups, and the file system of the emulated cloud. All it does can be repeated, and can be undone without any
// record: a cluster's processes are known by their cgroup, its state folder by the alias of its link, the sysctls to
// put back by the alias of the bridge, loop devices by their backing files.
package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Lock keeps other processes of the machine out of what name stands for until unlock is called or the process ends. It
// is an abstract socket rather than a file, so that nothing is left of it.
func Lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		l, err := net.Listen("unix", "@cairn-testcluster/"+name)
		if err == nil {
			return func() { l.Close() }, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another testcluster is busy with %s: %w", name, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
