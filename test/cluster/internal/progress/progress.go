// Package progress tells a person at a terminal what the program is doing and how long each step took.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Log prints one line a finished step. It may be used by several goroutines; its zero value prints nothing.
type Log struct {
	out    io.Writer
	lock   *sync.Mutex
	prefix string
	start  time.Time
}

// New is a log that writes to out and counts time from now.
func New(out io.Writer) *Log { return &Log{out: out, lock: new(sync.Mutex), start: time.Now()} }

// For is the same log with a subject in front of each line, counting its own time.
func (l *Log) For(subject string) *Log {
	return &Log{out: l.out, lock: l.lock, prefix: subject + ": ", start: time.Now()}
}

// Say prints a line.
func (l *Log) Say(format string, args ...any) {
	if l.lock == nil {
		return
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	fmt.Fprintf(l.out, "%6.1fs  %s%s\n", time.Since(l.start).Seconds(), l.prefix, fmt.Sprintf(format, args...))
}

// Step does a step and prints how long it took. While it takes long it says so every half minute, with what detail
// tells, which may be nil.
func (l *Log) Step(what string, detail func() string, do func() error) error {
	start := time.Now()
	done := make(chan struct{})
	var ticking sync.WaitGroup
	ticking.Go(func() {
		tick := time.NewTicker(30 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				l.Say("still at it: %s%s", what, optional(detail))
			}
		}
	})
	err := do()
	close(done)
	ticking.Wait()
	if err == nil {
		l.Say("%s (%.1f s)", what, time.Since(start).Seconds())
	}
	return err
}

func optional(detail func() string) string {
	if detail == nil {
		return ""
	}
	return ", " + detail()
}
