package service

import (
	"context"
	"time"
)

// runEvery is how often the service looks for what is due by time alone.
const runEvery = 15 * time.Second

// Run does what is due by time alone, and at first what was left when the service ended, until ctx ends; it returns nil then.
func (s *Service) Run(ctx context.Context) error {
	since := s.Now()
	tick := time.NewTicker(runEvery)
	defer tick.Stop()
	for {
		s.clearAccounts(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.ExpireExtensions(ctx); err != nil && ctx.Err() == nil {
			s.Log.ErrorContext(ctx, "expiring installations failed", "error", err)
		}
		if err := s.GiveUp(ctx, since); err != nil && ctx.Err() == nil {
			s.Log.ErrorContext(ctx, "giving up requests failed", "error", err)
		}
		if err := s.PurgeDeleted(ctx); err != nil && ctx.Err() == nil {
			s.Log.ErrorContext(ctx, "purging deleted instances failed", "error", err)
		}
		if err := s.PruneJobs(ctx); err != nil && ctx.Err() == nil {
			s.Log.ErrorContext(ctx, "forgetting old jobs failed", "error", err)
		}
	}
}
