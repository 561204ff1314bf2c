package cli

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/client"
)

const principalColumns = "[].{Name:displayName, AppId:appId, ObjectId:id, Type:servicePrincipalType}"

var (
	principalArg = Arg{Names: "--id", Required: true, Help: "Its application's ID, or its object ID."}
	yearsArg     = Arg{Names: "--years", Help: "How many years the secret is good. Default: 1."}
	endArg       = Arg{Names: "--end-date", Help: "When the secret ends, instead of --years: 2027-12-31 or a time."}
)

var adCommands = []Command{
	{Path: "ad signed-in-user show", Help: "Show who calls: the object ID is what roles are assigned to.", Verbatim: true,
		Run: func(ctx context.Context, in *Input) (any, error) { return in.get(ctx, "/v1.0/me", "") }},
	{Path: "ad sp create-for-rbac", Help: "Make a service principal with a secret, and give it a role.", Run: principalCreate, Verbatim: true,
		Args: []Arg{
			{Names: "--display-name --name -n", Help: "Its name. Default: one with the time."},
			{Names: "--role", Help: "The role's name or ID. Default: none."},
			{Names: "--scopes", Kind: Texts, Help: "Where the role holds: IDs of subscriptions, resource groups or resources."},
			yearsArg},
		Examples: []string{"ad sp create-for-rbac -n backup-operators --role 'Backup Operator' --scopes /subscriptions/ID/resourceGroups/rg"}},
	{Path: "ad sp list", Help: "List service principals.", Run: principalList, Columns: principalColumns, Verbatim: true,
		Args: []Arg{{Names: "--all", Kind: Flag, Help: "All; always done."}, {Names: "--display-name", Help: "Only those of the name."}}},
	{Path: "ad sp show", Help: "Show a service principal.", Run: principalShow, Columns: principalColumns, Verbatim: true, Args: []Arg{principalArg}},
	{Path: "ad sp delete", Help: "Delete a service principal: its secrets, tokens and roles are worth nothing from then on.", Run: principalDelete, Args: []Arg{principalArg}},
	{Path: "ad sp credential list", Help: "List when a service principal's secrets end.", Run: credentialList, Verbatim: true, Args: []Arg{principalArg}},
	{Path: "ad sp credential reset", Help: "Give a service principal a new secret; the others are worth nothing then.", Run: credentialReset, Verbatim: true,
		Args: []Arg{principalArg, {Names: "--append", Kind: Flag, Help: "Keep the other secrets."}, yearsArg, endArg}},
	{Path: "ad sp credential delete", Help: "Delete a secret.", Run: credentialDelete,
		Args: []Arg{principalArg, {Names: "--key-id", Required: true, Help: "The secret's key ID, as in the list."}}},
}

const showOnce = "The output includes a secret that is shown only now. Keep it safe."

// principalOf is the service principal that --id names.
func (in *Input) principalOf(ctx context.Context) (any, error) {
	found, err := in.list(ctx, "/v1.0/servicePrincipals", "", url.Values{"$filter": {"servicePrincipalNames/any(c:c eq '" + strings.ReplaceAll(in.Text("id"), "'", "''") + "')"}})
	if err != nil {
		return nil, err
	}
	for _, p := range found {
		if strings.EqualFold(text(p, "id"), in.Text("id")) || strings.EqualFold(text(p, "appId"), in.Text("id")) {
			return p, nil
		}
	}
	return nil, errors.New("Resource '" + in.Text("id") + "' does not exist.")
}

func (in *Input) graph(ctx context.Context, what, method, path string, body any) (any, error) {
	return in.call(ctx, what, client.Request{Method: method, Path: path, Body: body, NoWait: true})
}

// addPassword makes a secret that ends as the options say.
func (in *Input) addPassword(ctx context.Context, principal any) (any, error) {
	years, err := strconv.Atoi(in.textOr("years", "1"))
	if err != nil || years < 1 || years > 100 {
		return nil, usagef("argument --years: '%s' is not a number of years", in.Text("years"))
	}
	end, err := in.timeOr("end-date", time.Now().AddDate(years, 0, 0))
	if err != nil {
		return nil, err
	}
	made, err := in.graph(ctx, "Making a secret", http.MethodPost, "/v1.0/servicePrincipals/"+text(principal, "id")+"/addPassword",
		map[string]any{"passwordCredential": map[string]any{"endDateTime": end.UTC().Format(time.RFC3339)}})
	if err != nil {
		return nil, err
	}
	in.warn("%s", showOnce)
	return map[string]any{"appId": text(principal, "appId"), "displayName": text(principal, "displayName"), "password": text(made, "secretText"), "tenant": in.tenant(ctx)}, nil
}

// tenant is the tenant's ID; it is not known to whoever calls with a token of another issuer, and not needed there.
func (in *Input) tenant(ctx context.Context) string {
	if in.session.TenantID != "" {
		return in.session.TenantID
	}
	tenants, err := in.list(ctx, "/tenants", subscriptionsVersion, nil)
	if err != nil || len(tenants) == 0 {
		return ""
	}
	return text(tenants[0], "tenantId")
}

func principalCreate(ctx context.Context, in *Input) (any, error) {
	if in.Has("role") != in.Has("scopes") {
		return nil, usagef("usage error: --role and --scopes belong together")
	}
	roles := map[string]string{}
	for _, scope := range in.Texts("scopes") {
		id, err := in.roleID(ctx, "/"+strings.Trim(scope, "/"), in.Text("role"))
		if err != nil {
			return nil, err
		}
		roles["/"+strings.Trim(scope, "/")] = id
	}
	name := in.textOr("display-name", "cairn-"+time.Now().UTC().Format("2006-01-02-15-04-05"))
	application, err := in.graph(ctx, "Making "+name, http.MethodPost, "/v1.0/applications", map[string]any{"displayName": name})
	if err != nil {
		return nil, err
	}
	principal, err := in.graph(ctx, "Making "+name, http.MethodPost, "/v1.0/servicePrincipals", map[string]any{"appId": text(application, "appId")})
	if err != nil {
		return nil, err
	}
	for scope, role := range roles {
		if _, err := in.assign(ctx, scope, role, text(principal, "id"), "ServicePrincipal"); err != nil {
			return nil, err
		}
	}
	return in.addPassword(ctx, principal)
}

func principalList(ctx context.Context, in *Input) (any, error) {
	var query url.Values
	if in.Has("display-name") {
		query = url.Values{"$filter": {"displayName eq '" + strings.ReplaceAll(in.Text("display-name"), "'", "''") + "'"}}
	}
	found, err := in.list(ctx, "/v1.0/servicePrincipals", "", query)
	if err != nil {
		return nil, err
	}
	return found, nil
}

func principalShow(ctx context.Context, in *Input) (any, error) { return in.principalOf(ctx) }

func principalDelete(ctx context.Context, in *Input) (any, error) {
	p, err := in.principalOf(ctx)
	if err != nil {
		return nil, err
	}
	return in.graph(ctx, "Deleting "+text(p, "displayName"), http.MethodDelete, "/v1.0/servicePrincipals/"+text(p, "id"), nil)
}

// passwords are a principal's secrets, as far as they are told.
func (in *Input) passwords(ctx context.Context, principal any) ([]any, error) {
	application, err := in.get(ctx, "/v1.0/applications/"+text(principal, "appId"), "")
	if err != nil {
		return nil, err
	}
	all, ok := at(application, "passwordCredentials").([]any)
	if !ok {
		return nil, errors.New("the service answered no list of credentials")
	}
	return all, nil
}

func credentialList(ctx context.Context, in *Input) (any, error) {
	p, err := in.principalOf(ctx)
	if err != nil {
		return nil, err
	}
	all, err := in.passwords(ctx, p)
	if err != nil {
		return nil, err
	}
	return all, nil
}

// credentialReset makes the new secret before it removes the others, so that a failure in between locks nobody out.
func credentialReset(ctx context.Context, in *Input) (any, error) {
	p, err := in.principalOf(ctx)
	if err != nil {
		return nil, err
	}
	old, err := in.passwords(ctx, p)
	if err != nil {
		return nil, err
	}
	made, err := in.addPassword(ctx, p)
	if err != nil || in.Flag("append") {
		return made, err
	}
	for _, c := range old {
		if err := in.removePassword(ctx, p, text(c, "keyId")); err != nil {
			return made, err
		}
	}
	return made, nil
}

func (in *Input) removePassword(ctx context.Context, principal any, key string) error {
	_, err := in.graph(ctx, "Deleting a secret", http.MethodPost, "/v1.0/servicePrincipals/"+text(principal, "id")+"/removePassword", map[string]any{"keyId": key})
	return err
}

func credentialDelete(ctx context.Context, in *Input) (any, error) {
	p, err := in.principalOf(ctx)
	if err != nil {
		return nil, err
	}
	return nil, in.removePassword(ctx, p, in.Text("key-id"))
}
