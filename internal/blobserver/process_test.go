package blobserver_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/blob/blobtest"
	"github.com/cairn-backup/cairn/internal/blobserver"
)

// The test program is also the server that the tests below kill or give a small disk.
func TestMain(m *testing.M) {
	if root := os.Getenv("CAIRN_TEST_BLOB_ROOT"); root != "" {
		if err := serve(root, os.Getenv("CAIRN_TEST_BLOB_DISK") == "full"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serve(root string, small bool) error {
	if small {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size=16m"); err != nil {
			return fmt.Errorf("mount a small disk: %w", err)
		}
	}
	server, err := blobserver.Open(blobtest.Config(root))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, server)
}

type process struct {
	cmd      *exec.Cmd
	endpoint *blobtest.Endpoint
}

// startProcess serves root from a process of its own, over HTTP; disk "full" puts 16 MiB of memory in the place of root.
func startProcess(t *testing.T, root, disk string) process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CAIRN_TEST_BLOB_ROOT="+root, "CAIRN_TEST_BLOB_DISK="+disk)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if disk == "full" {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
		if os.Getuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	return process{cmd, &blobtest.Endpoint{URL: "http://" + strings.TrimSpace(line), Account: "cairntest", Key: blobtest.Key}}
}

// text is what the blob of a name holds; some take one request, some several blocks.
func text(name string) []byte {
	n := 50_000
	if strings.HasSuffix(name, "0") {
		n = 9 << 20
	}
	b := make([]byte, n)
	var seed [32]byte
	copy(seed[:], name)
	rand.NewChaCha8(seed).Read(b)
	return b
}

// TestKill kills the server while writers are busy, at a random moment, and looks at what the next one finds.
func TestKill(t *testing.T) {
	root := t.TempDir()
	kept := map[string]bool{}
	for round := range 6 {
		p := startProcess(t, root, "")
		if round == 0 {
			p.endpoint.NewContainer(t, "kill")
		}
		checkBlobs(t, p.endpoint, kept)
		write(t, p, round, kept)
	}
	p := startProcess(t, root, "")
	checkBlobs(t, p.endpoint, kept)
	if left, err := filepath.Glob(filepath.Join(root, "tmp", "*", "*")); err != nil || len(left) != 1 || filepath.Base(left[0]) != "lock" {
		t.Errorf("temporary files are left: %q, %v", left, err)
	}
}

func open(t *testing.T, e *blobtest.Endpoint) *blob.Container {
	t.Helper()
	store, err := blob.Open(e.AccountURL()+"/kill", blob.Options{Key: e.Key, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// write lets four writers work until the server is dead, and adds to kept what it acknowledged.
func write(t *testing.T, p process, round int, kept map[string]bool) {
	t.Helper()
	store := open(t, p.endpoint)
	acknowledged := make(chan string)
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("round-%d/writer-%d/%d", round, w, i)
				_, err := store.Create(t.Context(), name, bytes.NewReader(text(name)))
				if err != nil {
					if !errors.Is(err, blob.ErrUnavailable) {
						t.Errorf("%s: %v", name, err)
					}
					return
				}
				acknowledged <- name
			}
		})
	}
	go func() {
		writers.Wait()
		close(acknowledged)
	}()
	last := 5 + rand.IntN(60)
	n := 0
	for name := range acknowledged {
		kept[name] = true
		if n++; n == last {
			p.cmd.Process.Kill()
		}
	}
	p.cmd.Wait()
}

// checkBlobs: every acknowledged blob is there, and every blob that is there is whole.
func checkBlobs(t *testing.T, e *blobtest.Endpoint, kept map[string]bool) {
	t.Helper()
	store := open(t, e)
	found := map[string]bool{}
	for info, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		found[info.Name] = true
		r, _, err := store.Open(t.Context(), info.Name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, text(info.Name)) {
			t.Errorf("%s has %d bytes that are not the ones written, %v", info.Name, len(got), err)
		}
	}
	for name := range kept {
		if !found[name] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
	}
}

// TestProcessesShareAFolder lets two processes create the same blobs, one by one at the same time: exactly one of them wins each. A third
// that starts and is killed again and again disturbs neither.
func TestProcessesShareAFolder(t *testing.T) {
	root := t.TempDir()
	first, second := startProcess(t, root, ""), startProcess(t, root, "")
	first.endpoint.NewContainer(t, "kill")
	stores := []*blob.Container{open(t, first.endpoint), open(t, second.endpoint)}
	done, disturber := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(disturber)
		for {
			select {
			case <-done:
				return
			default:
				p := startProcess(t, root, "")
				p.cmd.Process.Kill()
				p.cmd.Wait()
			}
		}
	}()
	kept := map[string]bool{}
	for i := range 60 {
		name := fmt.Sprintf("folder/%d", i)
		var writers sync.WaitGroup
		won := make([]error, 2*len(stores))
		for w := range won {
			writers.Go(func() {
				_, won[w] = stores[w%len(stores)].Create(t.Context(), name, bytes.NewReader(text(name)))
			})
		}
		writers.Wait()
		winners := 0
		for _, err := range won {
			if err == nil {
				winners++
			} else if !errors.Is(err, blob.ErrExists) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if winners != 1 {
			t.Errorf("%s was created by %d", name, winners)
		}
		kept[name] = true
		// Deleting takes the folder along, which the next one needs.
		if i%3 == 0 {
			if err := stores[i%2].Delete(t.Context(), name); err != nil {
				t.Error(err)
			}
			delete(kept, name)
		}
	}
	close(done)
	<-disturber
	checkBlobs(t, second.endpoint, kept)
}
