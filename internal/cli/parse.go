package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"sort"
	"strings"
)

// usageError is a command line that makes no sense: exit code 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// values are the tokens given for each option, by the option's key. An option that was not given has no entry.
type values map[string][]string

var negativeNumber = regexp.MustCompile(`^-\d+$|^-\d*\.\d+$`)

// parser understands options as az's own parser (Python's argparse) does: unambiguous prefixes of long options,
// --option=value, -ovalue, and options with several values.
type parser struct {
	byName map[string]*Arg
	names  []string
}

func newParser(args []Arg) *parser {
	p := &parser{byName: map[string]*Arg{}}
	for i := range args {
		for _, n := range args[i].names() {
			if p.byName[n] == nil { // a command's own option is before the global one
				p.byName[n] = &args[i]
				p.names = append(p.names, n)
			}
		}
	}
	sort.Strings(p.names)
	return p
}

// token is one word of the command line: an option, perhaps with a value in the same word, or a value.
type token struct {
	text    string
	option  *Arg
	unknown bool // looks like an option but is none
	inline  *string
}

func (t token) isValue() bool { return t.option == nil && !t.unknown }

// parse reads the options. Required options are not looked at: see missing.
func (p *parser) parse(words []string) (values, error) {
	tokens, err := p.classify(words)
	if err != nil {
		return nil, err
	}
	got := values{}
	var extra []string
	for i := 0; i < len(tokens); {
		t := tokens[i]
		i++
		if t.option == nil {
			extra = append(extra, t.text)
			continue
		}
		given := []string{}
		if t.inline != nil {
			given = append(given, *t.inline)
		}
		for t.inline == nil && i < len(tokens) && tokens[i].isValue() && len(given) < most(t.option.Kind) {
			given = append(given, tokens[i].text)
			i++
		}
		if err := accept(t.option, given); err != nil {
			return nil, err
		}
		key := t.option.key()
		if t.option.Kind == Object || t.option.Kind == Pairs {
			given = append(append([]string{}, got[key]...), given...)
		}
		got[key] = given
	}
	if len(extra) > 0 {
		return got, usagef("unrecognized arguments: %s", strings.Join(extra, " "))
	}
	return got, nil
}

// most is how many values an option of the kind takes at most.
func most(k Kind) int {
	switch k {
	case Flag:
		return 0
	case Text, Bool:
		return 1
	default:
		return 1 << 20
	}
}

// accept checks the values given to one option.
func accept(a *Arg, given []string) error {
	switch {
	case a.Kind == Flag && len(given) > 0:
		return usagef("argument %s: ignored explicit argument '%s'", a.label(), given[0])
	case a.Kind == Text && len(given) == 0:
		return usagef("argument %s: expected one argument", a.label())
	case (a.Kind == Texts || a.Kind == Object) && len(given) == 0:
		return usagef("argument %s: expected at least one argument", a.label())
	}
	choices := a.Choices
	if a.Kind == Bool {
		choices = []string{"false", "true"}
	}
	for i, v := range given {
		if len(choices) == 0 {
			break
		}
		at := indexFold(choices, v)
		if at < 0 {
			return usagef("'%s' is not a valid value for '%s'. Allowed values: %s.", v, a.names()[0], strings.Join(choices, ", "))
		}
		given[i] = choices[at]
	}
	return nil
}

func indexFold(list []string, s string) int {
	for i, v := range list {
		if strings.EqualFold(v, s) {
			return i
		}
	}
	return -1
}

func (p *parser) classify(words []string) ([]token, error) {
	var tokens []token
	for i, w := range words {
		if w == "--" {
			for _, rest := range words[i+1:] {
				tokens = append(tokens, token{text: rest})
			}
			break
		}
		t, err := p.token(w)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, t)
	}
	return tokens, nil
}

func (p *parser) token(w string) (token, error) {
	if len(w) < 2 || w[0] != '-' {
		return token{text: w}, nil
	}
	if a := p.byName[w]; a != nil {
		return token{text: w, option: a}, nil
	}
	name, value, hasValue := strings.Cut(w, "=")
	inline := &value
	if !hasValue {
		inline = nil
	}
	if a := p.byName[name]; a != nil && hasValue {
		return token{text: w, option: a, inline: inline}, nil
	}
	if strings.HasPrefix(w, "--") {
		found := p.startingWith(name)
		if len(found) > 1 {
			return token{}, usagef("ambiguous option: %s could match %s", name, strings.Join(found, ", "))
		}
		if len(found) == 1 {
			return token{text: w, option: p.byName[found[0]], inline: inline}, nil
		}
	} else if a := p.byName[w[:2]]; a != nil && a.Kind != Flag {
		value := strings.TrimPrefix(w[2:], "=")
		return token{text: w, option: a, inline: &value}, nil
	}
	if negativeNumber.MatchString(w) || strings.Contains(w, " ") {
		return token{text: w}, nil
	}
	return token{text: w, unknown: true}, nil
}

// startingWith lists one name per option that has a name with the prefix.
func (p *parser) startingWith(prefix string) []string {
	var found []string
	seen := map[*Arg]bool{}
	for _, n := range p.names {
		if a := p.byName[n]; strings.HasPrefix(n, prefix) && !seen[a] {
			seen[a] = true
			found = append(found, n)
		}
	}
	return found
}

// missing is the error about required options that were not given, or nil.
func missing(c *Command, got values) error {
	var names []string
	for _, a := range c.Args {
		if _, given := got[a.key()]; given || !a.Required {
			continue
		}
		if _, byID := got["ids"]; byID && strings.Contains(c.ID, "{"+a.key()+"}") {
			continue
		}
		names = append(names, a.label())
	}
	if len(names) == 0 {
		return nil
	}
	return usagef("the following arguments are required: %s", strings.Join(names, ", "))
}

// expandFiles replaces @file and name=@file by the file's content, and @- by standard input, as az does before anything
// else looks at the command line. What names no file stays as it is.
func expandFiles(words []string, stdin io.Reader) ([]string, error) {
	out := make([]string, len(words))
	for i, w := range words {
		head, tail, cut := strings.Cut(w, "=")
		part := &head
		if cut {
			part = &tail
		}
		if len(*part) > 1 && (*part)[0] == '@' {
			content, err := readFile((*part)[1:], stdin)
			if errors.Is(err, fs.ErrNotExist) {
				out[i] = w // a query and a password may begin with @ too
				continue
			}
			if err != nil {
				return nil, err
			}
			*part = strings.TrimRight(string(content), "\r\n")
		}
		out[i] = head
		if cut {
			out[i] = head + "=" + tail
		}
	}
	return out, nil
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}
