//! What the guest does after it switched to this machine's root: one bash script, written for one boot into its results.
//!
//! Each job leaves `NAME.log` and `NAME.status`; the console has one line as each begins and ends.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::kernel::Kernel;

/// The guest's last word.
pub(super) const DONE: &str = "done";
/// Seconds that one scenario may take under emulation.
const SCENARIO_LIMIT: u32 = 900;

/// What is run on each kernel.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) hopline: PathBuf,
    pub(super) lab: PathBuf,
    /// Scenarios of the lab, and their options here.
    pub(super) scenarios: Vec<(&'static str, &'static [&'static str])>,
}

impl Jobs {
    /// Names of all jobs, in order.
    pub(super) fn names(&self) -> Vec<&'static str> {
        ["doctor", "whole_node"]
            .into_iter()
            .chain(self.scenarios.iter().map(|(name, _)| *name))
            .collect()
    }
}

/// File systems (not /tmp: a checkout may be there), modules, and a function that runs one job.
const PREPARE: &str = r#"mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs trace /sys/kernel/tracing
mkdir -p "/lib/modules/$release"
mount --bind "$modules" "/lib/modules/$release"
for module in veth tun sch_netem; do modprobe "$module" || echo "vm: modprobe $module failed"; done
ip link set lo up
job() {
    local name=$1 begin=$SECONDS
    shift
    timeout --kill-after=20 "$limit" "$@" >"/vm-results/$name.log" 2>&1 </dev/null
    local status=$?
    echo "$status" >"/vm-results/$name.status"
    echo "vm: $name ended with $status after $((SECONDS - begin)) s"
}
# Nobody says which cgroup: hopline must see the connections of this whole machine.
whole_node() {
    "$HOPLINE_BIN" trace --json >/tmp/records 2>/tmp/errors &
    local hopline=$! port=8123 tries=0
    until grep -q '^ready' /tmp/errors; do
        sleep 0.2
        [ $((tries += 1)) -lt 150 ] || { echo 'hopline was not ready'; cat /tmp/errors; return 1; }
    done
    busybox httpd -f -p 127.0.0.1:$port -h /tmp &
    local server=$!
    sleep 1
    for _ in 1 2 3 4 5; do curl -s -o /dev/null http://127.0.0.1:$port/records; done
    curl -s -o /dev/null http://127.0.0.1:1/
    # The last close is on its way to the reader.
    sleep 3
    kill -INT $hopline
    wait $hopline || { echo "hopline ended with $?"; cat /tmp/errors; return 1; }
    kill $server
    cat /tmp/records
    local served=$(grep '"role":"client"' /tmp/records | grep '"comm":"curl"' | grep -c "\"port\":$port")
    local refused=$(grep '"comm":"curl"' /tmp/records | grep -c '"outcome":"refused"')
    echo "served $served of 5, refused $refused of 1"
    [ "$served" = 5 ] && [ "$refused" = 1 ]
}
export -f whole_node
"#;

/// Writes `guest.sh` for this kernel.
pub(super) fn write(jobs: &Jobs, kernel: &Kernel, directory: &Path) -> Result<()> {
    // As here: tools may be in places of their own. The file system is this one.
    let path = std::env::var_os("PATH").context("PATH is not set")?;
    let mut script = format!("export HOME=/tmp PATH={}\n", quote(Path::new(&path)));
    let mut line = |text: String| {
        script.push_str(&text);
        script.push('\n');
    };
    line(format!(
        "release={} modules={} limit={SCENARIO_LIMIT}",
        quote(Path::new(&kernel.release)),
        quote(&kernel.modules())
    ));
    line(format!("export HOPLINE_BIN={}", quote(&jobs.hopline)));
    line(PREPARE.to_owned());
    line(format!(
        "echo 'vm: up, '\"$(uname -r)\"\njob doctor {} doctor --json",
        quote(&jobs.hopline)
    ));
    line("job whole_node bash -c whole_node".to_owned());
    for (name, options) in &jobs.scenarios {
        let mut command = format!(
            "job {name} {} {name} --tolerance vm --json /vm-results/{name}.json",
            quote(&jobs.lab)
        );
        for option in *options {
            // Writing to a String cannot fail.
            let _ = write!(command, " {option}");
        }
        line(command);
    }
    line(format!(
        "sync\necho 'vm: {DONE}'\necho o >/proc/sysrq-trigger\nsleep 30"
    ));
    let file = directory.join("guest.sh");
    fs::write(&file, script).with_context(|| format!("writing {}", file.display()))
}

fn quote(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}
