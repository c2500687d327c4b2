//! `cargo xtask deploy-check`: what people install. Base and overlays are rendered by kustomize and validated against the
//! schemas of Kubernetes; what no schema can know (names that must agree) is in `objects`.
//!
//! Tools that are missing are fetched by `--fetch` (and in CI), else their part is skipped, with the reason. Nothing is
//! applied anywhere.

mod links;
mod objects;
mod pages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{process, workspace, yaml};

/// Versions of Kubernetes, `1.` left out.
const VERSIONS: std::ops::RangeInclusive<u32> = 29..=37;
/// Has the schemas of all of them.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";
const KUSTOMIZE: &str = "sigs.k8s.io/kustomize/kustomize/v5@v5.5.0";
/// Kinds of the Prometheus operator: their schemas come with the operator. promtool has read the rules in them.
const WITHOUT_SCHEMA: [&str; 2] = ["PodMonitor", "PrometheusRule"];

/// Validate manifests, configuration and links.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Fetch the tools that are missing into the cache; CI=true does so, too.
    #[arg(long)]
    fetch: bool,
    /// Write the pages of the configuration and of the metrics anew.
    #[arg(long)]
    write: bool,
}

/// A rendered kustomization.
#[derive(Debug)]
struct Rendered {
    name: &'static str,
    file: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let fetch = arguments.fetch || std::env::var_os("CI").is_some_and(|value| value == "true");
    let mut complaints = pages::check(arguments.write)?;
    complaints.extend(unit_file()?);
    complaints.extend(links::broken()?);
    let directory = tempfile::tempdir()?;
    match kustomize(fetch)? {
        None => println!("skipped: manifests need kustomize or kubectl (`--fetch` builds it with Go)"),
        Some(kustomize) => {
            let rendered = render(&kustomize, directory.path())?;
            for one in &rendered {
                complaints.extend(objects::check(one.name, &yaml::read(&one.file)?));
            }
            match validator(fetch)? {
                None => println!("skipped: schemas of Kubernetes need kubernetes-validate (`--fetch` installs it)"),
                Some(validator) => complaints.extend(validate(&validator, &rendered)?),
            }
        }
    }
    for complaint in &complaints {
        eprintln!("deploy-check: {complaint}");
    }
    ensure!(complaints.is_empty(), "{} complaints", complaints.len());
    Ok(())
}

/// The program and the words before a folder.
type Tool = (PathBuf, &'static [&'static str]);

fn cached(tool: &str) -> Option<PathBuf> {
    let file = workspace::tools("deploy").join("bin").join(tool);
    process::find(tool).or_else(|| file.is_file().then_some(file))
}

fn kustomize(fetch: bool) -> Result<Option<Tool>> {
    let found = || {
        let alone = cached("kustomize").map(|file| (file, &["build"][..]));
        alone.or_else(|| process::find("kubectl").map(|file| (file, &["kustomize"][..])))
    };
    let go = process::find("go").filter(|_| fetch && found().is_none());
    if let Some(go) = go {
        let bin = workspace::tools("deploy").join("bin");
        fs::create_dir_all(&bin)?;
        let built = process::run(Command::new(go).args(["install", KUSTOMIZE]).env("GOBIN", &bin));
        // An old Go cannot build it: then its part is skipped.
        if let Err(error) = built {
            println!("kustomize cannot be built here: {error:#}");
        }
    }
    Ok(found())
}

fn validator(fetch: bool) -> Result<Option<PathBuf>> {
    const NAME: &str = "kubernetes-validate";
    if cached(NAME).is_none() && fetch {
        let cache = workspace::tools("deploy");
        process::run(Command::new("python3").args(["-m", "venv"]).arg(&cache))?;
        process::run(Command::new(cache.join("bin/pip")).args(["install", "--quiet", VALIDATOR]))?;
    }
    Ok(cached(NAME))
}

/// Base, overlays, and the base with all components.
fn render(kustomize: &Tool, directory: &Path) -> Result<Vec<Rendered>> {
    let root = workspace::root();
    let all = directory.canonicalize()?;
    // Kustomize takes no absolute paths.
    let up = "../".repeat(all.components().count() - 1);
    let kubernetes = format!(
        "{up}{}/deploy/kubernetes",
        root.canonicalize()?.display().to_string().trim_start_matches('/')
    );
    fs::write(
        all.join("kustomization.yaml"),
        format!(
            "resources: [{kubernetes}/base]\ncomponents:\n  - {kubernetes}/components/least-privilege\n  - \
             {kubernetes}/components/prometheus-operator\n"
        ),
    )?;
    let folders = [
        ("base", root.join("deploy/kubernetes/base")),
        (
            "least-privilege",
            root.join("deploy/kubernetes/overlays/least-privilege"),
        ),
        (
            "prometheus-operator",
            root.join("deploy/kubernetes/overlays/prometheus-operator"),
        ),
        ("all-components", all),
    ];
    let (program, words) = kustomize;
    let mut rendered = Vec::new();
    for (name, folder) in folders {
        let text = process::output(Command::new(program).args(*words).arg(&folder))?;
        let file = directory.join(format!("{name}.yaml"));
        fs::write(&file, text)?;
        rendered.push(Rendered { name, file });
    }
    Ok(rendered)
}

/// Against the schemas, unknown fields refused.
fn validate(validator: &Path, rendered: &[Rendered]) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for minor in VERSIONS {
        let version = format!("1.{minor}");
        let mut command = Command::new(validator);
        command.args(["--strict", "--kubernetes-version", &version]);
        let output = command
            .args(rendered.iter().map(|one| &one.file))
            .output()
            .context("starting kubernetes-validate")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let passed = said
            .lines()
            .filter(|line| line.contains(" passed for resource "))
            .count();
        let skipped = said.lines().filter(|line| line.starts_with("WARN"));
        let unexpected = skipped.filter(|line| !WITHOUT_SCHEMA.iter().any(|kind| line.contains(kind)));
        let errors = said.lines().filter(|line| line.starts_with("ERROR")).chain(unexpected);
        complaints.extend(errors.map(|line| format!("Kubernetes {version}: {line}")));
        ensure!(passed > 0, "kubernetes-validate passed nothing for {version}: {said}");
        if !output.status.success() {
            complaints.push(format!("Kubernetes {version}: {}", output.status));
        }
        println!("Kubernetes {version}: {passed} objects are as its schemas want");
    }
    println!(
        "skipped: no schemas for {}, which come with the operator",
        WITHOUT_SCHEMA.join(" and ")
    );
    Ok(complaints)
}

/// systemd reads its unit; the program need not be installed here.
fn unit_file() -> Result<Vec<String>> {
    let Some(analyze) = process::find("systemd-analyze") else {
        println!("skipped: the unit file is read by systemd-analyze");
        return Ok(Vec::new());
    };
    let unit = fs::read_to_string(workspace::root().join("deploy/systemd/hopline.service"))?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("hopline.service");
    fs::write(&file, unit.replace("/usr/local/bin/hopline", "/bin/true"))?;
    let output = Command::new(analyze).args(["verify", "--man=no"]).arg(&file).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // It reads the units of this machine as well.
    let own = said.lines().filter(|line| line.contains("hopline"));
    Ok(own.map(|line| format!("deploy/systemd: {line}")).collect())
}
