package store

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Principal is somebody who can call.
type Principal struct {
	// ID is the object ID: what roles are assigned to.
	ID string
	// Client is the application's ID: what a token is asked for with.
	Client string
	// Kind is one of service's kinds of principals.
	Kind string
	// Name is for people.
	Name string
	// Owner is the key of the resource that it belongs to, or empty.
	Owner   string
	Created time.Time
}

const principalColumns = `SELECT id, client, kind, name, owner, created FROM principals `

// PutPrincipal adds a principal or renames it.
func (tx *Tx) PutPrincipal(p Principal) error {
	_, err := tx.exec(`INSERT INTO principals (id, client, kind, name, owner, created) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name`, p.ID, p.Client, p.Kind, p.Name, p.Owner, micros(tx.now))
	if err != nil {
		return fmt.Errorf("principal %s: %w", p.ID, err)
	}
	return nil
}

// PrincipalByID finds by object ID: ErrNotFound.
func (tx *Tx) PrincipalByID(id string) (Principal, error) {
	return tx.principal(`WHERE id = lower($1)`, id)
}

// PrincipalByClient finds by application ID: ErrNotFound.
func (tx *Tx) PrincipalByClient(client string) (Principal, error) {
	return tx.principal(`WHERE client = lower($1)`, client)
}

// PrincipalOf finds the principal of a kind that belongs to a resource: ErrNotFound.
func (tx *Tx) PrincipalOf(owner arm.ID, kind string) (Principal, error) {
	return tx.principal(`WHERE owner = $1 AND kind = $2 ORDER BY created`, owner.Key(), kind)
}

func (tx *Tx) principal(where string, args ...any) (Principal, error) {
	found, err := tx.principals(where+" LIMIT 1", args...)
	if err != nil {
		return Principal{}, err
	}
	if len(found) == 0 {
		return Principal{}, fmt.Errorf("principal %v: %w", args[0], ErrNotFound)
	}
	return found[0], nil
}

// Principals are all, in order of name.
func (tx *Tx) Principals() ([]Principal, error) { return tx.principals(`ORDER BY name, id`) }

func (tx *Tx) principals(where string, args ...any) ([]Principal, error) {
	var found []Principal
	err := tx.query(func(rows *sql.Rows) error {
		var p Principal
		var created int64
		if err := rows.Scan(&p.ID, &p.Client, &p.Kind, &p.Name, &p.Owner, &created); err != nil {
			return err
		}
		p.Created = timeOf(created)
		found = append(found, p)
		return nil
	}, principalColumns+where, args...)
	if err != nil {
		return nil, fmt.Errorf("principals: %w", err)
	}
	return found, nil
}

// DeletePrincipalsOf removes the principals that belong to a resource or to anything below it, with their secrets and
// their grants' index. The documents of the role assignments stay, as they do in Azure.
func (tx *Tx) DeletePrincipalsOf(owner arm.ID) error {
	const those = `SELECT id FROM principals WHERE owner = $1 OR (owner >= $2 AND owner < $3)`
	args := []any{owner.Key(), owner.Key() + "/", owner.Key() + "0"}
	for _, statement := range []string{
		`DELETE FROM grants WHERE principal IN (` + those + `)`,
		`DELETE FROM secrets WHERE principal IN (` + those + `)`,
		`DELETE FROM principals WHERE id IN (` + those + `)`,
	} {
		if _, err := tx.exec(statement, args...); err != nil {
			return fmt.Errorf("principals of %s: %w", owner, err)
		}
	}
	return nil
}

// PutSecret adds a secret's hash to a principal's. Expires may be zero.
func (tx *Tx) PutSecret(principal, hash string, expires time.Time) error {
	_, err := tx.exec(`INSERT INTO secrets (hash, principal, created, expires) VALUES ($1, $2, $3, $4)`,
		hash, principal, micros(tx.now), micros(expires))
	if err != nil {
		return fmt.Errorf("secret of %s: %w", principal, err)
	}
	return nil
}

// Secret is a principal's, as far as it is kept: its hash.
type Secret struct {
	Hash             string
	Created, Expires time.Time
}

// Secrets are a principal's, oldest first, those that have expired too.
func (tx *Tx) Secrets(principal string) ([]Secret, error) {
	var found []Secret
	err := tx.query(func(rows *sql.Rows) error {
		var s Secret
		var created, expires int64
		if err := rows.Scan(&s.Hash, &created, &expires); err != nil {
			return err
		}
		s.Created, s.Expires = timeOf(created), timeOf(expires)
		found = append(found, s)
		return nil
	}, `SELECT hash, created, expires FROM secrets WHERE principal = $1 ORDER BY created, hash`, principal)
	if err != nil {
		return nil, fmt.Errorf("secrets of %s: %w", principal, err)
	}
	return found, nil
}

// DeleteSecret removes a secret.
func (tx *Tx) DeleteSecret(hash string) error {
	if _, err := tx.exec(`DELETE FROM secrets WHERE hash = $1`, hash); err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	return nil
}

// DeletePrincipal removes a principal with its secrets and its grants' index. The documents of its role assignments stay, as they do in Azure.
func (tx *Tx) DeletePrincipal(id string) error {
	for _, statement := range []string{
		`DELETE FROM grants WHERE principal = $1`, `DELETE FROM secrets WHERE principal = $1`, `DELETE FROM principals WHERE id = $1`,
	} {
		if _, err := tx.exec(statement, id); err != nil {
			return fmt.Errorf("principal %s: %w", id, err)
		}
	}
	return nil
}

// ExpireSecrets lets all secrets of a principal end at a time, unless they end before.
func (tx *Tx) ExpireSecrets(principal string, at time.Time) error {
	_, err := tx.exec(`UPDATE secrets SET expires = $1 WHERE principal = $2 AND (expires = 0 OR expires > $1)`, micros(at), principal)
	if err != nil {
		return fmt.Errorf("secrets of %s: %w", principal, err)
	}
	return nil
}

// SecretValid says whether the hash is one of the principal's secrets now, and whether others of its secrets are still
// good.
func (tx *Tx) SecretValid(principal, hash string) (valid, others bool, err error) {
	err = tx.query(func(rows *sql.Rows) error {
		var h string
		if err := rows.Scan(&h); err != nil {
			return err
		}
		valid = valid || h == hash
		others = others || h != hash
		return nil
	}, `SELECT hash FROM secrets WHERE principal = $1 AND (expires = 0 OR expires > $2)`, principal, micros(tx.now))
	if err != nil {
		return false, false, fmt.Errorf("secrets of %s: %w", principal, err)
	}
	return valid, others, nil
}

// DeleteOlderSecrets removes the principal's secrets that were made before the one with the hash.
func (tx *Tx) DeleteOlderSecrets(principal, hash string) error {
	_, err := tx.exec(`DELETE FROM secrets WHERE principal = $1 AND hash <> $2
		AND created <= (SELECT created FROM secrets WHERE hash = $2)`, principal, hash)
	if err != nil {
		return fmt.Errorf("secrets of %s: %w", principal, err)
	}
	return nil
}

// Grant is a role assignment, as far as deciding needs it.
type Grant struct {
	// Assignment is the role assignment's ID.
	Assignment arm.ID
	// Principal is the object ID.
	Principal string
	// Role is the role definition's GUID, in lower case.
	Role string
	// Scope is where it holds, and below.
	Scope arm.ID
}

// PutGrant stores a grant; one of the same assignment is replaced.
func (tx *Tx) PutGrant(g Grant) error {
	_, err := tx.exec(`INSERT INTO grants (key, principal, role, scope) VALUES ($1, $2, $3, $4)
		ON CONFLICT (key) DO UPDATE SET principal = excluded.principal, role = excluded.role, scope = excluded.scope`,
		g.Assignment.Key(), g.Principal, g.Role, string(g.Scope))
	if err != nil {
		return fmt.Errorf("grant %s: %w", g.Assignment, err)
	}
	return nil
}

// DeleteGrant removes the grant of an assignment, if there is one.
func (tx *Tx) DeleteGrant(assignment arm.ID) error {
	if _, err := tx.exec(`DELETE FROM grants WHERE key = $1`, assignment.Key()); err != nil {
		return fmt.Errorf("grant %s: %w", assignment, err)
	}
	return nil
}

// Grants are a principal's, in order of assignment.
func (tx *Tx) Grants(principal string) ([]Grant, error) {
	var found []Grant
	err := tx.query(func(rows *sql.Rows) error {
		var g Grant
		if err := rows.Scan(&g.Assignment, &g.Principal, &g.Role, &g.Scope); err != nil {
			return err
		}
		found = append(found, g)
		return nil
	}, `SELECT key, principal, role, scope FROM grants WHERE principal = lower($1) ORDER BY key`, principal)
	if err != nil {
		return nil, fmt.Errorf("grants of %s: %w", principal, err)
	}
	return found, nil
}

// Setting is the value of a name, or ErrNotFound.
func (tx *Tx) Setting(name string) (string, error) {
	var value string
	if err := tx.row(`SELECT value FROM settings WHERE name = $1`, []any{name}, &value); err != nil {
		return "", fmt.Errorf("setting %s: %w", name, err)
	}
	return value, nil
}

// SettingOr is the value of a name; when it has none, it gets the value that make returns.
func (tx *Tx) SettingOr(name string, make func() (string, error)) (string, error) {
	value, err := tx.Setting(name)
	if !errors.Is(err, ErrNotFound) {
		return value, err
	}
	if value, err = make(); err != nil {
		return "", fmt.Errorf("setting %s: %w", name, err)
	}
	if _, err := tx.exec(`INSERT INTO settings (name, value) VALUES ($1, $2)`, name, value); err != nil {
		return "", fmt.Errorf("setting %s: %w", name, err)
	}
	return value, nil
}
