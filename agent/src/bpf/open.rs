//! The walk over open connections: over their storage, or over the open files of all processes.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::Map;

use super::{BpfError, iterator::Iterator, object::Object};

/// One of both, as the plan has loaded it.
#[derive(Debug)]
pub(super) enum OpenWalk {
    /// Over the storage.
    Storage(Iterator),
    /// Over all files, sockets or not: how long that takes is for others to say.
    Files(Iterator),
}

impl OpenWalk {
    /// `None` when no program for it is loaded.
    pub(super) fn of(object: &mut Object) -> Result<Option<Self>, BpfError> {
        let Map::SkStorage(storage) = object.map("SOCKETS")? else {
            return Err(BpfError::Object("map SOCKETS is no socket storage".to_owned()));
        };
        let map_fd = storage.fd().as_fd().as_raw_fd();
        if let Some(iterator) = Iterator::of(object, "iter_open", Some(map_fd))? {
            return Ok(Some(Self::Storage(iterator)));
        }
        Ok(Iterator::of(object, "iter_open_files", None)?.map(Self::Files))
    }

    /// One walk over all of them.
    pub(super) fn walk(&self) -> Result<(), BpfError> {
        match self {
            Self::Storage(iterator) | Self::Files(iterator) => iterator.walk(),
        }
    }
}
