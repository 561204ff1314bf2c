package connector

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	helmrelease "helm.sh/helm/v4/pkg/release"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/config"
	"github.com/cairn-backup/cairn/internal/link"
)

const (
	// contentLabel of a release names what it was made from: chart, values and generation.
	contentLabel = "cairn-content"
	// generationLabel of a release is the service's generation that it answers.
	generationLabel = "cairn-generation"
	// keptRevisions is how many records of a release are kept.
	keptRevisions = 3
)

// helm installs, upgrades and removes the extension's release. Only one goroutine uses it.
type helm struct {
	actions *action.Configuration
	chart   *chart.Chart
	image   string
}

func newHelm(cluster *rest.Config, version, image string, log *slog.Logger) (*helm, error) {
	c, err := loadChart(version)
	if err != nil {
		return nil, err
	}
	actions := action.NewConfiguration(action.ConfigurationSetLogger(log.Handler()))
	if err := actions.Init(getter{cluster}, v1alpha1.Namespace, "secret"); err != nil {
		return nil, fmt.Errorf("helm: %w", err)
	}
	return &helm{actions: actions, chart: c, image: image}, nil
}

// loadChart reads the embedded chart and gives it the connector's version.
func loadChart(version string) (*chart.Chart, error) {
	root, err := config.Chart()
	if err != nil {
		return nil, err
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
		return nil, fmt.Errorf("read chart: %w", err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("load chart: %w", err)
	}
	c.Metadata.Version = ChartVersion(version)
	c.Metadata.AppVersion = version
	return c, nil
}

// ChartVersion makes a program's version a semantic one: itself without a leading v if it is one already, else 0.0.0 with
// the version as the pre-release.
func ChartVersion(version string) string {
	if v, err := semver.StrictNewVersion(strings.TrimPrefix(version, "v")); err == nil {
		return v.String()
	}
	clean := strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '-'
	}, version)
	return "0.0.0-g" + clean
}

// settings are Azure's configuration settings that the chart has values for, in lower case, and the raw Helm keys that
// Azure takes instead.
var settings = map[string][2]string{
	"cpulimit":                  {"limits", "cpu"},
	"memorylimit":               {"limits", "memory"},
	"cpurequest":                {"requests", "cpu"},
	"memoryrequest":             {"requests", "memory"},
	"resources.limits.cpu":      {"limits", "cpu"},
	"resources.limits.memory":   {"limits", "memory"},
	"resources.requests.cpu":    {"requests", "cpu"},
	"resources.requests.memory": {"requests", "memory"},
}

// values are the chart's. Keys are compared without regard to case; what the chart has no value for is the service's own
// business (where the container is) and left out.
func values(in map[string]string, image string) map[string]any {
	resources := map[string]any{"limits": map[string]any{}, "requests": map[string]any{}}
	for k, v := range in {
		if at, ok := settings[strings.ToLower(k)]; ok {
			resources[at[0]].(map[string]any)[at[1]] = v
		}
	}
	return map[string]any{"image": image, "resources": resources}
}

// content names what a release would be made from.
func (h *helm) content(e *link.Extension) (string, error) {
	sum := sha256.New()
	for _, f := range h.chart.Raw {
		fmt.Fprintf(sum, "%s %d\n%s", f.Name, len(f.Data), f.Data)
	}
	v, err := json.Marshal(values(e.Settings, h.image))
	if err != nil {
		return "", err
	}
	fmt.Fprintf(sum, "%s\n%s\n%d", h.chart.Metadata.Version, v, e.Generation)
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// releases returns the newest record of every release of the extension's chart in the namespace.
func (h *helm) releases() (map[string]*release.Release, error) {
	list, err := h.actions.Releases.ListReleases()
	if err != nil {
		return nil, fmt.Errorf("read the Helm releases: %w", err)
	}
	newest := map[string]*release.Release{}
	for _, x := range list {
		r, ok := x.(*release.Release)
		if !ok {
			return nil, fmt.Errorf("read the Helm releases: unexpected record %T", x)
		}
		if r.Chart == nil || r.Chart.Metadata == nil || r.Chart.Metadata.Name != h.chart.Metadata.Name {
			continue
		}
		if have := newest[r.Name]; have == nil || have.Version < r.Version {
			newest[r.Name] = r
		}
	}
	return newest, nil
}

// current reports whether a release is complete and made from the given content.
func current(r *release.Release, content string) bool {
	return r != nil && r.Info.Status == common.StatusDeployed && r.Labels[contentLabel] == content
}

// apply installs or upgrades the release. It does not wait for the pods: why they do not start is told by themselves. A
// release that an earlier connector was killed over is taken up. The revision is what the chart stamps its objects with.
func (h *helm) apply(ctx context.Context, e *link.Extension, have *release.Release) (revision int, err error) {
	content, err := h.content(e)
	if err != nil {
		return 0, err
	}
	labels := map[string]string{contentLabel: content, generationLabel: strconv.FormatInt(e.Generation, 10)}
	if have != nil && (have.Info.Status == common.StatusUninstalling || have.Info.Status == common.StatusUninstalled) {
		if err := h.remove(e.Name); err != nil {
			return 0, err
		}
		have = nil
	}
	if have == nil {
		install := action.NewInstall(h.actions)
		install.ReleaseName, install.Namespace, install.Labels = e.Name, v1alpha1.Namespace, labels
		install.WaitStrategy = kube.HookOnlyStrategy
		install.ForceConflicts = true
		install.DisableOpenAPIValidation = true // the API server validates; its schema would take much memory here
		return revisionOf(install.RunWithContext(ctx, h.chart, values(e.Settings, h.image)))
	}
	if have.Info.Status.IsPending() {
		have.SetStatus(common.StatusFailed, "the connector was stopped during it")
		if err := h.actions.Releases.Update(have); err != nil {
			return 0, fmt.Errorf("mark the interrupted release as failed: %w", err)
		}
	}
	upgrade := action.NewUpgrade(h.actions)
	upgrade.Namespace, upgrade.Labels, upgrade.MaxHistory = v1alpha1.Namespace, labels, keptRevisions
	upgrade.WaitStrategy = kube.HookOnlyStrategy
	upgrade.ResetValues = true
	upgrade.ServerSideApply = "true"
	upgrade.ForceConflicts = true
	upgrade.DisableOpenAPIValidation = true
	return revisionOf(upgrade.RunWithContext(ctx, e.Name, h.chart, values(e.Settings, h.image)))
}

func revisionOf(made helmrelease.Releaser, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	r, ok := made.(*release.Release)
	if !ok {
		return 0, fmt.Errorf("helm: unexpected record %T", made)
	}
	return r.Version, nil
}

// remove uninstalls a release, also one whose removal was interrupted.
func (h *helm) remove(name string) error {
	uninstall := action.NewUninstall(h.actions)
	uninstall.WaitStrategy = kube.HookOnlyStrategy
	uninstall.DeletionPropagation = "background"
	uninstall.IgnoreNotFound = true
	if _, err := uninstall.Run(name); err != nil {
		return fmt.Errorf("uninstall %s: %w", name, err)
	}
	return nil
}

// getter gives Helm the cluster that the connector talks to.
type getter struct{ cluster *rest.Config }

func (g getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.cluster), nil }

func (g getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	d, err := discovery.NewDiscoveryClientForConfig(g.cluster)
	if err != nil {
		return nil, err
	}
	return memory.NewMemCacheClient(d), nil
}

func (g getter) ToRESTMapper() (meta.RESTMapper, error) {
	d, err := g.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	return restmapper.NewDeferredDiscoveryRESTMapper(d), nil
}

func (g getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	overrides := &clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: v1alpha1.Namespace}}
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(), overrides)
}
