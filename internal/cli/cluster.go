package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/config"
	"github.com/cairn-backup/cairn/internal/client"
	"github.com/cairn-backup/cairn/internal/link"
)

const (
	connectVersion = "2024-04-01"
	connectPause   = time.Second
	connectColumns = "[].{Name:name, ResourceGroup:resourceGroup, Location:location, Connected:properties.cairn.connected, Power:properties.powerState.code, State:properties.provisioningState}"
)

var kubeArgs = []Arg{
	{Names: "--kubeconfig", Help: "How to reach the cluster. Default: KUBECONFIG, else ~/.kube/config."},
	{Names: "--context", Help: "The context in it. Default: the current one."},
}

var clusterCommands = []Command{
	{Path: "cluster connect", Help: "Join a cluster to the service: install the connector, and wait until it has called.", Run: clusterConnect, Columns: connectColumns,
		Args: append([]Arg{clusterArg, groupArg, noWaitArg, tagsArg,
			{Names: "--location -l", Required: true, Help: "The location to file the cluster under, such as eastus: the vault's."},
			{Names: "--image", Required: true, Help: "The cairn-extension image, as the cluster's nodes can pull it or have it."},
			{Names: "--timeout", Help: "Give up after so many seconds. Default: 300."},
		}, kubeArgs...),
		Examples: []string{"cluster connect --name aks-production --resource-group rg-aks-production --location eastus --kubeconfig ~/.kube/config --image cairn/cairn-extension:0.1.0"}},
	{Path: "cluster disconnect", Help: "Remove the connector from a cluster, and the cluster from the service. Backups in storage stay.", ID: clusterPath,
		Run: clusterDisconnect, Confirm: true, Args: append([]Arg{clusterArg, groupArg}, kubeArgs...)},
	{Path: "cluster show", Help: "Show a cluster and whether it is connected.", ID: clusterPath, Run: show(clustersVersion), Columns: connectColumns,
		Args: []Arg{clusterArg, groupArg}},
	{Path: "cluster list", Help: "List clusters and whether they are connected.", Columns: connectColumns, Args: []Arg{optional(groupArg)},
		Run: list(groupPath+clustersPath, subscriptionPath+clustersPath, clustersVersion)},
}

// clusterConnect may be run again at any time: what is there already stays as it is.
func clusterConnect(ctx context.Context, in *Input) (any, error) {
	timeout, err := in.seconds("timeout", 300)
	if err != nil {
		return nil, err
	}
	in.progress.step("Reaching the cluster", "")
	kube, err := openKube(ctx, in.Text("kubeconfig"), in.Text("context"))
	if err != nil {
		return nil, err
	}
	path, err := in.path(ctx, clusterPath)
	if err != nil {
		return nil, err
	}
	if err := in.ensureCluster(ctx, path); err != nil {
		return nil, err
	}
	credential, err := in.connectorCredential(ctx, path, kube)
	if err != nil {
		return nil, err
	}
	objects, err := config.ConnectorManifests(config.ConnectorParams{Image: in.Text("image"), Credential: credential, ClusterID: path})
	if err != nil {
		return nil, err
	}
	in.progress.step("Installing the connector", "")
	if err := kube.apply(ctx, objects); err != nil {
		return nil, err
	}
	if in.Flag("no-wait") {
		return nil, nil
	}
	return in.untilConnected(ctx, path, kube, timeout)
}

// ensureCluster makes the resource group and the cluster's resource when they are not there.
func (in *Input) ensureCluster(ctx context.Context, path string) error {
	group, err := in.path(ctx, groupPath)
	if err != nil {
		return err
	}
	_, err = in.get(ctx, group, resourcesVersion)
	if client.NotFound(err) {
		_, err = in.put(ctx, "Creating "+in.Text("resource-group"), group, resourcesVersion, map[string]any{"location": in.Text("location")})
	}
	if err != nil {
		return err
	}
	_, err = in.get(ctx, path, clustersVersion)
	if !client.NotFound(err) {
		return err
	}
	body := map[string]any{"location": in.Text("location"), "identity": map[string]any{"type": "SystemAssigned"}, "properties": map[string]any{}}
	if in.Has("tags") {
		body["tags"] = in.Pairs("tags")
	}
	api, err := in.session.client()
	if err != nil {
		return err
	}
	_, err = api.Do(ctx, client.Request{Method: http.MethodPut, Path: path, APIVersion: clustersVersion, Body: body,
		OnPoll: func(status string) { in.progress.step("Creating "+in.Text("cluster-name"), strings.ToLower(status)) }})
	return err
}

// connected reads the service's word on a cluster.
func connected(cluster any) bool {
	yes, _ := at(cluster, "properties", "cairn", "connected").(bool)
	return yes && text(cluster, "properties", "powerState", "code") == "Running"
}

// connectorCredential is the one in the cluster when it works, so that running the command again restarts nothing; else
// a new one.
func (in *Input) connectorCredential(ctx context.Context, path string, kube *kube) (link.Credential, error) {
	var credential link.Credential
	cluster, err := in.get(ctx, path, clustersVersion)
	if err != nil {
		return credential, err
	}
	if connected(cluster) {
		raw, err := kube.secret(ctx, config.ConnectorName, config.CredentialKey)
		if err != nil {
			return credential, err
		}
		if json.Unmarshal(raw, &credential) == nil && strings.TrimRight(credential.Endpoint, "/") == in.session.Endpoint {
			return credential, nil
		}
	}
	answer, err := in.post(ctx, "Asking for the connector's credential", path+"/connect", connectVersion, nil)
	if err != nil {
		return credential, err
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return credential, err
	}
	if err := json.Unmarshal(raw, &credential); err != nil || credential.ClientSecret == "" {
		return credential, fmt.Errorf("cluster %s: the service answered no credential", in.Text("cluster-name"))
	}
	return credential, nil
}

// untilConnected waits for the connector's call. Meanwhile it looks at the connector's pods for what may be wrong.
func (in *Input) untilConnected(ctx context.Context, path string, kube *kube, timeout time.Duration) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	trouble := ""
	for {
		cluster, err := in.session.api.Get(ctx, path, clustersVersion)
		if err == nil && connected(cluster) && kube.ready(ctx, config.ConnectorName) {
			return cluster, nil
		}
		if err != nil && ctx.Err() == nil {
			return nil, err
		}
		if found := kube.trouble(ctx, config.ConnectorName); found != "" {
			trouble = found
		}
		in.progress.step("Waiting for the connector to call the service", trouble)
		select {
		case <-ctx.Done():
			if trouble == "" {
				trouble = "its pods run; see their log: kubectl logs -n " + kubeNamespace + " deployment/" + config.ConnectorName
			}
			return nil, fmt.Errorf("cluster %s: the connector has not called %s within %s: %s", in.Text("cluster-name"), in.session.Endpoint, timeout, trouble)
		case <-time.After(connectPause):
		}
	}
}

func clusterDisconnect(ctx context.Context, in *Input) (any, error) {
	id, err := in.id(ctx)
	if err != nil {
		return nil, err
	}
	installed, err := in.list(ctx, id+"/providers/Microsoft.KubernetesConfiguration/extensions", extensionVersion, nil)
	if err != nil && !client.NotFound(err) {
		return nil, err
	}
	if len(installed) > 0 {
		return nil, fmt.Errorf("cluster %s still has the extension %s: remove it first with '%s aks extension delete'", lastSegment(id), text(installed[0], "name"), in.program.Name)
	}
	kube, err := openKube(ctx, in.Text("kubeconfig"), in.Text("context"))
	if err != nil {
		return nil, err
	}
	_, err = in.call(ctx, "Removing "+lastSegment(id), client.Request{Method: http.MethodDelete, Path: id, APIVersion: clustersVersion})
	if err != nil && !client.NotFound(err) {
		return nil, err
	}
	objects, err := config.ConnectorManifests(config.ConnectorParams{Image: "none"})
	if err != nil {
		return nil, err
	}
	in.progress.step("Removing the connector", "")
	return nil, kube.remove(ctx, objects)
}
