// Package xlsx writes a table as an Excel workbook (ISO/IEC 29500), row by row, so that a table of any length needs little memory. It writes text and
// numbers and nothing else, and reads nothing.
package xlsx

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxRows is how many rows a sheet has at most; more go on in another sheet.
	maxRows = 1 << 20
	// maxText is how many characters a cell holds at most; a longer text is cut.
	maxText = 32767

	namespace     = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
	relationships = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
	packageRels   = "http://schemas.openxmlformats.org/package/2006/relationships"
	contentTypes  = "http://schemas.openxmlformats.org/package/2006/content-types"
	sheetMain     = "application/vnd.openxmlformats-officedocument.spreadsheetml."
)

// Writer writes a workbook. Make it with NewWriter.
type Writer struct {
	zip    *zip.Writer
	name   string
	header []any
	sheet  io.Writer
	sheets int
	rows   int
}

// NewWriter begins a workbook of one table, whose sheets get the name, with a number from the second on. Each of them begins with the header. Close ends it.
func NewWriter(w io.Writer, name string, header ...any) *Writer {
	return &Writer{zip: zip.NewWriter(w), name: name, header: header}
}

// Row adds a row. Its cells are strings, ints and float64s; other values are written as package fmt prints them.
func (w *Writer) Row(cells ...any) error {
	if w.sheet == nil || w.rows == maxRows {
		if err := w.next(); err != nil {
			return err
		}
	}
	return w.row(cells)
}

// next begins another sheet.
func (w *Writer) next() error {
	if err := w.end(); err != nil {
		return err
	}
	w.sheets, w.rows = w.sheets+1, 0
	var err error
	if w.sheet, err = w.zip.Create(fmt.Sprintf("xl/worksheets/sheet%d.xml", w.sheets)); err != nil {
		return err
	}
	if _, err := io.WriteString(w.sheet, xml.Header+`<worksheet xmlns="`+namespace+`"><sheetData>`); err != nil {
		return err
	}
	return w.row(w.header)
}

// end ends the sheet, if one has begun.
func (w *Writer) end() error {
	if w.sheet == nil {
		return nil
	}
	_, err := io.WriteString(w.sheet, "</sheetData></worksheet>")
	return err
}

func (w *Writer) row(cells []any) error {
	w.rows++
	var b bytes.Buffer
	b.WriteString("<row>")
	for _, cell := range cells {
		switch v := cell.(type) {
		case int:
			b.WriteString("<c><v>" + strconv.Itoa(v) + "</v></c>")
		case float64:
			b.WriteString("<c><v>" + strconv.FormatFloat(v, 'g', -1, 64) + "</v></c>")
		default:
			b.WriteString(`<c t="inlineStr"><is><t xml:space="preserve">`)
			b.WriteString(escape(cut(fmt.Sprint(v))))
			b.WriteString("</t></is></c>")
		}
	}
	b.WriteString("</row>")
	_, err := w.sheet.Write(b.Bytes())
	return err
}

// cut ends a text that is too long for a cell at a character.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	s = s[:maxText]
	for s != "" && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
		s = s[:len(s)-1]
	}
	return s
}

func escape(s string) string {
	var b bytes.Buffer
	// Writing to a buffer does not fail. What no XML document may hold becomes U+FFFD.
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// Close ends the workbook; a table without rows has its header.
func (w *Writer) Close() error {
	if w.sheet == nil {
		if err := w.next(); err != nil {
			return err
		}
	}
	if err := w.end(); err != nil {
		return err
	}
	var types, names, links strings.Builder
	for i := range w.sheets {
		title := w.name
		if i > 0 {
			title = fmt.Sprintf("%s %d", w.name, i+1)
		}
		fmt.Fprintf(&types, `<Override PartName="/xl/worksheets/sheet%d.xml" ContentType="%sworksheet+xml"/>`, i+1, sheetMain)
		fmt.Fprintf(&names, `<sheet name="%s" sheetId="%d" r:id="rId%d"/>`, escape(title), i+1, i+1)
		fmt.Fprintf(&links, `<Relationship Id="rId%d" Type="%s/worksheet" Target="worksheets/sheet%d.xml"/>`, i+1, relationships, i+1)
	}
	return errors.Join(
		w.part("[Content_Types].xml", `<Types xmlns="`+contentTypes+`"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>`+
			`<Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml" ContentType="`+sheetMain+`sheet.main+xml"/>`+types.String()+`</Types>`),
		w.part("_rels/.rels", `<Relationships xmlns="`+packageRels+`"><Relationship Id="rId1" Type="`+relationships+`/officeDocument" Target="xl/workbook.xml"/></Relationships>`),
		w.part("xl/workbook.xml", `<workbook xmlns="`+namespace+`" xmlns:r="`+relationships+`"><sheets>`+names.String()+`</sheets></workbook>`),
		w.part("xl/_rels/workbook.xml.rels", `<Relationships xmlns="`+packageRels+`">`+links.String()+`</Relationships>`),
		w.zip.Close())
}

func (w *Writer) part(name, body string) error {
	f, err := w.zip.Create(name)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, xml.Header+body)
	return err
}
