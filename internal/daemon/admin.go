package daemon

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

// ownerRole is the built-in role Owner.
const ownerRole = "Owner"

// settings gives the tenant and the subscription, which the first start makes.
func settings(tx *store.Tx) (tenant, subscription string, err error) {
	random := func() (string, error) { return uuid.NewString(), nil }
	if tenant, err = tx.SettingOr("tenant", random); err != nil {
		return "", "", err
	}
	subscription, err = tx.SettingOr("subscription", random)
	return tenant, subscription, err
}

// admin makes the administrator at the first start. The file is written before the transaction is committed: the secret is
// kept nowhere else, and after a crash in between, the next start makes another administrator and file.
func (d *Daemon) admin(tx *store.Tx) error {
	_, err := tx.Setting("administrator")
	if !errors.Is(err, store.ErrNotFound) {
		return errors.Join(err, d.refreshAdminFile())
	}
	p, secret, err := d.Service.AddPrincipal(tx, "cairn administrator")
	if err != nil {
		return err
	}
	role, ok := auth.RoleByName(ownerRole)
	if !ok {
		return fmt.Errorf("there is no role %s", ownerRole)
	}
	id := arm.Subscription(d.Service.SubscriptionID).Extension(service.TypeRoleAssignment, uuid.NewString())
	grant := service.RoleAssignmentProperties{PrincipalID: p.ID, PrincipalType: service.KindServicePrincipal}
	if _, _, err := d.Service.Assign(tx, id, role, grant, service.Ref{ObjectID: p.ID, Type: "Application"}); err != nil {
		return err
	}
	if _, err := tx.SettingOr("administrator", func() (string, error) { return p.ID, nil }); err != nil {
		return err
	}
	return d.writeAdminFile(p.Client, secret)
}

// AdminFile is where the administrator's environment is written.
func (d *Daemon) AdminFile() string { return filepath.Join(d.config.Data, "admin.env") }

func (d *Daemon) writeAdminFile(client, secret string) error {
	return auth.WriteFile(d.AdminFile(), d.adminEnv(client, secret), 0o600)
}

func (d *Daemon) adminEnv(client, secret string) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "# Written by cairnd. Source it: az and cairn are then logged in to this service.")
	for _, v := range [][2]string{
		{"CAIRN_ENDPOINT", d.Service.PublicURL},
		{"AZURE_TENANT_ID", d.Service.TenantID},
		{"AZURE_CLIENT_ID", client},
		{"AZURE_CLIENT_SECRET", secret},
		{"AZURE_SUBSCRIPTION_ID", d.Service.SubscriptionID},
		{"AZURE_AUTHORITY_HOST", d.Service.PublicURL + "/"},
		{"SSL_CERT_FILE", d.CAFile},
	} {
		fmt.Fprintf(&b, "export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
	}
	return b.Bytes()
}

// refreshAdminFile keeps the file as this version writes it, with the addresses as they are now, unless it was taken away.
func (d *Daemon) refreshAdminFile() error {
	before, err := os.ReadFile(d.AdminFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	env := parseEnv(before)
	client, secret := env["AZURE_CLIENT_ID"], env["AZURE_CLIENT_SECRET"]
	if bytes.Equal(before, d.adminEnv(client, secret)) {
		return nil
	}
	return d.writeAdminFile(client, secret)
}

// ReadEnv reads a file as admin.env is: lines export NAME='value'.
func ReadEnv(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseEnv(text), nil
}

func parseEnv(text []byte) map[string]string {
	env := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		value = strings.TrimSuffix(strings.TrimPrefix(value, "'"), "'")
		env[strings.TrimPrefix(name, "export ")] = strings.ReplaceAll(value, `'\''`, "'")
	}
	return env
}
