package armserver

import (
	"context"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/service"
)

// resourceRoutes are Microsoft.Resources: subscriptions.
func resourceRoutes(s *service.Service) []Route {
	return []Route{
		{Method: "GET", Path: "/subscriptions", Permission: NoPermission, Handle: func(ctx context.Context, r *Request) (*Response, error) {
			subs, err := s.Subscriptions(ctx, r.Caller.ObjectID)
			return Answer(200, arm.NewList(subs)), err
		}},
	}
}
