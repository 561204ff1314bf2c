package kubetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// StartControllers starts a kube-controller-manager beside the API server: what is deleted goes away with all that it owns, workloads
// get their pods, claims are bound to volumes. The function that it returns ends it.
func (c *Cluster) StartControllers() (stop func() error, err error) {
	folder, err := os.MkdirTemp("", "cairn-kubetest-")
	if err != nil {
		return nil, err
	}
	kubeconfig, err := c.Kubeconfig(folder, "controllers")
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	var log bytes.Buffer
	certs := c.env.ControlPlane.GetAPIServer().CertDir
	command := exec.Command(filepath.Join(c.env.BinaryAssetsDirectory, "kube-controller-manager"),
		"--kubeconfig", kubeconfig, "--leader-elect=false", "--kube-api-qps=1000", "--kube-api-burst=1000", "--secure-port=0", "--bind-address=127.0.0.1",
		"--service-account-private-key-file", filepath.Join(certs, "sa-signer.key"), "--root-ca-file", filepath.Join(certs, "apiserver.crt"))
	command.Stdout, command.Stderr = &log, &log
	if err := command.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the controllers: %w", err), os.RemoveAll(folder))
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	return func() error {
		err := command.Process.Kill()
		if errors.Is(err, os.ErrProcessDone) {
			err = fmt.Errorf("the controllers ended by themselves: %w\n%s", <-ended, log.Bytes())
		} else {
			<-ended // killed by us: its error says only that
		}
		return errors.Join(err, os.RemoveAll(folder))
	}, nil
}

// Kubeconfig writes a kubeconfig of a new administrator into a folder, for programs that run beside the test, and returns its name.
func (c *Cluster) Kubeconfig(folder, name string) (string, error) {
	user, err := c.env.ControlPlane.AddUser(envtest.User{Name: name, Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return "", err
	}
	config, err := user.KubeConfig()
	if err != nil {
		return "", err
	}
	file := filepath.Join(folder, name+".kubeconfig")
	return file, os.WriteFile(file, config, 0o600)
}
