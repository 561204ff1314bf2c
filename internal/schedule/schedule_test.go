package schedule_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cairn-backup/cairn/internal/schedule"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

// TestSlots lists, for each case, the slots after a moment in the order in which they come.
func TestSlots(t *testing.T) {
	for name, c := range map[string]struct {
		zone      string
		intervals []string
		after     string
		want      []string
	}{
		"the start is the first": {"", []string{"R/2026-02-16T04:00:00+00:00/P1D"}, "2020-01-01T00:00:00Z",
			[]string{"2026-02-16T04:00:00Z", "2026-02-17T04:00:00Z"}},
		"strictly after": {"UTC", []string{"R/2026-02-16T04:00:00+00:00/P1D"}, "2026-02-16T04:00:00Z", []string{"2026-02-17T04:00:00Z"}},
		"every four hours, over the leap day": {"", []string{"R/2024-02-20T10:33:00Z/PT4H"}, "2024-02-28T22:00:00Z",
			[]string{"2024-02-28T22:33:00Z", "2024-02-29T02:33:00Z"}},
		"over the end of a year": {"", []string{"R/1970-01-01T06:00:00Z/PT12H"}, "2026-12-31T18:00:00Z", []string{"2027-01-01T06:00:00Z"}},
		"the last day of a leap year, in a zone with summer time": {"Europe/Berlin", []string{"R/2026-01-01T12:00:00+01:00/P1D"}, "2040-12-30T12:00:00Z",
			[]string{"2040-12-31T11:00:00Z", "2041-01-01T11:00:00Z"}},
		"the count means nothing": {"", []string{"R2/2024-01-01T00:00:00Z/P1W"}, "2026-11-27T00:00:00Z", []string{"2026-11-30T00:00:00Z"}},
		"forward in the north: 02:30 does not exist": {"W. Europe Standard Time", []string{"R/2026-03-01T02:30:00+01:00/PT24H"}, "2026-03-27T12:00:00Z",
			[]string{"2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		"back in the north: 02:30 comes twice": {"Europe/Berlin", []string{"R/2026-03-01T02:30:00+01:00/P1D"}, "2026-10-24T12:00:00Z",
			[]string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		"forward in the south": {"AUS Eastern Standard Time", []string{"R/2026-08-01T02:30:00+10:00/P7D"}, "2026-10-02T00:00:00Z",
			[]string{"2026-10-02T16:30:00Z", "2026-10-09T15:30:00Z"}},
		"half an hour's summer": {"Australia/Lord_Howe", []string{"R/2026-01-01T04:00:00+11:00/P1D"}, "2026-04-03T17:00:00Z",
			[]string{"2026-04-04T17:30:00Z", "2026-04-05T17:30:00Z"}},
		"half an hour from UTC": {"India Standard Time", []string{"R/2021-05-23T02:30:00+00:00/P1W"}, "2026-11-27T00:00:00Z", []string{"2026-11-29T02:30:00Z"}},
		"a day that was left out": {"Pacific/Apia", []string{"R/2011-12-28T12:00:00-10:00/PT6H"}, "2011-12-30T03:00:00Z",
			[]string{"2011-12-30T04:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T16:00:00Z", "2011-12-30T22:00:00Z"}},
		"two intervals, and where they meet": {"", []string{"R/2026-01-01T00:00:00Z/P1D", "R/2026-01-03T00:00:00Z/PT12H"}, "2026-01-01T12:00:00Z",
			[]string{"2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-03T12:00:00Z", "2026-01-04T00:00:00Z"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := schedule.New(c.zone, c.intervals)
			if err != nil {
				t.Fatal(err)
			}
			after := at(t, c.after)
			for i, want := range c.want {
				got := s.Next(after)
				if got.Format(time.RFC3339) != want {
					t.Fatalf("slot %d after %s is %s, want %s", i, c.after, got.Format(time.RFC3339), want)
				}
				if last, ok := s.Last(got); !ok || !last.Equal(got) {
					t.Errorf("the last one at %s is %s, %t", want, last, ok)
				}
				after = got
			}
			if n := s.Count(at(t, c.after), after); n != len(c.want) {
				t.Errorf("%d slots were counted, want %d", n, len(c.want))
			}
		})
	}
}

func TestNothingBeforeTheStart(t *testing.T) {
	s, err := schedule.New("", []string{"R/2026-02-16T04:00:00+00:00/P1D"})
	if err != nil {
		t.Fatal(err)
	}
	before := at(t, "2026-02-16T03:59:59Z")
	if last, ok := s.Last(before); ok {
		t.Errorf("there is a slot at %s", last)
	}
	if n := s.Count(before.AddDate(-1, 0, 0), before); n != 0 {
		t.Errorf("%d slots before the start", n)
	}
}

func TestAStartInTheSecondPassOfAnHourIsTheFirstSlot(t *testing.T) {
	s, err := schedule.New("Europe/Berlin", []string{"R/2026-10-25T02:30:00+01:00/P1D"})
	if err != nil {
		t.Fatal(err)
	}
	start := at(t, "2026-10-25T01:30:00Z")
	if got := s.Next(start.AddDate(0, 0, -1)); !got.Equal(start) {
		t.Errorf("the first slot is %s", got)
	}
	if got, want := s.Next(start), at(t, "2026-10-26T01:30:00Z"); !got.Equal(want) {
		t.Errorf("the second slot is %s, want %s", got, want)
	}
}

// TestAFractionOfASecondIsLeftOut keeps slots to what a database with microseconds holds.
func TestAFractionOfASecondIsLeftOut(t *testing.T) {
	s, err := schedule.New("", []string{"R/2026-02-16T04:00:00.1234567+00:00/P1D"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Next(time.Time{}), at(t, "2026-02-16T04:00:00Z"); !got.Equal(want) {
		t.Errorf("the first slot is %s", got)
	}
}

func TestZonesAreTakenByTheirNames(t *testing.T) {
	for name, want := range map[string]string{
		"": "UTC", "utc": "UTC", "Coordinated Universal Time": "UTC", "Pacific Standard Time": "America/Los_Angeles",
		"pacific standard time": "America/Los_Angeles", "America/St_Johns": "America/St_Johns", "UTC+12": "Etc/GMT-12", " Europe/Berlin ": "Europe/Berlin",
	} {
		zone, err := schedule.Zone(name)
		if err != nil || zone.String() != want {
			t.Errorf("%q is %s, %v; want %s", name, zone, err, want)
		}
	}
	for _, name := range []string{"Middle-earth", "Local", "../../etc/passwd", "Europe", "Pacific Daylight Time"} {
		_, err := schedule.Zone(name)
		if err == nil || !strings.Contains(err.Error(), "Europe/Berlin") || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestEveryWindowsNameIsAZone(t *testing.T) {
	if n := len(schedule.WindowsZones); n < 139 {
		t.Errorf("%d names", n)
	}
	for name := range schedule.WindowsZones {
		if _, err := schedule.Zone(name); err != nil {
			t.Error(err)
		}
	}
}

func TestOnlyTheServicesIntervalsAreTaken(t *testing.T) {
	for _, every := range schedule.Durations() {
		if _, err := schedule.New("", []string{"R/2026-01-01T00:00:00Z/" + every}); err != nil {
			t.Errorf("%s: %v", every, err)
		}
	}
	for _, every := range []string{"PT1H", "PT3H", "PT25H", "PT48H", "P2D", "P2W", "P14D", "P1M", "P1Y", "PT4H1S", "P1DT4H", "P1W1D"} {
		_, err := schedule.New("", []string{"R/2026-01-01T00:00:00Z/P1D", "R/2026-01-01T00:00:00Z/" + every})
		if err == nil || !strings.Contains(err.Error(), "interval 1") || !strings.Contains(err.Error(), "PT12H") {
			t.Errorf("%s: %v", every, err)
		}
	}
	if _, err := schedule.New("", nil); err == nil {
		t.Error("no interval was taken")
	}
}

// zones are of every kind: summer time in both hemispheres, at midnight, of half an hour, of two hours, of the winter; none at all;
// offsets of half and of quarter hours; days left out or lived twice.
var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Sydney", "America/Santiago", "America/Sao_Paulo", "America/Havana",
	"Australia/Lord_Howe", "Antarctica/Troll", "Africa/Casablanca", "Europe/Dublin", "Asia/Tokyo", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns",
	"Pacific/Chatham", "Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati", "Asia/Gaza", "Asia/Tehran", "America/Caracas", "Asia/Pyongyang"}

// TestSlotsAreThoseOfANaiveClock compares with a model that looks at the wall clock once in every minute of some weeks.
func TestSlotsAreThoseOfANaiveClock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zoneName := rapid.SampledFrom(zones).Draw(t, "zone")
		zone, err := time.LoadLocation(zoneName)
		if err != nil {
			t.Fatal(err)
		}
		middle := time.Unix(rapid.Int64Range(4*365, 130*365).Draw(t, "day")*86400, 0).UTC()
		switch where := rapid.IntRange(0, 5).Draw(t, "where"); {
		case where == 0:
			middle = time.Date(middle.Year(), time.December, 31, 0, 0, 0, 0, time.UTC)
		case where > 1:
			if _, change := middle.In(zone).ZoneBounds(); !change.IsZero() {
				middle = change.UTC()
			}
		}
		from, to := middle.AddDate(0, 0, -9), middle.AddDate(0, 0, 9)
		var intervals []string
		var naive []naiveInterval
		for range rapid.IntRange(1, 3).Draw(t, "intervals") {
			start := to.Add(-time.Duration(rapid.IntRange(0, 20*24*60).Draw(t, "minutes before the end")) * time.Minute)
			if rapid.Bool().Draw(t, "old") {
				start = start.AddDate(-rapid.IntRange(0, start.Year()-1973).Draw(t, "years"), 0, 0)
			}
			every := rapid.SampledFrom(schedule.Durations()).Draw(t, "every")
			intervals = append(intervals, "R/"+start.UTC().Format(time.RFC3339)+"/"+every)
			naive = append(naive, naiveInterval{start, minutes[every]})
		}
		s, err := schedule.New(zoneName, intervals)
		if err != nil {
			t.Fatal(err)
		}
		want := naiveSlots(naive, zone, from, to)
		got := []time.Time{}
		for slot := s.Next(from); !slot.After(to); slot = s.Next(slot) {
			got = append(got, slot)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%v in %s: %s", intervals, zoneName, diff)
		}
		if n := s.Count(from, to); n != len(want) {
			t.Fatalf("%d were counted, want %d", n, len(want))
		}
		moment := from.Add(time.Duration(rapid.Int64Range(0, int64(to.Sub(from))).Draw(t, "moment")))
		next := slices.IndexFunc(want, func(slot time.Time) bool { return slot.After(moment) })
		if next >= 0 && !s.Next(moment).Equal(want[next]) {
			t.Fatalf("next after %s is %s, want %s", moment, s.Next(moment), want[next])
		}
		if last, ok := s.Last(moment); next > 0 && (!ok || !last.Equal(want[next-1])) {
			t.Fatalf("last at %s is %s, want %s", moment, last, want[next-1])
		}
	})
}

var minutes = map[string]int64{"PT4H": 240, "PT6H": 360, "PT8H": 480, "PT12H": 720, "PT24H": 1440, "P1D": 1440, "P7D": 7 * 1440, "P1W": 7 * 1440}

type naiveInterval struct {
	start time.Time
	every int64 // minutes
}

// naiveSlots walks from minute to minute. A minute is a slot of an interval when the wall clock shows one of its wall times for the
// first time, or has just jumped over one.
func naiveSlots(intervals []naiveInterval, zone *time.Location, from, to time.Time) []time.Time {
	wall := func(t time.Time) int64 { // minutes of the calendar
		l := t.In(zone)
		return time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), 0, 0, time.UTC).Unix() / 60
	}
	slots := []time.Time{}
	begin := from.Add(-48 * time.Hour)
	seen := wall(begin) // the furthest that the wall clock has shown
	for t := begin.Add(time.Minute); !t.After(to); t = t.Add(time.Minute) {
		now := wall(t)
		isSlot := false
		for _, i := range intervals {
			if t.Equal(i.start) {
				isSlot = true
			}
			if !t.After(i.start) {
				continue
			}
			for w := seen + 1; w <= now; w++ {
				if first := wall(i.start); w > first && (w-first)%i.every == 0 {
					isSlot = true
				}
			}
		}
		seen = max(seen, now)
		if isSlot && t.After(from) {
			slots = append(slots, t.UTC())
		}
	}
	return slots
}

func FuzzSchedule(f *testing.F) {
	f.Add("W. Europe Standard Time", "R/2026-02-16T04:00:00+00:00/P1D", int64(1.7e9))
	f.Add("Pacific/Apia", "R5/0001-01-01/PT4H", int64(-6e10))
	f.Add("", "R/9999-12-31T23:59:59Z/P1W", int64(2.5e11))
	f.Fuzz(func(t *testing.T, zone, interval string, unix int64) {
		s, err := schedule.New(zone, []string{interval})
		if err != nil {
			return
		}
		if unix < -1e11 || unix > 3e11 {
			return // beyond what a clock shows
		}
		after := time.Unix(unix, 0)
		next := s.Next(after)
		if !next.After(after) {
			t.Fatalf("next after %s is %s", after, next)
		}
		if last, ok := s.Last(after); ok && (last.After(after) || !s.Next(last).Equal(next)) {
			t.Fatalf("at %s the last is %s, the one after it %s, the next %s", after, last, s.Next(last), next)
		}
	})
}
