package iso8601_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cairn-backup/cairn/internal/iso8601"
)

func TestDurationsAreReadAndWritten(t *testing.T) {
	for text, want := range map[string]struct {
		value iso8601.Duration
		text  string
	}{
		"P30D":               {iso8601.Duration{Days: 30}, "P30D"},
		"P1W":                {iso8601.Duration{Weeks: 1}, "P1W"},
		"PT24H":              {iso8601.Duration{Time: 24 * time.Hour}, "PT24H"},
		" p1y2m3w4dt5h6m7s ": {iso8601.Duration{Years: 1, Months: 2, Weeks: 3, Days: 4, Time: 5*time.Hour + 6*time.Minute + 7*time.Second}, "P1Y2M3W4DT5H6M7S"},
		"PT3M11,1830272S":    {iso8601.Duration{Time: 3*time.Minute + 11183027200}, "PT3M11.1830272S"},
		"PT90M":              {iso8601.Duration{Time: 90 * time.Minute}, "PT1H30M"},
		"PT0S":               {iso8601.Duration{}, "PT0S"},
		"P0D":                {iso8601.Duration{}, "PT0S"},
	} {
		got, err := iso8601.ParseDuration(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want.value, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
		if got.String() != want.text {
			t.Errorf("%s is written as %s, want %s", text, got, want.text)
		}
	}
}

func TestWrongDurationsAreRefused(t *testing.T) {
	for _, text := range []string{
		"", "P", "PT", "30D", "P30", "P1D1D", "P1D1Y", "P1H", "PT1D", "P-1D", "P1.5D", "PT1.S", "PT.5S", "P1DT",
		"P99999999D", "PT99999999999999999999H", "P١D", "PT1.1234567891S", "-P1D",
	} {
		if got, err := iso8601.ParseDuration(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func TestMonthsAreCalendarMonths(t *testing.T) {
	for _, c := range []struct{ start, add, want string }{
		{"2026-01-31T10:00:00Z", "P1M", "2026-02-28T10:00:00Z"},
		{"2024-01-31T10:00:00Z", "P1M", "2024-02-29T10:00:00Z"},
		{"2024-02-29T10:00:00Z", "P1Y", "2025-02-28T10:00:00Z"},
		{"2026-12-31T23:59:59Z", "P1M1DT1S", "2027-02-02T00:00:00Z"},
		{"2026-03-01T00:00:00Z", "P2W", "2026-03-15T00:00:00Z"},
	} {
		start, err := time.Parse(time.RFC3339, c.start)
		if err != nil {
			t.Fatal(err)
		}
		d, err := iso8601.ParseDuration(c.add)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.AddTo(start).Format(time.RFC3339); got != c.want {
			t.Errorf("%s + %s = %s, want %s", c.start, c.add, got, c.want)
		}
	}
}

func TestIntervalsAreReadAndWritten(t *testing.T) {
	for text, want := range map[string]string{
		"R/2026-02-16T04:00:00+00:00/P1D":     "R/2026-02-16T04:00:00+00:00/P1D",
		"R/2024-04-07T10:33:00Z/PT4H":         "R/2024-04-07T10:33:00+00:00/PT4H",
		"r5/2024-04-07T10:33:00.5+02:00/p1w":  "R5/2024-04-07T10:33:00.5+02:00/P1W",
		"R/2024-04-07T10:33:00/P1D":           "R/2024-04-07T10:33:00+00:00/P1D",
		"R/2024-04-07T10:33/PT24H":            "R/2024-04-07T10:33:00+00:00/PT24H",
		"R/2024-04-07/P1M":                    "R/2024-04-07T00:00:00+00:00/P1M",
		" R/2024-04-07t10:33:00.0000000z/P1D": "R/2024-04-07T10:33:00+00:00/P1D",
	} {
		got, err := iso8601.ParseRepeating(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got.String() != want {
			t.Errorf("%s is written as %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"", "R", "R//", "R/2024-04-07T10:33:00Z", "R/yesterday/P1D", "R/2024-04-07T10:33:00Z/P0D",
		"X/2024-04-07T10:33:00Z/P1D", "R-1/2024-04-07T10:33:00Z/P1D", "R/2024-04-07T10:33:00Z/P1D/P2D", "R/2024-04-07T10:33:00Z/often"} {
		if got, err := iso8601.ParseRepeating(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func durations() *rapid.Generator[iso8601.Duration] {
	return rapid.Custom(func(t *rapid.T) iso8601.Duration {
		return iso8601.Duration{
			Years: rapid.IntRange(0, 900).Draw(t, "years"), Months: rapid.IntRange(0, 9000).Draw(t, "months"),
			Weeks: rapid.IntRange(0, 9000).Draw(t, "weeks"), Days: rapid.IntRange(0, 9000).Draw(t, "days"),
			Time: time.Duration(rapid.Int64Range(0, int64(maxTime)).Draw(t, "time")),
		}
	})
}

const maxTime = 1_000_000 * time.Hour

func TestPrintedDurationsReadBackTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := durations().Draw(t, "duration")
		got, err := iso8601.ParseDuration(want.String())
		if err != nil || got != want {
			t.Fatalf("%s was read back as %v, %v", want, got, err)
		}
	})
}

func TestAddingADurationNeverGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "start"), 0).UTC()
		d := durations().Draw(t, "duration")
		if moved := d.AddTo(start); moved.Before(start) {
			t.Fatalf("%s + %s = %s", start, d, moved)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"P30D", "PT3M11.183S", "P1Y2M3W4DT5H6M7,5S", "P"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := iso8601.ParseDuration(text)
		if err != nil {
			return
		}
		again, err := iso8601.ParseDuration(d.String())
		if err != nil || again != d {
			t.Fatalf("%q = %s, read back as %s, %v", text, d, again, err)
		}
		d.AddTo(time.Unix(0, 0))
	})
}

func FuzzParseRepeating(f *testing.F) {
	for _, seed := range []string{"R/2026-02-16T04:00:00+00:00/P1D", "R5/2024-04-07/P1W"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := iso8601.ParseRepeating(text)
		if err != nil {
			return
		}
		again, err := iso8601.ParseRepeating(r.String())
		if err != nil || !again.Start.Equal(r.Start) || again.Count != r.Count || again.Every != r.Every {
			t.Fatalf("%q = %s, read back as %s, %v", text, r, again, err)
		}
	})
}
