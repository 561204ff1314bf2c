package schedule_test

import (
	"testing"
	"time"

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
		"over the end of a year":  {"", []string{"R/1970-01-01T06:00:00Z/PT12H"}, "2026-12-31T18:00:00Z", []string{"2027-01-01T06:00:00Z"}},
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
