package cli_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/cli"
)

func TestParse(t *testing.T) {
	const trigger = "dataprotection backup-instance restore trigger"
	const vault = "dataprotection backup-vault create"
	for name, c := range map[string]struct {
		command string
		words   []string
		want    map[string][]string
	}{
		"aliases": {"group show", []string{"-g", "rg"}, map[string][]string{"resource-group": {"rg"}}},
		"prefix of a long option": {trigger, []string{"-n", "i", "-v", "v", "-g", "rg", "--restore-request", "{}"},
			map[string][]string{"backup-instance-name": {"i"}, "vault-name": {"v"}, "resource-group": {"rg"}, "restore-request-object": {"{}"}}},
		"value in the same word": {"group show", []string{"--name=rg", "-otsv", "--query=a==b"},
			map[string][]string{"resource-group": {"rg"}, "output": {"tsv"}, "query": {"a==b"}}},
		"a value may have spaces and dashes": {"group create", []string{"-n", "- x", "-l", "eastus"},
			map[string][]string{"resource-group": {"- x"}, "location": {"eastus"}}},
		"several values": {"aks extension create", []string{"-n", "e", "-c", "k", "-g", "rg", "--extension-type", "t", "--configuration-settings", "a=b", "c=d", "--scope", "cluster", "--config", "e=f"},
			map[string][]string{"name": {"e"}, "cluster-name": {"k"}, "resource-group": {"rg"}, "extension-type": {"t"}, "scope": {"cluster"}, "configuration-settings": {"a=b", "c=d", "e=f"}}},
		"no value for tags clears them": {"group create", []string{"-n", "rg", "-l", "x", "--tags"},
			map[string][]string{"resource-group": {"rg"}, "location": {"x"}, "tags": {}}},
		"choices ignore case": {"group show", []string{"-n", "rg", "-o", "TSV"}, map[string][]string{"resource-group": {"rg"}, "output": {"tsv"}}},
		"a flag":              {"group delete", []string{"-n", "rg", "--yes", "--no-wait"}, map[string][]string{"resource-group": {"rg"}, "yes": {}, "no-wait": {}}},
		"--ids stand for what names the resource": {"group show", []string{"--ids", "/a", "/b"}, map[string][]string{"ids": {"/a", "/b"}}},
		"a full name is no prefix of a longer one": {vault, []string{"-v", "v", "-g", "rg", "--storage-setting", "x", "--type", "None"},
			map[string][]string{"vault-name": {"v"}, "resource-group": {"rg"}, "storage-setting": {"x"}, "type": {"None"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := cli.Parse(c.command, c.words...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseErrorsAreAzs(t *testing.T) {
	for _, c := range []struct{ command, words, want string }{
		{"group show", "", "the following arguments are required: --resource-group/--name/-n/-g"},
		{"dataprotection backup-vault show", "-g rg", "the following arguments are required: --vault-name/-v"},
		{"group show", "-n", "argument --resource-group/--name/-n/-g: expected one argument"},
		{"group show", "-n a b --what c", "unrecognized arguments: b --what c"},
		{"group show", "-n a -o xml", "'xml' is not a valid value for '--output'. Allowed values: json, jsonc, none, table, tsv, yaml, yamlc."},
		{"group show", "-n a --yes=x", "unrecognized arguments: --yes=x"},
		{"group delete", "-n a --yes=x", "argument --yes/-y: ignored explicit argument 'x'"},
		{"group show", "--ids", "argument --ids: expected at least one argument"},
		{"storage account create", "--a x", "ambiguous option: --a could match --access-tier, --allow-blob-public-access, --allow-shared-key-access"},
	} {
		_, err := cli.Parse(c.command, strings.Fields(c.words)...)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s %s:\n got %v\nwant %s", c.command, c.words, err, c.want)
		}
	}
}

// The table is only as good as its rows: every one must be runnable, described, and unambiguous.
func TestTable(t *testing.T) {
	for _, path := range cli.Paths() {
		c := cli.CommandOf(path)
		if c.Run == nil || c.Help == "" || !strings.HasSuffix(c.Help, ".") {
			t.Errorf("%s: no handler, or no sentence of help: %q", path, c.Help)
		}
		if words := strings.Fields(path); len(words) > 1 && !cli.HasGroupHelp(strings.Join(words[:len(words)-1], " ")) {
			t.Errorf("%s: its group has no help", path)
		}
		if c.Columns != "" {
			if err := cli.CompileQuery(c.Columns); err != nil {
				t.Errorf("%s: columns: %v", path, err)
			}
		}
		seen := map[string]bool{}
		keys := map[string]bool{"subscription": true}
		for _, a := range append(c.Options(), cli.GlobalArgs()...) {
			keys[strings.TrimLeft(a.NamesOf()[0], "-")] = true
			if a.Help == "" {
				t.Errorf("%s: %s: no help", path, a.NamesOf()[0])
			}
			if !slices.IsSortedFunc(a.Choices, strings.Compare) {
				t.Errorf("%s: %s: choices are not sorted", path, a.NamesOf()[0])
			}
			for _, n := range a.NamesOf() {
				if seen[n] && n != "--subscription" {
					t.Errorf("%s: %s is two options", path, n)
				}
				seen[n] = true
			}
		}
		for _, part := range strings.Split(c.ID, "{")[1:] {
			if key, _, _ := strings.Cut(part, "}"); !keys[key] {
				t.Errorf("%s: the ID names %s, which is no option", path, key)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("--name rg -o tsv --query=x")
	f.Add("-n -- -x --ids a b")
	f.Fuzz(func(t *testing.T, line string) {
		_, _ = cli.Parse("group show", strings.Split(line, " ")...)
		cli.HashKeys(line)
	})
}
