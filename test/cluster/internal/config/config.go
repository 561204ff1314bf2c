// Package config renders a test cluster's configuration files and command lines. It is pure: the same cluster always
// gives the same text, which golden files hold.
package config

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

//go:embed files
var files embed.FS

// Node is a cluster together with where the programs it runs lie on the machine.
type Node struct {
	layout.Cluster
	Bin          string // our own built programs
	Debian       string // root of Debian's unpacked containerd, runc and CNI plugins
	Subscription string // the Azure subscription that the cluster's disks pretend to be in
}

// HostIP is the machine's address, for templates.
func (n Node) HostIP() string { return layout.HostIP }

// PauseImage is the image of pod sandboxes, for templates.
func (n Node) PauseImage() string { return layout.PauseImage }

// Files renders every configuration file, by name.
func (n Node) Files() (map[string][]byte, error) {
	all, err := template.ParseFS(files, "files/*")
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, t := range all.Templates() {
		var b bytes.Buffer
		if err := t.Execute(&b, n); err != nil {
			return nil, fmt.Errorf("render %s: %w", t.Name(), err)
		}
		out[t.Name()] = b.Bytes()
	}
	return out, nil
}

// Write renders the configuration files into the cluster's folder.
func (n Node) Write() error {
	rendered, err := n.Files()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.Config(""), 0o700); err != nil {
		return err
	}
	for name, content := range rendered {
		if err := os.WriteFile(n.Config(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Stage says what must answer before a component is worth starting: one that starts too early only backs off, which
// costs seconds.
type Stage int

// The stages, in the order they are reached.
const (
	AtOnce      Stage = iota
	APIReady          // the API server answers /readyz
	SnapshotAPI       // the snapshot CRDs are served
)

// Component is a program that the node keeps running.
type Component struct {
	Name    string // also argv[0], by which the process is found, and the log file's name
	Program string // path
	Args    []string
	After   Stage
}

const (
	diskDriver = "disk.csi.azure.com"
	fileDriver = "file.csi.azure.com"
	etcdURL    = "http://127.0.0.1:2379"
)

// Components are the node's programs in the order they are started.
func (n Node) Components() []Component {
	return []Component{
		n.etcd(),
		{Name: "containerd", Program: filepath.Join(n.Debian, "usr/bin/containerd"), Args: []string{"--config", n.Config("containerd.toml")}},
		n.apiserver(),
		n.controllerManager(),
		n.scheduler(),
		n.kubelet(),
		{Name: "kube-proxy", Program: n.program("kube-proxy"), Args: []string{"--config=" + n.Config("kube-proxy.yaml")}, After: APIReady},
		{Name: "coredns", Program: n.program("coredns"), Args: []string{"-conf", n.Config("Corefile"), "-dns.port", "53"}, After: APIReady},
		n.driver("csi-driver", diskDriver, "--data="+n.Disks(), "--snapshots="+n.Snapshots(), "--faults="+n.Faults()),
		n.driver("csi-driver-file", fileDriver, "--data="+n.Shares()),
		n.sidecar("csi-provisioner", "csi-provisioner", APIReady, "--csi-address="+socket(diskDriver), "--feature-gates=Topology=false", "--extra-create-metadata", "--default-fstype=ext4"),
		n.sidecar("csi-provisioner-file", "csi-provisioner", APIReady, "--csi-address="+socket(fileDriver), "--feature-gates=Topology=false", "--extra-create-metadata", "--default-fstype=ext4"),
		n.sidecar("csi-snapshotter", "csi-snapshotter", SnapshotAPI, "--csi-address="+socket(diskDriver), "--extra-create-metadata"),
		n.sidecar("snapshot-controller", "snapshot-controller", SnapshotAPI),
	}
}

// Names are the names of the node's components.
func (n Node) Names() []string {
	var names []string
	for _, c := range n.Components() {
		names = append(names, c.Name)
	}
	return names
}

func (n Node) program(name string) string { return filepath.Join(n.Bin, name) }

func socket(driver string) string { return "/var/lib/kubelet/plugins/" + driver + "/csi.sock" }

func (n Node) etcd() Component {
	return Component{Name: "etcd", Program: n.program("etcd"), Args: []string{
		"--name=" + n.Name, "--data-dir=" + n.Path("etcd"),
		"--unsafe-no-fsync", // a test cluster's data need not survive a power failure
		"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=" + n.Name + "=http://127.0.0.1:2380", "--log-level=warn",
	}}
}

func (n Node) apiserver() Component {
	return Component{Name: "kube-apiserver", Program: n.program("kube-apiserver"), Args: []string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address=" + n.NodeIP(),
		"--service-cluster-ip-range=" + layout.ServiceCIDR,
		"--allow-privileged", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=" + n.PKI("ca.crt"), "--tls-cert-file=" + n.PKI("apiserver.crt"), "--tls-private-key-file=" + n.PKI("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + n.PKI("sa.pub"), "--service-account-signing-key-file=" + n.PKI("sa.key"),
		"--kubelet-client-certificate=" + n.PKI("apiserver-kubelet.crt"), "--kubelet-client-key=" + n.PKI("apiserver-kubelet.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + n.PKI("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + n.PKI("front-proxy-client.crt"), "--proxy-client-key-file=" + n.PKI("front-proxy-client.key"),
		"--endpoint-reconciler-type=lease", "--profiling=false", "--shutdown-delay-duration=0s",
	}}
}

func (n Node) controllerManager() Component {
	return Component{Name: "kube-controller-manager", Program: n.program("kube-controller-manager"), After: APIReady, Args: append(n.kubeClient("kcm"),
		"--authentication-kubeconfig="+n.PKI("kcm.kubeconfig"), "--authorization-kubeconfig="+n.PKI("kcm.kubeconfig"),
		"--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false", "--use-service-account-credentials",
		"--service-account-private-key-file="+n.PKI("sa.key"), "--root-ca-file="+n.PKI("ca.crt"),
		"--cluster-signing-cert-file="+n.PKI("ca.crt"), "--cluster-signing-key-file="+n.PKI("ca.key"), "--allocate-node-cidrs=false",
	)}
}

func (n Node) scheduler() Component {
	return Component{Name: "kube-scheduler", Program: n.program("kube-scheduler"), After: APIReady, Args: append(n.kubeClient("scheduler"),
		"--authentication-kubeconfig="+n.PKI("scheduler.kubeconfig"), "--authorization-kubeconfig="+n.PKI("scheduler.kubeconfig"),
		"--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false",
	)}
}

func (n Node) kubelet() Component {
	return Component{Name: "kubelet", Program: n.program("kubelet"), After: APIReady, Args: []string{
		"--config=" + n.Config("kubelet.yaml"), "--kubeconfig=" + n.PKI("kubelet.kubeconfig"),
		"--hostname-override=" + n.Node(), "--node-ip=" + n.NodeIP(), "--root-dir=/var/lib/kubelet", "--cert-dir=" + n.PKI("kubelet"), "--v=2",
	}}
}

func (n Node) driver(name, driver string, args ...string) Component {
	return Component{Name: name, Program: n.program("csi-driver"), After: APIReady, Args: append([]string{
		"--name=" + driver, "--node=" + n.Node(), "--kubelet-root=/var/lib/kubelet",
		"--subscription=" + n.Subscription, "--resource-group=" + n.NodeResourceGroup(),
	}, args...)}
}

func (n Node) sidecar(name, program string, after Stage, args ...string) Component {
	return Component{Name: name, Program: n.program(program), After: after, Args: append(append(n.kubeClient("csi"), "--retry-interval-max=10s"), args...)}
}

// kubeClient is what all clients of the API server take: the defaults of 5 to 20 calls a second make tests slow.
func (n Node) kubeClient(user string) []string {
	return []string{"--kubeconfig=" + n.PKI(user+".kubeconfig"), "--kube-api-qps=100", "--kube-api-burst=200"}
}

// String is the component's command line with one argument a line.
func (c Component) String() string {
	return c.Name + ": " + c.Program + "\n    " + strings.Join(c.Args, "\n    ") + "\n"
}
