package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/store"
)

// useFolder takes the data folder for as long as the file that it returns is open: alone, or beside others that share the state too.
func useFolder(data string, shared bool) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(data, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	how := syscall.LOCK_EX
	if shared {
		how = syscall.LOCK_SH
	}
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("data folder %s is used by another cairnd; stop that, or give both the same PostgreSQL database: %w", data, err), f.Close())
	}
	return f, nil
}

// startPause is how often a replica looks whether another has finished its start, startPatience how long it does.
const (
	startPause    = 100 * time.Millisecond
	startPatience = 2 * time.Minute
)

// startAlone waits until no other replica starts; none does before the file that it returns is closed.
func startAlone(ctx context.Context, data string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(data, "lock.start"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("data folder: lock %s: %w", f.Name(), err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("another replica has been starting for too long; see whether it hangs: %w", ctx.Err()), f.Close())
		case <-time.After(startPause):
		}
	}
}

// idFile holds what tells the data folder from others.
const idFile = "id"

// folderID is the folder's ID, which is made when there is none.
func folderID(data string) (string, error) {
	file := filepath.Join(data, idFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		id := uuid.NewString()
		return id, auth.WriteFile(file, []byte(id+"\n"), 0o600)
	}
	return strings.TrimSpace(string(text)), err
}

// belongs refuses a database whose certificates, signing key and blobs are in another folder: a replica with a folder of its own would
// refuse the others' tokens and miss their blobs.
func belongs(tx *store.Tx, data, id string) error {
	known, err := tx.SettingOr("dataFolder", func() (string, error) { return id, nil })
	if err == nil && known != id {
		err = fmt.Errorf("the database belongs to a data folder with the ID %s, and %s has %s: give every replica the same folder. To go on with this one, "+
			"without the other's blobs, certificates and signing key, write that ID into %s", known, data, id, filepath.Join(data, idFile))
	}
	return err
}
