package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/cairn-backup/cairn/internal/blob"
)

// TestStore is the contract of blob.Store. The store must be empty.
func TestStore(t *testing.T, store blob.Store) {
	t.Run("round trip", func(t *testing.T) { testRoundTrip(t, store) })
	t.Run("write once", func(t *testing.T) { testWriteOnce(t, store) })
	t.Run("one of many writers wins", func(t *testing.T) { testRace(t, store) })
	t.Run("failed reader", func(t *testing.T) { testFailedReader(t, store) })
	t.Run("cancelled", func(t *testing.T) { testCancelled(t, store) })
	t.Run("list", func(t *testing.T) { testList(t, store) })
	t.Run("missing", func(t *testing.T) { testMissing(t, store) })
}

func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	return b
}

func read(t *testing.T, store blob.Store, name string) ([]byte, blob.Info) {
	t.Helper()
	r, info, err := store.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return got, info
}

func testRoundTrip(t *testing.T, store blob.Store) {
	// Around the client's block size: a single put, one full block, several blocks.
	for i, size := range []int{0, 1, 70_000, 8<<20 - 1, 8 << 20, 8<<20 + 1, 20 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			name, want := fmt.Sprintf("round/%d", size), content(uint64(i), size)
			made, err := store.Create(t.Context(), name, bytes.NewReader(want))
			if err != nil {
				t.Fatal(err)
			}
			got, info := read(t, store, name)
			if !bytes.Equal(got, want) {
				t.Fatalf("read %d bytes that are not the %d written", len(got), size)
			}
			if made != info || info.Size != int64(size) || info.ETag == "" || info.Created.IsZero() || info.Name != name {
				t.Errorf("Create said %+v, Open %+v", made, info)
			}
		})
	}
}

func testWriteOnce(t *testing.T, store blob.Store) {
	for _, size := range []int{3, 9 << 20} {
		name := fmt.Sprintf("once/%d", size)
		want := content(1, size)
		if _, err := store.Create(t.Context(), name, bytes.NewReader(want)); err != nil {
			t.Fatal(err)
		}
		_, err := store.Create(t.Context(), name, bytes.NewReader(content(2, size)))
		if !errors.Is(err, blob.ErrExists) {
			t.Errorf("second Create of %d bytes: %v, want ErrExists", size, err)
		}
		if got, _ := read(t, store, name); !bytes.Equal(got, want) {
			t.Error("a second Create changed the blob")
		}
	}
}

func testRace(t *testing.T, store blob.Store) {
	for _, size := range []int{10, 17 << 20} {
		name := fmt.Sprintf("race/%d", size)
		var wg sync.WaitGroup
		won := make(chan int, 8)
		for i := range cap(won) {
			wg.Go(func() {
				switch _, err := store.Create(t.Context(), name, bytes.NewReader(content(uint64(i), size))); {
				case err == nil:
					won <- i
				case !errors.Is(err, blob.ErrExists):
					t.Errorf("writer %d of %d bytes: %v, want ErrExists", i, size, err)
				}
			})
		}
		wg.Wait()
		close(won)
		if len(won) != 1 {
			t.Fatalf("%d writers of %d bytes won, want 1", len(won), size)
		}
		if got, _ := read(t, store, name); !bytes.Equal(got, content(uint64(<-won), size)) {
			t.Errorf("the blob of %d bytes is not the winner's", size)
		}
	}
}

func testFailedReader(t *testing.T, store blob.Store) {
	broken := errors.New("the source broke")
	for _, size := range []int{0, 100, 20 << 20} {
		name := fmt.Sprintf("failed/%d", size)
		r := io.MultiReader(bytes.NewReader(content(1, size)), iotest.ErrReader(broken))
		if _, err := store.Create(t.Context(), name, r); !errors.Is(err, broken) {
			t.Errorf("Create = %v, want the reader's error", err)
		}
		if _, _, err := store.Open(t.Context(), name); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Open after a failed Create = %v, want ErrNotFound", err)
		}
	}
}

func testCancelled(t *testing.T, store blob.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	r := io.MultiReader(bytes.NewReader(content(1, 9<<20)), readerFunc(func([]byte) (int, error) { cancel(); return 0, io.EOF }))
	if _, err := store.Create(ctx, "cancelled", r); !errors.Is(err, context.Canceled) {
		t.Errorf("Create = %v, want context.Canceled", err)
	}
	if _, _, err := store.Open(t.Context(), "cancelled"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Open after a cancelled Create = %v, want ErrNotFound", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func testList(t *testing.T, store blob.Store) {
	names := []string{"list/a", "list/a/b", "list/a/b/c", "list/ab", "list/b#?%41 +&.json", "list/ü/ñ"}
	for _, name := range names {
		if _, err := store.Create(t.Context(), name, strings.NewReader(name)); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string][]string{
		"list/": names, "list/a": names[:4], "list/a/": names[1:3], "list/ü": names[5:], "list/zz": nil,
	} {
		var got []string
		for info, err := range store.List(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			if info.Size != int64(len(info.Name)) || info.ETag == "" || info.Created.IsZero() {
				t.Errorf("listed %+v", info)
			}
			got = append(got, info.Name)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("List(%q) = %q, want %q", prefix, got, want)
		}
	}
}

func testMissing(t *testing.T, store blob.Store) {
	if _, _, err := store.Open(t.Context(), "missing"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Open = %v, want ErrNotFound", err)
	}
	if err := store.Delete(t.Context(), "missing"); err != nil {
		t.Errorf("Delete of a missing blob = %v", err)
	}
	if _, err := store.Create(t.Context(), "missing", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), "missing"); err != nil {
		t.Errorf("Delete = %v", err)
	}
	if _, _, err := store.Open(t.Context(), "missing"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Open after Delete = %v, want ErrNotFound", err)
	}
}
