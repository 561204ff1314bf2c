package service

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/store"
)

// StorageAccount is Microsoft.Storage/storageAccounts. Properties are kept as they came, over the defaults, with what only
// the service says added.
type StorageAccount struct {
	SKU        SKU                        `json:"sku"`
	Kind       string                     `json:"kind"`
	ID         arm.ID                     `json:"id"`
	Name       string                     `json:"name"`
	Type       string                     `json:"type"`
	Location   string                     `json:"location"`
	Tags       map[string]string          `json:"tags"`
	Identity   *arm.Identity              `json:"identity,omitempty"`
	Properties map[string]json.RawMessage `json:"properties"`
}

// SKU is what a resource costs.
type SKU struct {
	Name string `json:"name"`
	Tier string `json:"tier,omitempty"`
}

// storedAccount is an account with its keys, which only ListKeys tells.
type storedAccount struct {
	StorageAccount
	Keys []AccountKey `json:"cairnKeys"`
	// Own signs what the service hands out itself: rotating the account's keys, or turning them off, does not concern it.
	Own string `json:"cairnOwnKey"`
}

// AccountKey is a key of an account.
type AccountKey struct {
	Created     time.Time `json:"creationTime"`
	Name        string    `json:"keyName"`
	Value       string    `json:"value"`
	Permissions string    `json:"permissions"`
}

var accountName = regexp.MustCompile(`^[a-z0-9]{3,24}$`)

func checkAccountName(name string) error {
	if accountName.MatchString(name) {
		return nil
	}
	return arm.BadRequest("AccountNameInvalid", "%s is not a valid storage account name. Storage account name must be between 3 and 24 characters in length and use numbers and lower-case letters only.", name)
}

// PutStorageAccount makes an account, or changes one. A new one gives an operation to poll.
func (s *Service) PutStorageAccount(ctx context.Context, id arm.ID, in StorageAccount) (out StorageAccount, operation string, err error) {
	if err := checkAccountName(id.Name()); err != nil {
		return out, "", err
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		stored, r, err := store.Load[storedAccount](tx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			if stored, err = s.newAccount(tx, id, in); err != nil {
				return err
			}
			if operation, err = ended(tx, id); err != nil {
				return err
			}
			r = store.Resource{ID: id}
		case err != nil:
			return err
		default:
			if in.Location != "" && Location(in.Location) != stored.Location {
				return arm.Conflict("InvalidResourceLocation", "The resource '%s' already exists in location '%s' in resource group '%s'. A resource with the same name cannot be created in location '%s'.", id.Name(), stored.Location, id.ResourceGroup(), in.Location)
			}
			if err := change(&stored.StorageAccount, in); err != nil {
				return err
			}
		}
		out = stored.StorageAccount
		return tx.Save(&r, stored)
	})
	return out, operation, err
}

func (s *Service) newAccount(tx *store.Tx, id arm.ID, in StorageAccount) (storedAccount, error) {
	if err := checkLocation(in.Location); err != nil {
		return storedAccount{}, err
	}
	if in.SKU.Name == "" {
		return storedAccount{}, arm.BadRequest("InvalidValuesForRequestParameters", "Values for request parameters are invalid: sku.").WithTarget("sku.name")
	}
	if taken, err := accountNamed(tx, id.Name()); err != nil {
		return storedAccount{}, err
	} else if taken != nil {
		return storedAccount{}, arm.Conflict("StorageAccountAlreadyTaken", "The storage account named %s is already taken.", id.Name())
	}
	if _, err := tx.ExportIn(id.Name()); err == nil {
		return storedAccount{}, arm.Conflict("StorageAccountAlreadyTaken", "The storage account named %s is already taken.", id.Name())
	} else if !errors.Is(err, store.ErrNotFound) {
		return storedAccount{}, err
	}
	if doomed, err := tx.DoomedAccounts(); err != nil {
		return storedAccount{}, err
	} else if slices.Contains(doomed, id.Name()) {
		return storedAccount{}, arm.Conflict("StorageAccountOperationInProgress", "What the deleted storage account named %s held is still being removed. Try again in a minute; if this stays so, the service's log says why.", id.Name())
	}
	a := storedAccount{Own: newKey(), Keys: []AccountKey{
		{Created: tx.Now().UTC(), Name: "key1", Value: newKey(), Permissions: "FULL"},
		{Created: tx.Now().UTC(), Name: "key2", Value: newKey(), Permissions: "FULL"},
	}}
	a.StorageAccount = StorageAccount{
		Kind: "StorageV2", ID: id, Name: id.Name(), Type: TypeStorageAccount, Location: Location(in.Location), Tags: map[string]string{},
		Properties: s.accountDefaults(tx.Now().UTC(), id.Name(), Location(in.Location)),
	}
	return a, change(&a.StorageAccount, in)
}

// newKey is a key as Azure's are: 512 random bits.
func newKey() string {
	raw := make([]byte, 64)
	// Reading random bytes does not fail: the runtime ends the process instead.
	_, _ = rand.Read(raw)
	return base64.StdEncoding.EncodeToString(raw)
}

// readOnly are the properties that only the service says.
var readOnly = []string{"provisioningState", "primaryEndpoints", "creationTime", "keyCreationTime", "primaryLocation", "statusOfPrimary", "privateEndpointConnections"}

func (s *Service) accountDefaults(now time.Time, name, location string) map[string]json.RawMessage {
	type object = map[string]any
	service := object{"keyType": "Account", "enabled": true, "lastEnabledTime": now}
	text, err := json.Marshal(object{
		"accessTier": "Hot", "allowBlobPublicAccess": false, "allowCrossTenantReplication": false, "minimumTlsVersion": "TLS1_2",
		"supportsHttpsTrafficOnly":   true,
		"networkAcls":                object{"bypass": "AzureServices", "virtualNetworkRules": []any{}, "ipRules": []any{}, "defaultAction": "Allow"},
		"encryption":                 object{"services": object{"file": service, "blob": service}, "keySource": "Microsoft.Storage"},
		"privateEndpointConnections": []any{}, "creationTime": now, "keyCreationTime": object{"key1": now, "key2": now},
		"provisioningState": Succeeded, "primaryLocation": location, "statusOfPrimary": "available",
		"primaryEndpoints": object{"blob": s.BlobURL + "/" + name + "/"},
	})
	out := map[string]json.RawMessage{}
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		panic(fmt.Sprintf("the defaults of a storage account are not JSON: %v", err))
	}
	return out
}

// change lays what a caller asks for over an account.
func change(a *StorageAccount, in StorageAccount) error {
	if err := checkAccountProperties(in.Properties); err != nil {
		return err
	}
	if in.SKU.Name != "" {
		a.SKU = SKU{Name: in.SKU.Name, Tier: strings.SplitN(in.SKU.Name, "_", 2)[0]}
	}
	if in.Kind != "" {
		a.Kind = in.Kind
	}
	if in.Tags != nil {
		a.Tags = in.Tags
	}
	for name, value := range in.Properties {
		if slices.ContainsFunc(readOnly, func(r string) bool { return strings.EqualFold(r, name) }) || bytes.Equal(value, []byte("null")) {
			continue
		}
		// What Azure says of encryption is more than what is asked; it is on for everything here.
		if name != "encryption" {
			a.Properties[name] = value
		}
	}
	return nil
}

// checkAccountProperties is the error for a value that clients could not read back: they fail on a whole list for it. What the service does not
// know by name is kept as it is, as long as it is JSON that everybody reads.
func checkAccountProperties(properties map[string]json.RawMessage) error {
	body, err := json.Marshal(properties)
	if err != nil {
		return fmt.Errorf("encode an account's properties: %w", err)
	}
	var known struct {
		AccessTier, DNSEndpointType, MinimumTLSVersion, PublicNetworkAccess, AllowedCopyScope, LargeFileSharesState                              *string
		AllowBlobPublicAccess, AllowCrossTenantReplication, AllowSharedKeyAccess, DefaultToOAuthAuthentication, IsHnsEnabled                     *bool
		IsLocalUserEnabled, IsNfsV3Enabled, IsSftpEnabled, SupportsHTTPSTrafficOnly, EnableExtendedGroups                                        *bool
		NetworkAcls                                                                                                                              *struct{ Bypass, DefaultAction *string }
		Encryption, RoutingPreference, SasPolicy, KeyPolicy, CustomDomain, ImmutableStorageWithVersioning, AzureFilesIdentityBasedAuthentication map[string]any
	}
	var all any
	for _, into := range []any{&known, &all} {
		err := arm.Decode(body, into)
		if wrong := (*arm.Error)(nil); errors.As(err, &wrong) {
			return wrong.WithTarget(strings.TrimSuffix("properties."+wrong.Target, ".body"))
		} else if err != nil {
			return err
		}
	}
	return nil
}

// accountNamed finds an account by its name, which is unique everywhere; nil without one.
func accountNamed(tx *store.Tx, name string) (*storedAccount, error) {
	accounts, err := Documents[storedAccount](tx.ByType(TypeStorageAccount))
	for i := range accounts {
		if strings.EqualFold(accounts[i].Name, name) {
			return &accounts[i], err
		}
	}
	return nil, err
}

// CheckAccountName says whether an account's name can be taken.
func (s *Service) CheckAccountName(ctx context.Context, name string) (out NameAvailability, err error) {
	var e *arm.Error
	if errors.As(checkAccountName(name), &e) {
		return NameAvailability{Reason: e.Code, Message: e.Message}, nil
	}
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		taken, err := accountNamed(tx, name)
		if err != nil {
			return err
		}
		doomed, err := tx.DoomedAccounts()
		out = NameAvailability{NameAvailable: taken == nil && !slices.Contains(doomed, name)}
		if !out.NameAvailable {
			out.Reason, out.Message = "AlreadyExists", fmt.Sprintf("The storage account named %s is already taken.", name)
		}
		return err
	})
	return out, err
}

// StorageAccount finds an account.
func (s *Service) StorageAccount(ctx context.Context, id arm.ID) (StorageAccount, error) {
	a, err := s.account(ctx, id)
	return a.StorageAccount, err
}

func (s *Service) account(ctx context.Context, id arm.ID) (out storedAccount, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		out, _, err = Load[storedAccount](tx, id)
		return err
	})
	return out, err
}

// StorageAccounts are all below a scope.
func (s *Service) StorageAccounts(ctx context.Context, scope arm.ID) (out []StorageAccount, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		out, err = Documents[StorageAccount](tx.Under(scope, TypeStorageAccount))
		return err
	})
	return out, err
}

// UpdateStorageAccount is PATCH.
func (s *Service) UpdateStorageAccount(ctx context.Context, id arm.ID, in StorageAccount) (StorageAccount, error) {
	a, err := Change(ctx, s.DB, id, func(_ *store.Tx, a *storedAccount, _ store.Resource) error {
		return change(&a.StorageAccount, in)
	})
	return a.StorageAccount, err
}

// DeleteStorageAccount removes an account and its blobs; deleted is false when there is none.
func (s *Service) DeleteStorageAccount(ctx context.Context, id arm.ID) (deleted bool, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		if deleted, err = tx.Exists(id); err != nil || !deleted {
			return err
		}
		return s.remove(tx, id)
	})
	if err != nil || !deleted {
		return false, err
	}
	s.clearAccounts(ctx)
	return true, nil
}

// clearAccounts removes what deleted accounts hold, whether or not the client that deleted them still waits. The accounts are deleted already: a failure is
// logged, and what is left after it, or after a crash, is tried again by Run.
func (s *Service) clearAccounts(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	// By one replica at a time: who is late would remove the blobs of an account that was made anew.
	if err := s.Blobs.Exclusive(func() error { return s.clearDoomed(ctx) }); err != nil {
		s.Log.ErrorContext(ctx, "removing blobs of deleted accounts failed", "error", err)
	}
}

func (s *Service) clearDoomed(ctx context.Context) error {
	var names []string
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		names, err = tx.DoomedAccounts()
		return err
	})
	for _, name := range names {
		failed := s.Blobs.DeleteAccount(name)
		if failed != nil {
			failed = fmt.Errorf("blobs of storage account %s: %w", name, failed)
		} else {
			failed = s.DB.Update(ctx, func(tx *store.Tx) error { return tx.ForgetAccount(name) })
		}
		err = errors.Join(err, failed)
	}
	return err
}

// AccountKeys are an account's keys, whether or not they may be used.
func (s *Service) AccountKeys(ctx context.Context, id arm.ID) ([]AccountKey, error) {
	a, err := s.account(ctx, id)
	return a.Keys, err
}

// RegenerateKey replaces a key: what the old one signed is good no more.
func (s *Service) RegenerateKey(ctx context.Context, id arm.ID, name string) ([]AccountKey, error) {
	a, err := Change(ctx, s.DB, id, func(tx *store.Tx, a *storedAccount, _ store.Resource) error {
		for i := range a.Keys {
			if strings.EqualFold(a.Keys[i].Name, name) {
				a.Keys[i].Value, a.Keys[i].Created = newKey(), tx.Now().UTC()
				return nil
			}
		}
		return arm.BadRequest("InvalidValuesForRequestParameters", "There is no key '%s': use key1 or key2.", name).WithTarget("keyName")
	})
	return a.Keys, err
}

// Container is Microsoft.Storage/storageAccounts/blobServices/containers.
type Container struct {
	ID         arm.ID              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Properties ContainerProperties `json:"properties"`
}

// ContainerProperties are always the same: there is no public access, and no lease.
type ContainerProperties struct {
	Deleted                     bool              `json:"deleted"`
	RemainingRetentionDays      int               `json:"remainingRetentionDays"`
	DefaultEncryptionScope      string            `json:"defaultEncryptionScope"`
	DenyEncryptionScopeOverride bool              `json:"denyEncryptionScopeOverride"`
	PublicAccess                string            `json:"publicAccess"`
	LeaseStatus                 string            `json:"leaseStatus"`
	LeaseState                  string            `json:"leaseState"`
	Metadata                    map[string]string `json:"metadata,omitempty"`
	HasImmutabilityPolicy       bool              `json:"hasImmutabilityPolicy"`
	HasLegalHold                bool              `json:"hasLegalHold"`
}

// containerOf is what is told of a container; the blob endpoint's folder is what says that it exists.
func containerOf(account arm.ID, name string) Container {
	return Container{
		ID: account + arm.ID("/blobServices/default/containers/"+name), Name: name, Type: "Microsoft.Storage/storageAccounts/blobServices/containers",
		Properties: ContainerProperties{DefaultEncryptionScope: "$account-encryption-key", PublicAccess: "None", LeaseStatus: "Unlocked", LeaseState: "Available"},
	}
}

var containerName = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9])+$`)

// PutContainer makes a container unless it is there.
func (s *Service) PutContainer(ctx context.Context, account arm.ID, name string) (Container, bool, error) {
	if !containerName.MatchString(name) || len(name) < 3 || len(name) > 63 {
		return Container{}, false, arm.BadRequest("ContainerInvalidName", "The container name '%s' is not valid: use 3 to 63 lower-case letters, digits and single dashes between them.", name)
	}
	a, err := s.StorageAccount(ctx, account)
	if err != nil {
		return Container{}, false, err
	}
	created, err := s.Blobs.CreateContainer(a.Name, name)
	return containerOf(a.ID, name), created, err
}

// Containers are those of an account.
func (s *Service) Containers(ctx context.Context, account arm.ID) ([]Container, error) {
	a, err := s.StorageAccount(ctx, account)
	if err != nil {
		return nil, err
	}
	names, err := s.Blobs.Containers(a.Name)
	out := make([]Container, len(names))
	for i, name := range names {
		out[i] = containerOf(a.ID, name)
	}
	return out, err
}

// Container finds a container.
func (s *Service) Container(ctx context.Context, account arm.ID, name string) (Container, error) {
	all, err := s.Containers(ctx, account)
	if err != nil {
		return Container{}, err
	}
	for _, c := range all {
		if c.Name == name {
			return c, nil
		}
	}
	return Container{}, &arm.Error{Status: 404, Code: "ContainerNotFound", Message: fmt.Sprintf("The specified container '%s' does not exist in storage account '%s'.", name, account.Name())}
}

// DeleteContainer removes a container and its blobs; deleted is false when there is none.
func (s *Service) DeleteContainer(ctx context.Context, account arm.ID, name string) (deleted bool, err error) {
	var e *arm.Error
	if _, err := s.Container(ctx, account, name); errors.As(err, &e) && e.Code == "ContainerNotFound" {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, s.Blobs.DeleteContainer(account.Name(), name)
}

// ErrNoAccount is an account that does not exist.
var ErrNoAccount = errors.New("no such storage account")

// BlobKeys are the keys that sign requests to an account's blobs: ErrNoAccount.
func (s *Service) BlobKeys(ctx context.Context, name string) (keys []string, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		a, err := accountNamed(tx, name)
		if err != nil {
			return err
		}
		if a == nil {
			export, err := tx.ExportIn(name)
			if errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("%w: %s", ErrNoAccount, name)
			}
			keys = []string{export.Key}
			return err
		}
		keys = []string{a.Own}
		if string(a.Properties["allowSharedKeyAccess"]) != "false" {
			for _, k := range a.Keys {
				keys = append(keys, k.Value)
			}
		}
		return nil
	})
	return keys, err
}

// ErrNotAllowed is a principal without a role that gives what it wants.
var ErrNotAllowed = errors.New("no role allows this")

// AuthorizeBlob decides on a bearer token at the blob endpoint: one of the actions, of the control or of the data plane, is
// enough. Errors: auth.ErrToken, ErrNotAllowed.
func (s *Service) AuthorizeBlob(ctx context.Context, token string, audiences []string, account, container string, actions []string) error {
	caller, err := s.Verify(ctx, token, slices.Concat(audiences, []string{s.BlobURL + "/" + account})...)
	if err != nil {
		return err
	}
	return s.DB.View(ctx, func(tx *store.Tx) error {
		a, err := accountNamed(tx, account)
		if err != nil {
			return err
		}
		if a == nil {
			return fmt.Errorf("%w: %s", ErrNoAccount, account)
		}
		scope := a.ID
		if container != "" {
			scope = containerOf(a.ID, container).ID
		}
		grants, err := grantsOf(tx, caller.ObjectID)
		if err != nil {
			return err
		}
		for _, action := range actions {
			// An Owner's control-plane wildcard is not a right to read blobs, as in Azure: these need data actions.
			data := strings.Contains(strings.ToLower(action), "/containers/blobs/")
			if auth.Allowed(grants, action, scope, data) {
				return nil
			}
		}
		return fmt.Errorf("%w: %s needs one of %s", ErrNotAllowed, caller.ObjectID, strings.Join(actions, ", "))
	})
}

// sortedKeys are a map's, in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
