package armserver_test

import (
	"testing"

	"github.com/cairn-backup/cairn/internal/armserver"
)

// FuzzSkipToken reads tokens: those that a list gave name the same position again, for that list alone; others are none.
func FuzzSkipToken(f *testing.F) {
	f.Add("2026-01-01", "", uint8(0))
	f.Add("x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA", uint8(3))
	f.Add("\x00", "%%", uint8(17))
	list, other := armserver.Table()[0], armserver.Table()[1]
	f.Fuzz(func(t *testing.T, position, forged string, at uint8) {
		const id = "/subscriptions/S"
		token := list.SkipToken(id, position)
		if got, ok := list.Position(id, token); position != "" && (!ok || got != position) {
			t.Fatalf("%q was read as %q, %v", position, got, ok)
		}
		if _, ok := other.Position(id, token); ok {
			t.Fatal("another list takes it")
		}
		if _, ok := list.Position(id+"2", token); ok {
			t.Fatal("another subscription's list takes it")
		}
		changed := []byte(token)
		changed[int(at)%len(changed)] ^= 1
		if got, ok := list.Position(id, string(changed)); ok && got == position && string(changed) != token {
			t.Fatalf("%q is taken for %q", changed, token)
		} else if ok && list.SkipToken(id, got) != string(changed) {
			t.Fatalf("%q is taken as %q", changed, got)
		}
		if got, ok := list.Position(id, forged); ok && list.SkipToken(id, got) != forged {
			t.Fatalf("%q is taken as %q", forged, got)
		}
	})
}
