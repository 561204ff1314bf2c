package service_test

import (
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/service"
)

// TestACallOfTheFutureIsNone sets the clock back by days: the cluster, which is away since, must not count as connected until then, and its first
// call counts at once.
func TestACallOfTheFutureIsNone(t *testing.T) {
	w := newWorld(t)
	w.clock.set(t, "2026-03-20T12:00:00Z")
	w.call()
	connected := func(text string, want bool) {
		t.Helper()
		w.clock.set(t, text)
		c, err := w.Cluster(t.Context(), clusterID)
		w.check(err)
		if c.Properties.Cairn.Connected != want {
			t.Errorf("at %s: connected %t, want %t", text, c.Properties.Cairn.Connected, want)
		}
	}
	connected("2026-03-20T12:01:59Z", true)
	connected("2026-03-20T12:02:00Z", false)
	connected("2026-03-20T11:59:00Z", true) // clocks of replicas differ
	connected("2026-03-10T12:00:00Z", false)
	w.check(w.ClusterSeen(t.Context(), clusterID))
	connected("2026-03-10T12:00:00Z", true)
}

// TestTimeThatTheServiceWasNotThereDoesNotCount is about patience with clusters, across a machine's sleep and a clock that is set.
func TestTimeThatTheServiceWasNotThereDoesNotCount(t *testing.T) {
	var here service.Presence
	for _, c := range []struct{ now, want string }{
		{"2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z"},
		{"2026-03-01T12:00:15Z", "2026-03-01T12:00:00Z"},
		{"2026-03-01T12:01:45Z", "2026-03-01T12:00:00Z"}, // busy for long
		{"2026-03-01T20:00:00Z", "2026-03-01T20:00:00Z"},
		{"2026-03-01T20:00:15Z", "2026-03-01T20:00:00Z"},
		{"2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z"},
		{"2026-03-01T12:00:15Z", "2026-03-01T12:00:00Z"},
	} {
		if got := here.Since(at(t, c.now)); !got.Equal(at(t, c.want)) {
			t.Errorf("at %s it is there since %s, want %s", c.now, got.Format(time.RFC3339), c.want)
		}
	}
}

// TestSlotsThatRanAreNotMissed sets the clock back over slots that ran, and forward again.
func TestSlotsThatRanAreNotMissed(t *testing.T) {
	w := newWorld(t)
	for _, day := range []string{"2026-03-02", "2026-03-03"} {
		w.clock.set(t, day+"T04:00:00Z")
		w.call()
		w.work()
		w.made()
	}
	w.clock.set(t, "2026-03-01T12:00:00Z")
	w.check(w.RescheduleAll(t.Context()))
	w.clock.set(t, "2026-03-06T05:00:00Z")
	w.call()
	w.work()
	w.wantRuns("03-02T04:00 Started", "03-03T04:00 Started", "03-06T04:00 Started missed=2")
}

// TestASlotThatRanIsNotWaitedWith sets the clock back to before a slot that ran, while the cluster is away.
func TestASlotThatRanIsNotWaitedWith(t *testing.T) {
	w := newWorld(t)
	w.clock.set(t, "2026-03-02T04:00:00Z")
	w.call()
	w.work()
	w.made()
	w.clock.set(t, "2026-03-02T03:00:00Z")
	w.check(w.RescheduleAll(t.Context()))
	w.tick("2026-03-02T04:10:00Z") // the cluster has not called for ten minutes
	s, err := w.Schedule(t.Context(), instanceID)
	w.check(err)
	if s.Properties.Waiting != nil || w.next() != "2026-03-03T04:00:00Z" {
		t.Errorf("waiting %+v, next %s", s.Properties.Waiting, w.next())
	}
	w.wantRuns("03-02T04:00 Started")
}
