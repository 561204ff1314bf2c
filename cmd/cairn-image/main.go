// Command cairn-image builds cairn-extension and writes its container image to a file, without Docker. `make image` runs it.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/cairn-backup/cairn/internal/image"
)

const program = "github.com/cairn-backup/cairn/cmd/cairn-extension"

type options struct {
	name, output, binary, version, arch string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var o options
	flag.StringVar(&o.name, "name", "", "the image's name with its tag (default cairn/cairn-extension:VERSION)")
	flag.StringVar(&o.output, "output", "", "the file to write (default dist/cairn-extension.tar)")
	flag.StringVar(&o.binary, "binary", "", "a statically linked cairn-extension to take; without it, it is built")
	flag.StringVar(&o.version, "version", "", "the version to stamp (default the name's tag, or dev)")
	flag.StringVar(&o.arch, "arch", runtime.GOARCH, "the architecture to build for")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "cairn-image:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	_, tag, _ := strings.Cut(filepath.Base(o.name), ":")
	o.version = cmp.Or(o.version, tag, "dev")
	o.name = cmp.Or(o.name, "cairn/cairn-extension:"+o.version)
	o.output = cmp.Or(o.output, filepath.Join("dist", "cairn-extension.tar"))
	if o.binary == "" {
		folder, err := os.MkdirTemp("", "cairn-image-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(folder)
		o.binary = filepath.Join(folder, "cairn-extension")
		if err := build(ctx, o); err != nil {
			return err
		}
	}
	img, err := image.Build(image.Options{Program: o.binary, Architecture: o.arch, Labels: map[string]string{
		"org.opencontainers.image.title":   "cairn-extension",
		"org.opencontainers.image.version": o.version,
	}})
	if err != nil {
		return err
	}
	write := func(f *bufio.Writer) error {
		if err := image.Write(f, o.name, img); err != nil {
			return err
		}
		return f.Flush()
	}
	if err := replace(o.output, write); err != nil {
		return err
	}
	fmt.Println(o.output, o.name)
	return nil
}

// build compiles the program as the image needs it: static, without paths of this machine.
func build(ctx context.Context, o options) error {
	flags := "-s -w -X github.com/cairn-backup/cairn/internal/buildinfo.Version=" + o.version
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", flags, "-o", o.binary, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.arch)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w", program, err)
	}
	return nil
}

// replace writes a file whole or not at all.
func replace(name string, write func(*bufio.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".image-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	err = errors.Join(write(bufio.NewWriterSize(f, 1<<20)), f.Chmod(0o644), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}
