//! hopline in a container: the image of `cargo xtask image`, unpacked and started by runc, which container runtimes start
//! theirs with, as `deploy/kubernetes` has it: the node's network and processes, and no file system but the image's and the
//! mounts of the manifest. Used by scenarios in place of the program itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cgroup;
use crate::cri;
use crate::lab::Lab;
use crate::process::Process;
use crate::tools;

const PROGRAM: &str = "/usr/local/bin/hopline";
/// By their numbers.
const ALL: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE \
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN \
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE \
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// How a container is started: `PROGRAM` of the wrapper with its words.
#[derive(Debug, clap::Args)]
pub(crate) struct ContainerArguments {
    /// The runtime's configuration but for what differs between containers.
    template: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// The unpacked image; what its containers left behind goes when dropped.
#[derive(Debug)]
pub(crate) struct Image {
    folder: PathBuf,
    /// Cgroup of the containers, below the mount.
    parent: String,
}

impl Image {
    /// The image that was made of this lab's hopline; an error says why there is none.
    pub(crate) fn unpack(lab: &Lab) -> Result<Self> {
        tools::check(&["runc", "tar"])?;
        let program = PathBuf::from(lab.hopline(&[]).get_program());
        let archive = if let Some(archive) = std::env::var_os("HOPLINE_IMAGE") {
            PathBuf::from(archive)
        } else {
            let target = program.parent().and_then(Path::parent);
            target.context("a program at the root")?.join("image/hopline.oci.tar")
        };
        ensure!(archive.exists(), "no image: `cargo xtask image` makes it");
        ensure!(
            archive.metadata()?.modified()? >= program.metadata()?.modified()?,
            "the image is older than hopline: `cargo xtask image`"
        );
        let folder = lab.file("image-of-hopline");
        let (layout, root) = (folder.join("layout"), folder.join("root"));
        fs::create_dir_all(&layout)?;
        fs::create_dir_all(&root)?;
        let tar = |words: &[&str], file: &Path, to: &Path| {
            let mut command = Command::new("tar");
            tools::output_of(command.args(words).arg(file).arg("-C").arg(to)).map(drop)
        };
        tar(&["-xf"], &archive, &layout)?;
        let read = |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            layout.join("blobs").join(digest.replace(':', "/"))
        };
        let manifest = read(blob(&read(layout.join("index.json"))?["manifests"][0]))?;
        for layer in manifest["layers"].as_array().context("an image without layers")? {
            tar(&["-xzf"], &blob(layer), &root)?;
        }
        let below = lab.tools.path().strip_prefix(cgroup::mount_point()?)?;
        Ok(Self {
            folder,
            parent: format!("/{}", below.display()),
        })
    }

    /// A program that is hopline in a privileged container, as the base has it.
    pub(crate) fn privileged(&self) -> Result<PathBuf> {
        let own = own_capabilities()?;
        let is_own = |(number, _): &(u32, &str)| own & (1 << number) != 0;
        let all = (0..).zip(ALL.split_whitespace()).filter(is_own);
        let all: Vec<String> = all.map(|(_, name)| name.to_owned()).collect();
        self.program("hopline-privileged", &all, true, true)
    }

    /// One that is hopline in a container with these capabilities and no others, as least privilege has it.
    pub(crate) fn least(&self, name: &str, capabilities: &[String], has_tracefs: bool) -> Result<PathBuf> {
        self.program(name, capabilities, false, has_tracefs)
    }

    fn program(&self, name: &str, capabilities: &[String], is_privileged: bool, has_tracefs: bool) -> Result<PathBuf> {
        let names: Vec<String> = capabilities
            .iter()
            .map(|name| format!("CAP_{}", name.to_uppercase()))
            .collect();
        let access = if is_privileged { "rw" } else { "ro" };
        let bind = |path: &str, access: &str| json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", access]});
        let kernel = |path: &str, kind: &str, options: &[&str]| json!({"destination": path, "type": kind, "source": kind, "options": options});
        let mut mounts = vec![
            kernel("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            kernel("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            kernel("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
            bind("/sys/fs/cgroup", access),
            // What the scenario writes for hopline to read; a manifest's ConfigMap.
            bind(&std::env::temp_dir().display().to_string(), "rw"),
        ];
        if has_tracefs {
            // The manifest's is the node's own; some nodes have not mounted it.
            mounts.push(kernel("/sys/kernel/tracing", "tracefs", &[access]));
        }
        // As runtimes hide and protect them where a container is not privileged.
        let (masked, read_only) = if is_privileged {
            (json!([]), json!([]))
        } else {
            (
                json!([
                    "/proc/kcore",
                    "/proc/keys",
                    "/proc/timer_list",
                    "/proc/scsi",
                    "/sys/firmware"
                ]),
                json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
            )
        };
        let template = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/usr/local/bin"], "noNewPrivileges": !is_privileged,
                "capabilities": {"bounding": names, "effective": names, "permitted": names},
            },
            "root": {"path": self.folder.join("root"), "readonly": true},
            "mounts": mounts,
            // Not there: namespaces of network, processes and cgroups (`hostNetwork`, `hostPID`).
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
                "cgroupsPath": self.parent, "maskedPaths": masked, "readonlyPaths": read_only,
            },
        });
        let (file, configuration) = (self.folder.join(name), self.folder.join(format!("{name}.json")));
        fs::write(&configuration, template.to_string())?;
        let lab = std::env::current_exe()?;
        let text = format!(
            "#!/bin/sh\nexec {} internal in-container {} \"$@\"\n",
            lab.display(),
            configuration.display()
        );
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        Ok(file)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        cri::remove_v1(&self.parent);
    }
}

/// What this process may do, one bit each; a privileged container may do the same.
pub(crate) fn own_capabilities() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(u64::from_str_radix(&field(&status, "CapEff:"), 16)?)
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

/// The bounding set of the container that this process of the runtime started, and whether new privileges are out of reach, as
/// the kernel says.
pub(crate) fn held(runtime: &Process) -> Result<(u64, bool)> {
    let parent = runtime.pid().to_string();
    for entry in fs::read_dir("/proc")?.flatten() {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if field(&status, "PPid:") == parent {
            let bounds = u64::from_str_radix(&field(&status, "CapBnd:"), 16)?;
            return Ok((bounds, field(&status, "NoNewPrivs:") == "1"));
        }
    }
    bail!("the runtime has no container")
}

/// Becomes the runtime with a container of its own, whose input, output and signals are this process's.
pub(crate) fn run(arguments: &ContainerArguments) -> Result<()> {
    let id = format!("hopline-{}", std::process::id());
    let folder = arguments.template.parent().context("a template at the root")?;
    let bundle = folder.join(&id);
    fs::create_dir_all(&bundle)?;
    let mut config: Value = serde_json::from_slice(&fs::read(&arguments.template)?)?;
    let words = [PROGRAM].into_iter().chain(arguments.words.iter().map(String::as_str));
    config["process"]["args"] = words.collect();
    let parent = config["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    config["linux"]["cgroupsPath"] = format!("{parent}/{id}").into();
    fs::write(bundle.join("config.json"), config.to_string())?;
    let mut runc = Command::new("runc");
    runc.arg("--root").arg(folder.join("state")).arg("run");
    let error = runc.arg("--bundle").arg(bundle).arg(&id).exec();
    Err(error).context("starting runc")
}
