package service

import (
	"context"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/store"
)

// Subscription is Microsoft.Resources/subscriptions.
type Subscription struct {
	ID                  string            `json:"id"`
	AuthorizationSource string            `json:"authorizationSource"`
	ManagedByTenants    []any             `json:"managedByTenants"`
	Tags                map[string]string `json:"tags,omitempty"`
	SubscriptionID      string            `json:"subscriptionId"`
	TenantID            string            `json:"tenantId"`
	DisplayName         string            `json:"displayName"`
	State               string            `json:"state"`
	Policies            map[string]string `json:"subscriptionPolicies"`
}

// Tenant is a directory, of which there is one.
type Tenant struct {
	ID             string   `json:"id"`
	TenantID       string   `json:"tenantId"`
	CountryCode    string   `json:"countryCode"`
	DisplayName    string   `json:"displayName"`
	Domains        []string `json:"domains"`
	TenantCategory string   `json:"tenantCategory"`
	DefaultDomain  string   `json:"defaultDomain"`
	TenantType     string   `json:"tenantType"`
}

// Subscription is the only one.
func (s *Service) Subscription() Subscription {
	return Subscription{
		ID: "/subscriptions/" + s.SubscriptionID, AuthorizationSource: "RoleBased", ManagedByTenants: []any{},
		SubscriptionID: s.SubscriptionID, TenantID: s.TenantID, DisplayName: "Cairn", State: "Enabled",
		Policies: map[string]string{"locationPlacementId": "Public_2014-09-01", "quotaId": "PayAsYouGo_2014-09-01", "spendingLimit": "Off"},
	}
}

// Subscriptions are those in which a principal has any role.
func (s *Service) Subscriptions(ctx context.Context, principal string) ([]Subscription, error) {
	var visible []Subscription
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		grants, err := tx.Grants(principal)
		if err != nil {
			return err
		}
		for _, g := range grants {
			if g.Scope == "" || g.Scope.Within(arm.Subscription(s.SubscriptionID)) {
				visible = []Subscription{s.Subscription()}
			}
		}
		return nil
	})
	return visible, err
}

// Tenant is the only one.
func (s *Service) Tenant() Tenant {
	return Tenant{
		ID: "/tenants/" + s.TenantID, TenantID: s.TenantID, CountryCode: "", DisplayName: "Cairn",
		Domains: []string{"cairn.local"}, TenantCategory: "Home", DefaultDomain: "cairn.local", TenantType: "AAD",
	}
}
