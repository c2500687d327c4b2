//! Which hook serves each feature on this kernel: first choice, then fallbacks, with the reasons kept.

use agent_ebpf::dns::MAX_DNS_PORTS;

use super::{
    BpfError, ProbeOptions,
    btf::Kernel,
    cgroup::Scope,
    object::{Attachment, INGRESS as INGRESS_TARGET, Object},
    switches,
};
use crate::selfmetrics::FeatureState;

const CONNECT4: Attachment = Attachment {
    name: "connect4",
    target: "",
};
const CONNECT6: Attachment = Attachment {
    name: "connect6",
    target: "",
};
const SOCK_OPS: Attachment = Attachment {
    name: "sock_ops",
    target: "",
};
const TCP_CONNECT_FENTRY: Attachment = Attachment {
    name: "tcp_connect_fentry",
    target: "tcp_connect",
};
const TCP_CONNECT_KPROBE: Attachment = Attachment {
    name: "tcp_connect_kprobe",
    target: "tcp_connect",
};
const INET_STREAM_CONNECT: Attachment = Attachment {
    name: "inet_stream_connect_fexit",
    target: "inet_stream_connect",
};
const SYS_EXIT_CONNECT: Attachment = Attachment {
    name: "sys_exit_connect",
    target: "syscalls/sys_exit_connect",
};
pub(super) const SET_STATE: Attachment = Attachment {
    name: "inet_sock_set_state",
    target: "inet_sock_set_state",
};
pub(super) const DESTROY: Attachment = Attachment {
    name: "tcp_destroy_sock",
    target: "tcp_destroy_sock",
};
const ERROR_REPORT: Attachment = Attachment {
    name: "inet_sk_error_report",
    target: "inet_sk_error_report",
};
const RETRANSMIT_SKB: Attachment = Attachment {
    name: "tcp_retransmit_skb",
    target: "tcp_retransmit_skb",
};
const RETRANSMIT_SYNACK: Attachment = Attachment {
    name: "tcp_retransmit_synack",
    target: "tcp_retransmit_synack",
};
const ITER_LISTENERS: Attachment = Attachment {
    name: "iter_listeners",
    target: "task_file",
};
const ITER_EXISTING: Attachment = Attachment {
    name: "iter_existing",
    target: "task_file",
};
const ITER_OPEN: Attachment = Attachment {
    name: "iter_open",
    target: "bpf_sk_storage_map",
};
const ITER_OPEN_FILES: Attachment = Attachment {
    name: "iter_open_files",
    target: "task_file",
};
/// No feature: what the end needs where [`Plan::storage_may_vanish`].
pub(super) const ITER_RELEASE_LISTENERS: Attachment = Attachment {
    name: "iter_release_listeners",
    target: "task_file",
};
const INGRESS: Attachment = Attachment {
    name: "ingress",
    target: INGRESS_TARGET,
};
const EGRESS: Attachment = Attachment {
    name: "egress",
    target: "",
};
const SENDMSG4: Attachment = Attachment {
    name: "sendmsg4",
    target: "",
};
const SENDMSG6: Attachment = Attachment {
    name: "sendmsg6",
    target: "",
};
const FORK: Attachment = Attachment {
    name: "sched_process_fork",
    target: "sched_process_fork",
};
const EXEC: Attachment = Attachment {
    name: "sched_process_exec",
    target: "sched_process_exec",
};
const EXIT: Attachment = Attachment {
    name: "sched_process_exit",
    target: "sched_process_exit",
};
const CGROUP_MKDIR: Attachment = Attachment {
    name: "cgroup_mkdir",
    target: "cgroup_mkdir",
};

const TLS_READ: Attachment = Attachment {
    name: "tcp_rcv_space_adjust",
    target: "tcp_rcv_space_adjust",
};
const TLS_PROBE: Attachment = Attachment {
    name: "tls_probe",
    target: "",
};

/// What has to be known before the globals are set: which programs the kernel takes, and what it can do.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent answers of the kernel")]
pub(super) struct Plan {
    fentry: bool,
    kprobe: bool,
    fexit: bool,
    sock_ops: bool,
    retransmit_has_result: bool,
    /// A socket or map that goes clears pointers of its storage that others still follow.
    pub(super) storage_may_vanish: bool,
}

/// The object's settings (`agent-ebpf/src/settings.rs`) by name; those not named keep their zero.
pub(super) type Settings = Vec<(&'static str, u32)>;

impl Plan {
    /// Tries the few programs on which settings depend, with no storage to work on, and takes them off again.
    pub(super) fn for_this_kernel(kernel: &Kernel, options: &ProbeOptions) -> Result<Self, BpfError> {
        // Passing the transmit result made it a third argument (6.18).
        const ARGUMENTS_WITH_RESULT: u32 = 3;
        let mut trial = Object::for_trial(kernel, options)?;
        let mut takes =
            |feature, program| !switches::is_off(options, feature) && trial.attach(kernel, program, &[]).is_ok();
        Ok(Self {
            fentry: takes("syn", &TCP_CONNECT_FENTRY),
            kprobe: takes("syn", &TCP_CONNECT_KPROBE),
            fexit: takes("failure_before_syn", &INET_STREAM_CONNECT),
            sock_ops: takes("state", &SOCK_OPS),
            retransmit_has_result: kernel.retransmit_arguments >= ARGUMENTS_WITH_RESULT,
            storage_may_vanish: kernel.storage_may_vanish,
        })
    }

    /// What the kernel side is told before the load.
    pub(super) fn settings(&self, options: &ProbeOptions) -> Settings {
        // Without ports nothing is DNS.
        let [a, b] = if switches::is_off(options, "dns") {
            packed(&[])
        } else {
            packed(&options.dns_ports)
        };
        let tells_children = self.storage_may_vanish && !options.safe_mode && !switches::is_off(options, OPEN);
        let traced = !self.sock_ops && !options.safe_mode && !switches::is_off(options, "state");
        let mut settings = vec![
            ("DNS_PORTS_A", a),
            ("DNS_PORTS_B", b),
            ("WHOLE_NODE", options.cgroups.is_empty().into()),
            ("MATCH_INTENTS", (!self.fexit).into()),
            ("SYN_BY_KPROBE", (!self.fentry && self.kprobe).into()),
            ("STATE_BY_TRACING", traced.into()),
            ("TELL_CHILDREN", tells_children.into()),
            ("RETRANSMIT_RESULT", self.retransmit_has_result.into()),
            ("SHARE_PER_SECOND", options.share_per_second),
        ];
        settings.extend(switches::settings(options));
        settings
    }
}

/// Up to four ports as the kernel side takes them, two in a word.
fn packed(ports: &[u16]) -> [u32; MAX_DNS_PORTS / 2] {
    let port = |index: usize| ports.get(index).copied().map_or(0, u32::from);
    std::array::from_fn(|word| port(2 * word) | port(2 * word + 1) << 16)
}

/// The feature of probes in TLS libraries.
pub(super) const TLS_LIBRARY: &str = "tls_library";

/// A hook that may serve a feature: the programs that it takes and its name for people.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) hook: &'static str,
    programs: &'static [Attachment],
}

pub(super) const SET_STATE_HOOK: Choice = Choice {
    hook: "tp_btf/{inet_sock_set_state,tcp_destroy_sock}",
    programs: &[SET_STATE, DESTROY],
};

/// Every feature with its hooks, best first. Processes come first, so that no connection is seen before its owner;
/// the walk over existing sockets comes last, when all that may happen to them is seen.
const FEATURES: &[(&str, &[Choice])] = &[
    (
        "process",
        &[
            Choice {
                hook: "tp_btf/sched_process_{fork,exec,exit}",
                programs: &[FORK, EXEC, EXIT],
            },
            Choice {
                hook: "tp_btf/sched_process_{fork,exec}",
                programs: &[FORK, EXEC],
            },
            Choice {
                hook: "tp_btf/sched_process_{exec,exit}",
                programs: &[EXEC, EXIT],
            },
            Choice {
                hook: "tp_btf/sched_process_{fork,exit}",
                programs: &[FORK, EXIT],
            },
        ],
    ),
    (
        "cgroup_names",
        &[Choice {
            hook: "tp_btf/cgroup_mkdir",
            programs: &[CGROUP_MKDIR],
        }],
    ),
    (
        "retransmits",
        &[Choice {
            hook: "tp_btf/tcp_retransmit_skb",
            programs: &[RETRANSMIT_SKB],
        }],
    ),
    (
        "synack_retransmits",
        &[Choice {
            hook: "tp_btf/tcp_retransmit_synack",
            programs: &[RETRANSMIT_SYNACK],
        }],
    ),
    (
        "state",
        &[
            Choice {
                hook: "sock_ops/STATE_CB",
                programs: &[SOCK_OPS],
            },
            SET_STATE_HOOK,
        ],
    ),
    (
        "connect_errors",
        &[
            Choice {
                hook: "tp_btf/inet_sk_error_report",
                programs: &[ERROR_REPORT],
            },
            // What is left of them when the socket closes.
            Choice {
                hook: "sock_ops/STATE_CB",
                programs: &[SOCK_OPS],
            },
            SET_STATE_HOOK,
        ],
    ),
    (
        "rtt",
        &[Choice {
            hook: "sock_ops/RTT_CB",
            programs: &[SOCK_OPS],
        }],
    ),
    (
        "syn",
        &[
            Choice {
                hook: "fentry/tcp_connect",
                programs: &[TCP_CONNECT_FENTRY],
            },
            Choice {
                hook: "kprobe/tcp_connect",
                programs: &[TCP_CONNECT_KPROBE, SOCK_OPS],
            },
            Choice {
                hook: "sock_ops/TCP_CONNECT_CB",
                programs: &[SOCK_OPS],
            },
            SET_STATE_HOOK,
        ],
    ),
    (
        "payload",
        &[Choice {
            hook: "cgroup_skb/{ingress,egress}",
            programs: &[INGRESS, EGRESS],
        }],
    ),
    (
        TLS_LIBRARY,
        &[Choice {
            hook: "uprobe+tp_btf/tcp_rcv_space_adjust",
            programs: &[TLS_READ, TLS_PROBE],
        }],
    ),
    (
        "dns",
        &[Choice {
            hook: "cgroup_skb/{ingress,egress}",
            programs: &[INGRESS, EGRESS],
        }],
    ),
    (
        "dns_owner",
        &[Choice {
            hook: "cgroup/{connect,sendmsg}{4,6}",
            programs: &[CONNECT4, CONNECT6, SENDMSG4, SENDMSG6],
        }],
    ),
    (
        "failure_before_syn",
        &[
            Choice {
                hook: "fexit/inet_stream_connect",
                programs: &[INET_STREAM_CONNECT],
            },
            Choice {
                hook: "tracepoint/sys_exit_connect",
                programs: &[SYS_EXIT_CONNECT],
            },
        ],
    ),
    (
        "connect",
        &[
            Choice {
                hook: "cgroup/connect{4,6}",
                programs: &[CONNECT4, CONNECT6],
            },
            Choice {
                hook: "cgroup/connect4",
                programs: &[CONNECT4],
            },
            Choice {
                hook: "cgroup/connect6",
                programs: &[CONNECT6],
            },
            Choice {
                hook: "sock_ops/TCP_CONNECT_CB",
                programs: &[SOCK_OPS],
            },
        ],
    ),
];

/// The feature of sockets opened before the start.
pub(super) const EXISTING: &str = "existing";
/// They are found once; nothing calls back for them, so their changes of state are traced.
const EXISTING_WALK: Choice = Choice {
    hook: "iter/task_file+tp_btf/{inet_sock_set_state,tcp_destroy_sock}",
    programs: &[ITER_LISTENERS, ITER_EXISTING, SET_STATE, DESTROY],
};

/// Connections that stay open, by their storage.
const STORAGE_WALK: Choice = Choice {
    hook: "iter/bpf_sk_storage_map",
    programs: &[ITER_OPEN],
};
/// The same by the open files of all processes.
const FILE_WALK: Choice = Choice {
    hook: "iter/task_file",
    programs: &[ITER_OPEN_FILES],
};
/// The feature of connections that stay open.
pub(super) const OPEN: &str = "open";
/// Why the first is left out. Since 5d800f87d0a5 and 0be08389c7f2 (7.0) a socket that closes takes its storage away under
/// the walk, which panics; 7.3.4 has no fix, and one would look the same from here (docs/kernels.md).
const STORAGE_WALK_PANICS: &str = "iter/bpf_sk_storage_map panics kernels like this one (7.0 to 7.3), so open files are \
                                   walked: of connections without a file descriptor their begin and their end are seen";

/// Attaches, feature by feature.
///
/// What is off by choice is left out; with a reason in `tls_off` so are TLS libraries: their hook runs at each read of every
/// socket.
pub(super) fn serve_features(
    object: &mut Object,
    kernel: &Kernel,
    plan: &Plan,
    scopes: &[Scope],
    options: &ProbeOptions,
    tls_off: Option<&str>,
) -> Vec<FeatureState> {
    let open: &[Choice] = if plan.storage_may_vanish {
        &[FILE_WALK]
    } else {
        &[STORAGE_WALK, FILE_WALK]
    };
    let features = FEATURES
        .iter()
        .copied()
        .chain([(EXISTING, &[EXISTING_WALK][..]), (OPEN, open)]);
    let mut features: Vec<FeatureState> = features
        .map(|(feature, choices)| {
            if let Some(reason) = switches::reason(options, feature) {
                return FeatureState {
                    feature,
                    switched_off: true,
                    reason,
                    ..FeatureState::default()
                };
            }
            if feature == TLS_LIBRARY
                && let Some(reason) = tls_off
            {
                return FeatureState {
                    feature,
                    reason: reason.to_owned(),
                    ..FeatureState::default()
                };
            }
            let mut state = serve(object, kernel, feature, choices, scopes);
            if let Some(lack) = switches::lack(options, feature)
                && state.enabled
            {
                add_reason(&mut state, lack);
            }
            state
        })
        .collect();
    if plan.storage_may_vanish {
        explain(&mut features, OPEN, STORAGE_WALK_PANICS);
    }
    features
}

/// The first choice that the kernel takes whole.
fn serve(
    object: &mut Object,
    kernel: &Kernel,
    feature: &'static str,
    choices: &[Choice],
    scopes: &[Scope],
) -> FeatureState {
    let mut reasons = Vec::new();
    for choice in choices {
        if let Some(reason) = object.forbids(choice.programs) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
            continue;
        }
        let refused = choice.programs.iter().find_map(|program| {
            object
                .attach(kernel, program, scopes)
                .err()
                .map(|reason| format!("{}: {reason}", program.name))
        });
        match refused {
            None => {
                return FeatureState {
                    feature,
                    hook: choice.hook.to_owned(),
                    enabled: true,
                    reason: reasons.join("; "),
                    ..FeatureState::default()
                };
            }
            Some(reason) if !reasons.contains(&reason) => reasons.push(reason),
            Some(_) => {}
        }
    }
    FeatureState {
        feature,
        reason: reasons.join("; "),
        ..FeatureState::default()
    }
}

/// A feature whose programs the kernel took, but not what they need beside.
pub(super) fn turn_off(features: &mut [FeatureState], feature: &str, error: &BpfError) {
    for state in features.iter_mut().filter(|state| state.feature == feature) {
        state.enabled = false;
        state.hook = String::new();
        state.reason = error.to_string();
    }
}

/// A feature that works, but not everywhere.
pub(super) fn explain(features: &mut [FeatureState], feature: &str, reason: &str) {
    for state in features
        .iter_mut()
        .filter(|state| state.feature == feature && state.enabled)
    {
        add_reason(state, reason);
    }
}

fn add_reason(state: &mut FeatureState, reason: &str) {
    if !state.reason.is_empty() {
        state.reason.push_str("; ");
    }
    state.reason.push_str(reason);
}

#[cfg(test)]
mod tests {
    use super::FEATURES;
    use crate::config::Feature;

    #[test]
    fn every_feature_can_be_switched_off() {
        for name in FEATURES.iter().map(|(name, _)| *name).chain(["existing", "open"]) {
            serde_json::from_value::<Feature>(name.into()).expect(name);
        }
    }
}
