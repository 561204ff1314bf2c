package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/link"
)

// TestService runs the scripts against a cairnd of their own. The command `cluster GROUP NAME` makes a cluster and plays its
// connector: the extension is ready at once, and every request succeeds, except that a restore fails when its cluster's
// name begins with "bad", and a backup leaves out the claim shop/stale when it begins with "warned".
func TestService(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/service",
		UpdateScripts: os.Getenv("UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			w := daemontest.Start(e.T().(testing.TB), daemon.Config{})
			for k, v := range w.Env {
				e.Setenv(k, v)
			}
			e.Values["world"] = w
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"cluster": joinCluster, "output": output, "envsubst": envsubst},
	})
}

// output sets a variable to the last command's standard output.
func output(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: output VARIABLE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// envsubst replaces $NAME in a file by the variables.
func envsubst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: envsubst FILE")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}

func joinCluster(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cluster GROUP NAME")
	}
	_, leave, err := join(ts.Value("world").(*daemontest.World), args[0], args[1], ts.Logf)
	ts.Check(err)
	ts.Defer(leave)
}

// join makes a cluster and plays its connector until leave is called; the cluster is connected when it returns.
func join(w *daemontest.World, groupName, name string, logf func(string, ...any)) (id string, leave func(), err error) {
	group := w.Subscription + "/resourceGroups/" + groupName
	w.Do("PUT", group, `{"location":"eastus"}`).Want(200, 201)
	id = group + "/providers/Microsoft.ContainerService/managedClusters/" + name
	w.Do("PUT", id, `{"location":"eastus"}`).Want(200, 201)
	raw, err := json.Marshal(w.Do("POST", id+"/connect", nil).Want(200).JSON)
	if err != nil {
		return "", nil, err
	}
	var credential link.Credential
	if err := json.Unmarshal(raw, &credential); err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	reported := make(chan struct{})
	wg.Go(func() {
		if err := playConnector(ctx, credential, sync.OnceFunc(func() { close(reported) })); err != nil && !errors.Is(err, context.Canceled) {
			logf("connector: %v", err)
		}
	})
	select {
	case <-reported:
	case <-time.After(time.Minute):
		err = errors.New("the connector has not reported within a minute")
	}
	return id, func() { cancel(); wg.Wait() }, err
}

// playConnector tells reported of every report that the service has taken.
func playConnector(ctx context.Context, credential link.Credential, reported func()) error {
	c := &link.Client{Credential: func() (link.Credential, error) { return credential, nil }}
	report := &link.Report{KubernetesVersion: "v1.36.3", NodeCount: 1}
	for etag := ""; ; {
		if err := c.Report(ctx, report); err != nil {
			return err
		}
		reported()
		d, err := c.Desired(ctx, etag, 10*time.Second)
		if err != nil {
			return err
		}
		if d == nil {
			continue
		}
		etag = d.ETag
		report = &link.Report{KubernetesVersion: "v1.36.3", NodeCount: 1}
		if d.Extension != nil {
			report.Extension = &link.ExtensionState{Name: d.Extension.Name, Generation: d.Extension.Generation, State: link.ExtensionReady, Version: "0.1.0"}
		}
		for _, r := range d.Requests {
			s := requestStatus(r.Kind == "Restore" && strings.Contains(d.ClusterID, "/bad"))
			if r.Kind == "Backup" && strings.Contains(d.ClusterID, "/warned") {
				s.Phase = v1alpha1.PhaseCompletedWithWarnings
				s.Warnings = []v1alpha1.Issue{{Code: "VolumeSnapshotFailed", Resource: "persistentvolumeclaims/shop/stale", Message: "the driver said no", Action: "Ask it why."}}
			}
			status, err := json.Marshal(s)
			if err != nil {
				return err
			}
			report.Requests = append(report.Requests, link.RequestState{Kind: r.Kind, Name: r.Name, Status: status})
		}
	}
}

func requestStatus(bad bool) v1alpha1.BackupStatus {
	now := metav1.Now()
	s := v1alpha1.BackupStatus{Committed: true, ResourceVersion: "42", RecoveryPointTime: &now}
	s.Phase, s.Started, s.Ended = v1alpha1.PhaseCompleted, &now, &now
	if bad {
		s.Phase = v1alpha1.PhaseFailed
		s.Errors = []v1alpha1.Issue{{Code: "StorageUnreachable", Message: "no route", Action: "Open the way."}}
	}
	return s
}
