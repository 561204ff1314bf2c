package host

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

// lastMetric is worse than any other route's, so that the unreachable routes count only when no cluster is up.
const lastMetric = 4278198272

// maxAlias is the kernel's limit for the alias of a link (IFALIASZ less the final zero).
const maxAlias = 255

// machineSysctls are written by the kubelet and reach beyond its namespaces.
var machineSysctls = []string{"vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops"}

// EnsureBridge makes the bridge of all clusters. It also makes the two routes that stay for good: a client that still
// dials a stopped cluster must get an error instead of reaching the machine's own network. The caller holds the host lock.
func EnsureBridge() error {
	for _, cidr := range []string{layout.NodeNet, layout.PodNet} {
		r := &netlink.Route{Dst: network(cidr), Type: unix.RTN_UNREACHABLE, Priority: lastMetric, Protocol: unix.RTPROT_BOOT}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("unreachable route for %s: %w", cidr, err)
		}
	}
	bridge, err := netlink.LinkByName(layout.Bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		bridge = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: layout.Bridge, HardwareAddr: hardware(layout.HostIP)}}
		err = netlink.LinkAdd(bridge)
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", layout.Bridge, err)
	}
	// Without an alias it is new, or the program ended just here: in both cases no node has changed the sysctls yet.
	if bridge.Attrs().Alias == "" {
		saved, err := readSysctls()
		if err != nil {
			return err
		}
		if err := netlink.LinkSetAlias(bridge, saved); err != nil {
			return fmt.Errorf("alias of %s: %w", layout.Bridge, err)
		}
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(layout.HostIP), Mask: network(layout.NodeNet).Mask}}
	if err := netlink.AddrReplace(bridge, addr); err != nil {
		return fmt.Errorf("address of %s: %w", layout.Bridge, err)
	}
	return netlink.LinkSetUp(bridge)
}

// Member is a cluster that has a link on the bridge, whatever its state folder. A link goes away with the namespace of
// its node, so each stands for a cluster that runs or is being started or stopped.
type Member struct {
	Name  string
	Index int
	Dir   string
}

// Members are the clusters of the machine that have a link on the bridge.
func Members() ([]Member, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var members []Member
	for _, l := range links {
		name, isCluster := strings.CutPrefix(l.Attrs().Name, "tc-")
		index, dir, ok := strings.Cut(l.Attrs().Alias, " ")
		if !isCluster || !ok {
			continue
		}
		n, err := strconv.Atoi(index)
		if err != nil {
			continue // someone else's
		}
		members = append(members, Member{Name: name, Index: n, Dir: dir})
	}
	return members, nil
}

// Claim makes the cluster's link; from then on Members has it. The caller holds the host lock.
func Claim(c layout.Cluster) error {
	alias := strconv.Itoa(c.Index) + " " + c.Dir
	if len(alias) > maxAlias {
		return fmt.Errorf("the state folder's path %s is too long; use one of fewer than %d bytes", c.Dir, maxAlias-4)
	}
	bridge, err := netlink.LinkByName(layout.Bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", layout.Bridge, err)
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: c.Link(), MasterIndex: bridge.Attrs().Index, Alias: alias},
		PeerName:  peer(c), PeerHardwareAddr: hardware(c.NodeIP()),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s: %w", c.Link(), err)
	}
	if err := netlink.LinkSetAlias(veth, alias); err != nil {
		return fmt.Errorf("alias of %s: %w", c.Link(), err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("link %s: %w", c.Link(), err)
	}
	// The machine reaches pods through the node, so tests and webhooks need no port-forward.
	r := &netlink.Route{Dst: network(c.PodCIDR()), Gw: net.ParseIP(c.NodeIP()), LinkIndex: bridge.Attrs().Index}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("route to the pods of %s: %w", c.Name, err)
	}
	return nil
}

// MoveLink gives the node's end of the link to the network namespace of process pid.
func MoveLink(c layout.Cluster, pid int) error {
	end, err := netlink.LinkByName(peer(c))
	if err != nil {
		return fmt.Errorf("link %s: %w", peer(c), err)
	}
	if err := netlink.LinkSetNsPid(end, pid); err != nil {
		return fmt.Errorf("move link %s to the node: %w", peer(c), err)
	}
	return nil
}

// SetUpNode configures the node's end of the link. It runs in the node's network namespace.
func SetUpNode(c layout.Cluster) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	eth, err := netlink.LinkByName(peer(c))
	if err != nil {
		return fmt.Errorf("link %s: %w", peer(c), err)
	}
	if err := netlink.LinkSetName(eth, "eth0"); err != nil {
		return fmt.Errorf("rename %s: %w", peer(c), err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(c.NodeIP()), Mask: network(layout.NodeNet).Mask}}
	if err := netlink.AddrReplace(eth, addr); err != nil {
		return fmt.Errorf("address of eth0: %w", err)
	}
	if err := netlink.LinkSetUp(eth); err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(layout.HostIP)}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// RemoveLink removes the cluster's link and its pods' route.
func RemoveLink(c layout.Cluster) error {
	members, err := Members()
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Name == c.Name {
			c.Index = m.Index // should its folder be lost
		}
	}
	l, err := netlink.LinkByName(c.Link())
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", c.Link(), err)
	}
	if c.Index == 0 {
		return nil // it never got as far as a route
	}
	if slices.ContainsFunc(members, func(m Member) bool { return m.Name != c.Name && m.Index == c.Index }) {
		return nil // the route is another cluster's, which has the address since this one crashed
	}
	r := &netlink.Route{Dst: network(c.PodCIDR()), Gw: net.ParseIP(c.NodeIP())}
	if err := netlink.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the route to the pods of %s: %w", c.Name, err)
	}
	return nil
}

// RemoveUnclaimed removes the links that Claim had not given an alias yet when its program ended: no state folder knows
// them. The caller holds the host lock, so no Claim is at work.
func RemoveUnclaimed() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		name, isCluster := strings.CutPrefix(l.Attrs().Name, "tc-")
		if !isCluster || l.Attrs().Alias != "" {
			continue
		}
		c := layout.Cluster{Name: name}
		if !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == peer(c) }) {
			continue // someone else's: no node has taken the other end yet
		}
		if err := RemoveLink(c); err != nil {
			return err
		}
	}
	return nil
}

// RemoveBridge removes the bridge once no cluster of the machine is on it, and puts the sysctls back. The caller holds
// the host lock.
func RemoveBridge() error {
	members, err := Members()
	if err != nil || len(members) > 0 {
		return err
	}
	bridge, err := netlink.LinkByName(layout.Bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", layout.Bridge, err)
	}
	if err := writeSysctls(bridge.Attrs().Alias); err != nil {
		return err
	}
	if err := netlink.LinkDel(bridge); err != nil {
		return fmt.Errorf("remove bridge %s: %w", layout.Bridge, err)
	}
	return nil
}

func readSysctls() (string, error) {
	var saved []string
	for _, name := range machineSysctls {
		b, err := os.ReadFile(sysctlPath(name))
		if err != nil {
			return "", err
		}
		saved = append(saved, name+"="+strings.TrimSpace(string(b)))
	}
	return strings.Join(saved, " "), nil
}

func writeSysctls(saved string) error {
	for _, assignment := range strings.Fields(saved) {
		name, value, ok := strings.Cut(assignment, "=")
		if !ok {
			return fmt.Errorf("alias %q of %s is not ours", saved, layout.Bridge)
		}
		if err := os.WriteFile(sysctlPath(name), []byte(value), 0); err != nil {
			return fmt.Errorf("put back sysctl %s: %w", name, err)
		}
	}
	return nil
}

func sysctlPath(name string) string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
}

// peer is the name of the node's end of the link while it is still on the machine.
func peer(c layout.Cluster) string { return "tcn-" + c.Name }

// hardware is the hardware address of whoever has the address ip. Were it any other each time, as by default, the node and
// the machine would go on sending to each other's old one for up to half a minute: to that of a node that was started
// anew, and to that of the bridge, which otherwise has the lowest of its links'.
func hardware(ip string) net.HardwareAddr {
	return append(net.HardwareAddr{2, 0}, net.ParseIP(ip).To4()...)
}

func network(cidr string) *net.IPNet {
	_, n, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err) // our own constants
	}
	return n
}
