package blobserver_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/blobserver"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// checkEncoding is what must hold for every legal name.
func checkEncoding(t interface{ Fatalf(string, ...any) }, name string) {
	path := blobserver.EncodeName(name)
	if len(path) > 3300 || filepath.IsAbs(path) || filepath.Clean(path) != path {
		t.Fatalf("name %.40q has path %.80q of %d bytes", name, path, len(path))
	}
	for _, element := range strings.Split(path, "/") {
		if len(element) > 255 || len(element) < 2 || element == ".." || strings.ContainsRune(element, 0) {
			t.Fatalf("name %.40q has the path element %q", name, element)
		}
	}
	if back, ok := blobserver.DecodePath(path); !ok || back != name {
		t.Fatalf("name %q came back as %q", name, back)
	}
}

func names() *rapid.Generator[string] {
	short := rapid.StringOfN(rapid.RuneFrom([]rune("ab/.%!0~ü🪨\\ ")), 1, 12, -1)
	long := rapid.Custom(func(t *rapid.T) string {
		return strings.Repeat("n", rapid.SampledFrom([]int{79, 80, 81, 159, 160, 161, 240}).Draw(t, "length")) +
			rapid.SampledFrom([]string{"", "/", "!", "0", "ü", "/x", "x/y"}).Draw(t, "tail")
	})
	return rapid.OneOf(short, long, rapid.StringMatching(`(a|b|/|n{80}|%2F|ü){1,9}`))
}

func TestNamesRoundTrip(t *testing.T) {
	for _, name := range []string{
		strings.Repeat("/", 1024), strings.Repeat("%", 1024), strings.Repeat("界", 1024), strings.Repeat("%/", 512), strings.Repeat("界/", 512),
	} {
		checkEncoding(t, name)
	}
	rapid.Check(t, func(t *rapid.T) { checkEncoding(t, names().Draw(t, "name")) })
}

func FuzzName(f *testing.F) {
	for _, name := range []string{"a", "a/b", "..", "/", "%2e", "d.x/b.y", strings.Repeat("x", 300)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if blobserver.ValidName(name) {
			checkEncoding(t, name)
		}
	})
}

// TestWalkIsOrdered: whatever names exist, a walk from any start with any prefix yields exactly the wanted ones, in byte order.
func TestWalkIsOrdered(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			t.Fatal(err)
		}
		all := rapid.SliceOfNDistinct(names(), 0, 40, rapid.ID[string]).Draw(t, "names")
		for _, name := range all {
			path := filepath.Join(dir, blobserver.EncodeName(name))
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		some := names()
		if len(all) > 0 {
			some = rapid.OneOf(some, rapid.SampledFrom(all))
		}
		from := rapid.OneOf(rapid.Just(""), some).Draw(t, "from")
		prefix := rapid.OneOf(rapid.Just(""), some).Draw(t, "prefix")
		prefix = prefix[:rapid.IntRange(0, len(prefix)).Draw(t, "cut")]
		var want []string
		for _, name := range all {
			if name >= from && strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		slices.Sort(want)
		got, err := blobserver.Walk(dir, from, prefix)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("from %q, prefix %q: %s", from, prefix, diff)
		}
	})
}
