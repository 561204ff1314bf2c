package armserver

import (
	"slices"

	"github.com/cairn-backup/cairn/internal/service"
)

// table is every provider's rows. What is more special stands before what is more general within a provider.
func table(s *service.Service) []Route {
	return slices.Concat(
		resourceRoutes(s),
		neighbourRoutes(s),
		authorizationRoutes(s),
		insightsRoutes(s),
		dataProtectionRoutes(s),
	)
}
