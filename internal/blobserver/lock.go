package blobserver

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// lock is held by one goroutine at a time, of all processes that serve the folder. A process that dies lets go of it.
type lock struct {
	mu   sync.Mutex
	file *os.File
}

// lockPatience is how long a lock is waited for. Nobody holds one for long but a process that has been stopped, or that removes an account.
const lockPatience = 30 * time.Second

func openLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &lock{file: f}, nil
}

// take waits for the lock. Processes ask again and again, since one that waits in the kernel cannot give up.
func (l *lock) take() (release func(), err error) {
	l.mu.Lock()
	pause, end := time.Millisecond, time.Now().Add(lockPatience)
	for {
		held, err := tryLock(l.file)
		if held {
			return l.release, nil
		}
		if err == nil && time.Now().After(end) {
			err = &apiError{status: http.StatusServiceUnavailable, code: "ServerBusy", header: http.Header{"Retry-After": {"5"}},
				message: "Another process of the storage service works on the same container and does not get on. Send the request again after a while.",
				err:     fmt.Errorf("%s is locked: see whether another cairnd hangs", l.file.Name())}
		}
		if err != nil {
			l.mu.Unlock()
			return nil, err
		}
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
}

func (l *lock) release() {
	// Unlocking a file that is locked and open does not fail.
	_ = syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN)
	l.mu.Unlock()
}

func tryLock(f *os.File) (bool, error) {
	for {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}

// stripe is the lock of a container's names.
func (d *disk) stripe(p place) *lock {
	h := fnv.New32a()
	_, _ = h.Write([]byte(p.account + "/" + p.container)) // never fails
	return d.stripes[h.Sum32()%uint32(len(d.stripes))]
}

// takeFolder takes the folder for this process beside others, makes its locks and its folder for what is under way, and removes what processes
// that have ended left in theirs.
func (d *disk) takeFolder() error {
	for _, sub := range []string{"accounts", "locks", "tmp"} {
		if err := os.MkdirAll(filepath.Join(d.root, sub), 0o700); err != nil {
			return err
		}
	}
	// A cairnd that does not share the folder takes this one for itself alone.
	shared, err := os.OpenFile(filepath.Join(d.root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	d.opened = append(d.opened, shared)
	if err := syscall.Flock(int(shared.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("an older version of cairnd serves it; stop that first: %w", err)
	}
	lockFile := func(name string) (*lock, error) {
		l, err := openLock(filepath.Join(d.root, "locks", name))
		if err == nil {
			d.opened = append(d.opened, l.file)
		}
		return l, err
	}
	for i := range d.stripes {
		if d.stripes[i], err = lockFile(fmt.Sprintf("container-%02d", i)); err != nil {
			return err
		}
	}
	if d.accounts, err = lockFile("accounts"); err != nil {
		return err
	}
	opening, err := lockFile("opening")
	if err != nil {
		return err
	}
	release, err := opening.take()
	if err != nil {
		return err
	}
	defer release()
	if err := d.emptyTemp(); err != nil {
		return err
	}
	if d.temp, err = os.MkdirTemp(filepath.Join(d.root, "tmp"), "process-*"); err != nil {
		return err
	}
	own, err := os.OpenFile(filepath.Join(d.temp, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	d.opened = append(d.opened, own)
	if held, err := tryLock(own); err != nil || !held {
		return errors.Join(err, errors.New("a file that was just made is locked by another process"))
	}
	return nil
}

// emptyTemp removes what a crash left: nothing in tmp was ever visible. A folder whose lock is held belongs to a process that runs.
func (d *disk) emptyTemp() error {
	tmp := filepath.Join(d.root, "tmp")
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(tmp, e.Name())
		lives, err := inUse(filepath.Join(dir, "lock"))
		if err == nil && !lives {
			err = os.RemoveAll(dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inUse says whether a process holds the lock; nobody holds one that is not there.
func inUse(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	free, err := tryLock(f)
	return !free, errors.Join(err, f.Close())
}

// close gives up the folder.
func (d *disk) close() error {
	errs := []error{os.RemoveAll(d.temp)}
	for _, f := range d.opened {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
