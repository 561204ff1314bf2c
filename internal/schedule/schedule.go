// Package schedule computes when the backups of a policy's rule are due: its slots. It is pure: no I/O, no clock; who has the time
// (internal/service) asks it. It knows nothing of instances, runs or what a slot that was missed leads to.
//
// A rule has repeating intervals (R/<start>/<duration>) and a time zone. A slot is an instant; the slots of a rule are those of all its
// intervals, and two intervals that meet in one instant make one slot. Slots follow the wall clock of the zone: the start, seen in the
// zone, fixes the wall times, so that a daily backup at 04:00 stays at 04:00 in summer and in winter, and one of every six hours keeps
// its four times of the day. A wall time that does not exist, because clocks were put forward, is the instant just after the gap; one
// that occurs twice is its first occurrence. The start is the first slot, and none is before it.
package schedule

import (
	"fmt"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/iso8601"
)

// Schedule is when a rule's backups are due. It is not changed after New, and may be used by several goroutines.
type Schedule struct {
	zone   *time.Location
	series []series
}

// series are the slots of one interval: wall times at equal distances.
type series struct {
	start  time.Time // the first slot; whole seconds
	anchor int64     // the wall time of start, see wallOf
	period int64     // seconds of wall time between two slots
}

// periods are the durations that the service accepts, and the wall time between two slots in seconds. All divide the day or are a week.
var periods = map[iso8601.Duration]int64{
	{Time: 4 * time.Hour}:  4 * 3600,
	{Time: 6 * time.Hour}:  6 * 3600,
	{Time: 8 * time.Hour}:  8 * 3600,
	{Time: 12 * time.Hour}: 12 * 3600,
	{Time: 24 * time.Hour}: 24 * 3600,
	{Days: 1}:              24 * 3600,
	{Days: 7}:              7 * 24 * 3600,
	{Weeks: 1}:             7 * 24 * 3600,
}

// Durations are what may lie between two backups, as a user writes it.
func Durations() []string {
	return []string{"PT4H", "PT6H", "PT8H", "PT12H", "PT24H", "P1D", "P7D", "P1W"}
}

// New reads a rule's time zone (see Zone) and its intervals (see ParseInterval), of which there is at least one.
func New(timeZone string, intervals []string) (*Schedule, error) {
	zone, err := Zone(timeZone)
	if err != nil {
		return nil, err
	}
	if len(intervals) == 0 {
		return nil, fmt.Errorf("no interval is given; one is written as R/2026-02-16T04:00:00+00:00/P1D")
	}
	s := &Schedule{zone: zone}
	for i, text := range intervals {
		interval, err := ParseInterval(text)
		if err != nil {
			return nil, fmt.Errorf("interval %d: %w", i, err)
		}
		start := interval.Start.Truncate(time.Second).UTC()
		s.series = append(s.series, series{start: start, anchor: wallOf(start.In(zone)), period: periods[interval.Every]})
	}
	return s, nil
}

// ParseInterval reads R[n]/<start>/<duration>, where the duration is one of Durations. The number is read and means nothing, as in Azure;
// fractions of a second of the start do not either.
func ParseInterval(text string) (iso8601.Repeating, error) {
	interval, err := iso8601.ParseRepeating(text)
	if err != nil {
		return interval, err
	}
	if _, ok := periods[interval.Every]; !ok {
		return interval, fmt.Errorf("interval %q: a backup cannot run every %s, but only every %s", text, interval.Every, strings.Join(Durations(), ", "))
	}
	return interval, nil
}

// Location is the rule's time zone.
func (s *Schedule) Location() *time.Location { return s.zone }

// Next is the first slot after that moment, in UTC. It takes the same time wherever the start is.
func (s *Schedule) Next(after time.Time) time.Time {
	var next time.Time
	for _, r := range s.series {
		if slot := r.next(after, s.zone); next.IsZero() || slot.Before(next) {
			next = slot
		}
	}
	return next
}

// Last is the latest slot at that moment or before it, in UTC; false when there was none yet.
func (s *Schedule) Last(at time.Time) (time.Time, bool) {
	var last time.Time
	found := false
	for _, r := range s.series {
		if slot, ok := r.last(at, s.zone); ok && (!found || slot.After(last)) {
			last, found = slot, true
		}
	}
	return last, found
}

// Count is the number of slots after from, up to to and with it. It steps over each of them.
func (s *Schedule) Count(from, to time.Time) int {
	n := 0
	for slot := s.Next(from); !slot.After(to); slot = s.Next(slot) {
		n++
	}
	return n
}

func (r series) next(after time.Time, zone *time.Location) time.Time {
	if after.Before(r.start) {
		return r.start
	}
	// Slots of wall times up to after's are not later than after. Those of the next ones may be earlier too, where clocks went back.
	for k := r.index(after, zone) + 1; ; k++ {
		if slot := r.slot(k, zone); slot.After(after) {
			return slot
		}
	}
}

func (r series) last(at time.Time, zone *time.Location) (time.Time, bool) {
	if at.Before(r.start) {
		return time.Time{}, false
	}
	for k := r.index(at, zone); ; k++ {
		if r.slot(k+1, zone).After(at) {
			return r.slot(k, zone), true
		}
	}
}

// index is the number of the latest slot whose wall time is not after that of t, and at least 0.
func (r series) index(t time.Time, zone *time.Location) int64 {
	return max(0, (wallOf(t.In(zone))-r.anchor)/r.period)
}

// slot is the instant of the slot with that number. It never goes back with the number.
func (r series) slot(k int64, zone *time.Location) time.Time {
	if slot := reach(r.anchor+k*r.period, zone); slot.After(r.start) {
		return slot
	}
	return r.start // of a start in the second pass of an hour, the first pass is before it
}

// wallOf is what the wall clock shows at t in t's zone, as seconds on an even scale without zones: that of Unix time.
func wallOf(t time.Time) int64 {
	_, offset := t.Zone()
	return t.Unix() + int64(offset)
}

// widest is more than any zone's offset ever was from UTC.
const widest = 16 * 3600

// reach is the first instant at which the zone's wall clock shows the wall time or a later one.
func reach(wall int64, zone *time.Location) time.Time {
	for t := time.Unix(wall-widest, 0).In(zone); ; {
		_, offset := t.Zone()
		start, end := bounds(t)
		reached := wall - int64(offset)
		if !start.IsZero() {
			reached = max(reached, start.Unix())
		}
		if end.IsZero() || reached < end.Unix() {
			return time.Unix(reached, 0).UTC()
		}
		t = end
	}
}

// bounds are those of the time in which t's offset holds, or of a part of it that holds t. Go's own end of it is a day too early at the end of a
// leap year, in zones with summer time.
func bounds(t time.Time) (start, end time.Time) {
	start, end = t.ZoneBounds()
	for !end.IsZero() && !end.After(t) {
		end = end.Add(24 * time.Hour)
	}
	return start, end
}
