package config_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	release "helm.sh/helm/v4/pkg/release/v1"
	"sigs.k8s.io/yaml"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/config"
	"github.com/cairn-backup/cairn/internal/link"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (run with -update if this is meant):\n%s", file, d)
	}
}

var params = config.ConnectorParams{
	Image: "registry.test/cairn-extension:1", ClusterID: "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/aks",
	Credential: link.Credential{
		Endpoint: "https://10.0.0.1:8443", TenantID: "tenant", ClientID: "client", ClientSecret: "hunter2", CABundle: "pem\n",
	},
}

func TestConnectorManifests(t *testing.T) {
	objects, err := config.ConnectorManifests(params)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, o := range objects {
		data, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("---\n")
		all.Write(data)
	}
	golden(t, "connector.yaml", all.Bytes())
}

func TestCredentialComesBackAsItWent(t *testing.T) {
	objects, err := config.ConnectorManifests(params)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o.GetKind() != "Secret" {
			continue
		}
		data := o.Object["stringData"].(map[string]any)[config.CredentialKey].(string)
		var c link.Credential
		if err := json.Unmarshal([]byte(data), &c); err != nil || c != params.Credential {
			t.Errorf("%v, %v", c, err)
		}
		return
	}
	t.Error("there is no Secret")
}

func TestNewCredentialRestartsTheConnector(t *testing.T) {
	template := func(p config.ConnectorParams) string {
		objects, err := config.ConnectorManifests(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if o.GetKind() == "Deployment" {
				data, err := json.Marshal(o.Object["spec"])
				if err != nil {
					t.Fatal(err)
				}
				return string(data)
			}
		}
		return ""
	}
	other := params
	other.Credential.ClientSecret = "another"
	if template(params) == template(other) {
		t.Error("the pod template is the same")
	}
	if strings.Contains(template(params), params.Credential.ClientSecret) {
		t.Error("the pod template holds the secret")
	}
}

func TestManifestsNeedAnImage(t *testing.T) {
	if _, err := config.ConnectorManifests(config.ConnectorParams{}); err == nil {
		t.Error("no image was accepted")
	}
}

func TestEveryRequestKindIsDefined(t *testing.T) {
	crds, err := config.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range crds {
		names = append(names, strings.TrimSuffix(c.GetName(), "."+v1alpha1.Group))
	}
	want := []string{"backups", "deletebackups", "restores", "validateforbackups", "validateforrestores"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
}

// render is what `helm template` does.
func render(t *testing.T, values map[string]any) (string, error) {
	t.Helper()
	root, err := config.Chart()
	if err != nil {
		t.Fatal(err)
	}
	var files []*archive.BufferedFile
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, name)
		files = append(files, &archive.BufferedFile{Name: name, Data: data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	chart, err := loader.LoadFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	install := action.NewInstall(action.NewConfiguration())
	install.ReleaseName, install.Namespace, install.DryRunStrategy = "azure-aks-backup", v1alpha1.Namespace, action.DryRunClient
	made, err := install.Run(chart, values)
	if err != nil {
		return "", err
	}
	return made.(*release.Release).Manifest, nil
}

func TestChart(t *testing.T) {
	manifest, err := render(t, map[string]any{
		"image":     "registry.test/cairn-extension:1",
		"resources": map[string]any{"limits": map[string]any{"memory": "4400Mi"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "chart.yaml", []byte(manifest))
}

func TestChartRefusesWhatIsNoQuantity(t *testing.T) {
	for _, memory := range []string{"plenty", "", "1 Gi", "-1Gi", "1gb"} {
		_, err := render(t, map[string]any{"resources": map[string]any{"limits": map[string]any{"memory": memory}}})
		if err == nil || !strings.Contains(err.Error(), "memory") {
			t.Errorf("%q: %v", memory, err)
		}
	}
	if _, err := render(t, map[string]any{"resuorces": map[string]any{}}); err == nil {
		t.Error("a misspelled value was accepted")
	}
}
