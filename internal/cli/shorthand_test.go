package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-backup/cairn/internal/cli"
)

// compact is a value as one line of JSON, keys sorted.
func compact(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestShorthand(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`[{type:LocallyRedundant,datastore-type:VaultStore}]`, `[{"datastore-type":"VaultStore","type":"LocallyRedundant"}]`},
		{`{}`, `{}`},
		{`[]`, `[]`},
		{`{a:b,}`, `{"a":"b"}`},
		{`[a,b,]`, `["a","b"]`},
		{`{a:null,b:'null'}`, `{"a":null,"b":"null"}`},
		{`{on:true,off:false,n:-12,word:'12'}`, `{"n":-12,"off":false,"on":true,"word":"12"}`},
		{`{leading:007,version:1.2.3}`, `{"leading":"007","version":"1.2.3"}`},
		{`{'a key':'it'/s',url:'https://h:1/x'}`, `{"a key":"it's","url":"https://h:1/x"}`},
		{`{a:{b:[{c:d}]}}`, `{"a":{"b":[{"c":"d"}]}}`},
		{`{name:größe}`, `{"name":"größe"}`},
		{`word`, `"word"`},
	} {
		got, err := cli.ParseShorthand(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
		} else if compact(t, got) != c.want {
			t.Errorf("%s: got %s, want %s", c.in, compact(t, got), c.want)
		}
	}
}

func TestShorthandErrorsSayWhere(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{a:b`, `',' or '}' is expected at character 5`},
		{`[a b]`, `' ' must be inside single quotes at character 3`},
		{`{"a":b}`, `'"' must be inside single quotes at character 2`},
		{`{a}`, `':' is expected at character 3`},
		{`{a:1,a:2}`, `key "a" is here twice at character 6`},
		{`{a:'b}`, `the closing quote is missing at character 4`},
		{`a]`, `nothing more is expected at character 2`},
		{``, `a value is expected at character 1`},
		{`[,]`, `a value is expected at character 2`},
		{strings.Repeat("[", 100), `too deeply nested`},
	} {
		_, err := cli.ParseShorthand(c.in)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.in, err, c.want)
		}
	}
}

func TestObjectForms(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.json")
	if err := os.WriteFile(file, []byte(`{"from": "file"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in   []string
		want string
	}{
		{[]string{`[{"type":"LocallyRedundant"}]`}, `[{"type":"LocallyRedundant"}]`},
		{[]string{`[{type:LocallyRedundant}]`}, `[{"type":"LocallyRedundant"}]`},
		{[]string{`type=LocallyRedundant`, `datastore-type=VaultStore`}, `{"datastore-type":"VaultStore","type":"LocallyRedundant"}`},
		{[]string{`[0].type=LocallyRedundant`}, `[{"type":"LocallyRedundant"}]`},
		{[]string{`{a:{b:[x,y]}}`, `a.b[-1]=z`, `a.c='q r'`, `d=null`}, `{"a":{"b":["x","z"],"c":"q r"},"d":null}`},
		{[]string{`a={b:1}`}, `{"a":{"b":1}}`},
		{[]string{`url=https://host/x?y=z`}, `{"url":"https://host/x?y=z"}`},
		{[]string{file}, `{"from":"file"}`},
		{[]string{`{"big":12345678901234567890,"f":14.0}`}, `{"big":12345678901234567890,"f":14.0}`},
	} {
		got, err := cli.DecodeObject(c.in)
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
		} else if compact(t, got) != c.want {
			t.Errorf("%q: got %s, want %s", c.in, compact(t, got), c.want)
		}
	}
}

func TestObjectErrors(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want string
	}{
		{[]string{`{"a": }`}, "not valid JSON"},
		{[]string{`a[3]=x`}, "no index 3"},
		{[]string{`[a]`, `b=c`}, "no object's key"},
		{[]string{`{a:b}`, `[0]=c`}, "no list's index"},
	} {
		_, err := cli.DecodeObject(c.in)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %s", c.in, err, c.want)
		}
	}
}

func TestKeySpellings(t *testing.T) {
	const snake = `{"backup_instance_name":"n","properties":{"data_source_info":{"resource_id":"/s","object_type":"Datasource"}},"tags":{"my_tag":"x"}}`
	const camel = `{"backupInstanceName":"n","properties":{"dataSourceInfo":{"objectType":"Datasource","resourceID":"/s"}},"tags":{"my_tag":"x"}}`
	doc, err := cli.DecodeObject([]string{snake})
	if err != nil {
		t.Fatal(err)
	}
	if got := compact(t, cli.CamelKeys(doc)); got != camel {
		t.Errorf("got %s, want %s", got, camel)
	}
	if got := compact(t, cli.SnakeKeys(cli.CamelKeys(doc))); got != compact(t, doc) {
		t.Errorf("and back: got %s", got)
	}
	if got := compact(t, cli.CamelKeys(map[string]any{"datastore-type": "VaultStore", "datastoreType2": 1})); got != `{"datastoreType":"VaultStore","datastoreType2":1}` {
		t.Errorf("got %s", got)
	}
}

// quote writes a value in shorthand syntax, every string in quotes.
func quote(v any) string {
	var parts []string
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "'" + strings.ReplaceAll(v, "'", "'/") + "'"
	case []any:
		for _, e := range v {
			parts = append(parts, quote(e))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case map[string]any:
		for k, e := range v {
			parts = append(parts, quote(k)+":"+quote(e))
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	raw, _ := json.Marshal(v)
	return string(raw)
}

func FuzzShorthand(f *testing.F) {
	for _, seed := range []string{`[{type:LocallyRedundant,datastore-type:VaultStore}]`, `{a:'it'/s',b:[1,null,true]}`, `{a:{b:c,},}`, `'`, `[[`, "{\xff:1}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := cli.ParseShorthand(s)
		if err != nil {
			return
		}
		again, err := cli.ParseShorthand(quote(v))
		if err != nil {
			t.Fatalf("%q was read as %v, which is written as %q: %v", s, v, quote(v), err)
		}
		if compact(t, again) != compact(t, v) {
			t.Fatalf("%q: %s became %s", s, compact(t, v), compact(t, again))
		}
	})
}

func FuzzObject(f *testing.F) {
	f.Add("a.b[0]=c", "[1].x={y:z}")
	f.Add(`{"a":[1]}`, "a[1]=2")
	f.Fuzz(func(t *testing.T, one, two string) {
		if v, err := cli.DecodeObject([]string{one, two}); err == nil {
			cli.SnakeKeys(cli.CamelKeys(v))
		}
	})
}
