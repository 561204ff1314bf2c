package controller_test

import (
	"os"
	"testing"

	"github.com/cairn-backup/cairn/internal/kubetest"
)

// cluster is the API server of all tests of the package.
var cluster *kubetest.Cluster

func TestMain(m *testing.M) { os.Exit(kubetest.Main(m, &cluster)) }
