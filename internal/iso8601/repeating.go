package iso8601

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Repeating is a repeating interval: R[n]/start/duration.
type Repeating struct {
	// Count is how often the interval repeats; Unbounded when the text names no number.
	Count int
	// Start is the first occurrence.
	Start time.Time
	// Every is what lies between two occurrences, and more than zero.
	Every Duration
}

// Unbounded is the Count of an interval that repeats for ever.
const Unbounded = -1

// startLayout is how String writes the start: the offset is written out, as Azure does.
const startLayout = "2006-01-02T15:04:05.999999999-07:00"

// startLayouts are what ParseRepeating takes; a start without an offset is UTC.
var startLayouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02",
}

// ParseRepeating reads an interval such as R/2026-02-16T04:00:00+00:00/P1D.
func ParseRepeating(text string) (Repeating, error) {
	parts := strings.Split(strings.TrimSpace(text), "/")
	if len(parts) != 3 {
		return Repeating{}, fmt.Errorf("interval %q: is not of the form R/start/duration, as in R/2026-02-16T04:00:00+00:00/P1D", text)
	}
	count, err := parseCount(parts[0])
	if err != nil {
		return Repeating{}, fmt.Errorf("interval %q: %w", text, err)
	}
	start, err := parseStart(parts[1])
	if err != nil {
		return Repeating{}, fmt.Errorf("interval %q: %w", text, err)
	}
	every, err := ParseDuration(parts[2])
	if err != nil {
		return Repeating{}, fmt.Errorf("interval %q: %w", text, err)
	}
	if every.IsZero() {
		return Repeating{}, fmt.Errorf("interval %q: the duration is zero", text)
	}
	return Repeating{Count: count, Start: start, Every: every}, nil
}

func parseCount(text string) (int, error) {
	text = strings.ToUpper(strings.TrimSpace(text))
	digits, ok := strings.CutPrefix(text, "R")
	if !ok {
		return 0, fmt.Errorf("%q is not R or R followed by a number", text)
	}
	if digits == "" {
		return Unbounded, nil
	}
	return parseNumber(digits, maxPart)
}

func parseStart(text string) (time.Time, error) {
	text = strings.ToUpper(strings.TrimSpace(text))
	for _, layout := range startLayouts {
		t, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		if t.Year() < 1 || t.UTC().Year() < 1 || t.UTC().Year() > 9999 {
			break
		}
		_, offset := t.Zone()
		return t.In(time.FixedZone("", offset)), nil
	}
	return time.Time{}, fmt.Errorf("start %q is not a time such as 2026-02-16T04:00:00+00:00", text)
}

// String is the canonical form, which ParseRepeating reads back to an equal value.
func (r Repeating) String() string {
	count := ""
	if r.Count != Unbounded {
		count = strconv.Itoa(r.Count)
	}
	return "R" + count + "/" + r.Start.Format(startLayout) + "/" + r.Every.String()
}
