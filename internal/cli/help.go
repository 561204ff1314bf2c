package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

const exitCodesHelp = `Exit codes: 0 done, 1 failed, 2 the command line makes no sense, 3 a resource was not found, 4 something is not protected.
`

const environmentHelp = `Environment
    CAIRN_ENDPOINT        Address of the service, such as https://HOST:8443.
    AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET
                          Who calls, when there was no 'login'.
    CAIRN_ACCESS_TOKEN_FILE
                          File with an access token of the service's OpenID Connect issuer, used
                          instead of a secret and read anew for each token.
    AZURE_SUBSCRIPTION_ID The default subscription.
    AZURE_AUTHORITY_HOST  Who issues tokens. Default: the service.
    SSL_CERT_FILE         Authorities to trust, PEM.
    AZURE_CONFIG_DIR      Where 'login' is kept. Default: ~/.cairn.

`

// maxLeft is how wide the left column may be; what is wider has a line of its own.
const maxLeft = 36

// helpRow is one line of help: a left column and its explanation.
type helpRow struct{ left, right string }

func writeRows(w io.Writer, title string, rows []helpRow) {
	if len(rows) == 0 {
		return
	}
	width := 0
	for _, r := range rows {
		width = min(max(width, len(r.left)), maxLeft)
	}
	fmt.Fprintln(w, title)
	for _, r := range rows {
		left := r.left
		if len(left) > width {
			fmt.Fprintf(w, "    %s\n", left)
			left = ""
		}
		fmt.Fprintf(w, "    %-*s : %s\n", width, left, wrap(r.right, width+7))
	}
	fmt.Fprintln(w)
}

// wrap breaks text so that it ends at column 100 when it begins at indent.
func wrap(text string, indent int) string {
	var b strings.Builder
	at := indent
	for i, word := range strings.Fields(text) {
		if i > 0 && at+1+len(word) > 100 {
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		} else if i > 0 {
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += len(word)
	}
	return b.String()
}

func (p Program) groupHelp(words []string) error {
	group := strings.Join(words, " ")
	w := p.Stdout
	fmt.Fprintf(w, "\nGroup\n    %s : %s\n\n", strings.TrimSpace(p.Name+" "+group), groupHelps[group])
	var groups, direct []helpRow
	for _, name := range members(group) {
		path := strings.TrimSpace(group + " " + name)
		if c := lookup(path); c != nil {
			direct = append(direct, helpRow{name, c.Help})
		}
		if help, ok := groupHelps[path]; ok {
			groups = append(groups, helpRow{name, help})
		}
	}
	writeRows(w, "Subgroups:", groups)
	writeRows(w, "Commands:", direct)
	if group == "" {
		fmt.Fprint(w, environmentHelp)
	}
	fmt.Fprint(w, exitCodesHelp)
	return nil
}

func (p Program) commandHelp(c *Command) error {
	w := p.Stdout
	fmt.Fprintf(w, "\nCommand\n    %s %s : %s\n\n", p.Name, c.Path, wrap(c.Help, 8))
	writeRows(w, "Arguments", argRows(c.options()))
	writeRows(w, "Global Arguments", argRows(globalArgs))
	if len(c.Examples) > 0 {
		fmt.Fprintln(w, "Examples")
		for _, e := range c.Examples {
			fmt.Fprintf(w, "    %s %s\n", p.Name, e)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, exitCodesHelp)
	return nil
}

func argRows(args []Arg) []helpRow {
	sorted := slices.Clone(args)
	slices.SortStableFunc(sorted, func(a, b Arg) int {
		if a.Required != b.Required {
			if a.Required {
				return -1
			}
			return 1
		}
		return strings.Compare(a.names()[0], b.names()[0])
	})
	rows := make([]helpRow, len(sorted))
	for i, a := range sorted {
		rows[i].left = strings.Join(a.names(), " ")
		if a.Required {
			rows[i].left += " [Required]"
		}
		rows[i].right = a.Help
		if len(a.Choices) > 0 {
			rows[i].right += " Allowed values: " + strings.Join(a.Choices, ", ") + "."
		}
	}
	return rows
}
