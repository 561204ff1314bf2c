package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/store"
)

// secretLife is how long a secret is good when nothing is asked for: as long as Graph's.
const secretLife = 2 * 365 * 24 * time.Hour

// Application is a service principal's application as Graph shows it. There is one principal for each application, and neither without the other.
type Application struct {
	ODataType   string    `json:"@odata.type"`
	ID          string    `json:"id"`
	AppID       string    `json:"appId"`
	DisplayName string    `json:"displayName"`
	Created     time.Time `json:"createdDateTime"`
	// Passwords tell when each secret ends, never the secret.
	Passwords []PasswordCredential `json:"passwordCredentials"`
}

// PasswordCredential is a secret as Graph shows it; SecretText is told once, when it is made.
type PasswordCredential struct {
	KeyID string    `json:"keyId"`
	Start time.Time `json:"startDateTime"`
	// End is missing for a secret that is good for ever.
	End        *time.Time `json:"endDateTime,omitempty"`
	SecretText string     `json:"secretText,omitempty"`
}

// applicationID is the object ID of an application, which is another one than its principal's.
func applicationID(client string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("application "+client)).String()
}

// keyID names a secret.
func keyID(hash string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("secret "+hash)).String()
}

func application(tx *store.Tx, p store.Principal) (Application, error) {
	a := Application{ODataType: "#microsoft.graph.application", ID: applicationID(p.Client), AppID: p.Client, DisplayName: p.Name, Created: p.Created, Passwords: []PasswordCredential{}}
	secrets, err := tx.Secrets(p.ID)
	for _, s := range secrets {
		a.Passwords = append(a.Passwords, credential(s))
	}
	return a, err
}

func credential(s store.Secret) PasswordCredential {
	c := PasswordCredential{KeyID: keyID(s.Hash), Start: s.Created}
	if !s.Expires.IsZero() {
		c.End = &s.Expires
	}
	return c
}

// Applications are those that match.
func (s *Service) Applications(ctx context.Context, match func(Application) bool) (out []Application, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Principals()
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.Kind != KindServicePrincipal {
				continue
			}
			a, err := application(tx, p)
			if err != nil {
				return err
			}
			if match(a) {
				out = append(out, a)
			}
		}
		return nil
	})
	return out, err
}

// AddApplication makes an application and its service principal, without a secret and without any role.
func (s *Service) AddApplication(ctx context.Context, name string) (out Application, err error) {
	if strings.TrimSpace(name) == "" || len(name) > 256 {
		return out, arm.BadRequest("Request_BadRequest", "An application needs a displayName of 1 to 256 characters.").WithTarget("displayName").WithAction("Give it one.")
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		p := store.Principal{ID: newID(), Client: newID(), Kind: KindServicePrincipal, Name: name}
		if err := tx.PutPrincipal(p); err != nil {
			return err
		}
		p.Created = tx.Now()
		out, err = application(tx, p)
		return err
	})
	return out, err
}

// servicePrincipal finds one by its object ID, its application's or the application's own ID. Identities and connectors are their resources' and are not found.
func servicePrincipal(tx *store.Tx, id string) (store.Principal, error) {
	all, err := tx.Principals()
	if err != nil {
		return store.Principal{}, err
	}
	for _, p := range all {
		if p.Kind == KindServicePrincipal && (strings.EqualFold(id, p.ID) || strings.EqualFold(id, p.Client) || strings.EqualFold(id, applicationID(p.Client))) {
			return p, nil
		}
	}
	return store.Principal{}, (&arm.Error{Status: 404, Code: "Request_ResourceNotFound", Message: fmt.Sprintf(
		"Resource '%s' does not exist or one of its queried reference-property objects are not present.", id)}).WithAction("List what there is: cairn ad sp list.")
}

// DeleteApplication removes an application with its principal: its secrets, its tokens and its roles are worth nothing from then on.
func (s *Service) DeleteApplication(ctx context.Context, id string) error {
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		p, err := servicePrincipal(tx, id)
		if err != nil {
			return err
		}
		return tx.DeletePrincipal(p.ID)
	})
}

// AddPassword makes a secret that is good until end, or for two years.
func (s *Service) AddPassword(ctx context.Context, id string, end *time.Time) (out PasswordCredential, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		p, err := servicePrincipal(tx, id)
		if err != nil {
			return err
		}
		until := tx.Now().Add(secretLife)
		if end != nil {
			until = *end
		}
		if !until.After(tx.Now()) {
			return arm.BadRequest("Request_BadRequest", "The secret would end at %s, which is over.", until.UTC().Format(time.RFC3339)).WithTarget("passwordCredential.endDateTime").
				WithAction("Give a time to come.")
		}
		text, err := addSecret(tx, p.ID, until)
		out = credential(store.Secret{Hash: hashed(text), Created: tx.Now(), Expires: until})
		out.SecretText = text
		return err
	})
	return out, err
}

// RemovePassword makes a secret worth nothing; tokens that were got with it are good until they end.
func (s *Service) RemovePassword(ctx context.Context, id, key string) error {
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		p, err := servicePrincipal(tx, id)
		if err != nil {
			return err
		}
		secrets, err := tx.Secrets(p.ID)
		for _, secret := range secrets {
			if strings.EqualFold(keyID(secret.Hash), key) {
				return tx.DeleteSecret(secret.Hash)
			}
		}
		return errors.Join(err, arm.BadRequest("Request_BadRequest", "No password credential found with keyId '%s'.", key).WithTarget("keyId").
			WithAction("List them: cairn ad sp credential list --id "+p.Client+"."))
	})
}
