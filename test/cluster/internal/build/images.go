package build

import (
	"context"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cairn-backup/cairn/test/cluster/internal/image"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

// The images' made-up registry name and a tag other than latest make the kubelet use what was imported.
const (
	busyboxImage  = "registry.test/busybox:1"
	postgresImage = "registry.test/postgres:1"

	searchPath   = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	postgresUser = 999 // as in the official image
)

//go:embed start-postgres.sh
var startPostgres string

// AllImages packs the images pause, busybox and postgres that are missing or out of date.
func (c *Cache) AllImages(ctx context.Context) error {
	key, err := c.key([]string{"components/pause", "components/fetch", "internal/build", "internal/image"})
	if err != nil {
		return err
	}
	return c.part(filepath.Join(c.Images(), ".stamp"), key, func() error {
		for _, i := range []struct {
			name string
			pack func(context.Context) error
		}{{"pause", c.pause}, {"busybox", c.busybox}, {"postgres", c.postgres}} {
			if err := c.Log.Step("packed image "+i.name, nil, func() error { return i.pack(ctx) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// Archives are the images' files.
func (c *Cache) Archives() ([]string, error) {
	return filepath.Glob(filepath.Join(c.Images(), "*.tar"))
}

func (c *Cache) pause(context.Context) error {
	l, err := image.NewLayer()
	if err != nil {
		return err
	}
	l.File("/pause", filepath.Join(c.Bin(), "pause"))
	return l.Write(filepath.Join(c.Images(), "pause.tar"), layout.PauseImage, v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"})
}

func (c *Cache) busybox(ctx context.Context) error {
	l, err := c.userland(ctx, "")
	if err != nil {
		return err
	}
	return l.Write(filepath.Join(c.Images(), "busybox.tar"), busyboxImage, v1.Config{Cmd: []string{"/bin/sh"}, Env: []string{searchPath}})
}

// userland is a layer with a shell, the usual small programs and fetch. Users are further lines of /etc/passwd.
func (c *Cache) userland(ctx context.Context, users string) (*image.Layer, error) {
	root := filepath.Join(c.Dir, "busybox")
	if err := c.unpack(ctx, root, []string{"busybox-static"}); err != nil {
		return nil, err
	}
	busybox := filepath.Join(root, "usr/bin/busybox")
	if _, err := os.Stat(busybox); errors.Is(err, fs.ErrNotExist) {
		busybox = filepath.Join(root, "bin/busybox") // as in Debian 12
	}
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's programs: %w", err)
	}
	l, err := image.NewLayer()
	if err != nil {
		return nil, err
	}
	l.File("/bin/busybox", busybox)
	for _, a := range strings.Fields(string(applets)) {
		l.Link("/bin/"+a, "busybox")
	}
	l.File("/bin/fetch", filepath.Join(c.Bin(), "fetch"))
	l.Link("/usr/bin/env", "/bin/busybox")
	l.Dir("/tmp", 0o1777, 0)
	l.Dir("/root", 0o700, 0)
	l.Dir("/var", 0o755, 0)
	l.Text("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"+users)
	l.Text("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")
	return l, nil
}

// postgres packs the files of Debian's packages with the libraries they are linked with, and no more.
func (c *Cache) postgres(ctx context.Context) error {
	version, err := c.unpackPostgres(ctx)
	if err != nil {
		return err
	}
	root, programs := c.PostgreSQL(), "/usr/lib/postgresql/"+version
	l, err := c.userland(ctx, fmt.Sprintf("postgres:x:%d:%[1]d:postgres:/var/lib/postgresql:/bin/sh\n", postgresUser))
	if err != nil {
		return err
	}
	l.Tree(programs, filepath.Join(root, programs), func(file string) bool {
		return strings.HasSuffix(file, "/bitcode") || strings.Contains(file, "/llvmjit")
	})
	share := "/usr/share/postgresql/" + version
	l.Tree(share, filepath.Join(root, share), func(file string) bool { return strings.HasSuffix(file, "/man") })
	for _, zone := range []string{"/usr/share/zoneinfo/Etc", "/usr/share/zoneinfo/UTC"} {
		l.Tree(zone, filepath.Join(root, zone), nil)
	}
	libraries, err := libraries(ctx, root, filepath.Join(root, programs))
	if err != nil {
		return err
	}
	for _, file := range libraries {
		l.File(strings.TrimPrefix(file, root), file)
	}
	for _, folder := range []string{"/var/lib/postgresql", "/var/lib/postgresql/data", "/run/postgresql"} {
		l.Dir(folder, 0o755, postgresUser)
	}
	l.Link("/var/run", "/run")
	l.Text("/usr/local/bin/start-postgres", 0o755, startPostgres)
	return l.Write(filepath.Join(c.Images(), "postgres.tar"), postgresImage, v1.Config{
		Entrypoint:   []string{"/usr/local/bin/start-postgres"},
		User:         fmt.Sprintf("%d:%[1]d", postgresUser),
		ExposedPorts: map[string]struct{}{"5432/tcp": {}},
		Env: []string{
			"PATH=" + programs + "/bin:" + strings.TrimPrefix(searchPath, "PATH="),
			"PGDATA=/var/lib/postgresql/data/pgdata", "PGUSER=postgres",
		},
	})
}

// unpackPostgres unpacks the server and its client programs, and tells their version.
func (c *Cache) unpackPostgres(ctx context.Context) (string, error) {
	version, err := postgresVersion(ctx)
	if err != nil {
		return "", err
	}
	bin := "/usr/lib/postgresql/" + version + "/bin"
	packages := []string{"postgresql-" + version, "postgresql-client-" + version, "libpq5", "tzdata"}
	return version, c.unpack(ctx, c.PostgreSQL(), packages, bin+"/postgres", bin+"/psql", bin+"/initdb", bin+"/pg_ctl")
}

var postgresCandidate = regexp.MustCompile(`Inst postgresql (?:\[\S+\] )?\((\d+)\+`)

// postgresVersion is the major version of PostgreSQL that this machine's Debian has. Its package postgresql, which only
// depends on the one of that version, is numbered after it: 15+248.
func postgresVersion(ctx context.Context) (string, error) {
	out, err := apt(ctx, "install", "--simulate", "--no-install-recommends", "--reinstall", "postgresql")
	if err != nil {
		return "", err
	}
	m := postgresCandidate.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("Debian's package postgresql does not tell the version of PostgreSQL:\n%s", out)
	}
	return string(m[1]), nil
}

var libraryPath = regexp.MustCompile(`(/\S+\.so\S*) \(0x`)

// libraries are the shared libraries that the programs and libraries below folder are linked with, the loader included.
func libraries(ctx context.Context, root, folder string) ([]string, error) {
	objects, err := elfFiles(folder)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "ldd", objects...)
	var places []string
	for _, pattern := range []string{"usr/lib/*-linux-gnu", "lib/*-linux-gnu"} { // Debian 12 still has packages with the latter
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		places = append(places, found...)
	}
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(places, ":"))
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", folder, err)
	}
	if strings.Contains(string(out), "not found") {
		return nil, fmt.Errorf("libraries of %s are missing:\n%s", folder, out)
	}
	var found []string
	for _, m := range libraryPath.FindAllStringSubmatch(string(out), -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

func elfFiles(folder string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(path, "/llvmjit") {
			return err
		}
		if f, err := elf.Open(path); err == nil {
			files = append(files, path)
			return f.Close()
		}
		return nil
	})
	return files, err
}
