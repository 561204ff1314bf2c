// Package walkthrough runs the code blocks of a Markdown document in order, in one bash, as a reader would who pastes them
// into a terminal: variables set in one block are there in the next, and the first command that fails ends the walk.
//
// The demo shows a document this way and the tests hold documents to their word with it. It knows nothing of Cairn.
package walkthrough

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Block is one ```bash code block of a document.
type Block struct {
	// Heading is the nearest heading above the block, without its # signs.
	Heading string
	// Line is the line of the document on which the code begins, from 1.
	Line int
	// Script is the code, ending with a newline.
	Script string
}

// Blocks takes the bash code blocks out of a Markdown document, in order. Blocks in other languages are left out.
// A fence that is never closed is an error.
func Blocks(markdown string) ([]Block, error) {
	var blocks []Block
	var heading string
	var code *strings.Builder
	var fence, language string
	var start int
	for i, line := range strings.Split(markdown, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case code != nil && trimmed == fence:
			if language == "bash" {
				blocks = append(blocks, Block{Heading: heading, Line: start, Script: code.String()})
			}
			code = nil
		case code != nil:
			code.WriteString(line + "\n")
		case strings.HasPrefix(trimmed, "```"):
			fence = "```"
			language = strings.TrimPrefix(trimmed, "```")
			start = i + 2
			code = &strings.Builder{}
		case strings.HasPrefix(line, "#"):
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	if code != nil {
		return nil, fmt.Errorf("the code block that begins at line %d is not closed", start-1)
	}
	return blocks, nil
}

// Output is what a script printed.
type Output struct {
	Stdout, Stderr string
}

// Shell is one bash that scripts are run in, one after the other. Make it with Start and end it with Close.
type Shell struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *stream
	stderr *stream
	dir    string
	count  int
}

// end marks the end of a script's output; a reader would never type it.
const end = "\x1e\x1eend-of-block\x1e\x1e"

// Start starts a bash with the environment env (as os.Environ has it) in the folder dir. What scripts print is also
// copied to live as it comes, when live is not nil.
func Start(ctx context.Context, dir string, env []string, live io.Writer) (*Shell, error) {
	scripts, err := os.MkdirTemp("", "walkthrough-")
	if err != nil {
		return nil, err
	}
	// -E: functions inherit the trap; the shell stops at the first failing command, like `set -e` in a reader's script.
	cmd := exec.CommandContext(ctx, "bash", "--norc", "-e", "-E", "-o", "pipefail", "-s")
	cmd.Dir = dir
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start bash: %w", err)
	}
	var mu sync.Mutex // both streams write to live
	return &Shell{
		cmd: cmd, stdin: stdin, dir: scripts,
		stdout: &stream{r: bufio.NewReader(stdout), live: live, mu: &mu},
		stderr: &stream{r: bufio.NewReader(stderr), live: live, mu: &mu},
	}, nil
}

// Run runs a script in the shell and returns what it printed. When a command of it fails the error says so, the output up
// to there is returned with it, and the shell is over.
func (s *Shell) Run(script string) (Output, error) {
	s.count++
	file := filepath.Join(s.dir, fmt.Sprintf("block-%d.sh", s.count))
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return Output{}, err
	}
	line := fmt.Sprintf("source %q </dev/null; printf '%%s\\n' '%s'; printf '%%s\\n' '%s' >&2\n", file, end, end)
	if _, err := io.WriteString(s.stdin, line); err != nil {
		return Output{}, fmt.Errorf("the shell is over: %w", err)
	}
	var out Output
	var outErr, errErr error
	var wg sync.WaitGroup
	wg.Go(func() { out.Stdout, outErr = s.stdout.until(end) })
	wg.Go(func() { out.Stderr, errErr = s.stderr.until(end) })
	wg.Wait()
	if err := errors.Join(outErr, errErr); err != nil {
		return out, fmt.Errorf("a command of the block failed (%w):\n%s\nstdout:\n%s\nstderr:\n%s", errors.Join(err, s.cmd.Wait()), script, out.Stdout, out.Stderr)
	}
	return out, nil
}

// Close ends the shell, waits for it, and ends what it left running.
func (s *Shell) Close() error {
	defer os.RemoveAll(s.dir)
	if err := s.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	var failed error
	if s.cmd.ProcessState == nil { // a failed Run has waited already
		failed = s.cmd.Wait()
	}
	// Programs in the background are in the shell's process group.
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return errors.Join(failed, err)
	}
	return failed
}

// stream is one of a shell's outputs.
type stream struct {
	r    *bufio.Reader
	live io.Writer
	mu   *sync.Mutex
}

// until reads up to a line that is the mark, and returns what came before it.
func (s *stream) until(mark string) (string, error) {
	var text strings.Builder
	for {
		line, err := s.r.ReadString('\n')
		before, isEnd := strings.CutSuffix(strings.TrimSuffix(line, "\n"), mark)
		if isEnd {
			line = before
		}
		text.WriteString(line)
		if s.live != nil && line != "" {
			s.mu.Lock()
			_, werr := io.WriteString(s.live, line)
			s.mu.Unlock()
			if werr != nil {
				return text.String(), werr
			}
		}
		if isEnd {
			return text.String(), nil
		}
		if err != nil {
			return text.String(), err
		}
	}
}
