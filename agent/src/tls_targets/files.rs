//! The table of files: what was looked at, what is probed, what was refused and why.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io,
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    time::Instant,
};

use agent_ebpf::tls_fact::{LIBRARY_BORINGSSL, LIBRARY_GNUTLS, LIBRARY_GO, LIBRARY_OPENSSL};

use super::{Settings, lease, maps};
use crate::{
    bpf::{Mapping, Probe, Prober},
    elf::{self, Source, TlsCode},
    groups::wildcard,
    selfmetrics::{TlsTarget, TlsTargets},
};

/// Files that are probed at once.
const MOST_TARGETS: usize = 512;
/// Files that are remembered as being without TLS code.
const MOST_KNOWN: usize = 65_536;

/// A file as a mapping names it.
pub(super) type Key = ((u32, u32), u64);

/// What makes a file the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(file: &File) -> Option<Self> {
        let about = file.metadata().ok()?;
        about.is_file().then(|| Self {
            device: about.dev(),
            inode: about.ino(),
            size: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
        })
    }
}

/// A file with probes in it.
#[derive(Debug)]
struct Target {
    path: String,
    code: TlsCode,
    keys: HashSet<Key>,
    /// Dropped, they are gone.
    probes: Vec<Probe>,
    /// It is what the probes hold on to, and its lease ends after them.
    file: File,
    used: Instant,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Files {
    /// None: only look.
    prober: Option<Prober>,
    settings: Settings,
    targets: HashMap<Identity, Target>,
    /// Files that were looked at, with or without result.
    known: HashMap<Key, Option<Identity>>,
    refused: BTreeMap<&'static str, u64>,
    released: u64,
}

struct Whole<'a> {
    file: &'a File,
    size: u64,
    budget: u64,
}

impl Source for Whole<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, at: u64, into: &mut [u8]) -> bool {
        self.file.read_exact_at(into, at).is_ok()
    }

    fn budget(&self) -> u64 {
        self.budget
    }
}

impl Files {
    pub(super) fn new(prober: Option<Prober>, settings: Settings) -> Self {
        Self {
            prober,
            settings,
            targets: HashMap::new(),
            known: HashMap::new(),
            refused: BTreeMap::new(),
            released: 0,
        }
    }

    /// A file is mapped once more; `false` when it has to be looked at. Programs may be too short to be seen with it.
    pub(super) fn is_known(&mut self, mapping: &Mapping, now: Instant) -> bool {
        let Some(identity) = self.known.get(&(mapping.device, mapping.inode)) else {
            return false;
        };
        if let Some(target) = identity.and_then(|identity| self.targets.get_mut(&identity)) {
            target.used = now;
        }
        true
    }

    /// Looks at the file of a mapping, and probes it if there is something to probe.
    pub(super) fn look(&mut self, mapping: &Mapping, now: Instant) {
        let key = (mapping.device, mapping.inode);
        let Some((link, file)) = open(mapping) else {
            // It has ended, or mapped something else meanwhile: the next one that maps the file will tell.
            self.refuse("gone");
            return;
        };
        // From here on it stays as it is: what is read of it is what is probed.
        let lease = match self.prober {
            Some(_) => lease::take(&file),
            None => Ok(()),
        };
        let Some(identity) = Identity::of(&file) else { return };
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        let is_target = self.targets.contains_key(&identity);
        self.known.insert(key, is_target.then_some(identity));
        if let Some(target) = self.targets.get_mut(&identity) {
            target.keys.insert(key);
            target.used = now;
            return;
        }
        let path = fs::read_link(&link).unwrap_or_default().to_string_lossy().into_owned();
        match self.code(&path, &file, identity.size) {
            Ok(None) => {}
            Ok(Some(code)) => {
                let target = Target {
                    path,
                    code,
                    keys: HashSet::from([key]),
                    probes: Vec::new(),
                    file,
                    used: now,
                };
                self.probe(identity, key, target, lease);
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// The TLS code of a file, if it has any that is to be probed and can be.
    fn code(&self, path: &str, file: &File, size: u64) -> Result<Option<TlsCode>, &'static str> {
        let mut exclude = self.settings.exclude.iter();
        if exclude.any(|pattern| wildcard::matches(pattern, path)) {
            return Err("excluded");
        }
        let whole = Whole {
            file,
            size,
            budget: self.settings.file_bytes,
        };
        let Some(code) = elf::tls_code(&whole).map_err(elf::Refusal::name)? else {
            return Ok(None);
        };
        if !self.settings.libraries.contains(&code.library) {
            return Err("library_off");
        }
        if self.targets.len() >= MOST_TARGETS {
            return Err("table_full");
        }
        let places = self.targets.values().map(probes).sum();
        let room = self.prober.as_ref().map(|prober| prober.room(places));
        if room.is_some_and(|room| room < code.probes.len()) {
            return Err("probes_full");
        }
        Ok(Some(code))
    }

    fn probe(&mut self, identity: Identity, key: Key, mut target: Target, lease: io::Result<()>) {
        if let Err(error) = lease {
            tracing::debug!(%error, path = target.path, "no lease");
            let is_written = error.kind() == io::ErrorKind::WouldBlock;
            if is_written {
                // For a while only.
                self.known.remove(&key);
            }
            return self.refuse(if is_written { "being_written" } else { "no_lease" });
        }
        if let Some(prober) = &self.prober {
            let code = target.code.probes.iter();
            let places: Vec<(u64, u64)> = code.map(|place| (place.offset, place.cookie)).collect();
            let (probes, refused) = prober.attach(target.file.as_fd(), &places);
            target.probes = probes;
            if refused > 0 {
                *self.refused.entry("kernel").or_default() += refused;
            }
            if target.probes.is_empty() {
                return;
            }
        }
        tracing::debug!(
            path = target.path,
            library = library(target.code.library),
            probes = probes(&target),
            "probed"
        );
        self.known.insert(key, Some(identity));
        self.targets.insert(identity, target);
    }

    fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    /// Somebody is waiting to write to a probed file: its probes go first.
    pub(super) fn leave_to_writers(&mut self) {
        let targets = self.targets.iter();
        let wanted: Vec<Identity> = targets
            .filter(|(_, target)| !lease::holds(&target.file))
            .map(|(identity, _)| *identity)
            .collect();
        for identity in wanted {
            self.let_go(&identity);
            self.refuse("changed");
        }
    }

    /// What is mapped now; files that nobody has mapped for a while are let go.
    pub(super) fn mapped(&mut self, mapped: &HashSet<Key>, now: Instant) {
        let mut unused = Vec::new();
        for (identity, target) in &mut self.targets {
            if target.keys.iter().any(|key| mapped.contains(key)) {
                target.used = now;
            } else if now.duration_since(target.used) >= self.settings.release_after {
                unused.push(*identity);
            }
        }
        for identity in unused {
            self.let_go(&identity);
            self.released += 1;
        }
        // Inode numbers are given again.
        self.known
            .retain(|key, identity| mapped.contains(key) || identity.is_some());
    }

    fn let_go(&mut self, identity: &Identity) {
        if let Some(target) = self.targets.remove(identity) {
            for key in &target.keys {
                self.known.remove(key);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// For people.
    pub(super) fn told(&self, lost: u64) -> TlsTargets {
        let mut targets: Vec<TlsTarget> = self
            .targets
            .values()
            .map(|target| TlsTarget {
                path: target.path.clone(),
                library: library(target.code.library),
                version: version(target.code.version),
                probes: probes(target),
                places: target.code.probes.len(),
            })
            .collect();
        targets.sort_by(|a, b| a.path.cmp(&b.path));
        TlsTargets {
            is_complete: true,
            targets,
            refused: self.refused.iter().map(|(reason, count)| (*reason, *count)).collect(),
            released: self.released,
            mappings_lost: lost,
        }
    }
}

/// Opens the file behind a mapping. Of programs whose place is chosen at exec the kernel first maps all and then cuts off
/// what is not code: then the mapping is looked up again.
fn open(mapping: &Mapping) -> Option<(String, File)> {
    let at = |(first, last): (u64, u64)| {
        let link = format!("/proc/{}/map_files/{first:x}-{last:x}", mapping.pid);
        File::open(&link).ok().map(|file| (link, file))
    };
    at(mapping.addresses).or_else(|| {
        let text = maps::read(mapping.pid)?;
        let mut all = maps::executable(mapping.pid, &text);
        let now = all.find(|other| (other.device, other.inode) == (mapping.device, mapping.inode))?;
        at(now.addresses)
    })
}

fn probes(target: &Target) -> usize {
    target.probes.iter().map(Probe::places).sum()
}

fn library(number: u8) -> &'static str {
    match number {
        LIBRARY_OPENSSL => "openssl",
        LIBRARY_BORINGSSL => "boringssl",
        LIBRARY_GNUTLS => "gnutls",
        LIBRARY_GO => "go",
        _ => "other",
    }
}

fn version(version: u32) -> String {
    if version == 0 {
        return String::new();
    }
    format!("{}.{}.{}", version >> 16 & 0xff, version >> 8 & 0xff, version & 0xff)
}
