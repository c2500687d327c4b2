//! What the guest's kernel says is wrong: lines of its console that fail a run. Pure: `machine` reads the console.
//!
//! Warnings count where BPF is involved: other parts of an emulated kernel may complain of the emulation. So do soft lockups,
//! which a busy host makes.

use std::mem;

/// Faults whatever stands around them.
const FAULTS: [&str; 3] = ["BUG:", "Oops", "Kernel panic"];
/// A task that waits for minutes in the kernel.
const HUNG: [&str; 2] = ["INFO: task ", " blocked for more than "];
/// Faults where a BPF program or the kernel's own code for BPF is in the trace.
const WARNINGS: [&str; 2] = ["WARNING:", "soft lockup"];
/// The kernel's last line of a warning; not all kinds have it.
const END_OF_TRACE: &str = "---[ end trace";
/// The longest trace of a warning, in lines.
const TRACE: usize = 80;

/// Faults so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    faults: Vec<String>,
    /// A warning whose trace is being read, and how many of its lines may come yet.
    warning: Option<(String, usize)>,
}

impl Watch {
    /// Takes the next line; true when a fault is new with it.
    pub(super) fn is_fault(&mut self, line: &str) -> bool {
        let before = self.faults.len();
        let is_warning = WARNINGS.iter().any(|warning| line.contains(warning));
        if is_warning {
            self.warning = Some((line.to_owned(), TRACE));
        } else if FAULTS.iter().any(|fault| line.contains(fault)) || HUNG.iter().all(|part| line.contains(part)) {
            self.faults.push(line.to_owned());
        }
        if let Some((first, left)) = &mut self.warning {
            *left -= 1;
            if is_of_bpf(line) {
                self.faults.push(mem::take(first));
                self.warning = None;
            } else if *left == 0 || line.contains(END_OF_TRACE) {
                self.warning = None;
            }
        }
        self.faults.len() > before
    }

    /// All lines that are faults, in order.
    pub(super) fn into_faults(self) -> Vec<String> {
        self.faults
    }
}

/// A symbol with its offset, as traces have them: other lines may speak of BPF without any being at work.
fn is_of_bpf(line: &str) -> bool {
    line.split_whitespace()
        .any(|word| word.contains("bpf") && word.contains("+0x"))
        || (line.contains("WARNING:") && line.contains("kernel/bpf/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(console: &str, expected: &[&str]) {
        let mut watch = Watch::default();
        let told = console.lines().filter(|line| watch.is_fault(line)).count();
        assert_eq!(watch.into_faults(), expected, "{console}");
        assert_eq!(told, expected.len(), "{console}");
    }

    #[test]
    fn faults_are_found() {
        check(
            "[   61.1] BUG: kernel NULL pointer dereference, address: 0000000000000088\n[   61.2] #PF: supervisor read\n\
             [   61.3] Oops: Oops: 0000 [#1] SMP NOPTI\n[   61.4] RIP: 0010:__bpf_sk_storage_map_seq_show+0x4e/0xd0\n\
             [   61.5] Kernel panic - not syncing: Fatal exception",
            &[
                "[   61.1] BUG: kernel NULL pointer dereference, address: 0000000000000088",
                "[   61.3] Oops: Oops: 0000 [#1] SMP NOPTI",
                "[   61.5] Kernel panic - not syncing: Fatal exception",
            ],
        );
        let hung = "[  242.1] INFO: task hopline:312 blocked for more than 120 seconds.";
        check(hung, &[hung]);
        check("vm: up, 7.2.12\n[ 1.0] INFO: NMI handler took too long", &[]);
    }

    #[test]
    fn a_warning_counts_where_bpf_is_at_work() {
        let of_bpf = "[    9.1] WARNING: CPU: 1 PID: 77 at kernel/softirq.c:362 __local_bh_enable_ip+0x6c/0x70";
        check(
            &format!(
                "[ 9.0] ------------[ cut here ]------------\n{of_bpf}\n[    9.2] Modules linked in: veth\n[    9.3]  bpf_sk_storage_free+0x51/0x70\n[ 9.4] ---[ end trace 0000000000000000 ]---"
            ),
            &[of_bpf],
        );
        let in_bpf = "[    9.1] WARNING: kernel/bpf/verifier.c:20 at check+0x1/0x2, CPU#0: hopline/77";
        check(in_bpf, &[in_bpf]);
        check(
            "[ 9.1] WARNING: CPU: 0 PID: 1 at arch/x86/kernel/tsc.c:1 tsc+0x1/0x2\n[ 9.2] ---[ end trace 0 ]---\n[ 9.3]  bpf_prog_1_x+0x1/0x2",
            &[],
        );
        check(
            "[ 0.1] Spectre V2 : WARNING: Unprivileged eBPF is enabled, data leaks possible via Spectre v2 BHB attacks!\n[ 0.2] bpf is fine",
            &[],
        );
    }

    #[test]
    fn a_soft_lockup_counts_as_a_warning_does() {
        let lockup = "[ 99.1] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [hopline:7]";
        check(&format!("{lockup}\n[ 99.2]  smp_call_function+0x1/0x2"), &[]);
        check(
            &format!("{lockup}\n[ 99.2]  bpf_prog_6deef7357e7b4530_walk+0x1/0x2"),
            &[lockup],
        );
    }
}
