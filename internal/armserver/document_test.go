package armserver_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/armserver"
)

var update = flag.Bool("update", false, "write docs/api.md anew")

const apiDocument = "../../docs/api.md"

// notServed are the operations of Microsoft.DataProtection that have a meaning for Kubernetes clusters and are not served yet.
const notServed = "`sync`, `validateForModifyBackup`, `deletedBackupInstances` and `undelete`, `fetchSecondaryRecoveryPoints`\n" +
	"and the cross-region operations"

// TestTheDocumentListsEveryOperation holds docs/api.md to the route table.
func TestTheDocumentListsEveryOperation(t *testing.T) {
	var text strings.Builder
	text.WriteString("# The API\n\nWhat `cairnd` serves, one row an operation, made from the route table (`go test ./internal/armserver -run Document -update`). Any\n" +
		"well-formed `api-version` is accepted; shapes are those of 2024-04-01. The permission is what the caller's roles must allow at the resource or\n" +
		"above it; `-` means that every authenticated caller may ask, and sees what its roles let it see.\n\n" +
		"Not served yet, and answered with 404: " + notServed + ".\n\n| method | path | permission |\n| --- | --- | --- |\n")
	for _, r := range armserver.Table() {
		fmt.Fprintf(&text, "| %s | `%s` | %s |\n", r.Method, r.Path, r.Permission)
	}
	if *update {
		if err := os.WriteFile(apiDocument, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(apiDocument)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(text.String(), string(written)); d != "" {
		t.Errorf("docs/api.md is not what the table says (run with -update):\n%s", d)
	}
}
