package replicas_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/daemon"
)

// The test program is also the replicas that it kills.
func TestMain(m *testing.M) {
	if data := os.Getenv("CAIRN_TEST_DATA"); data != "" {
		if err := serve(data); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// publicURL is where the replicas say that they are. Nobody is there: each client's dialer leads it to a replica that lives.
const publicURL = "https://cairn.test:8443"

// serve is a replica. It says on which address it listens, and ends when it is told to.
func serve(data string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := openClock(os.Getenv("CAIRN_TEST_CLOCK"))
	if err != nil {
		return err
	}
	skew, err := time.ParseDuration(os.Getenv("CAIRN_TEST_SKEW"))
	if err != nil {
		return err
	}
	d, err := daemon.Start(ctx, daemon.Config{Data: data, Database: os.Getenv("CAIRN_TEST_DATABASE"), Listen: "127.0.0.1:0", BlobListen: "127.0.0.1:0",
		PublicURL: publicURL, BlobURL: "https://blobs.test:8444", Now: func() time.Time { return c.now().Add(skew) },
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	fmt.Println(d.Address)
	return d.Wait()
}

// replica is one of the places where a replica runs.
type replica struct {
	name    string
	env     []string
	log     string
	cmd     *exec.Cmd
	address atomic.Pointer[string] // nil while it is dead
}

// start starts it and waits until it serves.
func (r *replica) start() error {
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	r.cmd = exec.Command(os.Args[0])
	r.cmd.Env = append(os.Environ(), r.env...)
	r.cmd.Stderr = log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := r.cmd.StdoutPipe()
	if err := errors.Join(err, r.cmd.Start(), log.Close()); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("replica %s did not start, its log is %s: %w", r.name, r.log, errors.Join(err, r.cmd.Wait()))
	}
	address := strings.TrimSpace(line)
	r.address.Store(&address)
	return nil
}

// kill ends it as a power cut would.
func (r *replica) kill() error {
	r.address.Store(nil)
	if err := r.cmd.Process.Kill(); err != nil {
		return err
	}
	// That it was killed is what Wait says.
	_ = r.cmd.Wait()
	return nil
}

func (r *replica) signal(s syscall.Signal) error { return r.cmd.Process.Signal(s) }

// replicas are all of them.
type replicas []*replica

// startReplicas starts two at once, from nothing, whose clocks differ. They end with the test; when it has failed, their logs' ends are shown.
func startReplicas(t *testing.T, data, database, clock string) replicas {
	t.Helper()
	var all replicas
	for i, skew := range []string{"-700ms", "800ms"} {
		name := string(rune('A' + i))
		all = append(all, &replica{name: name, log: filepath.Join(t.TempDir(), "log"),
			env: []string{"CAIRN_TEST_DATA=" + data, "CAIRN_TEST_DATABASE=" + database, "CAIRN_TEST_CLOCK=" + clock, "CAIRN_TEST_SKEW=" + skew}})
	}
	starting := make(chan error)
	for _, r := range all {
		go func() { starting <- r.start() }()
	}
	t.Cleanup(func() {
		for _, r := range all {
			if r.address.Load() != nil {
				if err := r.kill(); err != nil {
					t.Error(err)
				}
			}
			if t.Failed() {
				text, err := os.ReadFile(r.log)
				t.Logf("the end of replica %s's log (%v):\n%s", r.name, err, text[max(0, len(text)-20_000):])
			}
		}
	})
	for range all {
		if err := <-starting; err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// dial leads to any replica that lives, another one than before whenever it fails.
func (all replicas) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	err := errors.New("no replica lives")
	for _, i := range rand.Perm(len(all)) {
		address := all[i].address.Load()
		if address == nil {
			continue
		}
		var connection net.Conn
		if connection, err = (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", *address); err == nil {
			return connection, nil
		}
	}
	return nil, err
}

// killer does harm until it is told to stop, and then lets all live.
type killer struct {
	random *rand.Rand
	all    replicas
	clock  *clock
	// first is a slot; others follow it every so often.
	first time.Time
	every time.Duration

	kills, stops int
	// dead is the longest time of the clock in which none lived.
	dead time.Duration
	err  error
	done chan struct{}
	wait sync.WaitGroup
}

// startKiller kills one replica after the other at random times, sometimes both, and starts them again; some it only stops for a while. Most
// strikes are aimed at the moments in which backups start.
func startKiller(k *killer) *killer {
	k.done = make(chan struct{})
	k.wait.Go(func() {
		for k.err == nil {
			if !k.pause(300*time.Millisecond, 2*time.Second) || k.random.IntN(3) > 0 && !k.aim() {
				return
			}
			k.err = k.strike()
		}
	})
	return k
}

// aim waits for the next slot, and a moment longer. Replicas whose clocks differ come to it one after the other.
func (k *killer) aim() bool {
	now := k.clock.now()
	slot := k.first.Add(max(0, now.Sub(k.first).Truncate(k.every)+k.every))
	wait := slot.Sub(now) / speed
	return k.pause(wait, wait+150*time.Millisecond)
}

// pause waits for a random time, and says whether to go on.
func (k *killer) pause(least, most time.Duration) bool {
	select {
	case <-time.After(least + time.Duration(k.random.Int64N(int64(most-least)))):
		return true
	case <-k.done:
		return false
	}
}

func (k *killer) strike() error {
	random, all := k.random, k.all
	victims := random.Perm(len(all))[:1]
	switch random.IntN(8) {
	case 0: // both
		victims = random.Perm(len(all))
	case 1, 2: // stopped, perhaps while it holds the turn to write
		victim := all[victims[0]]
		k.stops++
		if err := victim.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		k.pause(200*time.Millisecond, 2*time.Second)
		return victim.signal(syscall.SIGCONT)
	}
	for _, v := range victims {
		k.kills++
		if err := all[v].kill(); err != nil {
			return err
		}
	}
	died := k.clock.now()
	k.pause(time.Millisecond, time.Second)
	for i, v := range victims {
		if err := k.revive(all[v]); err != nil {
			return err
		}
		if i == 0 && len(victims) == len(all) {
			k.dead = max(k.dead, k.clock.now().Sub(died))
		}
	}
	return nil
}

// revive starts a replica as whatever supervises it would: again, when it could not start because the database was away.
func (k *killer) revive(r *replica) (err error) {
	for range 20 {
		if err = r.start(); err == nil {
			return nil
		}
		k.pause(100*time.Millisecond, time.Second)
	}
	return err
}

// stop ends the harm.
func (k *killer) stop() error {
	close(k.done)
	k.wait.Wait()
	return k.err
}
