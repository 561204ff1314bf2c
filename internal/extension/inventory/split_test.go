package inventory_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/extension/inventory"
)

const list = `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"c"},"items":[{"metadata":{"name":"a"},"data":{"x":"}]\"\\"}}, {"metadata":{"name":"b"}}]}` + "\n"

func split(r io.Reader, limit int) (items []string, rv, next string, err error) {
	meta, err := inventory.SplitList(r, limit, func(item []byte) error {
		items = append(items, string(item))
		return nil
	})
	return items, meta.ResourceVersion, meta.Continue, err
}

func TestListIsSplit(t *testing.T) {
	want := []string{`{"metadata":{"name":"a"},"data":{"x":"}]\"\\"}}`, `{"metadata":{"name":"b"}}`}
	cases := map[string]string{
		"as built-in kinds are listed":   list,
		"as custom resources are listed": `{"apiVersion":"v1","items":[` + strings.Join(want, ",") + `],"kind":"L","metadata":{"continue":"c","resourceVersion":"7"}}`,
		"with white space":               " {\n\"items\" : [ " + strings.Join(want, " ,\t") + " ] , \"metadata\" : {\"continue\":\"c\",\"resourceVersion\":\"7\"} } \n",
		"with more than we know":         `{"x":1,"y":[true,null,"}"],"metadata":{"resourceVersion":"7","continue":"c","z":{}},"items":[` + strings.Join(want, ",") + `]}`,
		"with items named by an escape":  `{"\u0069tems":[` + strings.Join(want, ",") + `],"metadata":{"resourceVersion":"7","continue":"c"}}`,
	}
	for name, text := range cases {
		for kind, r := range map[string]io.Reader{"at once": strings.NewReader(text), "by bytes": iotest.OneByteReader(strings.NewReader(text))} {
			t.Run(name+" "+kind, func(t *testing.T) {
				items, rv, next, err := split(r, 1000)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, items); diff != "" || rv != "7" || next != "c" {
					t.Errorf("revision %s, continue %s, items:\n%s", rv, next, diff)
				}
			})
		}
	}
}

func TestListsThatAreRefused(t *testing.T) {
	cases := map[string]string{
		"cut in an item":     list[:110],
		"cut behind an item": list[:len(list)-4],
		"empty":              "",
		"a status":           `{"kind":"Status","metadata":{}}`,
		"no metadata":        `{"items":[]}`,
		"items twice":        `{"metadata":{},"items":[],"items":[]}`,
		"an item is a text":  `{"metadata":{},"items":["a"]}`,
		"bad item":           `{"metadata":{},"items":[{"a":}]}`,
		"brackets mixed":     `{"metadata":{},"items":[{"a":[1}]]}`,
		"comma at the end":   `{"metadata":{},"items":[{},]}`,
		"something behind":   `{"metadata":{},"items":[]}x`,
		"item too long":      `{"metadata":{},"items":[{"a":"` + strings.Repeat("x", 1000) + `"}]}`,
		"long text outside":  `{"x":"` + strings.Repeat("x", 1000) + `","metadata":{},"items":[]}`,
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			if items, _, _, err := split(strings.NewReader(text), 1000); err == nil {
				t.Errorf("no error, items %q", items)
			}
		})
	}
}

func TestNullItemsAreNone(t *testing.T) {
	items, _, _, err := split(strings.NewReader(`{"metadata":{},"items":null}`), 100)
	if err != nil || len(items) != 0 {
		t.Errorf("got %q, %v", items, err)
	}
}

func TestSplitStopsWithTheReceiver(t *testing.T) {
	full := errors.New("disk full")
	_, err := inventory.SplitList(strings.NewReader(list), 1000, func([]byte) error { return full })
	if !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
}

// FuzzSplitList holds the splitter against encoding/json: what the one takes the other takes, with the same items.
func FuzzSplitList(f *testing.F) {
	f.Add([]byte(list))
	f.Add([]byte(`{"metadata":{},"items":null}`))
	f.Add([]byte(`{"items":[{"a":[{}],"b":"\u007d\\"}],"metadata":{"continue":""},"n":-1.5e9}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		items, rv, next, err := split(bytes.NewReader(data), 1<<20)

		var members map[string]json.RawMessage
		var want []json.RawMessage
		var meta struct {
			ResourceVersion string `json:"resourceVersion"`
			Continue        string `json:"continue"`
		}
		oracle := json.Unmarshal(data, &members)
		if oracle == nil && members["items"] == nil || members["metadata"] == nil {
			oracle = errors.New("no list")
		}
		if oracle == nil {
			oracle = errors.Join(json.Unmarshal(members["items"], &want), json.Unmarshal(members["metadata"], &meta))
		}
		for _, w := range want {
			if w[0] != '{' {
				oracle = errors.New("an item is no object")
			}
		}
		twice := err != nil && strings.Contains(err.Error(), "is there twice")
		if (err == nil) != (oracle == nil) && !twice {
			t.Fatalf("splitter says %v, encoding/json says %v", err, oracle)
		}
		if err != nil {
			return
		}
		if len(items) != len(want) || rv != meta.ResourceVersion || next != meta.Continue {
			t.Fatalf("%d items, %q, %q; encoding/json has %d, %q, %q", len(items), rv, next, len(want), meta.ResourceVersion, meta.Continue)
		}
		for i := range want {
			if items[i] != string(want[i]) {
				t.Errorf("item %d is %q, encoding/json has %q", i, items[i], want[i])
			}
		}
	})
}

// FuzzScan holds the light scan, and the putting in of types, against encoding/json.
func FuzzScan(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"a","namespace":"b","labels":{"velero.io/exclude-from-backup":"true"}}}`))
	f.Add([]byte(`{ "apiVersion" : "v1", "x":[1,{"metadata":{}}], "metadata" : {"annotations":{"velero.io/exclude-from-backup":"\u0074rue"},"name":"\"\\"} }`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var members map[string]json.RawMessage
		if json.Unmarshal(data, &members) != nil || members == nil {
			return
		}
		namespace, name, excluded := inventory.Scan(data)
		typed := inventory.WithType(data, "v1", "Thing")
		var got map[string]json.RawMessage
		if err := json.Unmarshal(typed, &got); err != nil {
			t.Fatalf("%q became %q: %v", data, typed, err)
		}
		for _, key := range []string{"apiVersion", "kind"} {
			if got[key] == nil {
				t.Errorf("%q became %q without %s", data, typed, key)
			}
		}
		if len(duplicates(data)) > 0 {
			return // encoding/json merges what a member of the same name held before
		}
		var want struct {
			Name, Namespace     json.RawMessage
			Labels, Annotations map[string]json.RawMessage
		}
		var metadata map[string]json.RawMessage
		if json.Unmarshal(members["metadata"], &metadata) == nil {
			want.Name, want.Namespace = metadata["name"], metadata["namespace"]
			for key, into := range map[string]*map[string]json.RawMessage{"labels": &want.Labels, "annotations": &want.Annotations} {
				if json.Unmarshal(metadata[key], into) != nil {
					*into = nil
				}
			}
		}
		const key = "velero.io/exclude-from-backup"
		wantExcluded := str(want.Labels[key]) == "true" || str(want.Annotations[key]) == "true"
		if namespace != str(want.Namespace) || name != str(want.Name) || excluded != wantExcluded {
			t.Errorf("scan of %q: %q %q %v; encoding/json: %q %q %v", data, namespace, name, excluded, str(want.Namespace), str(want.Name), wantExcluded)
		}
	})
}

func str(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// duplicates returns keys that an object or one inside it has twice.
func duplicates(data []byte) []string {
	d := json.NewDecoder(bytes.NewReader(data))
	var found []string
	var walk func()
	walk = func() {
		token, err := d.Token()
		if err != nil {
			return
		}
		switch token {
		case json.Delim('{'):
			seen := map[string]bool{}
			for d.More() {
				key, err := d.Token()
				if err != nil {
					return
				}
				k, _ := key.(string)
				if seen[k] {
					found = append(found, k)
				}
				seen[k] = true
				walk()
			}
			_, _ = d.Token()
		case json.Delim('['):
			for d.More() {
				walk()
			}
			_, _ = d.Token()
		}
	}
	walk()
	return found
}

func BenchmarkSplit(b *testing.B) {
	item := `{"metadata":{"name":"a","namespace":"b","labels":{"app":"x"}},"data":{"text":"` + strings.Repeat("0123456789", 250) + `"}},`
	page := []byte(`{"metadata":{"resourceVersion":"7"},"items":[` + strings.Repeat(item, 499) + item[:len(item)-1] + `]}`)
	b.SetBytes(int64(len(page)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := inventory.SplitList(bytes.NewReader(page), 1<<20, func(item []byte) error {
			inventory.Scan(item)
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
}
