package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/cairn-backup/cairn/internal/buildinfo"
	"github.com/cairn-backup/cairn/internal/client"
)

var accountCommands = []Command{
	{Path: "version", Help: "Show the version.", Run: version},
	{Path: "login", Help: "Log in as a service principal.", Run: login,
		Args: []Arg{
			{Names: "--service-principal", Kind: Flag, Required: true, Help: "The credential is a service principal's."},
			{Names: "--username -u", Required: true, Help: "The principal's client ID."},
			{Names: "--password -p", Help: "Its secret. Default: AZURE_CLIENT_SECRET. @FILE and @- (standard input) keep it out of the process list."},
			{Names: "--tenant -t", Help: "The tenant's ID. Default: AZURE_TENANT_ID."},
			{Names: "--allow-no-subscriptions", Kind: Flag, Help: "Do not fail when the principal sees no subscription."},
		},
		Examples: []string{"login --service-principal -u CLIENT_ID -p @secret.txt --tenant TENANT_ID"}},
	{Path: "logout", Help: "Forget the login.",
		Args: []Arg{{Names: "--username", Help: "The account to log out; there is only one."}},
		Run:  func(_ context.Context, in *Input) (any, error) { return nil, in.store.remove() }},
	{Path: "account show", Help: "Show the subscription in use.", Run: accountShow, Columns: accountColumns,
		Args: []Arg{{Names: "--name -n --subscription -s", Help: "Name or ID of the subscription."}}},
	{Path: "account list", Help: "List the subscriptions.", Run: accountList, Columns: accountColumns,
		Args: []Arg{
			{Names: "--all", Kind: Flag, Help: "Also those that are disabled."},
			{Names: "--refresh", Kind: Flag, Help: "Ask the service; always done."},
		}},
	{Path: "account set", Help: "Choose the default subscription.", Run: accountSet,
		Args: []Arg{{Names: "--name -n --subscription -s", Required: true, Help: "Name or ID of the subscription."}}},
	{Path: "account get-access-token", Help: "Get a token for the API.", Run: accessToken, Verbatim: true,
		Args: []Arg{{Names: "--resource", Help: "Whom the token is for. Default: the Resource Manager API."}}},
}

const accountColumns = "[].{Name:name, SubscriptionId:id, TenantId:tenantId, State:state, IsDefault:isDefault}"

func version(context.Context, *Input) (any, error) {
	return map[string]any{"cairn": buildinfo.Version}, nil
}

// login tries the credential before it keeps it.
func login(ctx context.Context, in *Input) (any, error) {
	p := effective(profile{}, in.program.Getenv)
	p.ClientID, p.Subscription = in.Text("username"), ""
	if in.Has("password") {
		p.ClientSecret = in.Text("password")
	}
	if in.Has("tenant") {
		p.TenantID = in.Text("tenant")
	}
	if p.Endpoint == "" {
		stored, err := in.store.load()
		if err != nil {
			return nil, err
		}
		p.Endpoint, p.Authority, p.CAFile = stored.Endpoint, stored.Authority, stored.CAFile
	}
	in.session.profile = p
	all, err := accountList(ctx, in)
	if err != nil {
		return nil, err
	}
	found := all.([]any)
	if len(found) == 0 && !in.Flag("allow-no-subscriptions") {
		return nil, fmt.Errorf("No subscriptions found for %s.", p.ClientID)
	}
	if err := in.store.save(p); err != nil {
		return nil, err
	}
	return found, nil
}

// user is the caller as az prints it, with the object ID that roles are assigned to.
func user(ctx context.Context, in *Input) (map[string]any, error) {
	me, err := in.get(ctx, "/v1.0/me", "")
	if err != nil {
		return nil, err
	}
	if name := text(me, "userPrincipalName"); name != "" {
		return map[string]any{"name": name, "type": "user", "objectId": text(me, "id")}, nil
	}
	return map[string]any{"name": text(me, "appId"), "type": "servicePrincipal", "objectId": text(me, "id")}, nil
}

// account is a subscription as az prints it.
func account(in *Input, sub any, defaultID string, user map[string]any) map[string]any {
	id := text(sub, "subscriptionId")
	tenant := text(sub, "tenantId")
	if tenant == "" {
		tenant = in.session.TenantID
	}
	return map[string]any{
		"environmentName":  in.session.cloudName(),
		"homeTenantId":     tenant,
		"id":               id,
		"isDefault":        strings.EqualFold(id, defaultID),
		"managedByTenants": []any{},
		"name":             text(sub, "displayName"),
		"state":            text(sub, "state"),
		"tenantId":         tenant,
		"user":             user,
	}
}

func accountList(ctx context.Context, in *Input) (any, error) {
	subs, err := in.session.subscriptions(ctx)
	if err != nil {
		return nil, err
	}
	out := []any{}
	if len(subs) == 0 {
		return out, nil
	}
	defaultID, err := in.session.subscriptionID(ctx, "")
	if err != nil {
		return nil, err
	}
	who, err := user(ctx, in)
	if err != nil {
		return nil, err
	}
	for _, s := range subs {
		if in.Flag("all") || text(s, "state") == "Enabled" {
			out = append(out, account(in, s, defaultID, who))
		}
	}
	return out, nil
}

func accountShow(ctx context.Context, in *Input) (any, error) {
	defaultID, err := in.session.subscriptionID(ctx, "")
	if err != nil {
		return nil, err
	}
	id := defaultID
	if in.Has("name") {
		if id, err = in.session.subscriptionID(ctx, in.Text("name")); err != nil {
			return nil, err
		}
	}
	sub, err := in.get(ctx, "/subscriptions/"+id, subscriptionsVersion)
	if err != nil {
		return nil, err
	}
	who, err := user(ctx, in)
	if err != nil {
		return nil, err
	}
	return account(in, sub, defaultID, who), nil
}

func accountSet(ctx context.Context, in *Input) (any, error) {
	id, err := in.session.subscriptionID(ctx, in.Text("name"))
	if err != nil {
		return nil, err
	}
	if _, err := in.get(ctx, "/subscriptions/"+id, subscriptionsVersion); err != nil {
		return nil, err
	}
	p, err := in.store.load()
	if err != nil {
		return nil, err
	}
	if p.Endpoint != in.session.Endpoint {
		p = profile{Endpoint: in.session.Endpoint, Authority: in.session.Authority, CAFile: in.session.CAFile}
	}
	p.Subscription = id
	return nil, in.store.save(p)
}

func accessToken(ctx context.Context, in *Input) (any, error) {
	if _, err := in.session.client(); err != nil {
		return nil, err
	}
	resource := client.Audience
	if in.Has("resource") {
		resource = strings.TrimRight(in.Text("resource"), "/")
	}
	token, err := in.session.credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{resource + "/.default"}})
	if err != nil {
		return nil, err
	}
	id, err := in.session.subscriptionID(ctx, in.Text("subscription"))
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"accessToken": token.Token, "expiresOn": token.ExpiresOn.Format("2006-01-02 15:04:05.000000"),
		"expires_on": token.ExpiresOn.Truncate(time.Second).Unix(), "subscription": id, "tenant": in.session.TenantID, "tokenType": "Bearer",
	}, nil
}
