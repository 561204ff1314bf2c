package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/cairn-backup/cairn/internal/cli"
	"github.com/cairn-backup/cairn/internal/client"
)

// TestFormats reads testdata/formats/*.txtar: a document "in.json", an optional "query", and what each format prints.
// UPDATE=1 writes what is printed now.
func TestFormats(t *testing.T) {
	files, err := filepath.Glob("testdata/formats/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { testFormats(t, file) })
	}
}

func testFormats(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	query := ""
	for i, f := range archive.Files {
		switch f.Name {
		case "in.json":
			if doc, err = client.Decode(f.Data); err != nil {
				t.Fatal(err)
			}
			continue
		case "query":
			query = strings.TrimSpace(string(f.Data))
			continue
		}
		var got bytes.Buffer
		if err := cli.Print(&got, f.Name, query, doc); err != nil {
			got.WriteString("error: " + err.Error() + "\n")
		}
		if os.Getenv("UPDATE") != "" {
			archive.Files[i].Data = got.Bytes()
			continue
		}
		if diff := cmp.Diff(string(f.Data), got.String()); diff != "" {
			t.Errorf("%s:\n%s", f.Name, diff)
		}
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHashKeysKeepTheOrderOfTheExpression(t *testing.T) {
	for expression, want := range map[string][][]string{
		"[].{Id:name, Time:properties.friendlyName}":                       {{"Id", "Time"}},
		"[?a=='{x:y}'].{B:b[1:2], A:{D:d, C:c}, \"last one\":`{\"z\":1}`}": {{"B", "A", "last one"}, {"D", "C"}},
		"sort_by(@, &a)[].{Z:join(', ', b), Y:c}":                          {{"Z", "Y"}},
		"name": nil,
	} {
		if diff := cmp.Diff(want, cli.HashKeys(expression)); diff != "" {
			t.Errorf("%s: %s", expression, diff)
		}
	}
}

func TestColors(t *testing.T) {
	const want = "{\n  \x1b[94m\"a\"\x1b[39;49;00m: \x1b[33m\"x: \\\"y\\\"\"\x1b[39;49;00m,\n  \x1b[94m\"b\"\x1b[39;49;00m: [\n    \x1b[34m-1.5\x1b[39;49;00m,\n    \x1b[34mnull\x1b[39;49;00m\n  ]\n}\n"
	const plain = "{\n  \"a\": \"x: \\\"y\\\"\",\n  \"b\": [\n    -1.5,\n    null\n  ]\n}\n"
	if got := cli.Colored(plain); got != want {
		t.Errorf("got %q", got)
	}
}

func TestJobLines(t *testing.T) {
	job, err := client.Decode([]byte(`{"name":"j","properties":{"operation":"Backup","dataSourceName":"aks","status":"InProgress","extendedInfo":{"subTasks":[
		{"taskName":"Cut","taskStatus":"Completed","additionalDetails":null},
		{"taskName":"Upload","taskStatus":"InProgress","taskProgress":"40%","additionalDetails":{"ObjectsDone":"1200","ObjectsTotal":"3000","Bytes":"5242880","StartTime":"x"}},
		{"taskName":"Commit","taskStatus":"NotStarted"}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Backup of aks: inprogress … 3s", "  ✓ Cut", "  … Upload  40%  1200 of 3000 objects  5.0 MiB", "  · Commit"}
	if diff := cmp.Diff(want, cli.JobLines(job, 3*cli.Second)); diff != "" {
		t.Error(diff)
	}
	if err := cli.JobError(job); err != nil {
		t.Errorf("a running job is no error: %v", err)
	}
}

func TestFailedJobIsAnErrorWithWhatToDo(t *testing.T) {
	job, err := client.Decode([]byte(`{"name":"j","properties":{"status":"Failed","errorDetails":[{"code":"UserErrorX","message":"No.","recommendedAction":["Do this."]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := cli.JobError(job); got == nil || got.Error() != "job j: Failed\n(UserErrorX) No.\nDo this." {
		t.Errorf("got %v", got)
	}
}
