package cli

import (
	"context"
	"strings"
)

// A Kind is how an option takes its values.
type Kind int

// The kinds of options. Several tokens may follow the options of the last four.
const (
	Text   Kind = iota // exactly one value
	Flag               // none
	Bool               // none, which means true, or one of true and false
	Texts              // one or more values
	Pairs              // any number of key=value
	Object             // a document: JSON, the name of a file with JSON, or shorthand syntax; see decodeObject
)

// Arg is one option of a command.
type Arg struct {
	// Names are its spellings, separated by spaces. The first is the one that handlers ask for.
	Names    string
	Kind     Kind
	Required bool
	// Choices are the only values allowed, compared without regard to case; none means any.
	Choices []string
	Help    string
}

func (a Arg) names() []string { return strings.Fields(a.Names) }

// key is the first name without its dashes.
func (a Arg) key() string { return strings.TrimLeft(a.names()[0], "-") }

// label is how errors name the option.
func (a Arg) label() string { return strings.Join(a.names(), "/") }

// Command is one row of the table that the program is.
type Command struct {
	// Path is what is typed after the program's name.
	Path string
	Help string
	// ID, if set, is the template of the resource's ID: {resource-group} stands for that option's value. The options that
	// it names are required unless --ids is given.
	ID   string
	Args []Arg
	Run  func(ctx context.Context, in *Input) (any, error)
	// Columns is the JMESPath expression behind `--output table` when there is no --query. Empty means every scalar field.
	Columns string
	// Table makes a table the default output, for commands that people read.
	Table bool
	// Lenient accepts options that are not known, for commands that do nothing with them.
	Lenient bool
	// Verbatim keeps the answer as it is, without the resource group that az adds to resources.
	Verbatim bool
	// Confirm makes the command ask before it runs, unless --yes is given.
	Confirm bool
	// Examples are whole command lines without the program's name.
	Examples []string
}

// options are all options of the command, without the global ones.
func (c *Command) options() []Arg {
	all := append([]Arg(nil), c.Args...)
	if c.ID != "" {
		all = append(all, Arg{Names: "--ids", Kind: Texts,
			Help: "One or more resource IDs, instead of the options that name the resource."})
	}
	if c.Confirm {
		all = append(all, Arg{Names: "--yes -y", Kind: Flag, Help: "Do not ask for confirmation."})
	}
	return all
}

var globalArgs = []Arg{
	{Names: "--debug", Kind: Flag, Help: "Log every request and answer, without secrets, on standard error."},
	{Names: "--help -h", Kind: Flag, Help: "Show this help and exit."},
	{Names: "--only-show-errors", Kind: Flag, Help: "Show only errors: no warnings and no progress."},
	{Names: "--output -o", Choices: []string{"json", "jsonc", "none", "table", "tsv", "yaml", "yamlc"},
		Help: "Output format. Default: json."},
	{Names: "--query", Help: "JMESPath query on the answer. See https://jmespath.org."},
	{Names: "--subscription", Help: "Name or ID of the subscription. Default: the one of `account set`, or AZURE_SUBSCRIPTION_ID."},
	{Names: "--verbose", Kind: Flag, Help: "Say more on standard error."},
}

// Options that many commands share.
var (
	groupArg    = Arg{Names: "--resource-group -g", Required: true, Help: "Name of the resource group."}
	locationArg = Arg{Names: "--location -l", Help: "Location, such as eastus."}
	tagsArg     = Arg{Names: "--tags", Kind: Pairs, Help: "Tags, key=value, separated by spaces."}
	noWaitArg   = Arg{Names: "--no-wait", Kind: Flag, Help: "Do not wait until the operation is finished."}
)

// optional is the option, but not required.
func optional(a Arg) Arg {
	a.Required = false
	return a
}
