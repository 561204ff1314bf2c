package armserver

import (
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
)

// filter is an OData $filter as far as Azure's clients write them to us: comparisons "name eq 'value'" joined by "and", and
// calls "name()" or "name('value')". Names are in lower case; a call without a value has the value "".
type filter map[string]string

// parseFilter reads a $filter; empty is the empty filter. What it does not understand is a 400 BadRequest rather than a
// list that looks filtered.
func parseFilter(text string) (filter, error) {
	f := filter{}
	rest := strings.TrimSpace(text)
	for rest != "" {
		name, value, after, ok := term(rest)
		if !ok {
			return nil, arm.BadRequest("InvalidFilterInQueryString", "The filter %q is not understood at %q. Use comparisons such as name eq 'value', joined by and.", text, rest)
		}
		f[strings.ToLower(name)] = value
		rest = strings.TrimSpace(after)
		if rest == "" {
			break
		}
		next, joined := cutWord(rest, "and")
		if !joined || next == "" {
			return nil, arm.BadRequest("InvalidFilterInQueryString", "The filter %q is not understood at %q: only \"and\" joins comparisons.", text, rest)
		}
		rest = next
	}
	return f, nil
}

// term reads one comparison or call.
func term(s string) (name, value, rest string, ok bool) {
	end := strings.IndexFunc(s, func(r rune) bool { return r == ' ' || r == '(' })
	if end <= 0 {
		return "", "", "", false
	}
	name, rest = s[:end], strings.TrimLeft(s[end:], " ")
	if call, isCall := strings.CutPrefix(rest, "("); isCall {
		call = strings.TrimLeft(call, " ")
		if after, empty := strings.CutPrefix(call, ")"); empty {
			return name, "", after, true
		}
		value, rest, ok = quoted(call)
		rest, closed := strings.CutPrefix(strings.TrimLeft(rest, " "), ")")
		return name, value, rest, ok && closed
	}
	rest, ok = cutWord(rest, "eq")
	if !ok {
		return "", "", "", false
	}
	value, rest, ok = quoted(rest)
	return name, value, rest, ok
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
