// Package iso8601 reads and writes the two forms of ISO 8601 that backup policies and jobs speak: durations (P30D,
// PT3M11.183S) and repeating intervals (R/2026-02-16T04:00:00+00:00/P1D).
//
// Months stay months: a Duration is calendar time until it is added to a moment. The package decides no schedules.
package iso8601

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a calendar duration. Its parts are never negative and are not converted into each other, but for Time,
// which holds hours, minutes and seconds together. The zero value is PT0S.
type Duration struct {
	Years, Months, Weeks, Days int
	Time                       time.Duration
}

// maxPart bounds each calendar part, so that adding a Duration to any moment stays within the range of time.Time.
const maxPart = 1_000_000

// maxHours bounds Time, which a time.Duration can hold for some 292 years.
const maxHours = 2_000_000

// Exactly is the Duration of d, in hours, minutes and seconds. A negative d counts as zero.
func Exactly(d time.Duration) Duration {
	return Duration{Time: max(d, 0)}
}

// ParseDuration reads a duration such as P1Y2M3W4DT5H6M7.5S. Letter case does not matter, a comma may stand for the
// decimal point, and spaces around the text are ignored. Only seconds may have a fraction, of up to nine digits.
func ParseDuration(text string) (Duration, error) {
	rest := strings.ToUpper(strings.TrimSpace(text))
	rest, ok := strings.CutPrefix(rest, "P")
	if !ok {
		return Duration{}, fmt.Errorf("duration %q: does not begin with P, as in P30D", text)
	}
	date, clock, hasClock := strings.Cut(rest, "T")
	if date == "" && clock == "" {
		return Duration{}, fmt.Errorf("duration %q: has no parts, as P30D has", text)
	}
	if hasClock && clock == "" {
		return Duration{}, fmt.Errorf("duration %q: nothing follows the T", text)
	}
	var d Duration
	var hours, minutes int
	if err := parseParts(date, "YMWD", []*int{&d.Years, &d.Months, &d.Weeks, &d.Days}, nil, maxPart); err != nil {
		return Duration{}, fmt.Errorf("duration %q: %w", text, err)
	}
	var seconds time.Duration
	if err := parseParts(clock, "HMS", []*int{&hours, &minutes, nil}, &seconds, maxHours); err != nil {
		return Duration{}, fmt.Errorf("duration %q: %w", text, err)
	}
	d.Time = time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute + seconds
	return d, nil
}

// parseParts reads numbers, each followed by one of the units, which must come in order and once each. A nil destination
// is that of the seconds.
func parseParts(text, units string, into []*int, seconds *time.Duration, limit int) error {
	next := 0
	for text != "" {
		end := strings.IndexAny(text, units)
		if end < 0 {
			return fmt.Errorf("%q lacks one of the units %s", text, units)
		}
		unit := strings.IndexByte(units, text[end])
		if unit < next {
			return fmt.Errorf("unit %c is repeated or out of order", text[end])
		}
		number := text[:end]
		if into[unit] == nil {
			d, err := parseSeconds(number)
			if err != nil {
				return err
			}
			*seconds = d
		} else {
			n, err := parseNumber(number, limit)
			if err != nil {
				return err
			}
			*into[unit] = n
		}
		next = unit + 1
		text = text[end+1:]
	}
	return nil
}

func parseNumber(text string, limit int) (int, error) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a whole number", text)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n > limit {
		return 0, fmt.Errorf("%s is more than %d", text, limit)
	}
	return n, nil
}

func parseSeconds(text string) (time.Duration, error) {
	whole, fraction, hasFraction := strings.Cut(strings.Replace(text, ",", ".", 1), ".")
	n, err := parseNumber(whole, maxHours)
	if err != nil {
		return 0, err
	}
	d := time.Duration(n) * time.Second
	if !hasFraction {
		return d, nil
	}
	if fraction == "" || len(fraction) > 9 || strings.Trim(fraction, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a number of seconds", text)
	}
	nanos, err := strconv.Atoi(fraction + strings.Repeat("0", 9-len(fraction)))
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of seconds", text)
	}
	return d + time.Duration(nanos), nil
}

// String is the canonical form: parts that are zero are left out, PT0S when all are.
func (d Duration) String() string {
	var b strings.Builder
	b.WriteByte('P')
	part := func(n int, unit byte) {
		if n != 0 {
			b.WriteString(strconv.Itoa(n))
			b.WriteByte(unit)
		}
	}
	part(d.Years, 'Y')
	part(d.Months, 'M')
	part(d.Weeks, 'W')
	part(d.Days, 'D')
	if d.Time != 0 {
		b.WriteByte('T')
		part(int(d.Time/time.Hour), 'H')
		part(int(d.Time%time.Hour/time.Minute), 'M')
		if rest := d.Time % time.Minute; rest != 0 {
			seconds := fmt.Sprintf("%d.%09d", rest/time.Second, rest%time.Second)
			b.WriteString(strings.TrimRight(strings.TrimRight(seconds, "0"), "."))
			b.WriteByte('S')
		}
	}
	if b.Len() == 1 {
		return "PT0S"
	}
	return b.String()
}

// IsZero reports whether adding the duration changes nothing.
func (d Duration) IsZero() bool { return d == Duration{} }

// AddTo is the moment that is d after t, in t's location. A day that the month reached does not have becomes its last:
// one month after 31 January is 28 or 29 February.
func (d Duration) AddTo(t time.Time) time.Time {
	year, month, day := t.Date()
	first := time.Date(year+d.Years, month+time.Month(d.Months), 1, 0, 0, 0, 0, t.Location())
	last := first.AddDate(0, 1, -1).Day()
	hour, minute, second := t.Clock()
	moved := time.Date(first.Year(), first.Month(), min(day, last), hour, minute, second, t.Nanosecond(), t.Location())
	return moved.AddDate(0, 0, 7*d.Weeks+d.Days).Add(d.Time)
}

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}
