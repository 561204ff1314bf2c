package layout_test

import (
	"testing"

	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

func TestPickIndex(t *testing.T) {
	for _, tt := range []struct {
		name  string
		taken []int
		want  int
	}{
		{"a", nil, 1},
		{"a", []int{2, 3}, 1},
		{"b", nil, 2},
		{"c", nil, 3},
		{"c", []int{1, 2}, 3},
		{"c", []int{3, 5}, 4},
		{"b2", []int{3, 4, 5}, 6},
	} {
		got, err := layout.PickIndex(tt.name, tt.taken)
		if err != nil || got != tt.want {
			t.Errorf("PickIndex(%q, %v) = %d, %v; want %d", tt.name, tt.taken, got, err, tt.want)
		}
	}
	var all []int
	for i := range layout.MaxIndex {
		all = append(all, i+1)
	}
	if got, err := layout.PickIndex("c", all); err == nil {
		t.Errorf("PickIndex with every index taken = %d, want an error", got)
	}
}

func TestCheck(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "b": true, "selftest": true, "a1234567890": true,
		"": false, "A": false, "1a": false, "a-b": false, "../a": false, "a12345678901": false, "cloud": false,
	} {
		if err := layout.Check(name); (err == nil) != ok {
			t.Errorf("Check(%q) = %v, want ok %t", name, err, ok)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		index            int
		ip, pods, server string
	}{
		{1, "10.99.0.11", "10.244.1.0/24", "https://10.99.0.11:6443"},
		{2, "10.99.0.12", "10.244.2.0/24", "https://10.99.0.12:6443"},
		{layout.MaxIndex, "10.99.0.210", "10.244.200.0/24", "https://10.99.0.210:6443"},
	} {
		c := layout.Cluster{Name: "x", Index: tt.index, Dir: "/state"}
		if c.NodeIP() != tt.ip || c.PodCIDR() != tt.pods || c.Server() != tt.server {
			t.Errorf("index %d has %s %s %s, want %s %s %s", tt.index, c.NodeIP(), c.PodCIDR(), c.Server(), tt.ip, tt.pods, tt.server)
		}
	}
	// The kernel takes interface names of at most 15 bytes.
	c := layout.Cluster{Name: "a1234567890"}
	if len(c.Link()) > 15 || len("tcn-"+c.Name) > 15 {
		t.Errorf("link name %s of the longest cluster name is too long", c.Link())
	}
}
