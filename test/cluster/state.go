package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cairn-backup/cairn/test/cluster/internal/host"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

// memory is what a cluster's folder remembers about it in cluster.json.
type memory struct {
	Index        int    `json:"index"`
	Subscription string `json:"subscription"`
	Kept         bool   `json:"kept,omitzero"`  // taken down with --keep: the next up goes on with its state
	Ready        bool   `json:"ready,omitzero"` // up had finished
}

func recall(c layout.Cluster) (memory, error) {
	b, err := os.ReadFile(c.Path("cluster.json"))
	if err != nil {
		return memory{}, err
	}
	var m memory
	if err := json.Unmarshal(b, &m); err != nil {
		return memory{}, fmt.Errorf("%s: %w", c.Path("cluster.json"), err)
	}
	return m, nil
}

func remember(c layout.Cluster, m memory) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Home(), 0o700); err != nil {
		return err
	}
	unfinished := c.Path("cluster.json.new")
	if err := os.WriteFile(unfinished, b, 0o600); err != nil {
		return err
	}
	return os.Rename(unfinished, c.Path("cluster.json"))
}

// find is the cluster called name of this state folder; its index is 0 when it has none yet.
func (p *program) find(name string) (layout.Cluster, error) {
	c := layout.Cluster{Name: name, Dir: p.dir}
	if err := layout.Check(name); err != nil {
		return c, err
	}
	m, err := recall(c)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	c.Index = m.Index
	return c, nil
}

// clusters are the clusters that have a folder here, whatever their state.
func (p *program) clusters() ([]layout.Cluster, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []layout.Cluster
	for _, e := range entries {
		if !e.IsDir() || layout.Check(e.Name()) != nil {
			continue
		}
		c, err := p.find(e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// names are the names of clusters, and of those whose link is on the bridge though someone has removed their folder.
func (p *program) names() ([]string, error) {
	all, err := p.clusters()
	if err != nil {
		return nil, err
	}
	members, err := host.Members()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	for _, m := range members {
		if m.Dir == p.dir {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// own refuses a name under which another state folder's cluster runs on this machine.
func own(c layout.Cluster, members []host.Member) error {
	for _, m := range members {
		if m.Dir == c.Dir {
			continue
		}
		if m.Name == c.Name {
			return fmt.Errorf("a cluster %s is up already, from another state folder; take it down with: testcluster down %[1]s --dir %s", c.Name, m.Dir)
		}
		if m.Index == c.Index {
			return fmt.Errorf("cluster %s of state folder %s has the same address; take it down or choose another name", m.Name, m.Dir)
		}
	}
	return nil
}

// assign gives the cluster its index, for good. The caller holds the host lock.
func (p *program) assign(c layout.Cluster, members []host.Member) (layout.Cluster, error) {
	if c.Index != 0 {
		return c, nil
	}
	var taken []int
	for _, m := range members {
		taken = append(taken, m.Index)
	}
	others, err := p.clusters()
	if err != nil {
		return c, err
	}
	for _, o := range others {
		taken = append(taken, o.Index)
	}
	slices.Sort(taken)
	c.Index, err = layout.PickIndex(c.Name, taken)
	return c, err
}

// initOf is the number of the node's pid 1, 0 when the node does not run or belongs to another state folder.
func initOf(c layout.Cluster) (int, error) {
	members, err := host.Members()
	if err != nil {
		return 0, err
	}
	if !slices.ContainsFunc(members, func(m host.Member) bool { return m.Name == c.Name && m.Dir == c.Dir }) {
		return 0, nil
	}
	return host.Init(c)
}
