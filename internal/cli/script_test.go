package cli_test

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cairn-backup/cairn/internal/cli"
)

func TestMain(m *testing.M) {
	program := func() {
		p := cli.Program{Name: os.Args[0], Args: os.Args[1:], Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
		os.Exit(p.Run(context.Background()))
	}
	testscript.Main(m, map[string]func(){"az": program, "cairn": program})
}

// TestAlone runs the scripts that need no service.
func TestAlone(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/alone",
		UpdateScripts: os.Getenv("UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
	})
}
