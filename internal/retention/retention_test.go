package retention_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cairn-backup/cairn/internal/iso8601"
	"github.com/cairn-backup/cairn/internal/retention"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

func location(t *testing.T, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// usual is the order that Azure's clients give: year before month before week before day.
var usual = []retention.Tagging{
	{Tag: "Daily", Priority: 25, Criteria: []retention.Criterion{retention.FirstOfDay}},
	{Tag: "Yearly", Priority: 10, Criteria: []retention.Criterion{retention.FirstOfYear}},
	{Tag: "Monthly", Priority: 15, Criteria: []retention.Criterion{retention.FirstOfMonth}},
	{Tag: "Weekly", Priority: 20, Criteria: []retention.Criterion{retention.FirstOfWeek}},
}

func TestTags(t *testing.T) {
	for name, c := range map[string]struct {
		taggings   []retention.Tagging
		zone       string
		slot, last string
		want       string
	}{
		"the very first":                   {usual, "UTC", "2026-06-17T04:00:00Z", "", "Yearly"},
		"the second of a day":              {usual, "UTC", "2026-06-17T08:00:00Z", "2026-06-17T04:00:00Z", "Default"},
		"the first of a day":               {usual, "UTC", "2026-06-18T04:00:00Z", "2026-06-17T20:00:00Z", "Daily"},
		"the first of a week: Sunday":      {usual, "UTC", "2026-06-21T04:00:00Z", "2026-06-20T04:00:00Z", "Weekly"},
		"Monday after Sunday":              {usual, "UTC", "2026-06-22T04:00:00Z", "2026-06-21T04:00:00Z", "Daily"},
		"Monday, when Sunday's failed":     {usual, "UTC", "2026-06-22T04:00:00Z", "2026-06-20T04:00:00Z", "Weekly"},
		"the first of a month":             {usual, "UTC", "2026-07-01T04:00:00Z", "2026-06-30T04:00:00Z", "Monthly"},
		"late in a month":                  {usual, "UTC", "2026-07-29T04:00:00Z", "2026-06-30T04:00:00Z", "Monthly"},
		"the first of a year":              {usual, "UTC", "2027-01-01T00:00:00Z", "2026-12-31T20:00:00Z", "Yearly"},
		"a week over the end of a year":    {usual[3:], "UTC", "2027-01-01T00:00:00Z", "2026-12-27T00:00:00Z", "Default"},
		"in the zone it is tomorrow":       {usual, "Pacific/Auckland", "2026-06-17T13:00:00Z", "2026-06-17T11:00:00Z", "Daily"},
		"in the zone it is still the year": {usual, "America/New_York", "2027-01-01T04:00:00Z", "2026-12-31T06:00:00Z", "Default"},
		"the clock went back":              {usual, "UTC", "2026-06-17T04:00:00Z", "2026-06-19T04:00:00Z", "Default"},
		"no criteria":                      {nil, "UTC", "2026-06-17T04:00:00Z", "", "Default"},
		"all backups": {[]retention.Tagging{{Tag: "All", Priority: 90, Criteria: []retention.Criterion{retention.AllBackup}}}, "UTC",
			"2026-06-17T08:00:00Z", "2026-06-17T04:00:00Z", "All"},
		"all backups, the higher number": {append([]retention.Tagging{{Tag: "All", Priority: 90, Criteria: []retention.Criterion{retention.AllBackup}}}, usual...), "UTC",
			"2026-06-18T08:00:00Z", "2026-06-17T04:00:00Z", "Daily"},
		"all backups, the lower number": {append([]retention.Tagging{{Tag: "All", Priority: -1, Criteria: []retention.Criterion{retention.AllBackup}}}, usual...), "UTC",
			"2026-06-18T08:00:00Z", "2026-06-17T04:00:00Z", "All"},
		"one of two criteria": {[]retention.Tagging{{Tag: "Both", Criteria: []retention.Criterion{retention.FirstOfYear, retention.FirstOfDay}}}, "UTC",
			"2026-06-18T08:00:00Z", "2026-06-17T04:00:00Z", "Both"},
		"an unknown criterion holds never": {[]retention.Tagging{{Tag: "Odd", Criteria: []retention.Criterion{"FirstOfDecade"}}}, "UTC", "2030-01-01T00:00:00Z", "", "Default"},
	} {
		t.Run(name, func(t *testing.T) {
			var last time.Time
			if c.last != "" {
				last = at(t, c.last)
			}
			if got := retention.Tag(c.taggings, "Default", at(t, c.slot), last, location(t, c.zone)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestEachPeriodHasOneFirst counts, over random successes, that each calendar period which had a backup has exactly one that is tagged as
// its first, and that it is the earliest.
func TestEachPeriodHasOneFirst(t *testing.T) {
	names := map[retention.Criterion]func(time.Time) string{ // periods by their names, found without arithmetic on dates where that can be
		retention.FirstOfDay:   func(t time.Time) string { return t.Format("2006-01-02") },
		retention.FirstOfMonth: func(t time.Time) string { return t.Format("2006-01") },
		retention.FirstOfYear:  func(t time.Time) string { return t.Format("2006") },
		retention.FirstOfWeek: func(t time.Time) string {
			for t = time.Date(t.Year(), t.Month(), t.Day(), 12, 0, 0, 0, time.UTC); t.Format("Mon") != "Sun"; {
				t = t.AddDate(0, 0, -1)
			}
			return t.Format("2006-01-02")
		},
	}
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "Pacific/Apia", "America/Santiago", "Pacific/Chatham"}).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		criterion := rapid.SampledFrom(retention.Criteria()[1:]).Draw(t, "criterion")
		taggings := []retention.Tagging{{Tag: "First", Criteria: []retention.Criterion{criterion}}}
		slot := time.Unix(rapid.Int64Range(0, 2e9).Draw(t, "start"), 0)
		var last time.Time
		seen := map[string]bool{}
		for _, hours := range rapid.SliceOfN(rapid.IntRange(1, 24*40), 1, 60).Draw(t, "hours between") {
			slot = slot.Add(time.Duration(hours) * time.Hour)
			period := names[criterion](slot.In(zone))
			if got, want := retention.Tag(taggings, "Default", slot, last, zone) == "First", !seen[period]; got != want {
				t.Fatalf("%s after %s: first %t, want %t", slot.In(zone), last.In(zone), got, want)
			}
			seen[period] = true
			last = slot
		}
	})
}

func TestExpiryIsByTheCalendar(t *testing.T) {
	for _, c := range []struct{ made, after, want string }{
		{"2026-11-27T10:33:00Z", "P7D", "2026-12-04T10:33:00Z"},
		{"2024-01-31T10:00:00Z", "P1M", "2024-02-29T10:00:00Z"},
		{"2024-02-29T10:00:00+02:00", "P1Y", "2025-02-28T08:00:00Z"},
		{"2026-03-28T23:30:00+01:00", "P1D", "2026-03-29T22:30:00Z"},
	} {
		after, err := iso8601.ParseDuration(c.after)
		if err != nil {
			t.Fatal(err)
		}
		if got := retention.Expiry(at(t, c.made), after).Format(time.RFC3339); got != c.want {
			t.Errorf("%s of %s expires on %s, want %s", c.made, c.after, got, c.want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	now := at(t, "2026-11-27T12:00:00Z")
	day := 24 * time.Hour
	old := retention.Point{ID: "old", Time: now.Add(-9 * day), Expires: now.Add(-2 * day)}
	due := retention.Point{ID: "due", Time: now.Add(-7 * day), Expires: now}
	young := retention.Point{ID: "young", Time: now.Add(-day), Expires: now.Add(6 * day)}
	read := old
	read.BeingRead = true
	for name, c := range map[string]struct {
		mode   retention.Mode
		points []retention.Point
		want   []string
	}{
		"each in its time":         {retention.Mode{}, []retention.Point{old, due, young}, []string{"old goes: Expired", "due goes: Expired", "young stays: NotExpired"}},
		"the newest stays":         {retention.Mode{}, []retention.Point{due, old}, []string{"due stays: Newest", "old goes: Expired"}},
		"a restore reads it":       {retention.Mode{}, []retention.Point{read, young}, []string{"old stays: RestoreRunning", "young stays: NotExpired"}},
		"stopped":                  {retention.Mode{Stopped: true}, []retention.Point{old, young}, []string{"old stays: ProtectionStopped", "young stays: ProtectionStopped"}},
		"soft-deleted":             {retention.Mode{PurgeAt: now.Add(1)}, []retention.Point{old, young}, []string{"old stays: SoftDeleted", "young stays: SoftDeleted"}},
		"soft-deleted and stopped": {retention.Mode{PurgeAt: now, Stopped: true}, []retention.Point{old}, []string{"old goes: Purged"}},
		"purged":                   {retention.Mode{PurgeAt: now}, []retention.Point{read, young}, []string{"old stays: RestoreRunning", "young goes: Purged"}},
		"none":                     {retention.Mode{}, nil, nil},
		"two of one time": {retention.Mode{}, []retention.Point{{ID: "b", Time: due.Time, Expires: now}, {ID: "a", Time: due.Time, Expires: now}},
			[]string{"b stays: Newest", "a goes: Expired"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, v := range retention.Decide(now, c.mode, c.points) {
				does := "stays"
				if v.Prune {
					does = "goes"
				}
				got = append(got, fmt.Sprintf("%s %s: %s", v.ID, does, v.Code))
				if !strings.HasSuffix(v.Message, ".") {
					t.Errorf("%s: %q is no sentence", v.ID, v.Message)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestAnInstanceIsNeverLeftWithoutARecoveryPoint lets a random instance decide on random days, and keeps what was decided.
func TestAnInstanceIsNeverLeftWithoutARecoveryPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1.7e9, 0)
		var points []retention.Point
		for step := range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "hours")) * time.Hour)
			if rapid.Bool().Draw(t, "backup") {
				points = append(points, retention.Point{ID: fmt.Sprint(step), Time: now, Expires: now.Add(time.Duration(rapid.IntRange(24, 400).Draw(t, "kept")) * time.Hour)})
			}
			had := len(points)
			verdicts := retention.Decide(now, retention.Mode{Stopped: rapid.Bool().Draw(t, "stopped")}, points)
			points = slices.DeleteFunc(points, func(p retention.Point) bool {
				return slices.ContainsFunc(verdicts, func(v retention.Verdict) bool { return v.ID == p.ID && v.Prune })
			})
			if had > 0 && len(points) == 0 {
				t.Fatal("nothing is left")
			}
			for _, v := range verdicts {
				if v.Prune && slices.ContainsFunc(points, func(p retention.Point) bool { return p.ID == v.ID }) {
					t.Fatalf("%s is still there", v.ID)
				}
			}
		}
	})
}
