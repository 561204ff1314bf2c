// Package retention decides how long a recovery point lives: which tag a scheduled backup gets, when a recovery point expires, and at
// any later moment whether it is kept or goes, and why. It is pure: no I/O, no clock; internal/service asks it, and does what it says.
package retention

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/iso8601"
)

// Criterion says which scheduled backups a tag is for, in Azure's words.
type Criterion string

// A calendar period's first backup is the first one that succeeded among those whose slots lie in the period, in the rule's time zone.
// Weeks begin on Sunday.
const (
	AllBackup    Criterion = "AllBackup"
	FirstOfDay   Criterion = "FirstOfDay"
	FirstOfWeek  Criterion = "FirstOfWeek"
	FirstOfMonth Criterion = "FirstOfMonth"
	FirstOfYear  Criterion = "FirstOfYear"
)

// Criteria are all that there are.
func Criteria() []Criterion {
	return []Criterion{AllBackup, FirstOfDay, FirstOfWeek, FirstOfMonth, FirstOfYear}
}

// Tagging gives a tag to the scheduled backups for which one of the criteria holds.
type Tagging struct {
	Tag      string
	Priority int64
	Criteria []Criterion
}

// Tag is the tag of a scheduled backup: that of the lowest priority number among those that match it, or else the default one. Slot is
// the backup's, and last that of the last scheduled backup of the instance that succeeded (zero: none did), whether or not its
// recovery point still exists. The zone is the rule's.
func Tag(taggings []Tagging, defaultTag string, slot, last time.Time, zone *time.Location) string {
	tag, lowest := defaultTag, int64(0)
	found := false
	for _, t := range taggings {
		if found && t.Priority >= lowest {
			continue
		}
		if slices.ContainsFunc(t.Criteria, func(c Criterion) bool { return c.holds(slot, last, zone) }) {
			tag, lowest, found = t.Tag, t.Priority, true
		}
	}
	return tag
}

func (c Criterion) holds(slot, last time.Time, zone *time.Location) bool {
	if c == AllBackup {
		return true
	}
	begin, ok := c.begin(slot.In(zone))
	if !ok {
		return false
	}
	if last.IsZero() {
		return true
	}
	before, _ := c.begin(last.In(zone))
	return before.Before(begin)
}

// begin is the first day of the period that t is in, as a date in UTC: only to compare it with others.
func (c Criterion) begin(t time.Time) (time.Time, bool) {
	year, month, day := t.Date()
	switch c {
	case FirstOfDay:
	case FirstOfWeek:
		day -= int(t.Weekday() - time.Sunday)
	case FirstOfMonth:
		day = 1
	case FirstOfYear:
		month, day = time.January, 1
	default:
		return time.Time{}, false
	}
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC), true
}

// Expiry is when a recovery point of that time expires, in UTC. It is fixed when the recovery point is made: a policy that is changed
// later concerns later ones. Months and years are those of the calendar.
func Expiry(made time.Time, deleteAfter iso8601.Duration) time.Time {
	return deleteAfter.AddTo(made.UTC())
}

// Code says why a recovery point is kept or goes. Codes are stable.
type Code string

const (
	Newest            Code = "Newest"
	RestoreRunning    Code = "RestoreRunning"
	ProtectionStopped Code = "ProtectionStopped"
	SoftDeleted       Code = "SoftDeleted"
	NotExpired        Code = "NotExpired"
	Expired           Code = "Expired"
	Purged            Code = "Purged"
)

// Mode is what holds for all recovery points of an instance. The zero value lets each expire in its time.
type Mode struct {
	// Stopped is set while protection is stopped and the data is retained for ever.
	Stopped bool
	// PurgeAt is when a soft-deleted instance is purged; zero for any other.
	PurgeAt time.Time
}

// Point is a recovery point.
type Point struct {
	ID   string
	Time time.Time
	// Expires is what Expiry said when the recovery point was made.
	Expires time.Time
	// BeingRead is set while a restore reads the recovery point.
	BeingRead bool
}

// Verdict is what becomes of a recovery point.
type Verdict struct {
	ID    string
	Prune bool
	Code  Code
	// Message is the reason as a sentence.
	Message string
}

// Decide says of each recovery point of an instance, in the order given, whether it goes now. The newest one stays whatever its age, so
// that there is always something to restore from, until the instance itself goes.
func Decide(now time.Time, mode Mode, points []Point) []Verdict {
	newest := newestOf(points)
	verdicts := make([]Verdict, len(points))
	for i, p := range points {
		v := Verdict{ID: p.ID}
		switch {
		case p.BeingRead:
			v.Code, v.Message = RestoreRunning, "It is kept while a restore reads it."
		case !mode.PurgeAt.IsZero() && now.Before(mode.PurgeAt):
			v.Code, v.Message = SoftDeleted, "Its backup instance is soft-deleted: it is kept until "+stamp(mode.PurgeAt)+", when the instance is purged."
		case !mode.PurgeAt.IsZero():
			v.Prune, v.Code, v.Message = true, Purged, "Its backup instance was soft-deleted, and is purged since "+stamp(mode.PurgeAt)+"."
		case mode.Stopped:
			v.Code, v.Message = ProtectionStopped, "Protection is stopped and the data retained: it is kept for ever."
		case now.Before(p.Expires):
			v.Code, v.Message = NotExpired, "It is kept until "+stamp(p.Expires)+", as its retention rule said when it was made."
		case i == newest:
			v.Code, v.Message = Newest, fmt.Sprintf("It expired on %s and is kept: it is the newest recovery point.", stamp(p.Expires))
		default:
			v.Prune, v.Code, v.Message = true, Expired, "It expired on "+stamp(p.Expires)+"."
		}
		verdicts[i] = v
	}
	return verdicts
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// newestOf is the index of the newest one, -1 when there is none. Of several of one time it is that with the greatest ID.
func newestOf(points []Point) int {
	newest := -1
	for i, p := range points {
		if newest < 0 || p.Time.After(points[newest].Time) ||
			p.Time.Equal(points[newest].Time) && strings.Compare(p.ID, points[newest].ID) > 0 {
			newest = i
		}
	}
	return newest
}
