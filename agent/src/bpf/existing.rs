//! Runs a socket iterator in every network namespace of the machine.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use aya::programs::Iter;
use nix::sched::{CloneFlags, setns};

use super::{BpfError, object::Object};
use crate::namespaces;

/// The program that finds sockets opened before the start.
pub(super) const PROGRAM: &str = "iter_tcp";

/// Walks all namespaces on a thread of its own, which enters them one after the other and then ends.
pub(super) fn walk_all(object: &mut Object, program: &str) -> Result<(), BpfError> {
    let Some(iterator) = object.iterator(program) else {
        return Ok(());
    };
    std::thread::scope(|scope| scope.spawn(|| walk_namespaces(iterator)).join())
        .map_err(|_| BpfError::Walk("the walking thread panicked".to_owned()))?
}

/// What keeps the walk in the namespace of this process, if anything does.
pub(super) fn confined() -> Option<&'static str> {
    // Entering its own is refused as any other would be.
    let enter = || -> Option<()> {
        let own = File::open("/proc/thread-self/ns/net").ok()?;
        setns(own, CloneFlags::CLONE_NEWNET).ok()
    };
    let entered = std::thread::scope(|scope| scope.spawn(enter).join());
    matches!(entered, Ok(None)).then_some(
        "without CAP_SYS_ADMIN in the own network namespace alone: sockets that pods opened before the start, their queues \
         and local ports are not looked at",
    )
}

fn walk_namespaces(iterator: &mut Iter) -> Result<(), BpfError> {
    let mut seen: HashSet<u32> = namespaces::inode(Path::new("/proc/thread-self/ns/net"))
        .into_iter()
        .collect();
    walk_sockets(iterator)?;
    for path in namespaces::files() {
        // A process may end, a namespace may go, at any time: what is gone has no sockets.
        let Some(inode) = namespaces::inode(&path) else {
            continue;
        };
        if !seen.insert(inode) {
            continue;
        }
        let Ok(namespace) = File::open(&path) else { continue };
        match setns(&namespace, CloneFlags::CLONE_NEWNET) {
            Ok(()) => walk_sockets(iterator)?,
            Err(error) => tracing::debug!(path = %path.display(), %error, "cannot enter network namespace"),
        }
    }
    Ok(())
}

/// One walk over the sockets of this thread's namespace; the iterator prints nothing, reading only drives it.
fn walk_sockets(iterator: &mut Iter) -> Result<(), BpfError> {
    let failed = |error: &dyn std::error::Error| BpfError::Walk(error.to_string());
    let link = iterator.attach().map_err(|error| failed(&error))?;
    let link = iterator.take_link(link).map_err(|error| failed(&error))?;
    drive(link.into_file().map_err(|error| failed(&error))?)
}

/// Runs an iterator to its end.
pub(super) fn drive(mut walk: File) -> Result<(), BpfError> {
    let mut buffer = [0; 4096];
    loop {
        match walk.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // The kernel pauses a long walk this way (EAGAIN) or a signal interrupted it.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(BpfError::Walk(error.to_string())),
        }
    }
}
