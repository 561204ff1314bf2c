package config_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/test/cluster/internal/config"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

var update = flag.Bool("update", false, "write the golden files")

var node = config.Node{
	Cluster:      layout.Cluster{Name: "b", Index: 2, Dir: "/state"},
	Bin:          "/cache/bin",
	Debian:       "/cache/debian",
	Subscription: "11111111-1111-1111-1111-111111111111",
}

func TestFiles(t *testing.T) {
	files, err := node.Files()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 5 {
		t.Errorf("%d files are rendered, want 5", len(files))
	}
	for name, content := range files {
		golden(t, name, string(content))
	}
}

func TestComponents(t *testing.T) {
	var all strings.Builder
	for _, c := range node.Components() {
		all.WriteString(c.String())
	}
	golden(t, "components.txt", all.String())
}

// The supervisor and the command kill know a program by its name, so no two may share one.
func TestComponentNamesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range node.Names() {
		if seen[name] {
			t.Errorf("two components are called %s", name)
		}
		seen[name] = true
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s has changed (-want +got); run go test -update if it should have:\n%s", name, diff)
	}
}
