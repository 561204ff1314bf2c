// Package link is what passes between the Backup service and a cluster's connector: the documents, and the paths they
// travel on. The connector dials; the service never does.
//
// Both directions carry state, not events. The service answers with everything that the cluster should have now
// (Desired); the connector reports everything that it has now (Report). A lost or repeated message therefore changes
// nothing, and either side may be restarted at any time. Requests are delivered at least once and are named by their ID,
// so that delivering one twice is the same as once.
//
// The package holds the documents and both ends' HTTP; what a document means is the service's and the connector's.
package link

import (
	"encoding/json"
	"time"
)

// PathDesired is where the connector GETs a Desired. Query: "etag" is the last Desired's ETag; "wait" is how long the
// service may hold the call when nothing has changed since (a Go duration, 30s at most). 200 with a Desired, or 304 when
// nothing changed. The cluster is the caller's: the token's principal.
const PathDesired = "/link/v1/desired"

// PathReport is where the connector POSTs a Report. 204.
const PathReport = "/link/v1/report"

// Desired is what a cluster should have.
type Desired struct {
	// ETag changes whenever anything else in the document does.
	ETag string `json:"etag"`
	// ClusterID is the cluster's ARM ID, in the letter case of its creator.
	ClusterID string `json:"clusterId"`
	// Extension is nil when the cluster should not have the extension.
	Extension *Extension `json:"extension,omitempty"`
	// Requests are all requests that have not ended yet; the connector removes those of its own that are not here
	// anymore.
	Requests []Request `json:"requests"`
}

// Extension is how the backup extension should be installed.
type Extension struct {
	// Name is the ARM name, and the Helm release's: azure-aks-backup.
	Name string `json:"name"`
	// Generation grows when the service wants the release to be applied again.
	Generation int64 `json:"generation"`
	// Settings are the extension's configurationSettings (keys as Azure has them), for the chart's values.
	Settings map[string]string `json:"settings"`
	// ContainerURL is the blob container's address without a query.
	ContainerURL string `json:"containerUrl"`
	// SAS gives access to that container alone: a query without "?". Expires at SASExpiry; the service renews it well before.
	SAS       string    `json:"sas"`
	SASExpiry time.Time `json:"sasExpiry"`
	// CABundle is the PEM of the authority that signed the storage endpoint's certificate; empty for a public one.
	CABundle string `json:"caBundle,omitempty"`
}

// Request is one request object that should exist in the cluster.
type Request struct {
	// Kind is a kind of api/v1alpha1: Backup, Restore, DeleteBackup, ValidateForBackup, ValidateForRestore.
	Kind string `json:"kind"`
	// Name is the object's name, unique for ever: the job's or the operation's GUID.
	Name string `json:"name"`
	// Spec is the kind's spec.
	Spec json.RawMessage `json:"spec"`
	// Withdrawn says that the work is not wished for any more: the object is deleted, none is made, and how it ended is told. A request
	// that never had an object is told to have failed with v1alpha1.CodeDeleted.
	Withdrawn bool `json:"withdrawn,omitempty"`
	// Secret, when set, is put into a Secret of the same name, owned by the request object, before that object is made.
	// It holds a restore's age identity under "identity".
	Secret map[string]string `json:"secret,omitempty"`
}

// Report is what a cluster has.
type Report struct {
	// ConnectorVersion and KubernetesVersion are for people.
	ConnectorVersion  string `json:"connectorVersion"`
	KubernetesVersion string `json:"kubernetesVersion"`
	// NodeCount is how many nodes are Ready.
	NodeCount int `json:"nodeCount"`
	// Extension is nil when the extension is not installed.
	Extension *ExtensionState `json:"extension,omitempty"`
	// Requests are the states of those request objects that changed since the last report that the service acknowledged;
	// the first report after a start has all of them.
	Requests []RequestState `json:"requests,omitempty"`
}

// The states of ExtensionState.State.
const (
	ExtensionInstalling   = "Installing"
	ExtensionReady        = "Ready"
	ExtensionFailed       = "Failed"
	ExtensionUninstalling = "Uninstalling"
)

// ExtensionState is how far the extension's installation is.
type ExtensionState struct {
	Name string `json:"name"`
	// Generation is that of the Desired which the state answers.
	Generation int64 `json:"generation"`
	// State is Installing, Ready, Failed or Uninstalling. Ready means that its pods answer; it turns back to Installing
	// when they stop to.
	State string `json:"state"`
	// Version is the chart's.
	Version string `json:"version"`
	// Message says what is wrong or awaited, with the pod's and the container's own words where there are any.
	Message string `json:"message,omitempty"`
}

// RequestState is a request object's status.
type RequestState struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Status is the kind's status as it is in the cluster.
	Status json.RawMessage `json:"status"`
}

// Credential is what `cairn cluster connect` is given for the connector, and what the connector's Secret holds.
type Credential struct {
	// Endpoint is the service's base URL, https.
	Endpoint     string `json:"endpoint"`
	TenantID     string `json:"tenantId"`
	ClientID     string `json:"clientId"`
	ClientSecret string `json:"clientSecret"`
	// CABundle is the PEM of the authority that signed the service's certificate; empty for a public one.
	CABundle string `json:"caBundle,omitempty"`
}
