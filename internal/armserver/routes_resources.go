package armserver

import (
	"context"
	"net/url"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/service"
)

// resources answers for Microsoft.Resources, Microsoft.Features and Microsoft.ResourceGraph.
type resources struct{ s *service.Service }

func resourceRoutes(s *service.Service) []Route {
	h := resources{s}
	return []Route{
		{Method: "GET", Path: "/subscriptions", Permission: NoPermission, Handle: h.subscriptions},
		{Method: "GET", Path: "/tenants", Permission: NoPermission, Handle: h.tenants},
		{Method: "GET", Path: subscription, Permission: NoPermission, Handle: h.subscription},

		{Method: "GET", Path: subscription + "/resourceGroups", Permission: NoPermission, Handle: h.groups},
		{Method: "PUT", Path: resourceGroup, AnyGroup: true, Handle: h.putGroup},
		{Method: "GET", Path: resourceGroup, Handle: h.group},
		{Method: "PATCH", Path: resourceGroup, Handle: h.patchGroup},
		{Method: "DELETE", Path: resourceGroup, Handle: h.deleteGroup},
		{Method: "GET", Path: resourceGroup + "/resources", Handle: h.list},
		{Method: "GET", Path: subscription + "/resources", Permission: NoPermission, Handle: h.list},
		{Method: "GET", Path: subscription + "/operationresults/{operation}", Permission: NoPermission, Handle: h.operation},

		{Method: "GET", Path: subscription + "/providers/Microsoft.Features/features", Handle: h.features},
		{Method: "GET", Path: subscription + "/providers/Microsoft.Features/providers/{namespace}/features", Permission: "Microsoft.Features/features/read", Handle: h.features},
		{Method: "GET", Path: subscription + "/providers/Microsoft.Features/providers/{namespace}/features/{feature}", Permission: "Microsoft.Features/features/read", Handle: h.feature},
		{Method: "POST", Path: subscription + "/providers/Microsoft.Features/providers/{namespace}/features/{feature}/register", Permission: "Microsoft.Features/features/register/action", Handle: h.feature},

		{Method: "GET", Path: subscription + "/providers", Permission: "Microsoft.Resources/subscriptions/providers/read", Handle: h.providers},
		{Method: "GET", Path: subscription + "/providers/{namespace}", Permission: "Microsoft.Resources/subscriptions/providers/read", Handle: h.provider},
		{Method: "POST", Path: subscription + "/providers/{namespace}/register", Permission: "Microsoft.Resources/subscriptions/providers/register/action", Handle: h.provider},
	}
}

func (h resources) subscriptions(ctx context.Context, r *Request) (*Response, error) {
	subs, err := h.s.Subscriptions(ctx, r.Caller.ObjectID)
	return Answer(200, arm.NewList(subs)), err
}

// subscription shows the subscription to whoever has a role anywhere in it.
func (h resources) subscription(ctx context.Context, r *Request) (*Response, error) {
	visible, err := h.s.Subscriptions(ctx, r.Caller.ObjectID)
	if err != nil {
		return nil, err
	}
	if len(visible) == 0 {
		return nil, arm.Forbidden(r.Caller.ObjectID, readAction(r.ID), r.ID)
	}
	return Answer(200, visible[0]), nil
}

func (h resources) tenants(context.Context, *Request) (*Response, error) {
	return Answer(200, arm.NewList([]service.Tenant{h.s.Tenant()})), nil
}

func (h resources) groups(ctx context.Context, r *Request) (*Response, error) {
	f, err := r.equalities()
	if err != nil {
		return nil, err
	}
	all, err := h.s.ResourceGroups(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	groups, err := readable(ctx, r, all, func(g service.ResourceGroup) arm.ID { return g.ID })
	if err != nil {
		return nil, err
	}
	tag, byTag := f.Equal("tagName")
	value, byValue := f.Equal("tagValue")
	var out []service.ResourceGroup
	for _, g := range groups {
		have, tagged := g.Tags[tag]
		if byTag && !tagged || byValue && have != value {
			continue
		}
		out = append(out, g)
	}
	return Answer(200, arm.NewList(out)), nil
}

func (h resources) putGroup(ctx context.Context, r *Request) (*Response, error) {
	var in service.ResourceGroup
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	g, created, err := h.s.PutResourceGroup(ctx, r.ID, in)
	return Answer(put(created), g), err
}

// put is the status of a PUT.
func put(created bool) int {
	if created {
		return 201
	}
	return 200
}

func (h resources) group(ctx context.Context, r *Request) (*Response, error) {
	g, err := h.s.ResourceGroup(ctx, r.ID)
	if r.HTTP.Method == "HEAD" && err == nil {
		return Answer(204, nil), nil
	}
	return Answer(200, g), err
}

func (h resources) patchGroup(ctx context.Context, r *Request) (*Response, error) {
	var in service.ResourceGroup
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	g, err := h.s.TagResourceGroup(ctx, r.ID, in.Tags)
	return Answer(200, g), err
}

func (h resources) deleteGroup(ctx context.Context, r *Request) (*Response, error) {
	operation, err := h.s.DeleteResourceGroup(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return Answer(202, nil).WithAsync(r.Async("", string(r.ID.SubscriptionID())+"/operationresults/"+operation)), nil
}

// operation answers when a group's deletion is over, which it is when it can be asked for.
func (h resources) operation(ctx context.Context, r *Request) (*Response, error) {
	_, err := h.s.Async(ctx, r.Param("operation"))
	return Answer(200, nil), err
}

func (h resources) list(ctx context.Context, r *Request) (*Response, error) {
	f, err := r.equalities()
	if err != nil {
		return nil, err
	}
	typ, _ := f.Equal("resourceType")
	all, err := h.s.Resources(ctx, r.ID, typ)
	if err != nil {
		return nil, err
	}
	found, err := readable(ctx, r, all, func(g service.GenericResource) arm.ID { return g.ID })
	if err != nil {
		return nil, err
	}
	var out []service.GenericResource
	for _, g := range found {
		if name, given := f.Equal("name"); given && name != g.Name {
			continue
		}
		out = append(out, g)
	}
	return Answer(200, arm.NewList(out)), nil
}

func (h resources) features(context.Context, *Request) (*Response, error) {
	return Answer(200, arm.NewList(h.s.Features())), nil
}

func (h resources) feature(_ context.Context, r *Request) (*Response, error) {
	return Answer(200, h.s.Feature(r.Param("namespace"), r.Param("feature"))), nil
}

func (h resources) providers(context.Context, *Request) (*Response, error) {
	return Answer(200, arm.NewList(h.s.Providers())), nil
}

func (h resources) provider(_ context.Context, r *Request) (*Response, error) {
	p, err := h.s.Provider(r.Param("namespace"))
	return Answer(200, p), err
}

// location is the path of an operation that lies under a subscription's location.
func location(id arm.ID, provider, location, collection, operation string) string {
	return string(id.SubscriptionID()) + "/providers/" + provider + "/locations/" + url.PathEscape(location) + "/" + collection + "/" + operation
}
