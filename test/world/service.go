package world

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cairn-backup/cairn/internal/daemon"
)

// Host is the machine's address on the test clusters' network: pods reach the service there.
const Host = "10.99.0.1"

// Endpoint is the service's base URL.
func (w *World) Endpoint() string { return fmt.Sprintf("https://%s:%d", Host, w.Port) }

// BlobEndpoint is the base URL at which the service serves storage accounts.
func (w *World) BlobEndpoint() string { return fmt.Sprintf("https://%s:%d", Host, w.Port+1) }

// PKI is a file of the service's own: ca.crt, server.crt or server.key.
func (w *World) PKI(name string) string { return filepath.Join(w.data(), "pki", name) }

func (w *World) data() string { return filepath.Join(w.Dir, "data") }

// StartService starts cairnd, unless it runs, and waits until it answers.
func (w *World) StartService(ctx context.Context) error {
	pid, err := w.servicePID()
	if err != nil {
		return err
	}
	if pid == 0 {
		if err := w.spawn(); err != nil {
			return err
		}
	}
	return w.waitHealthy(ctx)
}

func (w *World) spawn() error {
	log, err := os.OpenFile(filepath.Join(w.logs(), "cairnd.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	blobURL := w.BlobEndpoint()
	if w.BlobFront != 0 {
		blobURL = fmt.Sprintf("https://%s:%d", Host, w.BlobFront)
	}
	cmd := exec.Command(filepath.Join(w.Bin(), "cairnd"), "--data", w.data(),
		"--public-url", w.Endpoint(), "--listen", fmt.Sprintf("%s:%d", Host, w.Port),
		"--blob-url", blobURL, "--blob-listen", fmt.Sprintf("%s:%d", Host, w.Port+1),
		"--on-demand-backups-per-day", "0", "--restores-per-day", "0") // tests start many
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this program
	if err := cmd.Start(); err != nil {
		return err
	}
	// Reap it if it ends while this program still runs, as a killed one does in tests.
	go func() { _, _ = cmd.Process.Wait() }()
	return nil
}

func (w *World) waitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		if last = w.healthy(ctx); last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cairnd does not answer (its log: %s/cairnd.log): %w", w.logs(), last)
		case <-tick.C:
		}
	}
}

func (w *World) healthy(ctx context.Context) error {
	ca, err := os.ReadFile(w.PKI("ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.Endpoint()+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("healthz answers %s", resp.Status)
	}
	return nil
}

// servicePID is the process that runs this world's cairnd, or 0. It is found by its data folder: a file with its number may be missing, or name
// another process by now.
func (w *World) servicePID() (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(text), "\x00")
		if filepath.Base(args[0]) == "cairnd" && slices.Contains(args, w.data()) {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, nil
}

// stopService ends cairnd in order, or by force if it takes too long.
func (w *World) stopService() error {
	if err := w.signalService(syscall.SIGTERM); err != nil {
		return errors.Join(err, w.KillService())
	}
	return nil
}

// KillService ends cairnd with SIGKILL.
func (w *World) KillService() error { return w.signalService(syscall.SIGKILL) }

// signalService returns when the service has ended.
func (w *World) signalService(sig syscall.Signal) error {
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for signalled := false; ; {
		pid, err := w.servicePID()
		if pid == 0 || err != nil {
			return err
		}
		if !signalled {
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
			signalled = true
		}
		select {
		case <-deadline.C:
			return fmt.Errorf("cairnd (pid %d) still runs 30s after %s", pid, sig)
		case <-tick.C:
		}
	}
}

// systemBundles are where Linux distributions keep the certificate authorities.
var systemBundles = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"}

// writeEnv writes the file to be sourced, and the bundle of certificate authorities that it names: the system's and ours, so
// that other programs in the same shell keep working.
func (w *World) writeEnv(context.Context) error {
	ca, err := os.ReadFile(w.PKI("ca.crt"))
	if err != nil {
		return err
	}
	for _, file := range systemBundles {
		if system, err := os.ReadFile(file); err == nil {
			ca = append(append(system, '\n'), ca...)
			break
		}
	}
	if err := os.WriteFile(w.bundle(), ca, 0o644); err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("# Source this file: az, cairn and kubectl are then those of this world, and logged in.\n")
	for _, kv := range w.vars() {
		key, value, _ := strings.Cut(kv, "=")
		if key == "PATH" {
			value = w.Bin() + `:$PATH`
			fmt.Fprintf(&text, "export PATH=\"%s\"\n", value)
			continue
		}
		fmt.Fprintf(&text, "export %s='%s'\n", key, strings.ReplaceAll(value, "'", `'\''`))
	}
	return os.WriteFile(w.EnvFile(), []byte(text.String()), 0o600)
}

func (w *World) bundle() string { return filepath.Join(w.Dir, "ca-bundle.crt") }

// vars are the variables that make a process use this world. Before the service has started there is only PATH.
func (w *World) vars() []string {
	vars := []string{"PATH=" + w.Bin() + ":" + os.Getenv("PATH"), "AZURE_CONFIG_DIR=" + filepath.Join(w.Dir, "azure")}
	if len(w.Clusters) > 0 {
		vars = append(vars, "KUBECONFIG="+w.Kubeconfig(w.Clusters[0]))
	}
	admin, err := daemon.ReadEnv(filepath.Join(w.data(), "admin.env"))
	if err != nil {
		return vars
	}
	admin["SSL_CERT_FILE"] = w.bundle()
	for _, name := range slices.Sorted(maps.Keys(admin)) {
		vars = append(vars, name+"="+admin[name])
	}
	return vars
}

// Env is the environment for processes that use this world: this process's, and the world's variables over it.
func (w *World) Env() []string { return append(os.Environ(), w.vars()...) }
