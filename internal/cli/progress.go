package cli

import (
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// progress shows on a terminal what a command waits for: a block of lines that is rewritten in place. Elsewhere it
// shows nothing, except for lines that notes are made of.
type progress struct {
	out      io.Writer
	terminal bool
	quiet    bool
	start    time.Time
	lines    int // how many lines are shown now
	last     string
}

func newProgress(out io.Writer, quiet bool) *progress {
	return &progress{out: out, terminal: isTerminal(out), quiet: quiet, start: time.Now()}
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// show replaces what is shown.
func (p *progress) show(lines ...string) {
	if p.quiet || !p.terminal {
		return
	}
	p.clear()
	width := 80
	if f, ok := p.out.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			width = w
		}
	}
	for _, l := range lines {
		fmt.Fprintln(p.out, cut(l, width-1))
	}
	p.lines = len(lines)
}

// step shows one line with the time that has passed.
func (p *progress) step(what, status string) {
	if status != "" {
		what += " (" + status + ")"
	}
	p.show(fmt.Sprintf("%s … %s", what, time.Since(p.start).Round(time.Second)))
}

// note writes a line that stays, also where there is no terminal. A line equal to the last one is not repeated.
func (p *progress) note(line string) {
	if p.quiet || line == p.last {
		return
	}
	p.clear()
	p.last = line
	fmt.Fprintln(p.out, line)
}

// clear removes what is shown.
func (p *progress) clear() {
	if p.lines > 0 {
		fmt.Fprintf(p.out, "\x1b[%dA\x1b[J", p.lines)
		p.lines = 0
	}
}

func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width || width < 1 {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}
