package walkthrough_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/test/walkthrough"
)

func TestBlocksAreTakenInOrderWithTheirHeadings(t *testing.T) {
	doc := "# Title\n\n## One\ntext\n```bash\na=1\n```\n```yaml\nno: code\n```\n## Two\n```bash\n# comment\necho $a\n```\n"
	got, err := walkthrough.Blocks(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := []walkthrough.Block{
		{Heading: "One", Line: 6, Script: "a=1\n"},
		{Heading: "Two", Line: 13, Script: "# comment\necho $a\n"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAnOpenBlockIsAnError(t *testing.T) {
	if _, err := walkthrough.Blocks("```bash\necho\n"); err == nil {
		t.Error("no error")
	}
}

func start(t *testing.T) *walkthrough.Shell {
	s, err := walkthrough.Start(t.Context(), t.TempDir(), os.Environ(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestVariablesLastFromBlockToBlock(t *testing.T) {
	s := start(t)
	if _, err := s.Run("word=stone\n"); err != nil {
		t.Fatal(err)
	}
	out, err := s.Run("printf %s \"$word\"; echo aside >&2")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(walkthrough.Output{Stdout: "stone", Stderr: "aside\n"}, out); d != "" {
		t.Error(d)
	}
}

func TestTheFirstFailingCommandEndsTheWalk(t *testing.T) {
	for name, script := range map[string]string{
		"command":    "echo before; false; echo after\n",
		"assignment": "echo before; x=$(false); echo after\n",
		"pipe":       "echo before; false | cat; echo after\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			out, err := s.Run(script)
			if err == nil {
				t.Fatal("no error")
			}
			if out.Stdout != "before\n" {
				t.Errorf("stdout %q", out.Stdout)
			}
			if !strings.Contains(err.Error(), script) {
				t.Errorf("the error does not show the block: %v", err)
			}
		})
	}
}
