package blobserver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// disk is the folder that holds everything:
//
//	lock                                           shared by the processes that serve the folder
//	locks/                                         what they take turns with
//	tmp/<process>/                                 its writes under way and trees being removed; removed when it has ended
//	accounts/<account>/<container>/container.json  a container exists when this file does
//	accounts/<account>/<container>/blobs/…         committed blobs, see name.go and blobfile.go
//	accounts/<account>/<container>/blocks/<sha256 of the blob name>/<block id in hex>
type disk struct {
	root string
	log  *slog.Logger
	// temp is this process's folder in tmp.
	temp string
	// stripes serialise changes of one container's names. Data is written and synced before a stripe is taken.
	stripes [64]*lock
	// accounts serialises the removal of accounts.
	accounts *lock
	opened   []*os.File
}

// place is a container.
type place struct{ account, container string }

// containerProperties is container.json.
type containerProperties struct {
	ETag     string            `json:"etag"`
	Modified time.Time         `json:"modified"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// maxRoot leaves room for the longest blob name below the root in a path of 4096 bytes.
const maxRoot = 700

func openDisk(root string, log *slog.Logger) (*disk, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if len(root) > maxRoot {
		return nil, fmt.Errorf("blob folder %s: path is longer than %d bytes; choose a shorter one", root, maxRoot)
	}
	d := &disk{root: root, log: log}
	if err := d.takeFolder(); err != nil {
		return nil, errors.Join(fmt.Errorf("blob folder %s: %w", root, err), d.close())
	}
	return d, nil
}

func (d *disk) accountDir(account string) string { return filepath.Join(d.root, "accounts", account) }

func (d *disk) dir(p place) string { return filepath.Join(d.accountDir(p.account), p.container) }

func (d *disk) blobsDir(p place) string { return filepath.Join(d.dir(p), "blobs") }

func (d *disk) blobPath(p place, name string) string {
	return filepath.Join(d.blobsDir(p), encodeName(name))
}

func (d *disk) blocksDir(p place, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(d.dir(p), "blocks", hex.EncodeToString(sum[:]))
}

// newETag is unique, as long as Azure's and of its form.
func newETag() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("0x8%X", b[:])[:17]
}

func (d *disk) createContainer(p place, props containerProperties) error {
	temp, err := os.MkdirTemp(d.temp, "container-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) // gone already when it was renamed
	raw, err := json.Marshal(props)
	if err != nil {
		return err
	}
	for _, sub := range []string{"blobs", "blocks"} {
		if err := os.Mkdir(filepath.Join(temp, sub), 0o700); err != nil {
			return err
		}
	}
	if err := writeSynced(filepath.Join(temp, "container.json"), raw); err != nil {
		return err
	}
	if err := syncDir(temp); err != nil {
		return err
	}
	release, err := d.stripe(p).take()
	if err != nil {
		return err
	}
	defer release()
	if err := d.makeDirs(d.accountDir(p.account)); err != nil {
		return err
	}
	err = os.Rename(temp, d.dir(p))
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
		return fail(409, "ContainerAlreadyExists", "The specified container already exists.")
	}
	if err != nil {
		return err
	}
	return syncDir(d.accountDir(p.account))
}

func (d *disk) container(p place) (containerProperties, error) {
	raw, err := os.ReadFile(filepath.Join(d.dir(p), "container.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return containerProperties{}, errContainerNotFound()
	}
	if err != nil {
		return containerProperties{}, err
	}
	var props containerProperties
	if err := json.Unmarshal(raw, &props); err != nil {
		return containerProperties{}, fmt.Errorf("container %s/%s: %w", p.account, p.container, err)
	}
	return props, nil
}

// deleteContainer takes the container away at once; its content is removed after that.
func (d *disk) deleteContainer(p place, decide func(containerProperties) error) error {
	release, err := d.stripe(p).take()
	if err != nil {
		return err
	}
	defer release()
	props, err := d.container(p)
	if err != nil {
		return err
	}
	if err := decide(props); err != nil {
		return err
	}
	return d.remove(d.dir(p))
}

// remove makes a tree disappear in one durable step and then deletes it.
func (d *disk) remove(dir string) error {
	temp, err := d.hide(dir)
	if err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	return os.RemoveAll(temp)
}

// hide moves a tree into a new folder below tmp, to be deleted by the caller or at the next start.
func (d *disk) hide(dir string) (temp string, err error) {
	if temp, err = os.MkdirTemp(d.temp, "removed-*"); err != nil {
		return "", err
	}
	if err := os.Rename(dir, filepath.Join(temp, "x")); err != nil {
		return "", errors.Join(err, os.Remove(temp))
	}
	return temp, nil
}

// containers lists the containers of an account in order.
func (d *disk) containers(account string) ([]string, error) {
	entries, err := os.ReadDir(d.accountDir(account)) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// open returns a committed blob; the caller closes it.
func (d *disk) open(p place, name string) (*blobFile, error) {
	b, err := openBlob(d.blobPath(p, name))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := d.container(p); err != nil {
			return nil, err
		}
		return nil, errBlobNotFound()
	}
	return b, err
}

// peek returns the properties of a committed blob, or nil when there is none.
func (d *disk) peek(p place, name string) (*properties, error) {
	b, err := openBlob(d.blobPath(p, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &b.properties, b.Close()
}

// staged is a file being written, not visible yet.
type staged struct{ *os.File }

func (d *disk) stage() (*staged, error) {
	f, err := os.CreateTemp(d.temp, "write-*")
	if err != nil {
		return nil, err
	}
	return &staged{f}, nil
}

// finish makes the data durable. The file still has no name that anyone looks at.
func (s *staged) finish() error {
	if err := s.Sync(); err != nil {
		return err
	}
	return s.Close()
}

// discard removes the file, unless it was renamed.
func (s *staged) discard() {
	s.Close()
	os.Remove(s.Name())
}

// commit makes a finished file the blob, if decide agrees with what is there (nil: no blob). Uncommitted blocks of the
// blob go, as with Azure. It returns when the new name is durable; so it does when it refuses because of an existing
// blob, since the caller will rely on that one.
func (d *disk) commit(p place, name string, s *staged, decide func(old *properties) error) error {
	path := d.blobPath(p, name)
	if err := d.rename(p, name, path, s, decide); err != nil {
		if api, ok := errors.AsType[*apiError](err); ok && api.status != 404 {
			return errors.Join(api, ignoreMissing(syncDir(filepath.Dir(path))))
		}
		return err
	}
	return ignoreMissing(syncDir(filepath.Dir(path))) // the folder is gone when the blob was deleted meanwhile
}

func (d *disk) rename(p place, name, path string, s *staged, decide func(old *properties) error) error {
	release, err := d.stripe(p).take()
	if err != nil {
		return err
	}
	defer release()
	if _, err := d.container(p); err != nil {
		return err
	}
	old, err := d.peek(p, name)
	if err != nil {
		return err
	}
	if err := decide(old); err != nil {
		return err
	}
	if err := d.makeDirs(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Rename(s.Name(), path); err != nil {
		return err
	}
	// The blob is visible: what stays of its blocks is swept later and does not make the upload fail.
	if err := d.dropBlocks(p, name); err != nil {
		d.log.Error("dropping a blob's uncommitted blocks failed", "account", p.account, "container", p.container, "blob", name, "error", err)
	}
	return nil
}

// dropBlocks deletes the uncommitted blocks of a blob. Blocks that come back after a crash are swept later.
func (d *disk) dropBlocks(p place, name string) error {
	dir := d.blocksDir(p, name)
	if _, err := os.Lstat(dir); err != nil {
		return ignoreMissing(err)
	}
	temp, err := d.hide(dir)
	if err != nil {
		return err
	}
	return os.RemoveAll(temp)
}

// deleteBlob removes a committed blob and the folders that only it needed.
func (d *disk) deleteBlob(p place, name string, decide func(properties) error) error {
	release, err := d.stripe(p).take()
	if err != nil {
		return err
	}
	defer release()
	b, err := d.open(p, name)
	if err != nil {
		return err
	}
	if err := errors.Join(decide(b.properties), b.Close()); err != nil {
		return err
	}
	path := d.blobPath(p, name)
	if err := os.Remove(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	for dir != d.blobsDir(p) && os.Remove(dir) == nil { // fails, and ends this, when the folder is not empty
		dir = filepath.Dir(dir)
	}
	return syncDir(dir)
}

// putBlock makes a finished file an uncommitted block of the blob.
func (d *disk) putBlock(p place, name string, id []byte, s *staged) error {
	release, err := d.stripe(p).take()
	if err != nil {
		return err
	}
	defer release()
	if _, err := d.container(p); err != nil {
		return err
	}
	dir := d.blocksDir(p, name)
	if err := d.makeDirs(dir); err != nil {
		return err
	}
	return os.Rename(s.Name(), filepath.Join(dir, hex.EncodeToString(id)))
}

func (d *disk) openBlock(p place, name string, id []byte) (*os.File, error) {
	return os.Open(filepath.Join(d.blocksDir(p, name), hex.EncodeToString(id)))
}

// uncommitted lists the uncommitted blocks of a blob by ID.
func (d *disk) uncommitted(p place, name string) ([]block, error) {
	entries, err := os.ReadDir(d.blocksDir(p, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []block
	for _, e := range entries {
		id, err := hex.DecodeString(e.Name())
		if err != nil {
			return nil, err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // committed or replaced meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, block{ID: id, Size: info.Size()})
	}
	return list, nil
}

// sweep drops the uncommitted blocks of blobs that got none since before.
func (d *disk) sweep(before time.Time) (dropped int, err error) {
	dirs, err := filepath.Glob(filepath.Join(d.root, "accounts", "*", "*", "blocks", "*"))
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		container := filepath.Dir(filepath.Dir(dir))
		p := place{filepath.Base(filepath.Dir(container)), filepath.Base(container)}
		n, err := d.sweepBlob(p, dir, before)
		if err != nil {
			return dropped, err
		}
		dropped += n
	}
	return dropped, nil
}

func (d *disk) sweepBlob(p place, dir string, before time.Time) (int, error) {
	release, err := d.stripe(p).take()
	if err != nil {
		return 0, err
	}
	defer release()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, ignoreMissing(err)
	}
	fresh := slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		info, err := e.Info()
		return err != nil || !info.ModTime().Before(before)
	})
	if fresh {
		return 0, nil
	}
	return len(entries), d.remove(dir)
}

// makeDirs is os.MkdirAll whose folders survive a crash.
func (d *disk) makeDirs(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(dir, d.root) {
		if err := d.makeDirs(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readBody writes exactly size bytes of body to w.
func readBody(w io.Writer, body io.Reader, size int64) error {
	// The wrapper hides os.File's ReadFrom, whose errors would not tell the connection's fault from the disk's.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(body, size), make([]byte, 256<<10))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return bodyError(err)
	}
	return nil
}
