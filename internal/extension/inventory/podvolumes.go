package inventory

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/plan"
)

// OwnSnapshotPrefix begins the names of the VolumeSnapshots that the extension makes.
const OwnSnapshotPrefix = "cairn-"

func isOwnSnapshotName(name string) bool { return strings.HasPrefix(name, OwnSnapshotPrefix) }

// CodeVolumeTypeNotSupported is the code for a volume that no snapshot can be taken of.
const CodeVolumeTypeNotSupported = plan.VolumeTypeNotSupported

// podVolumes reports the volumes of pods that are not claims. The pods of one owner are reported once, since they are alike.
type podVolumes struct {
	report []bundle.Outcome
	known  map[string]bool
}

func (p *podVolumes) add(h head, item []byte) error {
	var pod struct {
		Metadata struct {
			OwnerReferences []struct {
				Kind, Name string
				Controller bool
			}
		}
		Spec struct {
			Volumes []map[string]json.RawMessage
		}
	}
	if err := json.Unmarshal(item, &pod); err != nil {
		return fmt.Errorf("pod %s/%s: %w", h.namespace, h.name, err)
	}
	owner := "pod " + h.name
	for _, o := range pod.Metadata.OwnerReferences {
		if o.Controller {
			owner = o.Kind + " " + o.Name
		}
	}
	for _, volume := range pod.Spec.Volumes {
		name := text(volume["name"])
		for source := range volume {
			result := bundle.Skipped
			switch plan.PodVolumeOf(source) {
			case plan.PodVolumeTaken:
				result = bundle.Saved
			case plan.PodVolumeEphemeral:
				result = bundle.Info
			}
			key := h.namespace + "/" + owner + "/" + name
			if source == "name" || result == bundle.Saved || p.known[key] {
				continue
			}
			if p.known == nil {
				p.known = map[string]bool{}
			}
			p.known[key] = true
			outcome := bundle.Outcome{Resource: "pods/" + h.namespace + "/" + h.name, Result: result, Code: CodeVolumeTypeNotSupported,
				Message: fmt.Sprintf("volume %s of %s is of type %s, whose data is left out", name, owner, source)}
			if result == bundle.Skipped {
				outcome.Action = "Keep data that must be saved on a PersistentVolumeClaim of a CSI driver."
			}
			p.report = append(p.report, outcome)
		}
	}
	return nil
}
