//! Programs of the lab's own: those of somebody else on its cgroup, which count what passes, and what `empty` attaches.
//! All let everything through.
//!
//! Written as instructions, so that the lab needs no BPF compiler; loaded and attached by the plain system call.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use crate::cgroup::Cgroup;

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
pub(crate) const PROG_GET_FD_BY_ID: libc::c_long = 13;
pub(crate) const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const MAP_TYPE_ARRAY: u32 = 2;
const F_ALLOW_MULTI: u32 = 2;

/// What kind of program: its type and where it is attached (include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    SockOps,
    CgroupSkbIngress,
    CgroupSkbEgress,
    Connect4,
    Connect6,
    SendMsg4,
    SendMsg6,
    TpBtf,
    Fentry,
    Fexit,
    Tracepoint,
}

impl Kind {
    fn program_type(self) -> u32 {
        match self {
            Self::Tracepoint => 5,
            Self::CgroupSkbIngress | Self::CgroupSkbEgress => 8,
            Self::SockOps => 13,
            Self::Connect4 | Self::Connect6 | Self::SendMsg4 | Self::SendMsg6 => 18,
            Self::TpBtf | Self::Fentry | Self::Fexit => 26,
        }
    }

    fn attach_type(self) -> u32 {
        match self {
            Self::CgroupSkbIngress => 0,
            Self::CgroupSkbEgress => 1,
            Self::SockOps => 3,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::SendMsg4 => 14,
            Self::SendMsg6 => 15,
            Self::TpBtf => 23,
            Self::Fentry => 24,
            Self::Fexit => 25,
            Self::Tracepoint => 41,
        }
    }

    /// What a program returns to let everything pass: programs on cgroups are asked, the others only see.
    fn pass(self) -> i32 {
        match self {
            Self::TpBtf | Self::Fentry | Self::Fexit | Self::Tracepoint => 0,
            _ => 1,
        }
    }
}

/// How many programs that are not on cgroups a process holds, as the kernel says of its descriptors.
pub(crate) fn tracing_programs(pid: u32) -> Result<u64> {
    const ON_CGROUPS: [&str; 3] = ["8", "13", "18"];
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor that was closed meanwhile is no program's.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let kind = text.lines().find_map(|line| line.strip_prefix("prog_type:"));
        count += u64::from(kind.is_some_and(|kind| !ON_CGROUPS.contains(&kind.trim())));
    }
    Ok(count)
}

/// A counting program on a cgroup; detached when dropped.
#[derive(Debug)]
pub(crate) struct ForeignProgram {
    kind: Kind,
    map: OwnedFd,
    program: OwnedFd,
    cgroup: File,
}

#[repr(C)]
#[derive(Default)]
struct CreateMap {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct LookUp {
    map: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
    /// Types and lines of the program itself: none.
    program_btf: [u64; 4],
    line_info_count: u32,
    attach_btf_id: u32,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

#[repr(C)]
struct CreateLink {
    program: u32,
    target: u32,
    hook: u32,
    flags: u32,
}

/// One call of bpf(2).
pub(crate) fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i64> {
    // SAFETY: `attributes` is the structure that the command takes, plain data that lives across the call, and the
    // pointers in it do too; the kernel reads the rest of its union as zeros for this size.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    // Not nix's: the kernel answers with numbers here (524: not on this architecture) that nix has no name for.
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub(crate) fn owned(fd: i64) -> Result<OwnedFd> {
    let fd = i32::try_from(fd)?;
    // SAFETY: bpf(2) has just given this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// code, destination and source register, offset, immediate.
fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(registers) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

/// Loads a program under a name of at most 15 bytes. `traced` is the type id of the function or tracepoint that a
/// tracing program sees, 0 for the others.
fn load(kind: Kind, name: &str, instructions: &[u64], traced: u32) -> Result<OwnedFd> {
    let mut name_bytes = [0; 16];
    name_bytes
        .get_mut(..name.len())
        .filter(|_| name.len() < 16)
        .with_context(|| format!("{name} is too long for a program's name"))?
        .copy_from_slice(name.as_bytes());
    let mut log = vec![0_u8; 8_192];
    let load = Load {
        program_type: kind.program_type(),
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buffer: log.as_mut_ptr() as u64,
        kernel_version: 0,
        flags: 0,
        name: name_bytes,
        interface: 0,
        expected_attach_type: kind.attach_type(),
        program_btf: [0; 4],
        line_info_count: 0,
        attach_btf_id: traced,
    };
    let program = bpf(PROG_LOAD, &load).with_context(|| {
        format!(
            "loading a {kind:?} program (verifier: {:?})",
            String::from_utf8_lossy(&log).trim_end_matches('\0').trim()
        )
    })?;
    owned(program)
}

/// Attaches a program that does nothing beside whatever is there, until the returned link is dropped. `target` is the
/// cgroup or perf event that it hangs on, `traced` as for [`load`].
pub(crate) fn attach_empty(kind: Kind, name: &str, target: Option<BorrowedFd<'_>>, traced: u32) -> Result<OwnedFd> {
    let instructions = [
        instruction(0xb7, 0x00, 0, kind.pass()), // r0 = pass
        instruction(0x95, 0, 0, 0),              // return r0
    ];
    let program = load(kind, name, &instructions, traced)?;
    let create = CreateLink {
        program: program.as_raw_fd().cast_unsigned(),
        target: target.map_or(0, |target| target.as_raw_fd().cast_unsigned()),
        hook: kind.attach_type(),
        flags: 0,
    };
    owned(bpf(LINK_CREATE, &create).with_context(|| format!("attaching a {kind:?} program"))?)
}

/// Loads a tracepoint's program with the least stack that gets a private one; it is attached nowhere.
pub(crate) fn load_with_stack() -> Result<OwnedFd> {
    let instructions = [
        instruction(0x7a, 0x0a, -64, 0), // *(u64 *)(r10 - 64) = 0
        instruction(0xb7, 0x00, 0, 0),   // r0 = 0
        instruction(0x95, 0, 0, 0),      // return r0
    ];
    load(Kind::Tracepoint, "lab_stack", &instructions, 0)
}

/// `*lookup(map, &0) += 1; return 1;`: for programs on cgroups.
fn counting_program(map: i32) -> [u64; 11] {
    [
        instruction(0x62, 0x0a, -4, 0),  // *(u32 *)(r10 - 4) = 0
        instruction(0xbf, 0xa2, 0, 0),   // r2 = r10
        instruction(0x07, 0x02, 0, -4),  // r2 += -4
        instruction(0x18, 0x11, 0, map), // r1 = map
        0,
        instruction(0x85, 0, 0, 1),    // r0 = bpf_map_lookup_elem(r1, r2)
        instruction(0x15, 0x00, 2, 0), // if r0 == 0 goto +2
        instruction(0xb7, 0x01, 0, 1), // r1 = 1
        instruction(0xdb, 0x10, 0, 0), // lock *(u64 *)r0 += r1
        instruction(0xb7, 0x00, 0, 1), // r0 = 1
        instruction(0x95, 0, 0, 0),    // return r0
    ]
}

impl ForeignProgram {
    /// Loads the program and attaches it beside whatever is there, the way older tools do it: without a link.
    pub(crate) fn attach(kind: Kind, cgroup: &Cgroup) -> Result<Self> {
        let create = CreateMap {
            map_type: MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: 8,
            max_entries: 1,
        };
        let map = owned(bpf(MAP_CREATE, &create).context("making a map")?)?;
        let instructions = counting_program(map.as_raw_fd());
        let program = load(kind, "lab_foreign", &instructions, 0)?;
        let cgroup = File::open(cgroup.path())?;
        let foreign = Self {
            kind,
            map,
            program,
            cgroup,
        };
        bpf(PROG_ATTACH, &foreign.attachment()).with_context(|| format!("attaching a {kind:?} program"))?;
        Ok(foreign)
    }

    fn attachment(&self) -> Attach {
        Attach {
            target: self.cgroup.as_raw_fd().cast_unsigned(),
            program: self.program.as_raw_fd().cast_unsigned(),
            hook: self.kind.attach_type(),
            flags: F_ALLOW_MULTI,
        }
    }

    /// How often it has run.
    pub(crate) fn runs(&self) -> Result<u64> {
        let key = 0_u32;
        let mut value = 0_u64;
        let look_up = LookUp {
            map: self.map.as_raw_fd().cast_unsigned(),
            _padding: 0,
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_mut(&mut value) as u64,
            flags: 0,
        };
        bpf(MAP_LOOKUP_ELEM, &look_up).context("reading the count")?;
        Ok(value)
    }
}

impl Drop for ForeignProgram {
    fn drop(&mut self) {
        let detach = Attach {
            flags: 0,
            ..self.attachment()
        };
        if let Err(error) = bpf(PROG_DETACH, &detach) {
            eprintln!("lab: detaching a {:?} program: {error}", self.kind);
        }
    }
}
