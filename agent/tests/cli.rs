//! The binary from outside: exit codes, and one line with the remedy for every mistake. Attaches nothing.
use std::{
    fs,
    process::{Command, Output},
};

fn hopline(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hopline"))
        .args(arguments)
        .output()
        .expect("the binary runs")
}

/// `part` must be in the one line on stderr.
fn refused(arguments: &[&str], code: i32, part: &str) {
    let output = hopline(arguments);
    let stderr = String::from_utf8(output.stderr).expect("utf-8");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(
        stderr.starts_with("hopline: ") && stderr.lines().count() == 1,
        "{arguments:?}: {stderr}"
    );
    assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

#[test]
fn wrong_usage() {
    refused(&["agent", "--nope"], 2, "see `hopline agent --help`");
    refused(&["agent", "--listen", "9737"], 2, "see `hopline agent --help`");
    refused(&["nope"], 2, "see `hopline --help`");
    refused(&["replay"], 2, "<FILE>");
    refused(&["trace", "--for", "5"], 2, "500ms");
    refused(&["trace", "--slower-than", "tcp"], 2, "PHASE=DURATION");
    refused(&["trace", "--count", "1", "--", "true"], 2, "cannot be used with");
    refused(&["compare"], 2, "<URL>");
    refused(&["compare", "mirror.example"], 2, "write http:// or https://");
    refused(&["compare", "http://mirror.example:0x/"], 2, "cannot be fetched");
    refused(&["compare", "http://localhost", "-n", "0"], 2, "1..=1000");
    refused(&["compare", "http://localhost", "--timeout", "0s"], 2, "no time");
    let condition = |text| ["compare", "http://localhost", "--fail-if", text];
    refused(&condition("tls.p99 > 1ms"), 2, "`tls.p99` cannot be judged");
    refused(&condition("tls.p95 = 1ms"), 2, "see `hopline compare --help`");
    refused(&condition("failures > many"), 2, "`many` is no number");
    refused(
        &["agent", "--config", "/nonexistent/hopline.yaml"],
        2,
        "/nonexistent/hopline.yaml",
    );
}

#[test]
fn wrong_configuration() {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("hopline.yaml");
    let path = file.to_str().expect("utf-8");
    fs::write(&file, "listen: 127.0.0.1:0\nlimits:\n  conections: 5\n").expect("write");
    refused(&["agent", "--config", path], 2, "hopline.yaml:3: limits.conections: ");
    fs::write(&file, "stuck_after: 5\n").expect("write");
    refused(&["trace", "--config", path], 2, "hopline.yaml:1: stuck_after: ");
}

#[test]
fn no_recording() {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("notes");
    let path = file.to_str().expect("utf-8");
    refused(&["replay", path], 1, "No such file");
    fs::write(&file, "dear diary").expect("write");
    refused(&["replay", path], 1, "not a recording");
}

#[test]
fn no_authority() {
    let file = "/nonexistent/ca.pem";
    refused(&["compare", "https://localhost", "--cacert", file], 1, file);
}

#[test]
fn a_printed_configuration_is_one() {
    let printed = hopline(&["agent", "--print-config", "--listen", "127.0.0.1:1"]);
    assert!(printed.status.success());
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("hopline.yaml");
    fs::write(&file, &printed.stdout).expect("write");
    let again = hopline(&["agent", "--print-config", "--config", file.to_str().expect("utf-8")]);
    assert_eq!(String::from_utf8(again.stdout), String::from_utf8(printed.stdout));
}

#[test]
fn help_is_no_mistake() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["agent", "--help"],
        &["trace", "--help"],
        &["compare", "--help"],
        &["doctor", "--help"],
    ] {
        let output = hopline(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}");
    }
    for command in ["agent", "trace", "compare", "replay", "doctor"] {
        let help = String::from_utf8(hopline(&[command, "--help"]).stdout).expect("utf-8");
        assert!(help.contains("Examples:"), "{command}");
    }
    assert_eq!(hopline(&[]).status.code(), Some(2));
}
