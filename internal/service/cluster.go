package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store"
)

// Cluster is Microsoft.ContainerService/managedClusters: any Kubernetes cluster that was joined to the service.
type Cluster struct {
	ID         arm.ID            `json:"id"`
	Location   string            `json:"location"`
	Name       string            `json:"name"`
	Tags       map[string]string `json:"tags,omitempty"`
	Type       string            `json:"type"`
	Kind       string            `json:"kind"`
	Properties ClusterProperties `json:"properties"`
	Identity   *arm.Identity     `json:"identity"`
	SKU        SKU               `json:"sku"`
	SystemData *arm.SystemData   `json:"systemData,omitempty"`
	ETag       string            `json:"eTag,omitempty"`
}

// ClusterProperties are what Azure's clients need of a cluster; what the connector tells is filled in when one is read.
type ClusterProperties struct {
	ProvisioningState        string           `json:"provisioningState"`
	PowerState               PowerState       `json:"powerState"`
	KubernetesVersion        string           `json:"kubernetesVersion"`
	CurrentKubernetesVersion string           `json:"currentKubernetesVersion"`
	DNSPrefix                string           `json:"dnsPrefix"`
	FQDN                     string           `json:"fqdn"`
	AgentPools               []AgentPool      `json:"agentPoolProfiles"`
	ServicePrincipal         ServicePrincipal `json:"servicePrincipalProfile"`
	NodeResourceGroup        string           `json:"nodeResourceGroup"`
	EnableRBAC               bool             `json:"enableRBAC"`
	SupportPlan              string           `json:"supportPlan"`
	NetworkProfile           map[string]any   `json:"networkProfile"`
	MaxAgentPools            int              `json:"maxAgentPools"`
	IdentityProfile          map[string]any   `json:"identityProfile"`
	DisableLocalAccounts     bool             `json:"disableLocalAccounts"`
	SecurityProfile          map[string]any   `json:"securityProfile"`
	StorageProfile           map[string]any   `json:"storageProfile"`
	OIDCIssuerProfile        map[string]any   `json:"oidcIssuerProfile"`
	// Cairn is ours, beside Azure's.
	Cairn ClusterLink `json:"cairn"`
}

// PowerState is Running, or Stopped while the connector does not call.
type PowerState struct {
	Code string `json:"code"`
}

// AgentPool is a node pool: there is one, with all ready nodes.
type AgentPool struct {
	Name                string     `json:"name"`
	Count               int        `json:"count"`
	VMSize              string     `json:"vmSize"`
	OSType              string     `json:"osType"`
	Type                string     `json:"type"`
	Mode                string     `json:"mode"`
	ProvisioningState   string     `json:"provisioningState"`
	PowerState          PowerState `json:"powerState"`
	OrchestratorVersion string     `json:"orchestratorVersion"`
}

// ServicePrincipal says that the cluster has a managed identity: its client ID is the word msi. az fails without it.
type ServicePrincipal struct {
	ClientID string `json:"clientId"`
}

// ClusterLink is how the cluster is joined to the service.
type ClusterLink struct {
	// Connected is whether the connector has called lately.
	Connected        bool       `json:"connected"`
	LastSeen         *time.Time `json:"lastSeen"`
	ConnectorVersion string     `json:"connectorVersion,omitempty"`
	NodeCount        int        `json:"nodeCount"`
	// Extension is what the connector says of the extension: a link.ExtensionState.
	Extension json.RawMessage `json:"extension,omitempty"`
}

// seenFor is how long a cluster counts as connected after its connector's last call, which may be held for 30 seconds and
// be repeated after 10.
const seenFor = 2 * time.Minute

// seenEvery is how exactly it is remembered when the connector called last.
const seenEvery = 15 * time.Second

var clusterName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`)

// PutCluster makes a cluster, with its node resource group and identity, or changes its tags.
// Match checks the ETag, which is empty when there is no such cluster.
func (s *Service) PutCluster(ctx context.Context, id arm.ID, in Cluster, by Ref, match func(etag string) error) (out Cluster, operation string, err error) {
	if !clusterName.MatchString(id.Name()) {
		return out, "", arm.BadRequest("InvalidParameter", "The cluster name '%s' is not valid: use up to 63 letters, digits, dashes and underscores; the first and the last must be a letter or digit.", id.Name())
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		c, r, err := store.Load[Cluster](tx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			if err := match(""); err != nil {
				return err
			}
			r = store.Resource{ID: id}
			if c, err = s.newCluster(tx, id, in); err != nil {
				return err
			}
			if operation, err = ended(tx, id); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			if err := match(r.ETag); err != nil {
				return err
			}
			if in.Location != "" && Location(in.Location) != c.Location {
				return arm.Conflict("InvalidResourceLocation", "The cluster '%s' already exists in location '%s'; a location cannot be changed.", id.Name(), c.Location)
			}
		}
		if in.Tags != nil {
			c.Tags = in.Tags
		}
		c.SystemData = c.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		if err := tx.Save(&r, c); err != nil {
			return err
		}
		out, err = s.linked(tx, c, r)
		return err
	})
	return out, operation, err
}

func (s *Service) newCluster(tx *store.Tx, id arm.ID, in Cluster) (Cluster, error) {
	if err := checkLocation(in.Location); err != nil {
		return Cluster{}, err
	}
	location := Location(in.Location)
	identity, err := s.AddIdentity(tx, id)
	if err != nil {
		return Cluster{}, err
	}
	group := in.Properties.NodeResourceGroup
	if group == "" {
		group = fmt.Sprintf("MC_%s_%s_%s", id.ResourceGroup(), id.Name(), location)
		group = string([]rune(group)[:min(utf8.RuneCountInString(group), 80)]) // as Azure does
	}
	if err := checkGroupName(group); err != nil {
		return Cluster{}, err
	}
	if _, _, err := putGroup(tx, arm.ResourceGroup(id.Subscription(), group), ResourceGroup{Location: location, ManagedBy: string(id)}); err != nil {
		return Cluster{}, err
	}
	prefix := in.Properties.DNSPrefix
	if prefix == "" {
		prefix = strings.ToLower(id.Name())
	}
	return Cluster{
		ID: id, Location: location, Name: id.Name(), Type: "Microsoft.ContainerService/ManagedClusters", Kind: "Base",
		Identity: &arm.Identity{Type: "SystemAssigned", PrincipalID: identity.ID, TenantID: s.TenantID}, SKU: SKU{Name: "Base", Tier: "Free"},
		Properties: ClusterProperties{
			ProvisioningState: Succeeded, DNSPrefix: prefix, ServicePrincipal: ServicePrincipal{ClientID: "msi"}, NodeResourceGroup: group,
			EnableRBAC: true, SupportPlan: "KubernetesOfficial", MaxAgentPools: 1,
			NetworkProfile: map[string]any{}, IdentityProfile: map[string]any{}, SecurityProfile: map[string]any{},
			StorageProfile: map[string]any{}, OIDCIssuerProfile: map[string]any{"enabled": false},
		},
	}, nil
}

// linked fills in what the connector tells.
func (s *Service) linked(tx *store.Tx, c Cluster, r store.Resource) (Cluster, error) {
	l, err := tx.Link(r.ID)
	if err != nil {
		return c, err
	}
	power := PowerState{Code: "Stopped"}
	c.Properties.Cairn = ClusterLink{ConnectorVersion: l.Connector, NodeCount: l.Nodes, Extension: l.Extension}
	if !l.Seen.IsZero() {
		c.Properties.Cairn.LastSeen = &l.Seen
	}
	if s.connected(l) {
		power.Code, c.Properties.Cairn.Connected = "Running", true
	}
	version := strings.TrimPrefix(l.Kubernetes, "v")
	c.ETag = r.ETag
	c.Properties.PowerState = power
	c.Properties.KubernetesVersion, c.Properties.CurrentKubernetesVersion = version, version
	c.Properties.AgentPools = []AgentPool{{
		Name: "nodes", Count: l.Nodes, VMSize: "unknown", OSType: "Linux", Type: "VirtualMachineScaleSets", Mode: "System",
		ProvisioningState: Succeeded, PowerState: power, OrchestratorVersion: version,
	}}
	return c, nil
}

func (s *Service) connected(l store.Link) bool {
	ago := s.Now().Sub(l.Seen)
	return !l.Seen.IsZero() && ago < seenFor && ago > -seenFor // a call in the future was before the clock was set back
}

// Cluster finds a cluster.
func (s *Service) Cluster(ctx context.Context, id arm.ID) (out Cluster, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		c, r, err := Load[Cluster](tx, id)
		if err != nil {
			return err
		}
		out, err = s.linked(tx, c, r)
		return err
	})
	return out, err
}

// Clusters are all below a scope.
func (s *Service) Clusters(ctx context.Context, scope arm.ID) (out []Cluster, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		found, err := tx.Under(scope, TypeCluster)
		if err != nil {
			return err
		}
		for _, r := range found {
			var c Cluster
			if err := r.Decode(&c); err != nil {
				return err
			}
			if c, err = s.linked(tx, c, r); err != nil {
				return err
			}
			out = append(out, c)
		}
		return nil
	})
	return out, err
}

// DeleteCluster forgets a cluster, its extension and its node resource group; the cluster itself is not touched, but its
// connector is let in no more. deleted is false when there is none.
func (s *Service) DeleteCluster(ctx context.Context, id arm.ID, match func(etag string) error) (operation string, deleted bool, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		r, err := tx.Get(id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := match(r.ETag); err != nil {
			return err
		}
		deleted = true
		if operation, err = ended(tx, id); err != nil {
			return err
		}
		return s.remove(tx, id)
	})
	if err != nil || !deleted {
		return "", false, err
	}
	s.clearAccounts(ctx)
	return operation, true, nil
}

// Connect gives a cluster's connector a fresh secret. The old one stays good until the new one was used, or an hour has
// passed.
func (s *Service) Connect(ctx context.Context, id arm.ID) (link.Credential, error) {
	out := link.Credential{Endpoint: s.PublicURL, TenantID: s.TenantID, CABundle: s.CABundle}
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		c, _, err := Load[Cluster](tx, id)
		if err != nil {
			return err
		}
		p, err := addOwned(tx, c.ID, KindConnector, "connector of "+c.Name)
		if err != nil {
			return err
		}
		if err := tx.ExpireSecrets(p.ID, tx.Now().Add(connectorOverlap)); err != nil {
			return err
		}
		out.ClientID = p.Client
		out.ClientSecret, err = addSecret(tx, p.ID, time.Time{})
		return err
	})
	return out, err
}

// ClusterOf is the cluster that a connector speaks for, by its principal's owner.
func (s *Service) ClusterOf(tx *store.Tx, owner string) (Cluster, store.Resource, error) {
	return Load[Cluster](tx, arm.ID(owner))
}

// ClusterSeen notes that a connector has called.
func (s *Service) ClusterSeen(ctx context.Context, id arm.ID) error {
	var l store.Link
	if err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		l, err = tx.Link(id)
		return err
	}); err != nil {
		return err
	}
	if ago := s.Now().Sub(l.Seen); ago >= 0 && ago < seenEvery {
		return nil
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		l, err := tx.Link(id)
		if err != nil {
			return err
		}
		back := !s.connected(l)
		l.Seen = tx.Now()
		if err := tx.PutLink(id, l); err != nil || !back {
			return err
		}
		return tx.WakeCluster(id)
	})
}

// ClusterReported takes over a connector's report, except its requests: versions, nodes and the extension's state.
func (s *Service) ClusterReported(tx *store.Tx, id arm.ID, report link.Report) error {
	l := store.Link{Seen: tx.Now(), Connector: report.ConnectorVersion, Kubernetes: report.KubernetesVersion, Nodes: report.NodeCount}
	if report.Extension != nil {
		text, err := json.Marshal(report.Extension)
		if err != nil {
			return fmt.Errorf("report of %s: %w", id, err)
		}
		l.Extension = text
	}
	before, err := tx.Link(id)
	if err != nil {
		return err
	}
	if err := tx.PutLink(id, l); err != nil {
		return err
	}
	if !s.connected(before) || string(before.Extension) != string(l.Extension) {
		if err := tx.WakeCluster(id); err != nil {
			return err
		}
	}
	return s.ExtensionReported(tx, id, report.Extension)
}
