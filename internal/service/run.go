package service

import (
	"context"
	"sync"
	"time"

	"github.com/cairn-backup/cairn/internal/store"
)

// runEvery is how often the service looks at the latest for what is due by time alone, by a clock that is never set: so that the one that is gets noticed.
const runEvery = 15 * time.Second

// coalesce is how long changes are gathered before what they have made due is looked for.
const coalesce = 50 * time.Millisecond

// Run does what is due by time alone, and at first what was left when the service ended, until ctx ends; it returns nil then.
func (s *Service) Run(ctx context.Context) error {
	s.try(ctx, "dating recovery points", s.DateOldPoints)
	s.try(ctx, "scheduling", s.RescheduleAll)
	var loops sync.WaitGroup
	loops.Go(func() { s.startLoop(ctx) })
	loops.Go(func() { s.loop(ctx, "expiring recovery points", s.Prune) })
	loops.Go(func() { s.loop(ctx, "deleting recovery points", s.Delete) })
	loops.Go(func() { s.keepHouse(ctx) })
	loops.Wait()
	return nil
}

// try logs what fails: it is tried again.
func (s *Service) try(ctx context.Context, what string, f func(context.Context) error) {
	if err := f(ctx); err != nil && ctx.Err() == nil {
		s.Log.ErrorContext(ctx, what+" failed", "error", err)
	}
}

// startLoop starts scheduled backups when they are due. When the clock has gone back, all slots are counted anew.
func (s *Service) startLoop(ctx context.Context) {
	last := s.Now().Round(0) // without the reading of a clock that never goes back
	s.loop(ctx, "starting scheduled backups", func(ctx context.Context) (time.Time, error) {
		now := s.Now().Round(0)
		back := now.Before(last)
		if last = now; back {
			s.Log.WarnContext(ctx, "the clock went back: schedules are looked at anew")
			if err := s.RescheduleAll(ctx); err != nil {
				return time.Time{}, err
			}
		}
		return s.StartDue(ctx)
	})
}

// loop does what is due whenever something is: at the time that f gave, when the state has changed, and every runEvery.
func (s *Service) loop(ctx context.Context, what string, f func(context.Context) (next time.Time, err error)) {
	for ctx.Err() == nil {
		changed := s.DB.Changed()
		wait := runEvery
		s.try(ctx, what, func(ctx context.Context) error {
			next, err := f(ctx)
			if err == nil && !next.IsZero() {
				wait = max(0, min(wait, next.Sub(s.Now().Round(0))))
			}
			return err
		})
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-changed:
			select {
			case <-ctx.Done():
			case <-time.After(min(wait, coalesce)):
			}
		}
		timer.Stop()
	}
}

// lapse is more than lies between two looks of keepHouse, unless the machine slept or its clock was set.
const lapse = 8 * runEvery

// presence is from when on the service has been there to hear of anything. Time that its clock has jumped over does not count, nor does what is in
// the future when it was set back.
type presence struct{ since, looked time.Time }

// Since is it, at a look at the clock.
func (p *presence) Since(now time.Time) time.Time {
	now = now.Round(0)
	if passed := now.Sub(p.looked); passed < 0 || passed > lapse {
		p.since = now
	}
	p.looked = now
	return p.since
}

// keepHouse does what need not be done to the second.
func (s *Service) keepHouse(ctx context.Context) {
	var here presence
	here.Since(s.Now())
	tick := time.NewTicker(runEvery)
	defer tick.Stop()
	for {
		s.clearAccounts(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// While the database is away, nothing is heard of: that is time in which the service was not there.
		if err := s.DB.View(ctx, func(*store.Tx) error { return nil }); err != nil {
			s.Log.ErrorContext(ctx, "keeping house failed", "error", err)
			continue
		}
		since := here.Since(s.Now())
		s.try(ctx, "expiring installations", s.ExpireExtensions)
		s.try(ctx, "giving up requests", func(ctx context.Context) error { return s.GiveUp(ctx, since) })
		s.try(ctx, "purging deleted instances", s.PurgeDeleted)
		s.try(ctx, "removing expired exports", s.ExpireExports)
		s.try(ctx, "forgetting old jobs", s.PruneJobs)
		s.try(ctx, "forgetting old runs", s.ForgetRuns)
		s.try(ctx, "forgetting old requests", s.forgetRequests)
		s.try(ctx, "forgetting old audit events", s.PruneAudit)
	}
}

// forgetEvery is how often requests are forgotten.
const forgetEvery = time.Hour

// forgetRequests removes the requests that ended long ago, now and then.
func (s *Service) forgetRequests(ctx context.Context) error {
	if s.Now().Sub(s.forgot) < forgetEvery {
		return nil
	}
	s.forgot = s.Now()
	return s.DB.Update(ctx, (*store.Tx).ForgetRequests)
}
