package cli

import (
	"io"
	"time"
)

// What the external tests need to see of the inside.
var (
	ParseShorthand = parseShorthand
	DecodeObject   = decodeObject
	CamelKeys      = camelKeys
	SnakeKeys      = snakeKeys
	HashKeys       = hashKeys
	JobLines       = jobLines
	JobError       = jobError
)

// Parse reads words with a command's options and the global ones.
func Parse(command string, words ...string) (map[string][]string, error) {
	c := lookup(command)
	got, err := newParser(append(c.options(), globalArgs...)).parse(words)
	if err == nil {
		err = missing(c, got)
	}
	return got, err
}

// Print writes a document in a format, after a query unless that is empty.
func Print(w io.Writer, format, expression string, doc any) error {
	p := &printer{format: format}
	if expression != "" {
		q, err := compileQuery(expression)
		if err != nil {
			return err
		}
		p.query = q
		if doc, err = q.search(doc); err != nil {
			return err
		}
	}
	if doc == nil {
		return nil
	}
	return p.print(w, doc)
}

// Colored is jsonc's text for plain JSON.
var Colored = colored

// Paths are all commands.
func Paths() []string {
	var all []string
	for p := range commands() {
		all = append(all, p)
	}
	return all
}

// CommandOf is a command's row.
func CommandOf(path string) *Command { return lookup(path) }

// Options are a command's own options.
func (c *Command) Options() []Arg { return c.options() }

// NamesOf are an option's spellings.
func (a Arg) NamesOf() []string { return a.names() }

// GlobalArgs are every command's.
func GlobalArgs() []Arg { return globalArgs }

// CompileQuery says whether an expression is valid.
func CompileQuery(expression string) error {
	_, err := compileQuery(expression)
	return err
}

// HasGroupHelp says whether a group is described.
func HasGroupHelp(group string) bool { return groupHelps[group] != "" }

// Second is a duration for JobLines.
const Second = time.Second
