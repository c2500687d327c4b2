//! The built-in groups: official hosts and well-known public mirrors that serve packages of one kind and nothing else.
//!
//! A host that carries several kinds under different paths (university mirrors, cloud storage, general CDNs, code
//! hosting) is in none: its name does not tell what was fetched. Such a one belongs in the configuration.
use std::sync::Arc;

use super::{PatternMap, pattern::Pattern};

/// Go modules: go.dev/ref/mod (proxy and checksum database), the golang.google.cn pages for China; goproxy.io and
/// goproxy.cn by their own pages, the others by the GOPROXY settings in public repositories.
const GO: &[&str] = &[
    "proxy.golang.org",
    "sum.golang.org",
    "index.golang.org",
    "sum.golang.google.cn",
    "goproxy.io",
    "*.goproxy.io",
    "goproxy.cn",
    "goproxy.baidu.com",
    "goproxy.bj.bcebos.com",
    "proxy.golang.com.cn",
    "athens.azurefd.net",
];

/// Crates: the Cargo book ("Registries", the sparse index and its `config.json`); rsproxy.cn and USTC's proxy by the help
/// pages of those mirrors.
const CRATES: &[&str] = &[
    "crates.io",
    "index.crates.io",
    "static.crates.io",
    "rsproxy.cn",
    "crates-io.proxy.ustclug.org",
];

/// npm: docs.npmjs.com, yarnpkg.com, jsr.io/docs/npm-compatibility, GitHub's documentation of its npm registry,
/// npmmirror.com and its former names; the CNPM packages' own hosts.
const NPM: &[&str] = &[
    "registry.npmjs.org",
    "registry.npmjs.com",
    "replicate.npmjs.com",
    "registry.yarnpkg.com",
    "npm.jsr.io",
    "npm.pkg.github.com",
    "registry.npmmirror.com",
    "cdn.npmmirror.com",
    "registry.npm.taobao.org",
    "r.cnpmjs.org",
    "npmreg.proxy.ustclug.org",
];

/// Python: packaging.python.org, docs.pypi.org; mirrors that have a host for it alone, by their help pages.
const PYPI: &[&str] = &[
    "pypi.org",
    "pypi.python.org",
    "files.pythonhosted.org",
    "test.pypi.org",
    "test-files.pythonhosted.org",
    "pypi.tuna.tsinghua.edu.cn",
    "pypi.mirrors.ustc.edu.cn",
    "pypi.doubanio.com",
    "pypi.douban.com",
    "pypi.nvidia.com",
];

/// Maven repositories: maven.apache.org ("Guide to Mirror Settings"), central.sonatype.org, Google's mirror of Central
/// (storage-download.googleapis.com/maven-central), the Gradle plugin portal, maven.google.com, Aliyun's by its page.
const MAVEN: &[&str] = &[
    "repo.maven.apache.org",
    "repo1.maven.org",
    "repo2.maven.org",
    "central.maven.org",
    "uk.maven.org",
    "central.sonatype.com",
    "oss.sonatype.org",
    "s01.oss.sonatype.org",
    "maven.google.com",
    "maven-central.storage.googleapis.com",
    "maven-central.storage-download.googleapis.com",
    "maven-central-eu.storage-download.googleapis.com",
    "maven-central-asia.storage-download.googleapis.com",
    "plugins.gradle.org",
    "plugins-artifacts.gradle.org",
    "repo.spring.io",
    "repo.jenkins-ci.org",
    "jitpack.io",
    "maven.aliyun.com",
    "maven.pkg.github.com",
];

/// Debian: www.debian.org/mirror and /mirror/list; the CDN names behind deb.debian.org.
const DEBIAN: &[&str] = &[
    "deb.debian.org",
    "security.debian.org",
    "ftp.debian.org",
    "http.debian.net",
    "httpredir.debian.org",
    "archive.debian.org",
    "snapshot.debian.org",
    "incoming.debian.org",
    "cdn-fastly.deb.debian.org",
    "cdn-aws.deb.debian.org",
    "cdn-fastly.security.debian.org",
    "security-cdn.debian.org",
    "cloudfront.debian.net",
    "debug.mirrors.debian.org",
    "ftp2.de.debian.org",
    "ftp2.cn.debian.org",
    "ftp2.fr.debian.org",
];

/// Countries with a primary mirror, `ftp.XX.debian.org` (www.debian.org/mirror/list).
const DEBIAN_COUNTRIES: &[&str] = &[
    "am", "at", "au", "be", "bg", "br", "by", "ca", "ch", "cl", "cn", "cz", "de", "dk", "ee", "es", "fi", "fr", "gr",
    "hk", "hr", "hu", "is", "it", "jp", "kr", "lt", "md", "mx", "nc", "nl", "no", "nz", "pl", "pt", "ro", "ru", "se",
    "si", "sk", "sv", "th", "tr", "tw", "uk", "us",
];

/// Ubuntu: help.ubuntu.com ("Repositories"); country and cloud mirrors are below `archive.ubuntu.com`, launchpad.net/ubuntu
/// for PPAs.
const UBUNTU: &[&str] = &[
    "archive.ubuntu.com",
    "*.archive.ubuntu.com",
    "security.ubuntu.com",
    "ports.ubuntu.com",
    "*.ports.ubuntu.com",
    "old-releases.ubuntu.com",
    "esm.ubuntu.com",
    "ddebs.ubuntu.com",
    "ppa.launchpad.net",
    "ppa.launchpadcontent.net",
];

/// Alpine: MIRRORS.txt of its repositories, those hosts that are Alpine's own.
const ALPINE: &[&str] = &[
    "dl-cdn.alpinelinux.org",
    "dl-master.alpinelinux.org",
    "dl-2.alpinelinux.org",
    "dl-3.alpinelinux.org",
    "dl-4.alpinelinux.org",
    "dl-5.alpinelinux.org",
    "uk.alpinelinux.org",
    "cz.alpinelinux.org",
    "alpine.global.ssl.fastly.net",
];

/// Container registries: the allow-lists of Docker, Red Hat (quay.io), GitHub, GitLab, Google, Microsoft and AWS for pulls;
/// the others by their own pages. ECR's private registries are below, by region.
const CONTAINERS: &[&str] = &[
    "docker.io",
    "registry-1.docker.io",
    "auth.docker.io",
    "index.docker.io",
    "registry.hub.docker.com",
    "production.cloudflare.docker.com",
    "production.cloudfront.docker.com",
    "docker-images-prod.r2.cloudflarestorage.com",
    "docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com",
    "ghcr.io",
    "docker.pkg.github.com",
    "pkg-containers.githubusercontent.com",
    "quay.io",
    "*.quay.io",
    "gcr.io",
    "*.gcr.io",
    "registry.k8s.io",
    "mcr.microsoft.com",
    "*.mcr.microsoft.com",
    "*.azurecr.io",
    "public.ecr.aws",
    "registry.gitlab.com",
    "cdn.registry.gitlab-static.net",
    "registry.access.redhat.com",
    "registry.redhat.io",
    "registry.connect.redhat.com",
    "registry.fedoraproject.org",
    "registry.centos.org",
    "registry.opensuse.org",
    "registry.suse.com",
    "container-registry.oracle.com",
    "*.ocir.io",
    "nvcr.io",
    "docker.elastic.co",
    "cgr.dev",
    "lscr.io",
    "icr.io",
    "*.icr.io",
    "registry.digitalocean.com",
    "docker.mirrors.ustc.edu.cn",
    "docker.m.daocloud.io",
    "hub-mirror.c.163.com",
    "mirror.ccs.tencentyun.com",
    "*.mirror.aliyuncs.com",
];

/// AWS regions: `ACCOUNT.dkr.ecr.REGION.amazonaws.com` (docs.aws.amazon.com, "Amazon ECR endpoints").
const ECR_REGIONS: &[&str] = &[
    "af-south-1",
    "ap-east-1",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-gov-east-1",
    "us-gov-west-1",
    "us-west-1",
    "us-west-2",
];

const ALL: [(&str, &[&str]); 9] = [
    ("go", GO),
    ("crates", CRATES),
    ("npm", NPM),
    ("pypi", PYPI),
    ("maven", MAVEN),
    ("debian", DEBIAN),
    ("ubuntu", UBUNTU),
    ("alpine", ALPINE),
    ("containers", CONTAINERS),
];

/// Names of the groups of mirrors.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().map(|(name, _)| name)
}

/// All of them.
pub(super) fn patterns() -> PatternMap<Arc<str>> {
    let mut map = PatternMap::default();
    for (name, group) in all() {
        let name: Arc<str> = name.into();
        for pattern in group {
            map.insert(&pattern, Arc::clone(&name));
        }
    }
    map
}

fn all() -> impl Iterator<Item = (&'static str, Vec<Pattern>)> {
    ALL.into_iter().map(|(name, texts)| {
        let more: Vec<String> = match name {
            "debian" => DEBIAN_COUNTRIES
                .iter()
                .map(|country| format!("ftp.{country}.debian.org"))
                .collect(),
            "containers" => ECR_REGIONS
                .iter()
                .map(|region| format!("*.dkr.ecr.{region}.amazonaws.com"))
                .collect(),
            _ => Vec::new(),
        };
        let texts = texts.iter().copied().chain(more.iter().map(String::as_str));
        let parse = |text: &str| text.parse().expect("the tables hold patterns");
        (name, texts.map(parse).collect())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn every_entry_is_a_pattern_of_one_group() {
        let mut seen = HashMap::new();
        for (name, patterns) in all() {
            for pattern in patterns {
                let text = pattern.to_string();
                assert!(pattern.is_name(), "{text}: addresses change hands");
                assert_eq!(seen.insert(text.clone(), name), None, "{text} twice");
            }
        }
    }
}
