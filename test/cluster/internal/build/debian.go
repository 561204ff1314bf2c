package build

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// runtimePackages are unpacked, never installed: their services must not run on the machine.
var runtimePackages = []string{"containerd", "runc", "containernetworking-plugins"}

// tools are programs that the machine itself must have, and the Debian packages that bring them.
var tools = []struct{ program, pkg string }{
	{"mkfs.xfs", "xfsprogs"},
	{"mkfs.ext4", "e2fsprogs"},
	{"iptables", "iptables"},
	{"conntrack", "conntrack"},
	{"nsenter", "util-linux"},
}

// Tools installs the Debian packages of those programs that the machine lacks.
func (c *Cache) Tools(ctx context.Context) error {
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			missing = append(missing, t.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return c.Log.Step("installed "+strings.Join(missing, ", "), nil, func() error {
		_, err := apt(ctx, append([]string{"install", "-y", "--no-install-recommends"}, missing...)...)
		return err
	})
}

func (c *Cache) unpackRuntime(ctx context.Context) error {
	return c.unpack(ctx, c.Debian(), runtimePackages, "usr/bin/containerd", "usr/sbin/runc", "usr/lib/cni/ptp")
}

// unpack downloads packages, and of what they depend on that which the machine lacks, and unpacks them below root. The
// files named must be there afterwards.
func (c *Cache) unpack(ctx context.Context, root string, packages []string, files ...string) error {
	key := strings.Join(packages, " ")
	return c.part(filepath.Join(root, ".stamp"), key, func() error {
		return c.Log.Step("unpacked Debian's "+strings.Join(packages, ", "), nil, func() error {
			archives := filepath.Join(root, ".archives")
			if err := os.MkdirAll(filepath.Join(archives, "partial"), 0o755); err != nil {
				return err
			}
			args := []string{"install", "-y", "--no-install-recommends", "--download-only", "--reinstall", "-o", "Dir::Cache::archives=" + archives, "-o", "APT::Sandbox::User=root"}
			if _, err := apt(ctx, append(args, packages...)...); err != nil {
				return err
			}
			if err := extract(ctx, archives, root); err != nil {
				return err
			}
			for _, f := range files {
				if _, err := os.Stat(filepath.Join(root, f)); err != nil {
					return fmt.Errorf("Debian's %s have changed: %w", strings.Join(packages, ", "), err)
				}
			}
			return os.RemoveAll(archives)
		})
	})
}

func extract(ctx context.Context, archives, root string) error {
	debs, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", filepath.Base(deb), err, out)
		}
	}
	return nil
}

// apt runs apt-get and returns what it prints. When it fails the package lists may be missing or old, as on a new
// machine; it updates them and tries once more.
func apt(ctx context.Context, args ...string) ([]byte, error) {
	out, err := aptOnce(ctx, args...)
	if err == nil {
		return out, nil
	}
	if _, err := aptOnce(ctx, "update"); err != nil {
		return nil, err
	}
	return aptOnce(ctx, args...)
}

func aptOnce(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return out, nil
}
