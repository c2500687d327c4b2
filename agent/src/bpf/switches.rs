//! Which features are off by choice, and what that leaves out of programs that several features share.
//!
//! Used by `plan`. What the kernel refuses is not decided here.

use super::{ProbeOptions, plan::TLS_LIBRARY};

/// Why a feature is off that the configuration names.
pub const SWITCHED_OFF: &str = "switched off in the configuration";
/// Why libraries are not probed where nobody asked for it.
const TLS_SWITCHED_OFF: &str = "tls.probes is off";

/// A feature, and the one without which it has nothing to work on.
const NEEDS: [(&str, &str); 12] = [
    // Whoever does not see a connection close must not begin to follow it.
    ("connect", "state"),
    ("syn", "state"),
    ("retransmits", "state"),
    ("synack_retransmits", "state"),
    ("connect_errors", "state"),
    ("rtt", "state"),
    ("payload", "state"),
    (TLS_LIBRARY, "state"),
    ("existing", "state"),
    ("open", "state"),
    // It is the intent that has no SYN.
    ("failure_before_syn", "connect"),
    ("dns_owner", "dns"),
];

/// Why the feature is off by choice; `None` when it is not.
pub(super) fn reason(options: &ProbeOptions, feature: &str) -> Option<String> {
    if options.features.is_named_off(feature) {
        let rest = match feature {
            "syn" if !is_off(options, "state") => "; `state` marks the SYN",
            "connect" if !is_off(options, "dns_owner") => "; `dns_owner` keeps its programs loaded",
            _ => "",
        };
        return Some(format!("{SWITCHED_OFF}{rest}"));
    }
    if feature == TLS_LIBRARY && !options.tls_probes {
        return Some(TLS_SWITCHED_OFF.to_owned());
    }
    let (_, needed) = NEEDS.iter().find(|(name, _)| *name == feature)?;
    is_off(options, needed).then(|| format!("needs `{needed}`, which is off by choice"))
}

/// Whether the feature is off by choice.
pub(super) fn is_off(options: &ProbeOptions, feature: &str) -> bool {
    reason(options, feature).is_some()
}

/// What programs that stay loaded for other features leave out.
pub(super) fn settings(options: &ProbeOptions) -> [(&'static str, u32); 5] {
    let off = |feature| u32::from(is_off(options, feature));
    [
        ("CONNECT_OFF", off("connect")),
        ("FAILURE_BEFORE_SYN_OFF", off("failure_before_syn")),
        ("RTT_OFF", off("rtt")),
        ("PAYLOAD_OFF", off("payload")),
        ("DNS_OWNER_OFF", off("dns_owner")),
    ]
}

/// What an enabled feature lacks because another one is off.
pub(super) fn lack(options: &ProbeOptions, feature: &str) -> Option<&'static str> {
    (feature == "dns" && is_off(options, "payload")).then_some("without `payload` over UDP alone")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Feature;

    fn options(off: &[Feature], tls_probes: bool) -> ProbeOptions {
        ProbeOptions {
            cgroups: Vec::new(),
            ring_bytes: 0,
            share_per_second: 1,
            rtt_histograms: 1,
            dns_ports: vec![53],
            tls_probes,
            features: off.iter().copied().collect(),
            safe_mode: false,
            fail_programs: Vec::new(),
        }
    }

    #[test]
    fn what_needs_a_feature_goes_with_it() {
        let check = |off: &[Feature], feature: &str, expected: Option<&str>| {
            let found = reason(&options(off, true), feature);
            assert_eq!(found.as_deref(), expected, "{feature} without {off:?}");
        };
        check(&[], "rtt", None);
        check(&[Feature::Rtt], "rtt", Some(SWITCHED_OFF));
        check(&[Feature::Rtt], "state", None);
        let through_state = Some("needs `state`, which is off by choice");
        for (feature, _) in NEEDS.iter().filter(|(_, needed)| *needed == "state") {
            check(&[Feature::State], feature, through_state);
        }
        check(
            &[Feature::State],
            "failure_before_syn",
            Some("needs `connect`, which is off by choice"),
        );
        check(&[Feature::State], "dns", None);
        check(
            &[Feature::Dns],
            "dns_owner",
            Some("needs `dns`, which is off by choice"),
        );
        check(
            &[Feature::Syn],
            "syn",
            Some("switched off in the configuration; `state` marks the SYN"),
        );
        check(&[Feature::Syn, Feature::State], "syn", Some(SWITCHED_OFF));
        check(
            &[Feature::Connect],
            "connect",
            Some("switched off in the configuration; `dns_owner` keeps its programs loaded"),
        );
        check(&[Feature::Connect, Feature::Dns], "connect", Some(SWITCHED_OFF));
    }

    #[test]
    fn libraries_need_both_switches() {
        let check = |off: &[Feature], probes, expected| {
            assert_eq!(reason(&options(off, probes), TLS_LIBRARY).as_deref(), expected);
        };
        check(&[], true, None);
        check(&[], false, Some(TLS_SWITCHED_OFF));
        check(&[Feature::TlsLibrary], true, Some(SWITCHED_OFF));
        check(&[Feature::TlsLibrary], false, Some(SWITCHED_OFF));
    }

    #[test]
    fn shared_programs_leave_out_what_is_off() {
        let on = |off: &[Feature]| {
            let settings = settings(&options(off, true)).into_iter();
            let on = settings.filter(|(_, value)| *value != 0);
            on.map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert!(on(&[]).is_empty());
        assert_eq!(on(&[Feature::Rtt]), ["RTT_OFF"]);
        assert_eq!(on(&[Feature::Dns]), ["DNS_OWNER_OFF"]);
        assert_eq!(on(&[Feature::Connect]), ["CONNECT_OFF", "FAILURE_BEFORE_SYN_OFF"]);
        assert_eq!(on(&[Feature::State]).len(), 4);
    }
}
