package replicas_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// clock is the time of all replicas, faster than the wall's. It is in a file that every process maps into its memory; the test's process lets it pass.
type clock struct{ micros *atomic.Int64 }

// openClock maps the file, or makes it.
func openClock(file string) (*clock, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	if err := f.Truncate(8); err != nil {
		return nil, err
	}
	memory, err := syscall.Mmap(int(f.Fd()), 0, 8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the clock: %w", err)
	}
	return &clock{(*atomic.Int64)(unsafe.Pointer(&memory[0]))}, nil
}

func (c *clock) now() time.Time { return time.UnixMicro(c.micros.Load()).UTC() }

const (
	// speed is how much faster it goes.
	speed = 10
	step  = 20 * time.Millisecond
)

// startClock lets the time pass until the test ends. On a machine that is busy ticks are dropped, and it passes more slowly: what the replicas are
// given to do depends on how fast they are.
func startClock(t *testing.T, file string, from time.Time) *clock {
	t.Helper()
	c, err := openClock(filepath.Clean(file))
	if err != nil {
		t.Fatal(err)
	}
	c.micros.Store(from.UnixMicro())
	tick, done, ended := time.NewTicker(step), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-tick.C:
				c.micros.Add((speed * step).Microseconds())
			case <-done:
				return
			}
		}
	}()
	t.Cleanup(func() {
		tick.Stop()
		close(done)
		<-ended
	})
	return c
}
