package cairn_test

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cairn-backup/cairn/"

// layers lists our packages from the leaves up. A package may import those of lower layers, and those of its own layer only where allowed
// names them. A package that is not here has no place yet: putting it in is a decision that someone reads.
var layers = [][]string{
	{"internal/buildinfo", "internal/iso8601", "internal/arm", "internal/sealing", "internal/link", "internal/blob", "internal/bundle",
		"internal/client", "internal/image", "internal/xlsx", "internal/apiserver", "api/v1alpha1", "test/walkthrough"}, // leaves: a format, a protocol, a vocabulary each
	{"internal/schedule", "internal/retention"},                                // what the rules of a policy mean in time: no I/O, no clock
	{"internal/backup", "internal/auth", "internal/plan", "internal/coverage"}, // decisions: no I/O, no clock
	{"internal/store", "internal/blobserver", "internal/kubetest", "internal/link/linktest", "config",
		"internal/extension/storage", "internal/extension/inventory"}, // adapters: one technology each
	{"internal/extension/snapshot", "internal/extension/apply", "internal/blob/blobtest", "internal/store/storetest"},
	{"internal/service", "internal/extension/controller", "internal/connector"}, // applications
	{"internal/armserver", "internal/cli"},                                      // skins
	{"internal/daemon"},                                                         // cairnd as one value, for its main and for tests
	{"internal/daemon/daemontest"},
	{"cmd/cairn", "cmd/cairnd", "cmd/cairn-extension", "cmd/cairn-image", "bench", "test/setup", "test/world", "test/playground", "test/compat", "test/replicas", "test/e2e"},
}

// allowed are the imports inside one layer.
var allowed = map[string][]string{
	"internal/coverage": {"internal/plan"},
	"test/playground":   {"test/world"},
	"test/e2e":          {"test/world"},
}

type goPackage struct {
	ImportPath string
	Doc        string
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,GoFiles", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func layerOf(name string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, name) })
}

func TestImportsGoDown(t *testing.T) {
	for _, p := range packages(t) {
		name, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue
		}
		at := layerOf(name)
		if at < 0 {
			t.Errorf("%s is in no layer: put it into the table", name)
			continue
		}
		for _, i := range p.Imports {
			imported, ours := strings.CutPrefix(i, module)
			if !ours || slices.Contains(allowed[name], imported) {
				continue
			}
			if below := layerOf(imported); below >= at {
				t.Errorf("%s imports %s, which is not below it", name, imported)
			}
		}
	}
}

// forbidden are the foreign packages that only some of ours may use, so that each technology stays in its place.
var forbidden = map[string][]string{
	"database/sql":                   {"internal/store"},
	"k8s.io/":                        {"api/v1alpha1", "config", "internal/plan", "internal/kubetest", "internal/extension/", "internal/connector", "internal/cli", "cmd/cairn-extension", "bench", "test/"},
	"sigs.k8s.io/controller-runtime": {"internal/kubetest", "internal/extension/", "internal/connector", "cmd/cairn-extension", "bench", "test/"},
	"github.com/jackc/pgx":           {"internal/store"},
	"helm.sh/":                       {"internal/connector", "config"},
}

func TestEachTechnologyStaysInItsPlace(t *testing.T) {
	for _, p := range packages(t) {
		name, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue
		}
		for _, i := range p.Imports {
			for prefix, places := range forbidden {
				if strings.HasPrefix(i, prefix) && !slices.ContainsFunc(places, func(place string) bool { return strings.HasPrefix(name, place) }) {
					t.Errorf("%s imports %s; only %v may", name, i, places)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestEveryDependencyHasItsReason holds docs/dependencies.md to go.mod; a row names the whole path, without the version at its end.
func TestEveryDependencyHasItsReason(t *testing.T) {
	text, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{if not (or .Main .Indirect)}}{{.Path}}{{end}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		name := regexp.MustCompile(`/v[0-9]+$`).ReplaceAllString(path, "")
		if !strings.Contains(string(text), name) {
			t.Errorf("%s is in go.mod, and docs/dependencies.md does not say why", path)
		}
	}
}
