package xlsx_test

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/xlsx"
)

// sheet is what a reader of a worksheet sees.
type sheet struct {
	Rows []struct {
		Cells []struct {
			Type   string `xml:"t,attr"`
			Number string `xml:"v"`
			Text   string `xml:"is>t"`
		} `xml:"c"`
	} `xml:"sheetData>row"`
}

// read opens a workbook as its relationships say, and returns its sheets' names and the cells of the one with an index.
func read(t *testing.T, body []byte, index int) (names []string, rows [][]string) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	part := func(name string, v any) {
		t.Helper()
		f, err := z.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := xml.NewDecoder(f).Decode(v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	type links struct {
		Links []struct {
			ID     string `xml:"Id,attr"`
			Target string `xml:"Target,attr"`
		} `xml:"Relationship"`
	}
	var root, inside links
	var book struct {
		Sheets []struct {
			Name string `xml:"name,attr"`
			Link string `xml:"http://schemas.openxmlformats.org/officeDocument/2006/relationships id,attr"`
		} `xml:"sheets>sheet"`
	}
	var types struct {
		Parts []struct {
			Name string `xml:"PartName,attr"`
		} `xml:"Override"`
	}
	part("_rels/.rels", &root)
	part(root.Links[0].Target, &book)
	part("xl/_rels/workbook.xml.rels", &inside)
	part("[Content_Types].xml", &types)
	if len(types.Parts) != 1+len(book.Sheets) || len(inside.Links) != len(book.Sheets) {
		t.Errorf("%d parts have a type, %d links", len(types.Parts), len(inside.Links))
	}
	for _, s := range book.Sheets {
		names = append(names, s.Name)
	}
	var chosen sheet
	for _, l := range inside.Links {
		if l.ID == book.Sheets[index].Link {
			part("xl/"+l.Target, &chosen)
		}
	}
	for _, r := range chosen.Rows {
		var row []string
		for _, c := range r.Cells {
			if c.Type == "inlineStr" {
				row = append(row, "text "+c.Text)
			} else {
				row = append(row, "number "+c.Number)
			}
		}
		rows = append(rows, row)
	}
	return names, rows
}

func TestWorkbook(t *testing.T) {
	var b bytes.Buffer
	w := xlsx.NewWriter(&b, "Jobs & more", "Name", "Size")
	long := strings.Repeat("ü", 20_000)
	for _, row := range [][]any{{"<a> \"b\"\n\x00", 7}, {long, 1.5}, {true}} {
		if err := w.Row(row...); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	names, rows := read(t, b.Bytes(), 0)
	if d := cmp.Diff([]string{"Jobs & more"}, names); d != "" {
		t.Error(d)
	}
	cut := strings.TrimPrefix(rows[2][0], "text ")
	if !strings.HasPrefix(long, cut) || len(cut) < 32_760 || len(cut) > 32_767 || !utf8.ValidString(cut) {
		t.Errorf("the long text has %d bytes", len(cut))
	}
	rows[2][0] = "long"
	want := [][]string{{"text Name", "text Size"}, {"text <a> \"b\"\n�", "number 7"}, {"long", "number 1.5"}, {"text true"}}
	if d := cmp.Diff(want, rows); d != "" {
		t.Error(d)
	}
}

func TestEmptyTable(t *testing.T) {
	var b bytes.Buffer
	if err := xlsx.NewWriter(&b, "Jobs", "Name").Close(); err != nil {
		t.Fatal(err)
	}
	if _, rows := read(t, b.Bytes(), 0); len(rows) != 1 || rows[0][0] != "text Name" {
		t.Errorf("the rows: %v", rows)
	}
}

// TestLongTablesGoOnInAnotherSheet writes one row more than a sheet holds.
func TestLongTablesGoOnInAnotherSheet(t *testing.T) {
	var b bytes.Buffer
	w := xlsx.NewWriter(&b, "Jobs", "Name")
	for i := range 1 << 20 {
		if err := w.Row(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	names, rows := read(t, b.Bytes(), 1)
	want := [][]string{{"text Name"}, {"number 1048575"}} // the first sheet has the header, too
	if d := cmp.Diff([]string{"Jobs", "Jobs 2"}, names) + cmp.Diff(want, rows); d != "" {
		t.Error(d)
	}
}
