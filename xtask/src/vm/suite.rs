//! Which of Debian's suites has kernels of a series, and apt for it: the system's own lists, or lists of the cache's own
//! beside them. Nothing of the system's apt changes, and the mirror is the one that the system uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace};

/// Where the system says which mirror it uses; the first that names one counts.
const SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
/// Keys of all suites, where the package `debian-archive-keyring` is installed.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Lists of packages to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lists {
    /// As this machine has them.
    System,
    /// A suite's, below this directory.
    Suite { name: &'static str, directory: PathBuf },
}

impl Lists {
    /// Lists of the suite, fetched from the mirror.
    pub(super) fn fetch(suite: &'static str) -> Result<Self> {
        let directory = workspace::cache("vm").join("apt").join(suite);
        for below in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(below))?;
        }
        let keys = if Path::new(KEYRING).is_file() {
            format!(" signed-by={KEYRING}")
        } else {
            String::new()
        };
        let source = format!("deb [arch=amd64{keys}] {} {suite} main\n", mirror()?);
        fs::write(directory.join("sources.list"), source)?;
        let lists = Self::Suite { name: suite, directory };
        process::output(lists.apt("apt-get").args(["-qq", "update"]))
            .with_context(|| format!("fetching the lists of {suite}"))?;
        Ok(lists)
    }

    /// One of apt's programs, looking at these lists alone.
    pub(super) fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Self::Suite { directory, .. } = self {
            let mut option = |name: &str, value: &Path| {
                command.arg("-o").arg(format!("{name}={}", value.display()));
            };
            option("Dir::Etc::sourcelist", &directory.join("sources.list"));
            option("Dir::Etc::sourceparts", Path::new("-"));
            option("Dir::State::Lists", &directory.join("lists"));
            option("Dir::Cache", &directory.join("cache"));
            command.args(["-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64"]);
        }
        command
    }

    /// The names of all packages of kernels of the series, in no order.
    pub(super) fn names(&self, series: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for kind in ["image", "binary", "modules", "base"] {
            let begin = format!("linux-{kind}-{series}.");
            let found = process::output(self.apt("apt-cache").args(["pkgnames", &begin]))?;
            names.extend(found.lines().map(str::to_owned));
        }
        Ok(names)
    }
}

impl std::fmt::Display for Lists {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System => f.write_str("this machine's lists"),
            Self::Suite { name, .. } => write!(f, "Debian's {name}"),
        }
    }
}

/// The suite with kernels of the series, for a machine whose own lists have none.
pub(super) fn of_series(series: &str) -> Option<&'static str> {
    let (major, minor) = series.split_once('.')?;
    match (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?) {
        (5, 10) => Some("bullseye"),
        (6, 1) => Some("bookworm"),
        (6, 12) => Some("trixie"),
        (6, 16..) | (7.., _) => Some("trixie-backports"),
        _ => None,
    }
}

/// The packages that together are the kernel of this release. Where there is a `linux-binary` the image is an empty
/// package that depends on the others (from 6.19 on).
pub(super) fn packages(release: &str, names: &[String]) -> Vec<String> {
    let package = |kind: &str| format!("linux-{kind}-{release}");
    if names.contains(&package("binary")) {
        ["binary", "modules", "base"].map(package).to_vec()
    } else {
        vec![package("image")]
    }
}

/// The URI of the archive that the system uses.
fn mirror() -> Result<String> {
    for file in SOURCES {
        if let Some(uri) = fs::read_to_string(file).ok().as_deref().and_then(mirror_in) {
            return Ok(uri.to_owned());
        }
    }
    bail!("no mirror of Debian in {}", SOURCES.join(" or "))
}

/// The first URI in either of apt's formats, but not of the archive of security updates: that one has no other suites.
fn mirror_in(sources: &str) -> Option<&str> {
    let uris = sources.lines().filter_map(|line| {
        if let Some(uris) = line.strip_prefix("URIs:") {
            return uris.split_whitespace().next();
        }
        let words = line.strip_prefix("deb ")?.trim_start();
        let words = match words.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => words,
        };
        words.split_whitespace().next()
    });
    uris.map(|uri| uri.trim_end_matches('/'))
        .find(|uri| !uri.ends_with("-security") && !uri.contains("security."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_series_has_its_suite() {
        for (series, suite) in [
            ("5.10", Some("bullseye")),
            ("6.1", Some("bookworm")),
            ("6.12", Some("trixie")),
            ("6.16", Some("trixie-backports")),
            ("6.18", Some("trixie-backports")),
            ("6.19", Some("trixie-backports")),
            ("7.0", Some("trixie-backports")),
            ("7.3", Some("trixie-backports")),
            ("5.15", None),
            ("6.6", None),
            ("7", None),
            ("six.one", None),
        ] {
            assert_eq!(of_series(series), suite, "{series}");
        }
    }

    #[test]
    fn a_kernel_is_one_package_or_three() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let old = names(&["linux-image-6.18.15+deb13-amd64", "linux-image-6.18.12+deb13-amd64"]);
        assert_eq!(
            packages("6.18.15+deb13-amd64", &old),
            ["linux-image-6.18.15+deb13-amd64"]
        );
        let new = names(&[
            "linux-image-7.2.12+deb13-amd64",
            "linux-binary-unsigned-7.2.12+deb13-amd64",
            "linux-binary-7.2.12+deb13-amd64",
            "linux-modules-7.2.12+deb13-amd64",
            "linux-base-7.2.12+deb13-amd64",
        ]);
        assert_eq!(
            packages("7.2.12+deb13-amd64", &new),
            [
                "linux-binary-7.2.12+deb13-amd64",
                "linux-modules-7.2.12+deb13-amd64",
                "linux-base-7.2.12+deb13-amd64"
            ]
        );
        // Another release's does not count.
        assert_eq!(packages("7.2.11+deb13-amd64", &new), ["linux-image-7.2.11+deb13-amd64"]);
    }

    #[test]
    fn the_mirror_is_the_systems() {
        let deb822 = "# a comment\nTypes: deb\nURIs: http://security.example/debian-security\nSuites: x\n\n\
                      Types: deb\nURIs: http://mirror.example/debian/ http://other.example/debian\n";
        assert_eq!(mirror_in(deb822), Some("http://mirror.example/debian"));
        let lines = "# deb http://commented.example/debian x main\ndeb-src http://source.example/debian x main\n\
                     deb [arch=amd64 signed-by=/a/key] http://mirror.example/debian x main\n";
        assert_eq!(mirror_in(lines), Some("http://mirror.example/debian"));
        assert_eq!(
            mirror_in("deb http://plain.example/debian x main\n"),
            Some("http://plain.example/debian")
        );
        assert_eq!(mirror_in("Types: deb\nSuites: x\n"), None);
    }

    #[test]
    fn a_suites_lists_leave_the_systems_alone() {
        let directory = PathBuf::from("/cache/apt/bullseye");
        let suite = Lists::Suite {
            name: "bullseye",
            directory,
        };
        let command = format!("{:?}", suite.apt("apt-get"));
        for option in [
            "Dir::Etc::sourcelist=/cache/apt/bullseye/sources.list",
            "Dir::Etc::sourceparts=-",
            "Dir::State::Lists=/cache/apt/bullseye/lists",
            "Dir::Cache=/cache/apt/bullseye/cache",
        ] {
            assert!(command.contains(option), "{command}");
        }
        assert_eq!(Lists::System.apt("apt-get").get_args().len(), 0);
    }
}
