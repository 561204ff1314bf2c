package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairn-backup/cairn/test/cluster/internal/host"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

func newDownCommand(p *program) *cobra.Command {
	var all, keep bool
	c := &cobra.Command{
		Use:   "down NAME... | --all",
		Short: "Stop clusters and remove every trace of them, also of those that crashed",
		RunE: func(c *cobra.Command, names []string) error {
			if all != (len(names) == 0) {
				return errors.New("name the clusters to take down, or use --all")
			}
			return p.downAll(c.Context(), names, keep)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all clusters of the state folder")
	c.Flags().BoolVar(&keep, "keep", false, "keep the state (objects, disks, images) for the next up")
	return c
}

// downAll takes the named clusters down, or all when there are no names.
func (p *program) downAll(ctx context.Context, names []string, keep bool) error {
	if err := requireRoot(); err != nil {
		return err
	}
	if len(names) == 0 {
		var err error
		if names, err = p.names(); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := p.down(ctx, name, keep); err != nil {
			return err
		}
	}
	return p.leave(ctx)
}

func (p *program) down(ctx context.Context, name string, keep bool) error {
	unlock, err := host.Lock(ctx, "cluster-"+name)
	if err != nil {
		return err
	}
	defer unlock()
	start := time.Now()
	c, err := p.find(name)
	if err != nil {
		return err
	}
	m, err := recall(c)
	known := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if keep && known {
		// First, so that a crash of this program does not lose what is to be kept.
		m.Kept, m.Ready = true, false
		if err := remember(c, m); err != nil {
			return err
		}
	}
	if err := p.clear(ctx, c, keep); err != nil {
		return err
	}
	p.log.For(name).Say("down after %.1f s", time.Since(start).Seconds())
	return nil
}

// leave removes what clusters share once none of them runs.
func (p *program) leave(ctx context.Context) error {
	unlock, err := host.Lock(ctx, "host")
	if err != nil {
		return err
	}
	defer unlock()
	if err := host.RemoveUnclaimed(); err != nil {
		return err
	}
	members, err := host.Members()
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Dir == p.dir {
			return nil
		}
	}
	if err := p.leaveFolder(); err != nil {
		return err
	}
	return host.RemoveBridge()
}

// leaveFolder unmounts the disks' file system. The state folder goes too unless it has state that was kept, or what is
// left of a cluster that crashed, which is its own down's business.
func (p *program) leaveFolder() error {
	if err := host.UnmountCloud(p.dir); err != nil {
		return err
	}
	left, err := p.clusters()
	if err != nil || len(left) > 0 {
		return err
	}
	for _, path := range []string{layout.UnfinishedCloudImage(p.dir), layout.CloudImage(p.dir), layout.Cloud(p.dir), p.dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the state folder: %w", err)
		}
	}
	return nil
}
