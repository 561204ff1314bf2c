package apply

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ready says whether a workload does what its spec asks for, and how far it has come, as a text that changes when it gets on.
// A job is ready once a pod of it runs. Kinds that run no pods of their own accord are ready.
func ready(kind string, o map[string]any) (bool, string) {
	number := func(fallback int64, path ...string) int64 {
		n, found, err := unstructured.NestedInt64(o, path...)
		if err != nil || !found {
			return fallback
		}
		return n
	}
	seen := number(0, "status", "observedGeneration") >= number(0, "metadata", "generation")
	state := fmt.Sprintf("%d ready", number(0, "status", "readyReplicas")+number(0, "status", "numberReady")+number(0, "status", "ready"))
	switch kind {
	case "deployments.apps", "statefulsets.apps", "replicasets.apps", "replicationcontrollers":
		return seen && number(0, "status", "readyReplicas") >= number(1, "spec", "replicas"), state
	case "daemonsets.apps":
		return seen && number(0, "status", "numberReady") >= number(0, "status", "desiredNumberScheduled"), state
	case "jobs.batch":
		suspended, _, err := unstructured.NestedBool(o, "spec", "suspend")
		return err == nil && suspended || number(0, "status", "ready")+number(0, "status", "succeeded") > 0, state
	case "pods":
		return podReady(o), podState(o)
	default:
		return true, ""
	}
}

func podReady(o map[string]any) bool {
	for _, c := range list(o, "status", "conditions") {
		if c["type"] == "Ready" && c["status"] == "True" {
			return true
		}
	}
	phase, _, err := unstructured.NestedString(o, "status", "phase")
	return err == nil && phase == "Succeeded"
}

// podState says where a pod stands, and changes when it gets on. It leaves out restart counts: a pod that crashes again and again does
// not get on.
func podState(o map[string]any) string {
	state := ""
	for _, c := range containerStatuses(o) {
		state += fmt.Sprint(c["ready"], c["started"], " ")
	}
	phase, _, err := unstructured.NestedString(o, "status", "phase")
	if err != nil {
		return state
	}
	for _, c := range list(o, "status", "conditions") {
		state += fmt.Sprint(c["type"], c["status"], " ")
	}
	return phase + " " + state
}

// trouble says why a pod is not ready, in the words of the scheduler or the kubelet; "" if it does not say.
func trouble(o map[string]any) string {
	for _, c := range list(o, "status", "conditions") {
		if c["type"] == "PodScheduled" && c["status"] == "False" {
			return fmt.Sprintf("%v: %v", c["reason"], c["message"])
		}
	}
	for _, c := range containerStatuses(o) {
		state, _ := c["state"].(map[string]any)
		last, _ := c["lastState"].(map[string]any)
		for _, s := range []any{state["waiting"], state["terminated"], last["terminated"]} {
			m, ok := s.(map[string]any)
			if !ok || m["reason"] == "Completed" || m["reason"] == "PodInitializing" || m["reason"] == "ContainerCreating" {
				continue
			}
			if m["message"] == nil {
				return fmt.Sprintf("container %v: %v", c["name"], m["reason"])
			}
			return fmt.Sprintf("container %v: %v: %v", c["name"], m["reason"], m["message"])
		}
	}
	if !podReady(o) {
		phase, _, err := unstructured.NestedString(o, "status", "phase")
		if err == nil {
			return "the pod is " + phase + " and not ready"
		}
	}
	return ""
}

func containerStatuses(o map[string]any) []map[string]any {
	return append(list(o, "status", "initContainerStatuses"), list(o, "status", "containerStatuses")...)
}

// list reads a list of objects; what is none is left out.
func list(o map[string]any, path ...string) []map[string]any {
	values, _, err := unstructured.NestedFieldNoCopy(o, path...)
	if err != nil {
		return nil
	}
	items, _ := values.([]any)
	var out []map[string]any
	for _, v := range items {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
