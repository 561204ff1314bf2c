// Command setup installs what the tests need on a new Debian machine and builds the test cluster's programs, so that `make test`
// works from a clean clone. Run again it changes nothing. It needs root for the packages that are missing.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// packages are the Debian packages that tests use, each with a program that shows whether it is there. What the test cluster needs it
// gets itself.
var packages = []struct{ name, program string }{
	{"age", "/usr/bin/age"},         // a stock reader of bundles
	{"zstd", "/usr/bin/zstd"},       // the same
	{"npm", "/usr/bin/npm"},         // installs Azurite
	{"openssl", "/usr/bin/openssl"}, // the guide uses it
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
}

func run() error {
	if err := installPackages(); err != nil {
		return err
	}
	if _, err := os.Stat("test/azurite/node_modules/azurite"); err != nil {
		if err := command("test/azurite", "npm", "ci", "--no-audit", "--no-fund").Run(); err != nil {
			return fmt.Errorf("install Azurite: %w", err)
		}
	}
	if err := command("test/cluster", "go", "run", ".", "build").Run(); err != nil {
		return fmt.Errorf("build the test cluster: %w", err)
	}
	return nil
}

func installPackages() error {
	var missing []string
	for _, p := range packages {
		if _, err := os.Stat(p.program); err != nil {
			if _, err := exec.LookPath(filepath.Base(p.program)); err != nil {
				missing = append(missing, p.name)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := command(".", "apt-get", "update", "-qq").Run(); err != nil {
		return fmt.Errorf("apt-get update: %w", err)
	}
	install := append([]string{"-o", "DPkg::Lock::Timeout=300", "install", "-y", "-qq", "--no-install-recommends"}, missing...)
	if err := command(".", "apt-get", install...).Run(); err != nil {
		return fmt.Errorf("install %v: %w", missing, err)
	}
	return nil
}

// command is a program whose output the person who waits sees.
func command(dir, name string, args ...string) *exec.Cmd {
	fmt.Println("setup:", name, args)
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}
