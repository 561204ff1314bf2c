// Package config holds what is applied to a cluster: the request kinds' definitions, the connector's manifests, and the
// extension's Helm chart. It renders and embeds; it talks to no cluster and does not know Helm.
//
// Who applies what: `cairn cluster connect` applies ConnectorManifests with its caller's rights. The connector applies the
// definitions of CRDs and installs Chart. The definitions are not in the chart, since Helm would neither upgrade nor keep
// them: they outlive the extension, and so do the objects of their kinds.
package config

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/cairn-backup/cairn/internal/link"
)

//go:embed crd/*.yaml connector/*.yaml rbac/*.yaml all:chart
var files embed.FS

// What the connector's manifests and the chart call their objects.
const (
	// ConnectorName is the connector's Deployment, Secret, ServiceAccount and roles.
	ConnectorName = "cairn-connector"
	// ExtensionDeployment is the extension's Deployment; the name is Azure's.
	ExtensionDeployment = "dataprotection-microsoft-controller"
	// CredentialKey is the key of the connector's Secret that holds a link.Credential as JSON.
	CredentialKey = "credential.json"
	// CredentialDir is where the connector's pod has its Secret mounted.
	CredentialDir = "/etc/cairn/credential"
	// RevisionAnnotation is what the chart stamps the extension's Deployment with: the revision of the Helm release.
	RevisionAnnotation = "cairn/release-revision"
	// ClusterAnnotation is what the connector's namespace has the cluster's resource ID in, so that who reaches the cluster can tell which one it is.
	ClusterAnnotation = "cairn/cluster-id"
	// ImageVariable is the environment variable that tells the connector which image the extension runs from.
	ImageVariable = "CAIRN_EXTENSION_IMAGE"
)

// credentialAnnotation on the pod template makes a new credential restart the connector.
const credentialAnnotation = "cairn/credential-sha256"

// ConnectorParams is what differs between two clusters' connectors.
type ConnectorParams struct {
	// Image is the cairn-extension image, such as cairn/cairn-extension:0.1.0. The extension will run from it too.
	Image string
	// Credential is what POST {cluster}/connect answered.
	Credential link.Credential
	// ClusterID is the cluster's resource ID.
	ClusterID string
}

// ConnectorManifests returns the objects that join a cluster to the service, in the order in which to apply them. They
// contain the credential in a Secret. All objects are complete: server-side apply with force makes the cluster have
// exactly this, whatever an older version applied.
func ConnectorManifests(p ConnectorParams) ([]*unstructured.Unstructured, error) {
	if p.Image == "" {
		return nil, errors.New("connector: no image given")
	}
	credential, err := json.Marshal(p.Credential)
	if err != nil {
		return nil, fmt.Errorf("connector: encode credential: %w", err)
	}
	var objects []*unstructured.Unstructured
	for _, name := range []string{"connector/namespace.yaml", "rbac/extension.yaml", "connector/rbac.yaml", "connector/deployment.yaml"} {
		more, err := read(name)
		if err != nil {
			return nil, err
		}
		objects = append(objects, more...)
	}
	for _, o := range objects {
		switch o.GetKind() {
		case "Namespace":
			o.SetAnnotations(map[string]string{ClusterAnnotation: p.ClusterID})
		case "Secret":
			err = unstructured.SetNestedField(o.Object, string(credential), "stringData", CredentialKey)
		case "Deployment":
			err = fillDeployment(o, p.Image, credential)
		}
		if err != nil {
			return nil, fmt.Errorf("connector: %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return objects, nil
}

func fillDeployment(o *unstructured.Unstructured, image string, credential []byte) error {
	sum := sha256.Sum256(credential)
	annotations := map[string]string{credentialAnnotation: hex.EncodeToString(sum[:])}
	if err := unstructured.SetNestedStringMap(o.Object, annotations, "spec", "template", "metadata", "annotations"); err != nil {
		return err
	}
	path := []string{"spec", "template", "spec", "containers"}
	containers, found, err := unstructured.NestedSlice(o.Object, path...)
	if err != nil || !found || len(containers) != 1 {
		return fmt.Errorf("expected one container, found %d: %w", len(containers), err)
	}
	c := containers[0].(map[string]any)
	c["image"] = image
	c["env"] = []any{map[string]any{"name": ImageVariable, "value": image}}
	return unstructured.SetNestedSlice(o.Object, containers, path...)
}

// CRDs returns the definitions of the request kinds.
func CRDs() ([]*unstructured.Unstructured, error) {
	names, err := fs.Glob(files, "crd/*.yaml")
	if err != nil {
		return nil, err
	}
	var crds []*unstructured.Unstructured
	for _, name := range names {
		more, err := read(name)
		if err != nil {
			return nil, err
		}
		crds = append(crds, more...)
	}
	return crds, nil
}

// Chart returns the files of the extension's Helm chart, Chart.yaml at the root. Its values are documented in values.yaml.
func Chart() (fs.FS, error) {
	return fs.Sub(files, "chart")
}

// read returns the objects of one embedded file.
func read(name string) ([]*unstructured.Unstructured, error) {
	data, err := files.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(o)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}
