//! Executable mappings as they are made: the kernel's own record of them (`PERF_RECORD_MMAP2`), from one ring per CPU.
//!
//! A promised interface of every kernel, unlike the tracepoints of mmap; no program runs for it, and mappings that are
//! not executable leave no record.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// `PERF_TYPE_SOFTWARE` and `PERF_COUNT_SW_DUMMY`: an event that never counts, for its records alone.
const TYPE_SOFTWARE: u32 = 1;
const SW_DUMMY: u64 = 9;
/// Bits of `perf_event_attr`: records of executable mappings, with device and inode; wake-ups by bytes.
const MMAP: u64 = 1 << 8;
const WATERMARK: u64 = 1 << 14;
const MMAP2: u64 = 1 << 23;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;

const RECORD_MMAP2: u32 = 10;
const RECORD_LOST: u32 = 2;
/// `PERF_RECORD_MISC_MMAP_BUILD_ID`: no device and inode in this one.
const MISC_BUILD_ID: u16 = 1 << 14;

/// Pages of each ring beside the first.
const PAGES: usize = 16;
/// Where head and tail are in the first page (`struct perf_event_mmap_page`).
const HEAD: usize = 1024;
const TAIL: usize = 1032;

/// The first 72 bytes of `struct perf_event_attr` (`PERF_ATTR_SIZE_VER1`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes {
    pub(super) kind: u32,
    pub(super) size: u32,
    pub(super) config: u64,
    pub(super) sample_period: u64,
    pub(super) sample_type: u64,
    pub(super) read_format: u64,
    pub(super) flags: u64,
    pub(super) wakeup: u32,
    pub(super) breakpoint: u32,
    pub(super) config1: u64,
    pub(super) config2: u64,
}

/// Opens an event of all processes, on one CPU.
pub(super) fn open(attributes: &Attributes, cpu: i32) -> io::Result<OwnedFd> {
    const ALL: libc::c_int = -1;
    const NO_GROUP: libc::c_int = -1;
    // SAFETY: the attributes are as large as they say and live through the call.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            ptr::from_ref(attributes),
            ALL,
            cpu,
            NO_GROUP,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(event as RawFd) })
}

/// An executable mapping of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Process (init pid namespace, or the agent's own).
    pub pid: u32,
    /// First address, and the one after the last.
    pub addresses: (u64, u64),
    /// Device of the file system, as `/proc/PID/maps` says it.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
}

/// The rings of all CPUs.
#[derive(Debug)]
pub struct Mappings {
    rings: Vec<Ring>,
    /// Records that found no room.
    lost: u64,
}

#[derive(Debug)]
struct Ring {
    event: OwnedFd,
    memory: NonNull<u8>,
}

// SAFETY: the memory is the ring's own, and only the thread that holds the ring reads it.
unsafe impl Send for Ring {}

impl Mappings {
    /// Starts listening on every CPU.
    pub fn listen() -> io::Result<Self> {
        let mut rings = Vec::new();
        // SAFETY: no preconditions.
        let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) }.clamp(1, 4096);
        for cpu in 0..cpus as i32 {
            match Ring::open(cpu) {
                Ok(ring) => rings.push(ring),
                // A CPU that is off.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { rings, lost: 0 })
    }

    /// Waits for records, or for `other` to be readable, at most as long as said.
    pub fn wait(&self, other: RawFd, limit: Duration) -> io::Result<()> {
        let entry = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut entries: Vec<_> = self.rings.iter().map(|ring| entry(ring.event.as_raw_fd())).collect();
        entries.push(entry(other));
        let limit_ms = limit.as_millis().min(60_000) as libc::c_int;
        // SAFETY: the entries are as many as said and live through the call.
        let answer = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, limit_ms) };
        if answer < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes all records out.
    pub fn take(&mut self, mut with: impl FnMut(Mapping)) {
        for ring in &self.rings {
            self.lost += ring.take(&mut with);
        }
    }

    /// Records that found no room, since the start.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Ring {
    fn open(cpu: i32) -> io::Result<Self> {
        let attributes = Attributes {
            kind: TYPE_SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: SW_DUMMY,
            flags: MMAP | MMAP2 | WATERMARK,
            wakeup: 1,
            ..Attributes::default()
        };
        let event = open(&attributes, cpu)?;
        // SAFETY: a new mapping of the event's own ring.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { event, memory })
    }

    /// One of the two counters in the first page.
    fn counter(&self, at: usize) -> &AtomicU64 {
        // SAFETY: both are aligned words within the first page, which lives as long as the ring.
        unsafe { self.memory.add(at).cast::<AtomicU64>().as_ref() }
    }

    /// Takes all records out; gives the number of those that the kernel could not write.
    fn take(&self, with: &mut impl FnMut(Mapping)) -> u64 {
        let (head, mut tail) = (
            self.counter(HEAD).load(Ordering::Acquire),
            self.counter(TAIL).load(Ordering::Relaxed),
        );
        let mut lost = 0;
        let mut record = Vec::new();
        while tail < head {
            let size = usize::from(u16::from_ne_bytes([self.byte(tail + 6), self.byte(tail + 7)]));
            if size < 8 {
                break;
            }
            record.clear();
            record.extend((0..size.min(96) as u64).map(|at| self.byte(tail + at)));
            match read(&record) {
                Some(Record::Mapping(mapping)) => with(mapping),
                Some(Record::Lost(count)) => lost += count,
                None => {}
            }
            tail += size as u64;
        }
        self.counter(TAIL).store(head, Ordering::Release);
        lost
    }

    fn byte(&self, at: u64) -> u8 {
        let data = page_bytes() * PAGES;
        let at = page_bytes() + (at % data as u64) as usize;
        // SAFETY: within the mapping; the kernel does not write between tail and head.
        unsafe { self.memory.add(at).read_volatile() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), bytes()) };
    }
}

fn bytes() -> usize {
    page_bytes() * (PAGES + 1)
}

fn page_bytes() -> usize {
    // SAFETY: no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(4096) as usize
}

#[derive(Debug, PartialEq, Eq)]
enum Record {
    Mapping(Mapping),
    Lost(u64),
}

fn read(record: &[u8]) -> Option<Record> {
    let word = |at: usize| Some(u32::from_ne_bytes(*record.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_ne_bytes(*record.get(at..)?.first_chunk()?));
    let misc = u16::from_ne_bytes(*record.get(4..)?.first_chunk()?);
    match word(0)? {
        RECORD_LOST => Some(Record::Lost(long(16)?)),
        RECORD_MMAP2 if misc & MISC_BUILD_ID == 0 => Some(Record::Mapping(Mapping {
            pid: word(8)?,
            addresses: (long(16)?, long(16)?.checked_add(long(24)?)?),
            device: (word(40)?, word(44)?),
            inode: long(48)?,
        })),
        _ => None,
    }
}
