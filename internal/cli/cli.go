// Package cli is the program cairn, which is also called az: a table of commands, az's grammar to call them, and az's
// output formats for what they answer. It is thin: a command turns its options into calls of the API, and prints what
// comes back. What the API means, and every check of what is asked, is the service's.
package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sort"
	"strings"
	"time"

	azlog "github.com/Azure/azure-sdk-for-go/sdk/azcore/log"

	"github.com/cairn-backup/cairn/internal/client"
)

// The exit codes, az's.
const (
	exitOK         = 0
	exitFailed     = 1
	exitUsage      = 2
	exitNotFound   = 3
	exitNotCovered = 4 // ours
)

// Program is one call of the program.
type Program struct {
	// Name is what the program was called as, with or without a path: az or cairn. Only help and errors differ.
	Name   string
	Args   []string
	Getenv func(string) string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Run does what the arguments say and answers the exit code: 0, 1 for a failure, 2 for a command line that makes no
// sense, 3 when a resource was not found, 4 when not everything is protected that was asked for.
func (p Program) Run(ctx context.Context) int {
	p.Name = filepath.Base(p.Name)
	err := p.run(ctx)
	if err == nil {
		return exitOK
	}
	var usage *usageError
	var failed *client.Error
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(p.Stderr, "ERROR: %s\n", usage.text)
		return exitUsage
	case errors.Is(err, errNotCovered):
		return exitNotCovered // the answer has said it all
	case errors.As(err, &failed):
		prefix := strings.TrimSuffix(err.Error(), failed.Error())
		fmt.Fprintf(p.Stderr, "ERROR: %s%s\n", prefix, failed.Text())
		if client.NotFound(err) {
			return exitNotFound
		}
		return exitFailed
	case refusedLogin(err) != "":
		fmt.Fprintf(p.Stderr, "ERROR: %s\n", refusedLogin(err))
		return exitFailed
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(p.Stderr, "ERROR: interrupted")
		return exitFailed
	}
	fmt.Fprintf(p.Stderr, "ERROR: %s\n", err)
	return exitFailed
}

func (p Program) run(ctx context.Context) error {
	words, err := expandFiles(p.Args, p.Stdin)
	if err != nil {
		return err
	}
	if len(words) == 1 && (words[0] == "--version" || words[0] == "-v") {
		words[0] = "version"
	}
	cmd, rest, err := p.find(words)
	if err != nil {
		return err
	}
	if cmd == nil {
		return p.groupHelp(rest)
	}
	options := append(cmd.options(), globalArgs...)
	got, err := newParser(options).parse(rest)
	if _, help := got["help"]; help {
		return p.commandHelp(cmd)
	}
	if err == nil {
		err = missing(cmd, got)
	}
	if err != nil && !cmd.Lenient {
		return err
	}
	return p.execute(ctx, cmd, got)
}

// find looks the command up. When the words name a group, or nothing, cmd is nil and rest is the group's path.
func (p Program) find(words []string) (cmd *Command, rest []string, err error) {
	n := 0
	for n < len(words) && !strings.HasPrefix(words[n], "-") {
		n++
	}
	for i := n; i > 0; i-- {
		if c := lookup(strings.Join(words[:i], " ")); c != nil {
			return c, words[i:], nil
		}
	}
	for i := n; i >= 0; i-- {
		group := strings.Join(words[:i], " ")
		if len(members(group)) == 0 {
			continue
		}
		if i == n && (n > 0 || len(words) == 0 || isHelp(words)) {
			return nil, words[:i], nil
		}
		if i < n {
			return nil, nil, p.misspelled(group, words[i])
		}
		return nil, nil, usagef("a command is expected before %s. See '%s --help'.", words[n], p.Name)
	}
	return nil, nil, p.misspelled("", words[0])
}

func isHelp(words []string) bool {
	for _, w := range words {
		if w == "--help" || w == "-h" {
			return true
		}
	}
	return false
}

func (p Program) misspelled(group, word string) error {
	message := fmt.Sprintf("'%s' is misspelled or not recognized by the system.", word)
	names := members(group)
	sort.SliceStable(names, func(i, j int) bool { return distance(names[i], word) < distance(names[j], word) })
	if distance(names[0], word) <= len(word)/2 {
		message += fmt.Sprintf("\nDid you mean '%s' ?", names[0])
	}
	return usagef("%s\nSee '%s --help'.", message, strings.TrimSpace(p.Name+" "+group))
}

// distance is how many letters must be changed, added or left out to make a of b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// execute runs a command whose options are complete, and prints its answer.
func (p Program) execute(ctx context.Context, cmd *Command, got values) error {
	out := &printer{format: "json", color: isTerminal(p.Stdout)}
	if cmd.Table {
		out.format = "table"
	}
	if f := got["output"]; f != nil {
		out.format = f[0]
	}
	if q := got["query"]; q != nil {
		var err error
		if out.query, err = compileQuery(q[0]); err != nil {
			return usagef("argument --query: invalid jmespath_type value: '%s': %s", q[0], err)
		}
	}
	in, err := p.input(cmd, got)
	if err != nil {
		return err
	}
	if cmd.Confirm && !in.Flag("yes") {
		if err := p.confirm(); err != nil {
			return err
		}
	}
	answer, err := in.eachID(ctx)
	in.progress.clear()
	// Who does not wait gets no answer, as with az: the first one of an operation says nothing final.
	if answer == nil || in.Flag("no-wait") {
		return err
	}
	// An answer may come with an error: the resource is there, but not in the state that was wanted.
	return errors.Join(p.show(cmd, out, answer), err)
}

// show applies the query and prints.
func (p Program) show(cmd *Command, out *printer, answer any) error {
	if !cmd.Verbatim {
		addResourceGroup(answer)
	}
	q := out.query
	if q == nil && cmd.Columns != "" && out.format == "table" {
		var err error
		if q, err = compileQuery(cmd.Columns); err != nil {
			return fmt.Errorf("columns of %s: %w", cmd.Path, err)
		}
		if _, list := answer.([]any); !list {
			answer = []any{answer}
		}
		out.query = q
	}
	if q != nil {
		var err error
		if answer, err = q.search(answer); err != nil {
			return usagef("argument --query: %s", err)
		}
	}
	if answer == nil {
		return nil
	}
	return out.print(p.Stdout, answer)
}

// confirm asks. Without a terminal there is nobody to ask.
func (p Program) confirm() error {
	if !isTerminal(p.Stdin) {
		return errors.New("Unable to prompt for confirmation as no tty available. Use --yes.")
	}
	lines := bufio.NewScanner(p.Stdin)
	for {
		fmt.Fprint(p.Stderr, "Are you sure you want to perform this operation? (y/n): ")
		if !lines.Scan() {
			return errors.New("Operation cancelled.")
		}
		switch strings.ToLower(strings.TrimSpace(lines.Text())) {
		case "y", "yes":
			return nil
		case "n", "no":
			return errors.New("Operation cancelled.")
		}
	}
}

func (p Program) input(cmd *Command, got values) (*Input, error) {
	in := &Input{cmd: cmd, values: got, program: p}
	in.progress = newProgress(p.Stderr, in.Flag("only-show-errors"))
	store, err := newProfileStore(p.Getenv)
	if err != nil {
		return nil, err
	}
	stored, err := store.load()
	if err != nil {
		return nil, err
	}
	in.store, in.session = store, &session{profile: effective(stored, p.Getenv)}
	if in.Flag("debug") || in.Flag("verbose") {
		azlog.SetListener(func(e azlog.Event, message string) {
			if in.Flag("debug") || e == azlog.EventRetryPolicy {
				fmt.Fprintf(p.Stderr, "DEBUG: %s %s: %s\n", time.Now().Format(time.TimeOnly), e, strings.TrimSpace(message))
			}
		})
	}
	return in, nil
}
