//! What the guest does after it switched to this machine's root: one bash script, written for each boot into its results.
//!
//! Each job leaves `NAME.log` and `NAME.status`; the console has one line as each begins and ends. What is done is not done
//! again in a further boot: that goes on with the job that ended the last one, which finds what it kept in `$VM_STATE`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::jobs::{Job, Jobs, Kind};
use super::kernel::Kernel;
use super::preempt::Preempt;

/// Begins the guest's first words.
pub(super) const UP: &str = "up, ";
/// The guest's last word.
pub(super) const DONE: &str = "done";
/// A file in the results: why this kernel cannot run as it was asked to.
pub(super) const REFUSED: &str = "refused";
/// A file in the results: the boot was ended on purpose, and another is to follow.
pub(super) const AGAIN: &str = "again";

/// File systems (not /tmp: a checkout may be there), modules, and functions: one that runs a job, and the jobs that are
/// no scenarios.
const PREPARE: &str = r#"mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs trace /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug
mkdir -p "/lib/modules/$release"
mount --bind "$modules" "/lib/modules/$release"
for module in veth tun sch_netem; do modprobe "$module" || echo "vm: modprobe $module failed"; done
ip link set lo up
power_off() {
    sync
    echo o >/proc/sysrq-trigger
    # The file system may be gone by now, so nothing is read: init must not end.
    while :; do :; done
}
check_preempt() {
    local offered=$(cat /sys/kernel/debug/sched/preempt 2>/dev/null)
    case " $offered " in
        *"($1)"*) echo "vm: preempt: $offered" ;;
        *) echo "${offered:-no choice}" >/vm-results/refused; power_off ;;
    esac
}
job() {
    local limit=$1 name=$2 begin=$SECONDS
    shift 2
    [ ! -e "/vm-results/$name.status" ] || return 0
    timeout --kill-after=20 "$limit" "$@" >>"/vm-results/$name.log" 2>&1 </dev/null
    local status=$?
    echo "$status" >"/vm-results/$name.status"
    echo "vm: $name ended with $status after $((SECONDS - begin)) s"
}
# Ends this boot as a power failure would. In the next one the job that called this is called again, with VM_BOOT one higher.
again() {
    echo "boot $VM_BOOT of this job ends here"
    touch /vm-results/again
    echo b >/proc/sysrq-trigger
    while :; do :; done
}
# What the jobs of several boots rely on: another boot, and what the first one kept.
second_boot() {
    local id=$(cat /proc/sys/kernel/random/boot_id) kept=$VM_STATE/second_boot
    [ -e "$kept" ] || { echo "$id" >"$kept"; again; }
    echo "boot $VM_BOOT is $id, the first was $(cat "$kept")"
    [ "$VM_BOOT" = 2 ] && [ "$(cat "$kept")" != "$id" ]
}
# Boots that end under a running agent: after two the third starts in safe mode. A clean stop before the end does not count.
safe-mode() {
    local history=$VM_STATE/history counter=$VM_STATE/safe-mode agent mode step
    step=$(($(cat "$counter" 2>/dev/null || echo 0) + 1))
    echo $step >"$counter"
    begin() {
        echo "step $step: the agent starts"
        "$HOPLINE_BIN" agent --state-dir "$history" >/tmp/agent.log 2>&1 &
        agent=$!
        local tries=0
        until curl -sf -o /dev/null http://127.0.0.1:9737/readyz; do
            sleep 0.5
            [ $((tries += 1)) -lt 240 ] || { echo 'the agent was not ready'; cat /tmp/agent.log; return 1; }
        done
        curl -s http://127.0.0.1:9737/metrics >/tmp/metrics
        mode=$(grep '^hopline_safe_mode ' /tmp/metrics)
        cat /tmp/agent.log
        echo "step $step: $mode, should be $1"
        [ "$mode" = "hopline_safe_mode $1" ]
    }
    end() {
        kill -TERM $agent
        wait $agent || { echo "the agent ended with $?"; cat /tmp/agent.log; return 1; }
    }
    case $step in
        1 | 2) begin 0 || return 1 ;;
        3)
            begin 1 || return 1
            grep -q '2 boots ended uncleanly while hopline ran' /tmp/agent.log || { echo 'not the reason'; return 1; }
            # Of the types of programs (include/uapi/linux/bpf.h) those on cgroups alone.
            local tracing=$(cat /proc/$agent/fdinfo/* | grep '^prog_type:' | grep -cvwE '8|13|18')
            local loaded=$(cat /proc/$agent/fdinfo/* | grep -c '^prog_type:')
            # From 7.0 on one walk is there for the end.
            local walks=$(($(uname -r | cut -d. -f1) >= 7))
            echo "$loaded programs, $tracing of them tracing, should be $walks"
            [ "$loaded" -gt 0 ] && [ "$tracing" = "$walks" ] || return 1
            curl -s -o /dev/null http://127.0.0.1:9737/livez
            sleep 2
            curl -s http://127.0.0.1:9737/metrics >/tmp/metrics
            grep 'hopline_tcp_handshake_duration_seconds_count.*role="client"' /tmp/metrics || { echo 'no connection'; return 1; }
            "$HOPLINE_BIN" trace --state-dir "$history" --for 1s || return 1
            "$HOPLINE_BIN" doctor --state-dir "$history" || return 1
            end || return 1
            # A clean stop keeps safe mode, an operator ends it. Then this boot ends uncleanly as well: one, counted anew.
            begin 1 && end || return 1
            "$HOPLINE_BIN" doctor --state-dir "$history" --leave-safe-mode || return 1
            begin 0 || return 1
            ;;
        4) begin 0 && end || return 1 ;;
        *)
            begin 0 && end
            return
            ;;
    esac
    again
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
export -f again second_boot safe-mode whole_node
"#;

/// Writes `guest.sh` for this boot of this kernel.
pub(super) fn write(
    jobs: &Jobs,
    kernel: &Kernel,
    preempt: Option<Preempt>,
    directory: &Path,
    number: u32,
) -> Result<()> {
    // As here: tools may be in places of their own. The file system is this one.
    let path = std::env::var_os("PATH").context("PATH is not set")?;
    let mut lines = vec![
        format!("export HOME=/tmp PATH={}", quote(Path::new(&path))),
        format!(
            "release={} modules={}",
            quote(Path::new(&kernel.release)),
            quote(&kernel.modules())
        ),
        format!("export HOPLINE_BIN={}", quote(&jobs.hopline)),
        format!("export VM_BOOT={number} VM_STATE=/vm-results/state"),
        "mkdir -p $VM_STATE".to_owned(),
        PREPARE.to_owned(),
        format!("echo 'vm: {UP}'\"$(uname -r)\""),
    ];
    lines.extend(preempt.map(|mode| format!("check_preempt {mode}")));
    lines.extend(jobs.list.iter().map(|job| command(job, jobs)));
    lines.push(format!("echo 'vm: {DONE}'\npower_off\n"));
    let file = directory.join("guest.sh");
    fs::write(&file, lines.join("\n")).with_context(|| format!("writing {}", file.display()))
}

/// The line that runs the job.
fn command(job: &Job, jobs: &Jobs) -> String {
    let (name, limit) = (job.name, job.limit());
    match &job.kind {
        Kind::Doctor => format!("job {limit} {name} {} doctor --json", quote(&jobs.hopline)),
        Kind::Function => format!("job {limit} {name} bash -c {name}"),
        Kind::Scenario(options) => {
            let options = options.iter().map(|option| format!(" {}", quote(Path::new(option))));
            format!(
                "job {limit} {name} {} {name} --tolerance vm --json /vm-results/{name}.json{}",
                quote(&jobs.lab),
                options.collect::<String>()
            )
        }
    }
}

fn quote(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}
