package controller_test

import (
	"os"
	"testing"

	"github.com/cairn-backup/cairn/internal/kubetest"
)

// cluster is the API server of the backups' tests.
var cluster *kubetest.Cluster

func TestMain(m *testing.M) {
	if os.Getenv(managerEnv) != "" {
		os.Exit(m.Run()) // a process with reconcilers, which is killed and could not stop an API server of its own
	}
	os.Exit(kubetest.Main(m, &cluster))
}
