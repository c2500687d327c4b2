//! Which program each purpose needs, and the Debian package that has it. Data for `probe` and `plan`.

/// What a command is about to do: it decides which tools must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Compile the agent and its kernel object.
    Build,
    /// Run the demo: the lab's namespaces and what lives in them.
    Lab,
    /// Run the lab's scenarios: programs of every TLS stack, and what decrypts them.
    Stacks,
    /// Check what was built: formatting, lints, the exposition format.
    Test,
    /// Run the lab with what people run beside hopline.
    Live,
    /// Boot other kernels.
    Vm,
    /// Count runs of kernel programs.
    Bench,
    /// Fuzz the parsers.
    Fuzz,
}

impl Purpose {
    /// All but fuzzing, which compiles a tool that few need.
    pub(crate) const ALL: &[Self] = &[
        Self::Build,
        Self::Lab,
        Self::Stacks,
        Self::Test,
        Self::Live,
        Self::Vm,
        Self::Bench,
    ];
}

/// A program, and the Debian package that installs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) purpose: Purpose,
}

const fn tool(purpose: Purpose, program: &'static str, package: &'static str) -> Tool {
    Tool {
        program,
        package,
        purpose,
    }
}

/// Every tool that setup installs by package.
pub(crate) const TOOLS: &[Tool] = &[
    tool(Purpose::Lab, "ip", "iproute2"),
    tool(Purpose::Lab, "nstat", "iproute2"),
    tool(Purpose::Lab, "tcpdump", "tcpdump"),
    tool(Purpose::Lab, "nginx", "nginx-light"),
    tool(Purpose::Lab, "curl", "curl"),
    tool(Purpose::Lab, "nsenter", "util-linux"),
    tool(Purpose::Lab, "openssl", "openssl"),
    tool(Purpose::Lab, "tshark", "tshark"),
    tool(Purpose::Lab, "dnsmasq", "dnsmasq-base"),
    tool(Purpose::Lab, "unshare", "util-linux"),
    tool(Purpose::Lab, "haproxy", "haproxy"),
    tool(Purpose::Lab, "mtr", "mtr-tiny"),
    tool(Purpose::Lab, "traceroute", "traceroute"),
    tool(Purpose::Lab, "nft", "nftables"),
    tool(Purpose::Stacks, "gnutls-cli", "gnutls-bin"),
    tool(Purpose::Stacks, "go", "golang-go"),
    tool(Purpose::Stacks, "node", "nodejs"),
    tool(Purpose::Stacks, "python3", "python3"),
    tool(Purpose::Stacks, "java", "default-jdk-headless"),
    tool(Purpose::Stacks, "javac", "default-jdk-headless"),
    tool(Purpose::Stacks, "containerd", "containerd"),
    // The container runtime's network: in no PATH.
    tool(Purpose::Stacks, "/usr/lib/cni/bridge", "containernetworking-plugins"),
    tool(Purpose::Stacks, "runc", "runc"),
    tool(Purpose::Stacks, "busybox", "busybox-static"),
    tool(Purpose::Test, "promtool", "prometheus"),
    tool(Purpose::Live, "prometheus", "prometheus"),
    tool(Purpose::Live, "prometheus-alertmanager", "prometheus-alertmanager"),
    tool(Purpose::Vm, "qemu-system-x86_64", "qemu-system-x86"),
    tool(Purpose::Vm, "modprobe", "kmod"),
    tool(Purpose::Vm, "depmod", "kmod"),
    tool(Purpose::Vm, "cpio", "cpio"),
    tool(Purpose::Vm, "busybox", "busybox-static"),
    tool(Purpose::Vm, "xz", "xz-utils"),
    tool(Purpose::Bench, "bpftool", "bpftool"),
    tool(Purpose::Bench, "ip", "iproute2"),
    tool(Purpose::Bench, "curl", "curl"),
    tool(Purpose::Bench, "openssl", "openssl"),
    tool(Purpose::Bench, "unshare", "util-linux"),
    tool(Purpose::Fuzz, "c++", "g++"),
];

/// The Rust compiler with a prebuilt `core` for BPF, and what bpf-linker is built against.
pub(crate) const BPF_COMPILER_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// Clippy of that compiler: lints of the kernel object.
pub(crate) const BPF_CLIPPY_PACKAGE: &str = "rust-web-clippy";

/// Packages to build bpf-linker with the LLVM of major version `llvm`.
pub(crate) fn linker_packages(llvm: u32) -> Vec<String> {
    let mut packages = vec![format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    packages.extend(["zlib1g-dev", "libzstd-dev", "g++"].map(String::from));
    packages
}
