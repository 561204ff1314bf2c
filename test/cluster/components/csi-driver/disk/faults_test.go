package disk_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/cairn-backup/cairn/test/cluster/components/csi-driver/disk"
)

func TestFaultsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "faults.json")
	text := `{"CreateSnapshot": {"delay": "2s", "fail": 3, "code": "ResourceExhausted", "message": "too many"}, "DeleteVolume": {"fail": -1}}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := map[string]disk.Fault{
		"CreateSnapshot": {Delay: disk.Duration(2 * time.Second), Fail: 3, Code: codes.ResourceExhausted, Message: "too many"},
		"DeleteVolume":   {Fail: -1},
	}
	// The second round reads what the first has written.
	for range 2 {
		err := disk.EditFaults(file, func(got map[string]disk.Fault) {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestParseFaultsRefuses(t *testing.T) {
	for _, text := range []string{
		`[]`, `{"createsnapshot": {}}`, `{"CreateSnapshot": {"delay": "soon"}}`, `{"CreateSnapshot": {"delay": "-1s"}}`,
		`{"CreateSnapshot": {"code": "internal"}}`, `{"CreateSnapshot": {"fail": "3"}}`, `{`,
	} {
		if got, err := disk.ParseFaults([]byte(text)); err == nil {
			t.Errorf("ParseFaults(%s) = %v, want an error", text, got)
		}
	}
}

func FuzzParseFaults(f *testing.F) {
	f.Add([]byte(`{"CreateSnapshot": {"delay": "2s", "fail": 3, "code": "Internal", "message": "m"}}`))
	f.Add([]byte(`{"NodeStageVolume": {"fail": -1}}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, b []byte) {
		parsed, err := disk.ParseFaults(b)
		if err != nil {
			return
		}
		written, err := json.Marshal(parsed)
		if err != nil {
			t.Fatal(err)
		}
		again, err := disk.ParseFaults(written)
		if err != nil {
			t.Fatalf("%s was written and cannot be read: %v", written, err)
		}
		if diff := cmp.Diff(parsed, again); diff != "" {
			t.Errorf("written and read again (-want +got):\n%s", diff)
		}
	})
}

// Calls fail as often as the file says, with its code and message, and then work; other calls are left alone.
func TestInjectedFailures(t *testing.T) {
	d := serve(t, disk.Options{Name: "disk.csi.azure.com"}, "snapshots")
	client := dial(t, d.socket)
	faults := filepath.Join(filepath.Dir(d.socket), "faults.json")
	err := disk.EditFaults(faults, func(f map[string]disk.Fault) {
		f["CreateVolume"] = disk.Fault{Fail: 2, Code: codes.Unavailable, Message: "busy", Delay: disk.Duration(50 * time.Millisecond)}
	})
	if err != nil {
		t.Fatal(err)
	}
	request := &csi.CreateVolumeRequest{Name: "pvc-1", VolumeCapabilities: []*csi.VolumeCapability{{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}}}
	for i, want := range []codes.Code{codes.Unavailable, codes.Unavailable, codes.OK} {
		start := time.Now()
		_, err := client.CreateVolume(t.Context(), request)
		if status.Code(err) != want || want != codes.OK && status.Convert(err).Message() != "busy" {
			t.Errorf("call %d: %v, want code %s", i+1, err, want)
		}
		if took := time.Since(start); took < 50*time.Millisecond {
			t.Errorf("call %d took %s, want at least the delay of 50 ms", i+1, took)
		}
	}
	if _, err := client.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "x"}); err != nil {
		t.Errorf("a call without a fault: %v", err)
	}
}

// Handles have Azure's form, sizes are whole GiB, and a snapshot's class may name its resource group.
func TestHandles(t *testing.T) {
	d := serve(t, disk.Options{Name: "disk.csi.azure.com"}, "snapshots")
	client := dial(t, d.socket)
	v, err := client.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: "pvc-1", CapacityRange: &csi.CapacityRange{RequiredBytes: 300 << 20}, VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "/subscriptions/sub/resourceGroups/group/providers/Microsoft.Compute/disks/pvc-1"; v.GetVolume().GetVolumeId() != want {
		t.Errorf("disk handle %s, want %s", v.GetVolume().GetVolumeId(), want)
	}
	if got := v.GetVolume().GetCapacityBytes(); got != 1<<30 {
		t.Errorf("capacity %d, want 1 GiB", got)
	}
	s, err := client.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{
		Name: "snapshot-1", SourceVolumeId: v.GetVolume().GetVolumeId(), Parameters: map[string]string{"resourcegroup": "snapshots-rg", "incremental": "true"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "/subscriptions/sub/resourceGroups/snapshots-rg/providers/Microsoft.Compute/snapshots/snapshot-1"; s.GetSnapshot().GetSnapshotId() != want {
		t.Errorf("snapshot handle %s, want %s", s.GetSnapshot().GetSnapshotId(), want)
	}
	records, err := disk.Records(filepath.Join(d.cloud, "snapshots"))
	if err != nil || len(records) != 1 || records[0].Source != v.GetVolume().GetVolumeId() {
		t.Errorf("records of the snapshots are %v, %v; want one of the disk", records, err)
	}
}

func dial(t *testing.T, socket string) csi.ControllerClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	// The socket is there before the server listens on it, so calls wait.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	return csi.NewControllerClient(conn)
}
