package service

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Provider is a resource provider, as registered in a subscription.
type Provider struct {
	ID                 string         `json:"id"`
	Namespace          string         `json:"namespace"`
	RegistrationPolicy string         `json:"registrationPolicy"`
	RegistrationState  string         `json:"registrationState"`
	ResourceTypes      []ProviderType `json:"resourceTypes"`
}

// ProviderType is a type that a provider has.
type ProviderType struct {
	ResourceType      string   `json:"resourceType"`
	Locations         []string `json:"locations"`
	APIVersions       []string `json:"apiVersions"`
	DefaultAPIVersion string   `json:"defaultApiVersion"`
	Capabilities      string   `json:"capabilities"`
}

// provided are the namespaces that are served here, their types, and the version that we know best.
var provided = []struct {
	namespace string
	version   string
	types     []string
}{
	{"Microsoft.Authorization", "2022-04-01", []string{"roleAssignments", "roleDefinitions"}},
	{"Microsoft.ContainerService", "2024-08-01", []string{"managedClusters", "locations/trustedAccessRoles"}},
	{"Microsoft.DataProtection", "2024-04-01", []string{"backupVaults", "backupVaults/backupPolicies", "backupVaults/backupInstances", "backupVaults/backupResourceGuardProxies", "resourceGuards", "locations/operationStatus"}},
	{"Microsoft.Features", "2021-07-01", []string{"features"}},
	{"Microsoft.KubernetesConfiguration", "2023-05-01", []string{"extensions"}},
	{"Microsoft.ResourceGraph", "2021-03-01", []string{"resources"}},
	{"Microsoft.Resources", "2022-09-01", []string{"subscriptions", "resourceGroups"}},
	{"Microsoft.Storage", "2024-01-01", []string{"storageAccounts", "storageAccounts/blobServices", "storageAccounts/blobServices/containers"}},
}

var namespacePattern = regexp.MustCompile(`^[A-Za-z0-9]+(\.[A-Za-z0-9]+)+$`)

// Providers are all that are served here.
func (s *Service) Providers() []Provider {
	out := make([]Provider, len(provided))
	for i, p := range provided {
		out[i] = s.provider(p.namespace)
	}
	return out
}

// Provider tells of a namespace. All are registered: there is nothing to register, so that asking for it succeeds, also for
// Azure's namespaces that have no types here.
func (s *Service) Provider(namespace string) (Provider, error) {
	if !namespacePattern.MatchString(namespace) {
		return Provider{}, &arm.Error{Status: 404, Code: "InvalidResourceNamespace", Message: fmt.Sprintf("The resource namespace '%s' is invalid.", namespace)}
	}
	return s.provider(namespace), nil
}

func (s *Service) provider(namespace string) Provider {
	out := Provider{
		Namespace: namespace, RegistrationPolicy: "RegistrationRequired", RegistrationState: "Registered", ResourceTypes: []ProviderType{},
	}
	for _, p := range provided {
		if !strings.EqualFold(p.namespace, namespace) {
			continue
		}
		out.Namespace = p.namespace
		for _, t := range p.types {
			out.ResourceTypes = append(out.ResourceTypes, ProviderType{
				ResourceType: t, Locations: []string{}, APIVersions: []string{p.version}, DefaultAPIVersion: p.version, Capabilities: "SupportsTags, SupportsLocation",
			})
		}
	}
	out.ID = fmt.Sprintf("/subscriptions/%s/providers/%s", s.SubscriptionID, out.Namespace)
	return out
}

// Feature is a preview feature of a provider.
type Feature struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Properties map[string]string `json:"properties"`
}

// Feature tells that a feature is registered: nothing here is a preview.
func (s *Service) Feature(namespace, name string) Feature {
	return Feature{
		ID:   fmt.Sprintf("/subscriptions/%s/providers/Microsoft.Features/providers/%s/features/%s", s.SubscriptionID, namespace, name),
		Name: namespace + "/" + name, Type: "Microsoft.Features/providers/features", Properties: map[string]string{"state": "Registered"},
	}
}

// Features are those that guides ask for.
func (s *Service) Features() []Feature {
	return []Feature{s.Feature("Microsoft.ContainerService", "TrustedAccessPreview")}
}
