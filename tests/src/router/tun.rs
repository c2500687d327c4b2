//! TUN devices: made in the namespace of the calling thread, alive as long as their descriptor.

use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

/// Makes a TUN device without packet information: reads and writes are bare IP packets.
pub(super) fn create(name: &str) -> Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: the descriptor is open and TUNSETIFF takes a pointer to an `ifreq`, which lives across the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    nix::errno::Errno::result(result).with_context(|| format!("making TUN device {name}"))?;
    Ok(file.into())
}

/// Takes over a descriptor that the lab passed across exec.
pub(super) fn inherited(fd: i32) -> File {
    // SAFETY: the number comes from the lab, which passed it for this process alone to own.
    unsafe { File::from_raw_fd(fd) }
}
