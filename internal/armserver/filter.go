package armserver

import (
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
)

// parseFilter reads an OData $filter as far as Azure's clients write them to us: comparisons "name eq 'value'" (or ne, gt, ge, lt, le) joined by
// "and", and calls "name()" or "name('value')". A value is in quotes, or a bare word such as true or a time; datetime'…' is the time in it. Empty is
// the empty filter. What it does not understand is a 400 rather than a list that looks filtered. What the names mean is the list's to say.
func parseFilter(text string) (arm.Filter, error) {
	f := arm.Filter{}
	rest := strings.TrimSpace(text)
	for rest != "" {
		c, after, ok := term(rest)
		if !ok {
			return nil, arm.BadRequest("InvalidFilterInQueryString", "The filter %q is not understood at %q.", text, rest).WithTarget("$filter").
				WithAction("Use comparisons such as name eq 'value', joined by and.")
		}
		f = append(f, c)
		rest = strings.TrimSpace(after)
		if rest == "" {
			break
		}
		next, joined := cutWord(rest, "and")
		if !joined || next == "" {
			return nil, arm.BadRequest("InvalidFilterInQueryString", "The filter %q is not understood at %q: only \"and\" joins comparisons.", text, rest).WithTarget("$filter").
				WithAction("Use comparisons such as name eq 'value', joined by and.")
		}
		rest = next
	}
	return f, nil
}

// term reads one comparison or call.
func term(s string) (c arm.Comparison, rest string, ok bool) {
	end := strings.IndexFunc(s, func(r rune) bool { return r == ' ' || r == '(' })
	if end <= 0 {
		return c, "", false
	}
	c.Name, rest = strings.ToLower(s[:end]), strings.TrimLeft(s[end:], " ")
	if call, isCall := strings.CutPrefix(rest, "("); isCall {
		c.Operator = arm.FilterCall
		call = strings.TrimLeft(call, " ")
		if after, empty := strings.CutPrefix(call, ")"); empty {
			return c, after, true
		}
		c.Value, rest, ok = quoted(call)
		rest, closed := strings.CutPrefix(strings.TrimLeft(rest, " "), ")")
		return c, rest, ok && closed
	}
	for _, operator := range []string{arm.FilterEqual, arm.FilterNotEqual, arm.FilterGreater, arm.FilterGreaterOrEqual, arm.FilterLess, arm.FilterLessOrEqual} {
		if value, found := cutWord(rest, operator); found {
			c.Operator = operator
			c.Value, rest, ok = operand(value)
			return c, rest, ok
		}
	}
	return c, "", false
}

// operand reads a quoted string, a time in datetime'…', or a word without quotes.
func operand(s string) (value, rest string, ok bool) {
	const typed = "datetime"
	if len(s) > len(typed) && strings.EqualFold(s[:len(typed)], typed) && s[len(typed)] == '\'' {
		s = s[len(typed):]
	}
	if strings.HasPrefix(s, "'") {
		return quoted(s)
	}
	value, _, _ = strings.Cut(s, " ")
	if value == "" || strings.ContainsAny(value, "'()") {
		return "", "", false
	}
	return value, s[len(value):], true
}

// cutWord takes a word, in any letter case, and the spaces after it off the beginning.
func cutWord(s, word string) (string, bool) {
	if len(s) <= len(word) || !strings.EqualFold(s[:len(word)], word) || s[len(word)] != ' ' {
		return s, false
	}
	return strings.TrimLeft(s[len(word):], " "), true
}

// quoted reads a string in single quotes, in which two of them stand for one.
func quoted(s string) (value, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, "'")
	if !ok {
		return "", s, false
	}
	var b strings.Builder
	for {
		part, after, found := strings.Cut(s, "'")
		if !found {
			return "", "", false
		}
		b.WriteString(part)
		if s, found = strings.CutPrefix(after, "'"); !found {
			return b.String(), after, true
		}
		b.WriteByte('\'')
	}
}
