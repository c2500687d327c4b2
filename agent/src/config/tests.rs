//! The printed configuration reads back, and every refusal names file, line and key.
use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("hopline.yaml"), text).map_err(|error| error.to_string())
}

#[test]
fn printed_defaults_read_back() {
    let config = Config::default();
    assert_eq!(parse(&config.to_yaml()), Ok(config));
    assert_eq!(parse(""), Ok(Config::default()));
    assert_eq!(parse("# nothing\n"), Ok(Config::default()));
}

#[test]
fn printed_values_read_back() {
    let mut config = Config {
        share: 7,
        stuck_after: Duration::from_millis(2500),
        ..Config::default()
    };
    config.features = [Feature::Rtt, Feature::TlsLibrary].into_iter().collect();
    config.groups = [
        ("a".to_owned(), vec![]),
        (
            "go".to_owned(),
            vec![
                "*.b.example:1".parse().expect("a pattern"),
                "fd00::/8".parse().expect("a pattern"),
            ],
        ),
    ]
    .into();
    config.paths.trace = TraceWhat::All;
    config.paths.exclude = vec!["10.0.0.0/8".parse().expect("a network")];
    config.rtt_spike = SpikeConfig {
        retransmits_above: None,
        rtt_delta_above: Duration::from_millis(50),
        hold: Duration::from_secs(7),
    };
    config.kubernetes = KubernetesConfig {
        api: Use::Off,
        kubeconfig: Some("/etc/a: \"b\"".into()),
        cri_socket: CriSocket::Off,
        node_name: Some("node-7.example".to_owned()),
        annotations: ["ci.example/job".to_owned(), "x".to_owned()].into(),
    };
    config.environment = ["CI_JOB_ID".to_owned(), "_x1".to_owned()].into();
    config.builtin_groups = false;
    config.dns_ports = vec![53, 5353];
    config.declared = vec![
        Declaration {
            name: "a: \"b\"".to_owned(),
            process: Some("go*".to_owned()),
            workload: None,
            cgroup: None,
            destinations: vec!["group:go".parse().expect("a destination")],
        },
        Declaration {
            name: "c".to_owned(),
            process: None,
            workload: Some("*".to_owned()),
            cgroup: Some("/x/*".to_owned()),
            destinations: vec![],
        },
    ];
    config.cgroups = vec!["/sys/fs/cgroup/a: \"b\"".into(), "/c".into()];
    config.record = RecordConfig {
        file: Some("/tmp/#x".into()),
        rotate_bytes: (1 << 20) + 1,
        keep: 1,
    };
    config.state_dir = Some("/mnt/a \"b\"".into());
    config.log = LogConfig {
        level: Level(tracing::Level::WARN),
        format: LogFormat::Json,
    };
    assert_eq!(parse(&config.to_yaml()), Ok(config));
}

/// A file that is refused: how the one line begins, and what it says.
fn check(text: &str, start: &str, part: &str) {
    let error = parse(text).expect_err(text);
    assert!(error.starts_with(start), "{error}");
    assert!(error.contains(part), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn features_are_switched_by_name() {
    let off = |text: &str| parse(text).map(|config| config.features);
    let rtt = Ok([Feature::Rtt].into_iter().collect());
    assert_eq!(off("features: {rtt: off, open: on}\n"), rtt);
    assert_eq!(off("features:\n  rtt: false\n  open: true\n"), rtt);
    assert_eq!(off("features:\n  rtt: \"off\"\n"), rtt);
    assert_eq!(off("features: {}\n"), Ok(FeaturesConfig::default()));
    check(
        "features:\n  rtt: off\n  opne: off\n",
        "hopline.yaml:3: features.opne: ",
        "unknown variant",
    );
    check(
        "features:\n  open: maybe\n",
        "hopline.yaml:2: features.open: ",
        "`maybe` is neither on nor off",
    );
    check("features:\n  open: 0\n", "hopline.yaml:2: features.open: ", "on or off");
    check("features:\n  open: off\n  open: on\n", "hopline.yaml:", "open");
    check("features: [open]\n", "hopline.yaml:1: features: ", "");
}

#[test]
fn the_state_directory_is_read_and_refused() {
    let at = |text: &str| parse(text).map(|config| config.state_dir);
    assert_eq!(at(""), Ok(Some("/var/lib/hopline".into())));
    assert_eq!(at("state_dir: /a\n"), Ok(Some("/a".into())));
    assert_eq!(at("state_dir: \"\"\n"), Ok(None));
    assert_eq!(at("state_dir: null\n"), Ok(None));
    let config = Config {
        state_dir: None,
        ..Config::default()
    };
    assert_eq!(parse(&config.to_yaml()), Ok(config));
    check(
        "state_dir: a/b\n",
        "hopline.yaml:1: state_dir: ",
        "`a/b` is no absolute path",
    );
}

#[test]
fn switches_reach_what_is_configured_elsewhere() {
    let config = parse("features: {path: off, kubernetes: off}\npaths: {trace: all}\n").expect("good");
    let used = config.with_switches();
    assert_eq!(used.paths.trace, TraceWhat::Off);
    assert_eq!(used.kubernetes.api, Use::Off);
    assert_eq!(used.kubernetes.cri_socket, CriSocket::Off);
    assert_eq!(Config::default().with_switches(), Config::default());
}

#[test]
fn refusals_of_spikes_name_file_line_and_key() {
    check(
        "rtt_spike:\n  retransmits_above: few\n",
        "hopline.yaml:2: rtt_spike.retransmits_above: ",
        "nor `none`",
    );
    check(
        "rtt_spike:\n  retransmits_above: -1\n",
        "hopline.yaml:2: rtt_spike.",
        "write none",
    );
    check(
        "rtt_spike:\n  rtt_delta_above: 0ms\n",
        "hopline.yaml:2: rtt_spike.",
        "100us",
    );
    check(
        "rtt_spike:\n  for: 5\n",
        "hopline.yaml:2: rtt_spike.for: ",
        "such as 500ms",
    );
    check(
        "rtt_spike:\n  above: 5\n",
        "hopline.yaml:2: rtt_spike.above: ",
        "unknown field",
    );
}

#[test]
fn kubernetes_is_read_and_refused() {
    let socket = |text: &str| parse(text).map(|config| config.kubernetes.cri_socket);
    let at = CriSocket::At("/run/x.sock".into());
    assert_eq!(socket("kubernetes:\n  cri_socket: /run/x.sock\n"), Ok(at.clone()));
    assert_eq!(socket("kubernetes:\n  cri_socket: \"auto\"\n"), Ok(CriSocket::Auto));
    let mut config = Config::default();
    config.kubernetes.cri_socket = at;
    assert_eq!(parse(&config.to_yaml()), Ok(config));
    let refused =
        |text: &str, part: &str| check(&format!("kubernetes:\n  {text}\n"), "hopline.yaml:2: kubernetes.", part);
    refused("api: on", "on");
    refused("cri_socket: run/x.sock", "absolute");
    refused("kubeconfig: ~/.kube/config", "absolute");
    refused("node_name: a,spec.b=c", "no name of a node");
    refused("annotations: x", "");
    refused("labels: []", "unknown field");
}

#[test]
fn variables_are_names() {
    let refused = |text: &str| check(&format!("environment: {text}\n"), "hopline.yaml:1: environment: ", "");
    for text in ["[A=b]", "[\"\"]", "[1A]", "[a-b]", "CI_JOB_ID", "{A: b}"] {
        refused(text);
    }
    let all: Vec<String> = (0..33).map(|number| format!("A{number}")).collect();
    refused(&format!("[{}]", all.join(", ")));
}

#[test]
fn refusals_name_file_line_and_key() {
    check("lissten: 1\n", "hopline.yaml:1: lissten: ", "unknown field");
    check(
        "log:\n  level: loud\n",
        "hopline.yaml:2: log.level: ",
        "`loud` is no level",
    );
    check("log:\n  format: xml\n", "hopline.yaml:2: log.format: ", "xml");
    check("share: 0\n", "hopline.yaml:1: share: ", "out of range");
    check("share: many\n", "hopline.yaml:1: share: ", "");
    check(
        "# c\n\nstuck_after: 5\n",
        "hopline.yaml:3: stuck_after: ",
        "such as 500ms",
    );
    check("stuck_after: 1ms\n", "hopline.yaml:1: stuck_after: ", "out of range");
    check(
        "limits:\n  connections: 1\n  series: 0\n",
        "hopline.yaml:2: limits.connections: ",
        "out of range",
    );
    check("limits:\n  series: 999\n", "hopline.yaml:2: limits.series: ", "1000 to");
    check(
        "limits:\n  ring_bytes: 5000\n",
        "hopline.yaml:2: limits.ring_bytes: ",
        "power of two",
    );
    check(
        "limits:\n  rings: 1\n",
        "hopline.yaml:2: limits.rings: ",
        "unknown field",
    );
    check(
        "record:\n  rotate_bytes: 8MB\n",
        "hopline.yaml:2: record.rotate_bytes: ",
        "KiB",
    );
    check("cgroups: [a]\n", "hopline.yaml:1: cgroups: ", "absolute");
    check(
        "groups:\n  a: [b.example]\n  c:\n    - 10.0.0.1/8\n",
        "hopline.yaml:4: groups.c: ",
        "write 10.0.0.0/8",
    );
    check("groups:\n  A b: []\n", "hopline.yaml:", "`A b` is no name");
    check("groups: [a]\n", "hopline.yaml:1: groups: ", "");
    check("builtin_groups: some\n", "hopline.yaml:1: builtin_groups: ", "");
    check("dns_ports: [0]\n", "hopline.yaml:1: dns_ports: ", "out of range");
    check("dns_ports: [65536]\n", "hopline.yaml:1: dns_ports: ", "");
    let declared = "declared:\n  - name: a\n    process: x\n";
    check(
        &format!("{declared}    destinations: [a.example, \"*\"]\n"),
        "hopline.yaml:4: declared.destinations: ",
        "`*` is no destination",
    );
    check(
        &format!("{declared}    destinations:\n      - group:corp\n"),
        "hopline.yaml:5: declared.destinations: ",
        "`group:corp` is no group",
    );
    check(
        &format!("builtin_groups: false\n{declared}    destinations: [\"group:dns\", \"group:go\"]\n"),
        "hopline.yaml:5: declared.destinations: ",
        "`group:go` is no group",
    );
    check(
        &format!("{declared}    program: y\n    destinations: []\n"),
        "hopline.yaml:4: declared.program: ",
        "unknown field",
    );
    check(declared, "hopline.yaml:", "destinations");
    check(
        "declared:\n  - name: a\n    destinations: []\n",
        "hopline.yaml:",
        "process, workload or cgroup",
    );
    check(
        &format!("{declared}    destinations: []\n  - name: a\n    process: y\n    destinations: []\n"),
        "hopline.yaml:",
        "`a` twice",
    );
    check("listen: 9737\n", "hopline.yaml:1: listen: ", "");
    check("listen: [\n", "hopline.yaml:", "");
    check("- a\n", "hopline.yaml:1: ", "");
}
