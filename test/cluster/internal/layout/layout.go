// Package layout names everything a test cluster owns on the machine: its addresses, interface, cgroup, folders and
// log files. All of it follows from the cluster's name, its index and the state folder, so no part of the program has
// to hand such names to another, and a cluster whose starter died can still be found and removed.
//
// It decides names only; making and removing what they stand for is the business of the packages host and node.
package layout

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
)

// Addresses that all clusters share.
const (
	Bridge      = "tcbr0"         // the machine's bridge, one for all clusters
	HostIP      = "10.99.0.1"     // the machine, as nodes and pods reach it
	NodeNet     = "10.99.0.0/24"  // the nodes and the machine
	PodNet      = "10.244.0.0/16" // all clusters' pods
	ServiceCIDR = "10.96.0.0/16"  // the same in every cluster; services are not reachable from outside
	ServiceIP   = "10.96.0.1"     // the API server's service
	PauseImage  = "registry.test/pause:1"
)

// MaxIndex is the last index that fits into the address ranges.
const MaxIndex = 200

// Cluster is one test cluster. The zero value names nothing.
type Cluster struct {
	Name  string // a short lower-case word, see Check
	Index int    // 1..MaxIndex, part of its addresses
	Dir   string // the state folder of all clusters, absolute
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9]{0,10}$`)

// Check tells whether name can name a cluster. It becomes part of an interface name, hence at most 11 characters.
func Check(name string) error {
	if !validName.MatchString(name) || name == "cloud" {
		return fmt.Errorf("cluster name %q: use one lower-case word of at most 11 letters and digits, other than \"cloud\"", name)
	}
	return nil
}

// PickIndex chooses the index of a new cluster: a has 1 and b has 2, always, so that their addresses can be told by
// heart; any other name gets the lowest index from 3 up that is not taken.
func PickIndex(name string, taken []int) (int, error) {
	switch name {
	case "a":
		return 1, nil
	case "b":
		return 2, nil
	}
	for i := 3; i <= MaxIndex; i++ {
		if !slices.Contains(taken, i) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("cluster %s: all %d addresses are taken; take a cluster down first", name, MaxIndex)
}

// Home is the folder of everything the cluster keeps.
func (c Cluster) Home() string { return filepath.Join(c.Dir, c.Name) }

// Path joins parts below Home.
func (c Cluster) Path(parts ...string) string {
	return filepath.Join(append([]string{c.Home()}, parts...)...)
}

// Kubeconfig is the file with which the machine's programs reach the cluster as its administrator.
func (c Cluster) Kubeconfig() string { return c.Path("kubeconfig") }

// PKI is a file of the cluster's keys and certificates.
func (c Cluster) PKI(file string) string { return c.Path("pki", file) }

// Config is a rendered configuration file.
func (c Cluster) Config(file string) string { return c.Path("etc", file) }

// Log is the file with a component's output.
func (c Cluster) Log(component string) string { return c.Path("log", component+".log") }

// Faults is the file that tells the disk driver which calls to delay or fail.
func (c Cluster) Faults() string { return c.Path("faults.json") }

// Node is the name of the cluster's only node.
func (c Cluster) Node() string { return "node-" + c.Name }

// Link is the name of the machine's end of the node's network link.
func (c Cluster) Link() string { return "tc-" + c.Name }

// Cgroup is the path, in every hierarchy, of the cgroup that holds all of the cluster's processes.
func (c Cluster) Cgroup() string { return "/tc-" + c.Name }

// NodeIP is the node's address; the API server listens there on port 6443 and the DNS server on port 53.
func (c Cluster) NodeIP() string { return fmt.Sprintf("10.99.0.%d", 10+c.Index) }

// PodCIDR is the range of the cluster's pods; the machine has a route to it.
func (c Cluster) PodCIDR() string { return fmt.Sprintf("10.244.%d.0/24", c.Index) }

// Server is the API server's URL.
func (c Cluster) Server() string { return "https://" + c.NodeIP() + ":6443" }

// Cloud is where the emulated cloud's disks live: one reflink file system for all clusters of a state folder.
func (c Cluster) Cloud() string { return Cloud(c.Dir) }

// Disks is the folder of the cluster's own disks (those of its node resource group).
func (c Cluster) Disks() string { return filepath.Join(c.Cloud(), "disks", c.Name) }

// Shares is the folder of the cluster's own file shares.
func (c Cluster) Shares() string { return filepath.Join(c.Cloud(), "shares", c.Name) }

// Snapshots is the folder of the snapshots of all clusters.
func (c Cluster) Snapshots() string { return filepath.Join(c.Cloud(), "snapshots") }

// NodeResourceGroup is the name of the resource group that holds the cluster's disks, formed as AKS forms it.
func (c Cluster) NodeResourceGroup() string {
	return fmt.Sprintf("MC_rg-%s_%s_eastus", c.Name, c.Name)
}

// Cloud is where a state folder's emulated disks live; CloudImage holds the file system that is mounted there.
func Cloud(dir string) string { return filepath.Join(dir, "cloud") }

// CloudImage is the sparse file with the file system of Cloud.
func CloudImage(dir string) string { return filepath.Join(dir, "cloud.img") }

// UnfinishedCloudImage is the name of that file while it is being made.
func UnfinishedCloudImage(dir string) string { return CloudImage(dir) + ".new" }
