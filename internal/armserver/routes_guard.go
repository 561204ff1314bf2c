package armserver

import (
	"context"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/service"
)

const (
	guards  = resourceGroup + dataProtectionProvider + "/resourceGuards"
	guard   = guards + "/{guard}"
	proxies = vault + "/backupResourceGuardProxies"
	proxy   = proxies + "/{proxy}"
)

// guardsOf answers for resource guards and vaults' links to them.
type guardsOf struct{ s *service.Service }

// guardRoutes are the rows of resource guards. Their permissions have the path in them, as Azure registered them.
func guardRoutes(s *service.Service) []Route {
	h := guardsOf{s}
	rows := []Route{
		{Method: "GET", Path: subscription + dataProtectionProvider + "/resourceGuards", Permission: NoPermission, Handle: h.guards},
		{Method: "GET", Path: guards, Permission: service.GuardAction + "read", Handle: h.guards},
		{Method: "PUT", Path: guard, Permission: service.GuardAction + "write", Handle: h.put},
		{Method: "GET", Path: guard, Permission: service.GuardAction + "read", Handle: h.guard},
		{Method: "PATCH", Path: guard, Permission: service.GuardAction + "write", Handle: h.patch},
		{Method: "DELETE", Path: guard, Permission: service.GuardAction + "delete", Handle: h.delete},

		{Method: "GET", Path: proxies, Handle: h.proxies},
		{Method: "PUT", Path: proxy, Handle: h.putProxy},
		{Method: "GET", Path: proxy, Handle: h.proxy},
		{Method: "DELETE", Path: proxy, Handle: h.deleteProxy},
		{Method: "POST", Path: proxy + "/unlockDelete", Handle: h.unlock},
	}
	for _, kind := range backup.GuardRequestKinds() {
		rows = append(rows,
			Route{Method: "GET", Path: guard + "/" + kind, Permission: service.GuardAction + kind + "/read", Handle: h.requests(kind)},
			Route{Method: "GET", Path: guard + "/" + kind + "/{request}", Permission: service.GuardAction + kind + "/read", Handle: h.request(kind)})
	}
	return rows
}

func (h guardsOf) guards(ctx context.Context, r *Request) (*Response, error) {
	all, err := h.s.Guards(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	found, err := readable(ctx, r, all, func(g backup.GuardResource) arm.ID { return g.ID })
	return Answer(200, arm.NewList(found)), err
}

func (h guardsOf) put(ctx context.Context, r *Request) (*Response, error) {
	in, err := backup.DecodeInput[backup.Guard](r.Body)
	if err != nil {
		return nil, err
	}
	g, err := h.s.PutGuard(ctx, r.By, r.ID, in, r.Match)
	return Answer(200, g).WithETag(g.ETag), err
}

func (h guardsOf) guard(ctx context.Context, r *Request) (*Response, error) {
	g, err := h.s.Guard(ctx, r.ID)
	return Answer(200, g).WithETag(g.ETag), err
}

func (h guardsOf) patch(ctx context.Context, r *Request) (*Response, error) {
	var in struct {
		Tags map[string]string `json:"tags"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	g, err := h.s.TagGuard(ctx, r.By, r.ID, in.Tags, r.Match)
	return Answer(200, g), err
}

func (h guardsOf) delete(ctx context.Context, r *Request) (*Response, error) {
	found, err := h.s.DeleteGuard(ctx, r.ID, r.Match)
	return Answer(gone(found), nil), err
}

func (h guardsOf) requests(kind string) Handler {
	return func(ctx context.Context, r *Request) (*Response, error) {
		found, err := h.s.GuardRequests(ctx, r.ID, kind)
		return Answer(200, arm.NewList(found)), err
	}
}

func (h guardsOf) request(kind string) Handler {
	return func(ctx context.Context, r *Request) (*Response, error) {
		found, err := h.s.GuardRequests(ctx, r.ID.Parent(), kind)
		if err != nil {
			return nil, err
		}
		for _, request := range found {
			if request.ID.Equal(r.ID) {
				return Answer(200, request), nil
			}
		}
		return nil, arm.NotFound(r.ID)
	}
}

func (h guardsOf) proxies(ctx context.Context, r *Request) (*Response, error) {
	found, err := h.s.Proxies(ctx, r.ID)
	return Answer(200, arm.NewList(found)), err
}

func (h guardsOf) putProxy(ctx context.Context, r *Request) (*Response, error) {
	in, err := backup.DecodeInput[backup.GuardProxy](r.Body)
	if err != nil {
		return nil, err
	}
	by, err := r.Guarded(ctx, nil)
	if err != nil {
		return nil, err
	}
	p, etag, err := h.s.PutProxy(ctx, by, r.ID, in, r.Match)
	return withETag(Answer(200, p), etag), err
}

func (h guardsOf) proxy(ctx context.Context, r *Request) (*Response, error) {
	p, etag, err := h.s.Proxy(ctx, r.ID)
	return withETag(Answer(200, p), etag), err
}

// deleteProxy answers with an empty object, as Azure does.
func (h guardsOf) deleteProxy(ctx context.Context, r *Request) (*Response, error) {
	by, err := r.Guarded(ctx, nil)
	if err != nil {
		return nil, err
	}
	found, err := h.s.DeleteProxy(ctx, by, r.ID, r.Match)
	if err != nil || !found {
		return Answer(204, nil), err
	}
	return Answer(200, struct{}{}), nil
}

func (h guardsOf) unlock(ctx context.Context, r *Request) (*Response, error) {
	var in backup.UnlockDeleteRequest
	if err := backup.Decode(r.Body, &in); err != nil {
		return nil, err
	}
	by, err := r.Guarded(ctx, in.GuardRequests)
	if err != nil {
		return nil, err
	}
	until, err := h.s.UnlockDelete(ctx, by, r.ID, &in)
	return Answer(200, map[string]any{"unlockDeleteExpiryTime": until}), err
}
