package apply_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/cairn-backup/cairn/internal/kubetest"
)

// server is the API server of all tests, with its controllers.
var server *kubetest.Cluster

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if server, err = kubetest.Start(); err != nil {
		return 1, err
	}
	stop, err := server.StartControllers()
	if err != nil {
		return 1, errors.Join(err, server.Stop())
	}
	// The tests wait for controllers most of the time, so there may be more of them than processors.
	if err := flag.Set("test.parallel", "10"); err != nil {
		return 1, errors.Join(err, stop(), server.Stop())
	}
	code = m.Run()
	return code, errors.Join(stop(), server.Stop())
}
