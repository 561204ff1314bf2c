package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// printer writes a command's answer. Its formats are az's to the character, keys sorted as there.
type printer struct {
	format string
	color  bool
	// query is the one that made the answer; nil when there was none.
	query *query
}

func (p *printer) print(w io.Writer, v any) error {
	var text string
	var err error
	switch p.format {
	case "none":
		return nil
	case "table":
		text, err = p.table(v)
	case "tsv":
		text = p.tsv(v)
	case "yaml", "yamlc":
		text, err = asYAML(v)
	default:
		text, err = asJSON(v)
		if err == nil && p.color && p.format == "jsonc" {
			text = colored(text)
		}
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, text)
	return err
}

func asJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return b.String(), nil
}

func asYAML(v any) (string, error) {
	text, err := asJSON(v)
	if err != nil {
		return "", err
	}
	out, err := yaml.JSONToYAML([]byte(text))
	return string(out), err
}

// colored marks the keys, strings and other scalars of indented JSON with terminal colours.
func colored(text string) string {
	const key, str, scalar, off = "\x1b[94m", "\x1b[33m", "\x1b[34m", "\x1b[39;49;00m"
	var b strings.Builder
	for i := 0; i < len(text); {
		end := i + 1
		switch c := text[i]; {
		case c == '"':
			end = quotedEnd(text, i)
			if end < len(text) && text[end] == ':' {
				b.WriteString(key + text[i:end] + off)
			} else {
				b.WriteString(str + text[i:end] + off)
			}
		case c == '-' || isWord(c):
			for end < len(text) && strings.IndexByte(",\n]} ", text[end]) < 0 {
				end++
			}
			b.WriteString(scalar + text[i:end] + off)
		default:
			b.WriteByte(c)
		}
		i = end
	}
	return b.String()
}

func rows(v any) []any {
	if list, ok := v.([]any); ok {
		return list
	}
	return []any{v}
}

// tsv writes a row per element: an object's values in column order, a list's in its own. A list inside a row is its
// length, an object nothing, so that the number of columns stays.
func (p *printer) tsv(v any) string {
	var b strings.Builder
	for _, row := range rows(v) {
		var cells []string
		switch row := row.(type) {
		case map[string]any:
			for _, k := range p.query.order(row) {
				cells = append(cells, cell(row[k]))
			}
		case []any:
			for _, c := range row {
				cells = append(cells, cell(c))
			}
		case bool:
			cells = []string{strconv.FormatBool(row)}
		default:
			cells = []string{cell(row)}
		}
		b.WriteString(strings.Join(cells, "\t") + "\n")
	}
	return b.String()
}

// cell is a value as Python prints it, as az's users' scripts expect.
func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case map[string]any:
		return ""
	case []any:
		return strconv.Itoa(len(v))
	}
	return fmt.Sprint(v)
}

// skipped are the fields that a table has no room for.
var skipped = map[string]bool{"id": true, "type": true, "etag": true}

// tableRow is one row: its headers in order, and the cells by header.
type tableRow struct {
	headers []string
	cells   map[string]string
}

func (r *tableRow) add(header, text string) {
	r.headers = append(r.headers, header)
	r.cells[header] = text
}

func (p *printer) tableRow(v any) tableRow {
	r := tableRow{cells: map[string]string{}}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range p.query.order(v) {
			switch v[k].(type) {
			case nil, map[string]any, []any:
				continue
			}
			if !skipped[k] && k != "" {
				_, n := utf8.DecodeRuneInString(k)
				r.add(strings.ToUpper(k[:n])+k[n:], cell(v[k]))
			}
		}
	case []any:
		for i, c := range v {
			text := "" // a table shows nothing where tab-separated values say None
			if c != nil {
				text = cell(c)
			}
			r.add(fmt.Sprintf("Column%d", i+1), text)
		}
	default:
		r.add("Result", cell(v))
	}
	return r
}

// table writes the scalar fields of each element in columns.
func (p *printer) table(v any) (string, error) {
	var headers []string
	var all []tableRow
	width := map[string]int{}
	for _, e := range rows(v) {
		r := p.tableRow(e)
		all = append(all, r)
		for _, h := range r.headers {
			if _, known := width[h]; !known {
				headers = append(headers, h)
				width[h] = utf8.RuneCountInString(h) + 2
			}
			for _, line := range strings.Split(r.cells[h], "\n") {
				width[h] = max(width[h], utf8.RuneCountInString(line))
			}
		}
	}
	if len(all) == 0 {
		return "\n", nil
	}
	if len(headers) == 0 {
		return "", fmt.Errorf("Table output unavailable. Use the --query option to specify an appropriate query. " +
			"Use --debug for more info.")
	}
	var b strings.Builder
	line := func(text func(h string) string) {
		var cells []string
		for _, h := range headers {
			t := text(h)
			cells = append(cells, t+strings.Repeat(" ", max(0, width[h]-utf8.RuneCountInString(t))))
		}
		b.WriteString(strings.TrimRight(strings.Join(cells, "  "), " ") + "\n")
	}
	line(func(h string) string { return h })
	line(func(h string) string { return strings.Repeat("-", width[h]) })
	for _, r := range all {
		height := 1
		for _, t := range r.cells {
			height = max(height, strings.Count(t, "\n")+1)
		}
		for i := range height {
			line(func(h string) string {
				lines := strings.Split(r.cells[h], "\n")
				if i < len(lines) {
					return lines[i]
				}
				return ""
			})
		}
	}
	return b.String(), nil
}
