package bundle_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cairn-backup/cairn/internal/bundle"
)

const id = "0123456789abcdef0123456789abcdef"

// folder is storage in a directory, write-once as the real one.
type folder string

func (f folder) Create(_ context.Context, name string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	file := filepath.Join(string(f), name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	return errors.Join(err, out.Close())
}

func (f folder) Open(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(f), name))
}

func identity(t testing.TB) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var (
	configMaps  = bundle.Kind{APIVersion: "v1", Kind: "ConfigMap", Plural: "configmaps", Namespaced: true}
	deployments = bundle.Kind{APIVersion: "apps/v1", Kind: "Deployment", Plural: "deployments", Namespaced: true}
	widgets     = bundle.Kind{APIVersion: "example.com/v1beta1", Kind: "Widget", Plural: "widgets", Live: true}
	volumes     = []bundle.Volume{{Namespace: "shop", Claim: "data", Volume: "pvc-1", Driver: "disk.csi.azure.com", VolumeHandle: "/v/1",
		SnapshotHandle: "/s/1", SnapshotClass: "snap", RestoreSizeBytes: 1 << 30, RequestedBytes: 1 << 30, StorageClass: "managed-csi", VolumeMode: "Block",
		AccessModes: []string{"ReadWriteOnce"}, ReadyTime: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}}
	report = []bundle.Outcome{
		{Resource: "configmaps", Result: bundle.Saved, Count: 2},
		{Resource: "widgets.example.com", Result: bundle.Skipped, Code: "KindNotListed", Message: "the server answered 503", Action: "Repair it."}}
	cut = time.Date(2026, 11, 22, 9, 59, 0, 0, time.UTC)
)

func write(t testing.TB, store bundle.Creator, key *age.X25519Identity, objects map[bundle.Kind][]string) bundle.RecoveryPoint {
	t.Helper()
	w, err := bundle.NewWriter(store, "bi-1/", id, 1, key.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	for kind, documents := range objects {
		lines := w.Kind(t.Context(), kind)
		for _, d := range documents {
			if err := lines.Write([]byte(d)); err != nil {
				t.Fatal(err)
			}
		}
		if err := lines.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Volumes(t.Context(), volumes), w.Report(t.Context(), report)); err != nil {
		t.Fatal(err)
	}
	rp, err := w.Commit(t.Context(), bundle.RecoveryPoint{Cut: cut, ResourceVersion: "42", Origin: map[string]string{"vault": "v"}, WarningCount: 1})
	if err != nil {
		t.Fatal(err)
	}
	return rp
}

func open(t testing.TB, store bundle.Opener, key *age.X25519Identity) *bundle.Reader {
	t.Helper()
	r, err := bundle.NewReader(t.Context(), store, "bi-1/", id, key.String())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// collect returns what a sequence gave up to its end or its error.
func collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for v, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, nil
}

func texts(raw []json.RawMessage) []string {
	var s []string
	for _, r := range raw {
		s = append(s, string(r))
	}
	return s
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	store, key := folder(t.TempDir()), identity(t)
	want := map[bundle.Kind][]string{
		configMaps:  {`{"a":1}`, "{\"text\":\"\\n\" }"},
		deployments: {`{"apiVersion":"apps/v1"}`},
		widgets:     nil,
	}
	written := write(t, store, key, want)
	r := open(t, store, key)
	if diff := cmp.Diff(written, r.RecoveryPoint()); diff != "" {
		t.Errorf("commit object (-written +read):\n%s", diff)
	}
	if got := len(written.Kinds); got != 2 {
		t.Errorf("%d kinds listed; a kind without objects must not be", got)
	}
	for _, k := range r.RecoveryPoint().Kinds {
		documents, err := collect(r.Objects(t.Context(), k))
		if err != nil {
			t.Fatal(err)
		}
		k.File, k.Objects, k = "", 0, bundle.Kind{APIVersion: k.APIVersion, Kind: k.Kind, Plural: k.Plural, Namespaced: k.Namespaced, Live: k.Live}
		if diff := cmp.Diff(want[k], texts(documents)); diff != "" {
			t.Errorf("%s (-written +read):\n%s", k.Plural, diff)
		}
	}
	gotVolumes, err := collect(r.Volumes(t.Context()))
	if diff := cmp.Diff(volumes, gotVolumes); diff != "" || err != nil {
		t.Errorf("volumes: %v\n%s", err, diff)
	}
	gotReport, err := collect(r.Report(t.Context()))
	if diff := cmp.Diff(report, gotReport); diff != "" || err != nil {
		t.Errorf("report: %v\n%s", err, diff)
	}
	if totals := written.Totals; totals.Objects != 3 || totals.Volumes != 1 || totals.Bytes == 0 {
		t.Errorf("totals: %+v", totals)
	}
}

func TestNewlinesBetweenTokensBecomeSpaces(t *testing.T) {
	store, key := folder(t.TempDir()), identity(t)
	rp := write(t, store, key, map[bundle.Kind][]string{configMaps: {"{\n \"a\": 1\n}"}})
	got, err := collect(open(t, store, key).Objects(t.Context(), rp.Kinds[0]))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`{  "a": 1 }`}, texts(got)); diff != "" {
		t.Error(diff)
	}
}

func TestAnyDocumentsRoundTrip(t *testing.T) {
	key := identity(t)
	base := t.TempDir()
	var n int
	rapid.Check(t, func(rt *rapid.T) {
		n++
		store := folder(filepath.Join(base, fmt.Sprint(n)))
		var documents []string
		for _, text := range rapid.SliceOfN(rapid.String(), 1, 50).Draw(rt, "texts") {
			data, err := json.Marshal(map[string]string{"text": strings.Repeat(text, rapid.IntRange(0, 3000).Draw(rt, "times"))})
			if err != nil {
				rt.Fatal(err)
			}
			documents = append(documents, string(data))
		}
		rp := write(t, store, key, map[bundle.Kind][]string{configMaps: documents})
		got, err := collect(open(t, store, key).Objects(t.Context(), rp.Kinds[0]))
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(documents, texts(got)); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func TestStockProgramsReadABundle(t *testing.T) {
	for _, program := range []string{"age", "zstd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("this test needs the program %s: install the Debian packages age and zstd", program)
		}
	}
	dir, key := t.TempDir(), identity(t)
	rp := write(t, folder(dir), key, map[bundle.Kind][]string{configMaps: {`{"a":1}`, `{"b":2}`}})
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(key.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := `set -o pipefail; age -d -i "$1" "$2" | zstd -dc; echo "$(sha256sum < "$2")"`
	out, err := exec.Command("bash", "-c", script, "bash", keyFile, filepath.Join(dir, "bi-1", id, rp.Kinds[0].File)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var sum string
	for _, f := range rp.Files {
		if f.Name == rp.Kinds[0].File {
			sum = f.SHA256
		}
	}
	if want := "{\"a\":1}\n{\"b\":2}\n" + sum + "  -\n"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func TestDamageIsDetected(t *testing.T) {
	var documents []string
	for i := range 2000 {
		documents = append(documents, fmt.Sprintf(`{"number":%d,"x":"%x"}`, i, i*7919*104729))
	}
	cases := map[string]func([]byte) []byte{
		"a bit flipped":         func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"the last byte missing": func(b []byte) []byte { return b[:len(b)-1] },
		"cut in half":           func(b []byte) []byte { return b[:len(b)/2] },
		"empty":                 func([]byte) []byte { return nil },
		"a byte more":           func(b []byte) []byte { return append(b, 0) },
		"header changed":        func(b []byte) []byte { b[30] ^= 1; return b },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			dir, key := t.TempDir(), identity(t)
			rp := write(t, folder(dir), key, map[bundle.Kind][]string{configMaps: documents})
			change(t, filepath.Join(dir, "bi-1", id, rp.Kinds[0].File), damage)
			if _, err := collect(open(t, folder(dir), key).Objects(t.Context(), rp.Kinds[0])); err == nil {
				t.Error("a damaged file was read without an error")
			}
		})
	}
}

func TestAnotherFileUnderTheNameIsDetected(t *testing.T) {
	dir, other, key := t.TempDir(), t.TempDir(), identity(t)
	rp := write(t, folder(dir), key, map[bundle.Kind][]string{configMaps: {`{"a":1}`}})
	write(t, folder(other), key, map[bundle.Kind][]string{configMaps: {`{"a":2}`}})
	name := filepath.Join("bi-1", id, rp.Kinds[0].File)
	forged, err := os.ReadFile(filepath.Join(other, name))
	if err != nil {
		t.Fatal(err)
	}
	change(t, filepath.Join(dir, name), func([]byte) []byte { return forged })
	_, err = collect(open(t, folder(dir), key).Objects(t.Context(), rp.Kinds[0]))
	if err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("got %v, want an error about the SHA-256", err)
	}
}

func change(t *testing.T, file string, how func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, how(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCommitObjectsThatAreRefused(t *testing.T) {
	dir, key := t.TempDir(), identity(t)
	write(t, folder(dir), key, map[bundle.Kind][]string{configMaps: {`{}`}})
	good, err := os.ReadFile(filepath.Join(dir, bundle.CommitName("bi-1/", id)))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		old, new, want string
		times          int
	}{
		"later format":           {`"formatVersion": 1`, `"formatVersion": 2`, "format version 2", 1},
		"no format":              {`"formatVersion": 1,`, ``, "format version 0", 1},
		"not JSON":               {`{`, `[`, "not JSON", 1},
		"file outside":           {`a1/report`, `a1/../../report`, "strange name", -1},
		"file elsewhere":         {`a1/report`, `b/report`, "does not lie in a1/", -1},
		"kind without its file":  {`"file": "a1/resources/`, `"file": "a1/`, "is not listed", 1},
		"count differs":          {`"objects": 1,`, `"objects": 2,`, "2 objects, but 1 lines", 1},
		"not the recovery point": {id, strings.Repeat("0", 32), "another recovery point", 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			changed := folder(t.TempDir())
			text := strings.Replace(string(good), c.old, c.new, c.times)
			if err := changed.Create(t.Context(), bundle.CommitName("bi-1/", id), strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
			_, err := bundle.ReadRecoveryPoint(t.Context(), changed, "bi-1/", id)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestReaderRefusals(t *testing.T) {
	store, key := folder(t.TempDir()), identity(t)
	if _, err := bundle.NewReader(t.Context(), store, "bi-1/", id, key.String()); !errors.Is(err, bundle.ErrNoCommit) {
		t.Errorf("no commit object: got %v", err)
	}
	write(t, store, key, nil)
	if _, err := bundle.NewReader(t.Context(), store, "bi-1/", id, identity(t).String()); err == nil || !strings.Contains(err.Error(), "is encrypted to") {
		t.Errorf("another key: got %v", err)
	}
	secret := "AGE-SECRET-KEY-1NOTAKEY"
	if _, err := bundle.NewReader(t.Context(), store, "bi-1/", id, secret); err == nil || strings.Contains(err.Error(), "NOTAKEY") {
		t.Errorf("bad key: got %v; it must be refused and not be shown", err)
	}
}

func TestSecondCommitIsRefused(t *testing.T) {
	store, key := folder(t.TempDir()), identity(t)
	write(t, store, key, nil)
	w, err := bundle.NewWriter(store, "bi-1/", id, 2, key.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Volumes(t.Context(), nil), w.Report(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context(), bundle.RecoveryPoint{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want that it exists", err)
	}
}

func TestAbortedFileIsNotStored(t *testing.T) {
	dir, key := t.TempDir(), identity(t)
	w, err := bundle.NewWriter(folder(dir), "bi-1/", id, 1, key.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	lines := w.Kind(t.Context(), configMaps)
	if err := lines.Write([]byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	lines.Abort(errors.New("listing broke off"))
	if _, err := os.Stat(filepath.Join(dir, "bi-1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was stored: %v", err)
	}
}

// brokenStore takes some bytes and then answers with an error.
type brokenStore struct{ err error }

func (b brokenStore) Create(_ context.Context, _ string, r io.Reader) error {
	_, err := io.CopyN(io.Discard, r, 1000)
	if err != nil {
		return err
	}
	return b.err
}

func TestStorageErrorReachesTheWriter(t *testing.T) {
	disk := errors.New("disk full")
	w, err := bundle.NewWriter(brokenStore{disk}, "bi-1/", id, 1, identity(t).Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	lines := w.Kind(t.Context(), configMaps)
	for i := 0; err == nil && i < 100_000; i++ {
		err = lines.Write(fmt.Appendf(nil, `{"n":%d,"x":"%x"}`, i, i*7919*104729))
	}
	if !errors.Is(err, disk) {
		t.Errorf("got %v, want %v", err, disk)
	}
	lines.Abort(err)
}

func TestKindsAreWrittenAtTheSameTime(t *testing.T) {
	store, key := folder(t.TempDir()), identity(t)
	w, err := bundle.NewWriter(store, "bi-1/", id, 1, key.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			lines := w.Kind(t.Context(), bundle.Kind{APIVersion: "g/v1", Kind: "K", Plural: fmt.Sprintf("k%02d", i)})
			for n := range 100 {
				if err := lines.Write(fmt.Appendf(nil, `{"n":%d}`, n)); err != nil {
					t.Error(err)
				}
			}
			if err := lines.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := errors.Join(w.Volumes(t.Context(), nil), w.Report(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	rp, err := w.Commit(t.Context(), bundle.RecoveryPoint{})
	if err != nil {
		t.Fatal(err)
	}
	if rp.Totals.Objects != 2000 || len(rp.Files) != 22 {
		t.Errorf("totals %+v, %d files", rp.Totals, len(rp.Files))
	}
}

func FuzzParseRecoveryPoint(f *testing.F) {
	dir, key := f.TempDir(), identity(f)
	f.Add([]byte(`{"formatVersion":1}`))
	w, err := bundle.NewWriter(folder(dir), "", id, 1, key.Recipient().String())
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(w.Volumes(f.Context(), nil), w.Report(f.Context(), nil)); err != nil {
		f.Fatal(err)
	}
	if _, err := w.Commit(f.Context(), bundle.RecoveryPoint{}); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, bundle.CommitName("", id)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		rp, err := bundle.ParseRecoveryPoint(data)
		if err != nil {
			return
		}
		for _, file := range rp.Files {
			if !filepath.IsLocal(file.Name) {
				t.Errorf("file %q leads out of the folder", file.Name)
			}
		}
	})
}

func FuzzSplitLines(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n[]\n"))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var joined []byte
		for line, err := range bundle.SplitLines(bytes.NewReader(data), 100) {
			if err != nil {
				return
			}
			if !json.Valid(line) || len(line) > 100 {
				t.Errorf("line %q", line)
			}
			joined = append(append(joined, line...), '\n')
		}
		if !bytes.Equal(joined, data) {
			t.Errorf("read %q of %q", joined, data)
		}
	})
}

func FuzzStoredFile(f *testing.F) {
	dir := f.TempDir()
	key, err := age.ParseX25519Identity("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX")
	if err != nil {
		f.Fatal(err)
	}
	rp := write(f, folder(dir), key, map[bundle.Kind][]string{configMaps: {`{"a":1}`}})
	good, err := os.ReadFile(filepath.Join(dir, "bi-1", id, rp.Kinds[0].File))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		for line, err := range bundle.UnpackedLines(bytes.NewReader(data), key) {
			if err == nil && !json.Valid(line) {
				t.Errorf("line %q", line)
			}
		}
	})
}

// sink throws away what it is given.
type sink struct{}

func (sink) Create(_ context.Context, _ string, r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// BenchmarkWrite shows that memory per object does not depend on their number: B/op is per object.
func BenchmarkWrite(b *testing.B) {
	w, err := bundle.NewWriter(sink{}, "bi-1/", id, 1, identity(b).Recipient().String())
	if err != nil {
		b.Fatal(err)
	}
	document := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","data":{"x":"%s"}}`, strings.Repeat("0123456789", 250))
	lines := w.Kind(b.Context(), configMaps)
	b.SetBytes(int64(len(document)))
	b.ReportAllocs()
	for b.Loop() {
		if err := lines.Write(document); err != nil {
			b.Fatal(err)
		}
	}
	if err := lines.Close(); err != nil {
		b.Fatal(err)
	}
}
