//! A container runtime of the lab's own: Debian's containerd with state, sockets, mounts and network that nobody else sees,
//! an image made here, and pods started through the CRI as the kubelet does.

mod messages;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::cgroup::Cgroup;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::{self, Process};
use crate::tools;
use messages::{
    ContainerConfig, CreateContainerRequest, CreateContainerResponse, Empty, ImageSpec, LinuxPodSandboxConfig,
    Metadata, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest, PodSandboxStatusResponse,
    RunPodSandboxRequest, RunPodSandboxResponse, Sandbox, StartContainerRequest,
};

/// Programs that a scenario with containers needs.
pub(crate) const TOOLS: &[&str] = &[
    "ip",
    "containerd",
    "ctr",
    "runc",
    "/usr/lib/cni/bridge",
    "busybox",
    "unshare",
    "mount",
    "tar",
    "sha256sum",
];

const IMAGE: &str = "localhost/busybox:1";
/// Where the kubelet looks for plugins of the network on Debian.
const PLUGINS: &str = "/usr/lib/cni";

/// What the lab asks for, and what it got.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    /// What hopline must find out from name and labels.
    pub(crate) workload: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) container: String,
    /// Given by the runtime.
    pub(crate) sandbox_id: String,
    pub(crate) container_id: String,
    pub(crate) address: String,
}

/// A running containerd; everything of it goes when dropped.
#[derive(Debug)]
pub(crate) struct Containerd {
    _process: Process,
    runtime: Runtime,
    grpc: Grpc<Channel>,
    pub(crate) socket: PathBuf,
    /// The lab's cgroup for containers, below the mount.
    parent: String,
    pub(crate) netns: NetNs,
}

impl Containerd {
    /// Starts one whose pods live below `parent`.
    pub(crate) fn start(lab: &Lab, parent: &Cgroup) -> Result<Self> {
        let directory = lab.file("containerd");
        fs::create_dir_all(directory.join("cni"))?;
        let socket = directory.join("containerd.sock");
        let shown = directory.display();
        let config = directory.join("config.toml");
        fs::write(
            &config,
            format!(
                "version = 2\nroot = \"{shown}/root\"\nstate = \"{shown}/state\"\n[grpc]\naddress = \"{}\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\nrestrict_oom_score_adj = true\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{PLUGINS}\"\nconf_dir = \"{shown}/cni\"\n",
                socket.display()
            ),
        )?;
        let ipam =
            format!("{{\"type\": \"host-local\", \"subnet\": \"10.89.0.0/16\", \"dataDir\": \"{shown}/leases\"}}");
        let bridge = format!(
            "{{\"type\": \"bridge\", \"bridge\": \"lab0\", \"isGateway\": true, \"ipMasq\": false, \"ipam\": {ipam}}}"
        );
        let network = format!("{{\"cniVersion\": \"0.4.0\", \"name\": \"lab\", \"plugins\": [{bridge}]}}");
        fs::write(directory.join("cni/10-lab.conflist"), network)?;
        let netns = NetNs::new()?;
        // What it mounts and keeps in /run and /var/lib/cni is in a mount namespace that ends with it.
        let script = format!(
            "mount -t tmpfs none /run && mkdir -p /var/lib/cni && mount -t tmpfs none /var/lib/cni && exec containerd --config {}",
            config.display()
        );
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("log"))?);
        let process = Process::spawn(command, Some(&netns), &lab.tools)?;
        let is_up = process::poll(Duration::from_secs(10) * lab.patience(), || Ok(socket.exists()))?;
        ensure!(is_up, "containerd does not listen: {}", log(&directory));
        image(&directory, &socket)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let channel = runtime.block_on(Endpoint::from_shared(format!("unix://{}", socket.display()))?.connect())?;
        let mount = crate::cgroup::mount_point()?;
        let below = parent.path().strip_prefix(&mount)?;
        Ok(Self {
            _process: process,
            runtime,
            grpc: Grpc::new(channel),
            socket,
            parent: format!("/{}", below.display()),
            netns,
        })
    }

    /// Starts a pod with one container that runs this script.
    pub(crate) fn start_pod(&mut self, pod: &mut Pod, script: &str) -> Result<()> {
        let sandbox_config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                namespace: pod.namespace.clone(),
                attempt: 0,
            }),
            hostname: pod.name.clone(),
            labels: pod.labels.iter().cloned().collect(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/kubepods/burstable/pod{}", self.parent, pod.uid),
            }),
        };
        let run = RunPodSandboxRequest {
            config: Some(sandbox_config.clone()),
        };
        let run: RunPodSandboxResponse = self.call("RunPodSandbox", run)?;
        pod.sandbox_id.clone_from(&run.pod_sandbox_id);
        let status: PodSandboxStatusResponse = self.call(
            "PodSandboxStatus",
            PodSandboxStatusRequest {
                pod_sandbox_id: pod.sandbox_id.clone(),
            },
        )?;
        let network = status
            .status
            .and_then(|status| status.network)
            .context("a pod without network")?;
        pod.address = network.ip;
        let create = CreateContainerRequest {
            pod_sandbox_id: pod.sandbox_id.clone(),
            config: Some(ContainerConfig {
                metadata: Some(Metadata {
                    name: pod.container.clone(),
                    attempt: 0,
                }),
                image: Some(ImageSpec {
                    image: IMAGE.to_owned(),
                }),
                command: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
            }),
            sandbox_config: Some(sandbox_config),
        };
        let created: CreateContainerResponse = self.call("CreateContainer", create)?;
        pod.container_id.clone_from(&created.container_id);
        let start = StartContainerRequest {
            container_id: created.container_id,
        };
        self.call::<_, Empty>("StartContainer", start).map(drop)
    }

    /// Stops and removes it.
    pub(crate) fn remove_pod(&mut self, pod: &Pod) -> Result<()> {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            let sandbox = Sandbox {
                pod_sandbox_id: pod.sandbox_id.clone(),
            };
            self.call::<_, Empty>(method, sandbox)?;
        }
        Ok(())
    }

    fn call<Q, A>(&mut self, method: &str, request: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))?;
        let Self { runtime, grpc, .. } = self;
        runtime.block_on(async {
            grpc.ready().await.with_context(|| format!("{method}: containerd"))?;
            let answer = grpc
                .unary(tonic::Request::new(request), path, ProstCodec::<Q, A>::default())
                .await;
            Ok(answer.with_context(|| method.to_owned())?.into_inner())
        })
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // What a scenario that broke off has left: pods outlive their runtime.
        let pods =
            crate::cgroup::mount_point().map(|mount| mount.join(self.parent.trim_start_matches('/')).join("kubepods"));
        if let Ok(pods) = pods {
            crate::cgroup::remove_tree(&pods);
        }
        remove_v1(&self.parent);
    }
}

/// The last lines of its log.
fn log(directory: &Path) -> String {
    let text = fs::read_to_string(directory.join("log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

/// An image of busybox alone, without a registry: an archive as `docker save` makes it.
fn image(directory: &Path, socket: &Path) -> Result<()> {
    let (root, parts) = (directory.join("image/root"), directory.join("image"));
    fs::create_dir_all(root.join("bin"))?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    fs::copy(busybox.context("no busybox")?, root.join("bin/busybox"))?;
    let tar = |words: &[&str]| tools::output_of(Command::new("tar").current_dir(&parts).args(words)).map(drop);
    tar(&["-cf", "layer.tar", "-C", "root", "."])?;
    let sum = tools::output_of(Command::new("sha256sum").arg(parts.join("layer.tar")))?;
    let digest = sum.split(' ').next().unwrap_or_default();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "config": {"Cmd": ["/bin/busybox", "sleep", "3600"]},
    });
    fs::write(parts.join("config.json"), config.to_string())?;
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(parts.join("manifest.json"), manifest.to_string())?;
    tar(&["-cf", "image.tar", "manifest.json", "config.json", "layer.tar"])?;
    let mut import = Command::new("ctr");
    import.arg("--address").arg(socket);
    import.args(["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"]);
    tools::output_of(import.arg(parts.join("image.tar"))).map(drop)
}

/// On a hybrid machine runc makes the same directories in each hierarchy of cgroup v1; those of v2 go with the lab's own.
pub(crate) fn remove_v1(parent: &str) {
    let lab = parent.trim_start_matches('/').split('/').next().unwrap_or_default();
    // Never anything but the lab's.
    if !lab.starts_with(crate::cgroup::PREFIX) {
        return;
    }
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else {
        return;
    };
    let unified = crate::cgroup::mount_point().unwrap_or_default();
    for hierarchy in hierarchies.flatten() {
        let path = hierarchy.path().join(lab);
        if hierarchy.path() != unified && path.is_dir() {
            crate::cgroup::remove_tree(&path);
        }
    }
}
