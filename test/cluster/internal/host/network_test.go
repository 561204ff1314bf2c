package host_test

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cairn-backup/cairn/test/cluster/internal/host"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

// What a program that was killed between two steps has left is completed or removed by the next.
func TestNetworkAfterCrash(t *testing.T) {
	enterNetwork(t)
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: layout.Bridge}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := host.EnsureBridge(); err != nil {
			t.Fatal(err)
		}
	}
	if alias := link(t, layout.Bridge).Attrs().Alias; strings.Count(alias, "=") != 3 {
		t.Errorf("the bridge remembers %q, want three sysctls", alias)
	}
	mine := layout.Cluster{Name: "mine", Index: 3, Dir: "/state"}
	if err := host.Claim(mine); err != nil {
		t.Fatal(err)
	}
	for name, peer := range map[string]string{"tc-half": "tcn-half", "tc-foreign": "foreign"} {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}); err != nil {
			t.Fatal(err)
		}
	}
	if err := host.RemoveUnclaimed(); err != nil {
		t.Fatal(err)
	}
	if link(t, "tc-half") != nil || link(t, "tcn-half") != nil {
		t.Error("the link without an alias is still there")
	}
	if link(t, "tc-mine") == nil || link(t, "tc-foreign") == nil {
		t.Error("a link that was claimed, or that is someone else's, is gone")
	}
	members, err := host.Members()
	if want := []host.Member{{Name: "mine", Index: 3, Dir: "/state"}}; err != nil || !slices.Equal(members, want) {
		t.Errorf("Members = %v, %v; want %v", members, err, want)
	}
}

// Neighbours remember hardware addresses for a while, so a node that is started anew must have the one it had, and the
// bridge must keep its own when clusters come and go.
func TestHardwareAddressesStay(t *testing.T) {
	enterNetwork(t)
	if err := host.EnsureBridge(); err != nil {
		t.Fatal(err)
	}
	c := layout.Cluster{Name: "mine", Index: 3, Dir: "/state"}
	var seen []string
	for range 2 {
		if err := host.Claim(c); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, link(t, "tcn-mine").Attrs().HardwareAddr.String()+" "+link(t, layout.Bridge).Attrs().HardwareAddr.String())
		if err := host.RemoveLink(c); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, "02:00:0a:63:00:0d "+link(t, layout.Bridge).Attrs().HardwareAddr.String())
	}
	if slices.Sort(seen); len(slices.Compact(seen)) != 1 {
		t.Errorf("the node's and the bridge's addresses were %v", seen)
	}
}

// A cluster that crashed has lost its link; when another has got its address meanwhile, the route is the other's.
func TestRemoveLinkLeavesAnothersRoute(t *testing.T) {
	enterNetwork(t)
	if err := host.EnsureBridge(); err != nil {
		t.Fatal(err)
	}
	crashed, other := layout.Cluster{Name: "crashed", Index: 3, Dir: "/state"}, layout.Cluster{Name: "other", Index: 3, Dir: "/elsewhere"}
	if err := host.Claim(other); err != nil {
		t.Fatal(err)
	}
	if err := host.RemoveLink(crashed); err != nil {
		t.Fatal(err)
	}
	if !routed(t, other.PodCIDR()) {
		t.Error("the other cluster's route is gone")
	}
	if err := host.RemoveLink(other); err != nil {
		t.Fatal(err)
	}
	if routed(t, other.PodCIDR()) {
		t.Error("the route is still there without the other cluster")
	}
}

// enterNetwork gives the test a network namespace of its own, so that the machine's bridge is not touched. The thread
// ends with the test, since it is not unlocked.
func enterNetwork(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a network namespace needs root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// link is the link called name, nil when there is none.
func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// routed tells whether there is a route to exactly the addresses of cidr.
func routed(t *testing.T, cidr string) bool {
	t.Helper()
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == cidr })
}
