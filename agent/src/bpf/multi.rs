//! The program behind probes in files, loaded once more in the form of which one link holds all probes of a file (from
//! Linux 6.6 on): one wait of the kernel ends them all. Probes of the older form end one by one, three waits each, under a
//! lock of the whole machine: with a thousand of them an agent took two minutes to end.
//!
//! aya 0.14 does not know this form. Here its parser and its relocations are used, and its maps.

use std::{
    collections::HashSet,
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use aya::maps::Map;
use aya_obj::generated::bpf_insn;

use super::{
    BpfError,
    syscall::{LINK_CREATE, PROG_LOAD, bpf},
};

/// `enum bpf_prog_type` and `enum bpf_attach_type` (include/uapi/linux/bpf.h).
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;

/// `union bpf_attr` of `BPF_PROG_LOAD`, as far as it is needed.
#[repr(C)]
struct LoadProgram {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// `union bpf_attr` of `BPF_LINK_CREATE` for many places in a file.
#[repr(C)]
struct CreateMultiLink {
    program_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    reference_counters: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    padding: u32,
}

/// Loads the program with this name; its maps are those of the object that is loaded.
pub(super) fn load<'a>(
    bytes: &[u8],
    name: &str,
    maps: impl Iterator<Item = (&'a str, &'a Map)>,
) -> Result<OwnedFd, BpfError> {
    let failed = |error: &dyn std::fmt::Display| BpfError::Object(format!("{name}: {error}"));
    let mut parsed = aya_obj::Object::parse(bytes).map_err(|error| failed(&error))?;
    let sections: HashSet<usize> = parsed.functions.keys().map(|(section, _)| *section).collect();
    let described: Vec<_> = parsed.maps.drain().collect();
    let descriptors: Vec<(&str, RawFd)> = maps.filter_map(|(name, map)| Some((name, descriptor(map)?))).collect();
    let known = described.iter().filter_map(|(name, map)| {
        let (_, fd) = descriptors.iter().find(|(other, _)| other == name)?;
        Some((name.as_str(), *fd, map))
    });
    parsed.relocate_maps(known, &sections).map_err(|error| failed(&error))?;
    parsed.relocate_calls(&sections).map_err(|error| failed(&error))?;
    let program = parsed.programs.get(name).ok_or_else(|| failed(&"not in the object"))?;
    let function = parsed
        .functions
        .get(&program.function_key())
        .ok_or_else(|| failed(&"without code"))?;
    load_instructions(&function.instructions, &program.license, name).map_err(|error| failed(&error))
}

fn load_instructions(instructions: &[bpf_insn], license: &CString, name: &str) -> io::Result<OwnedFd> {
    let mut request = LoadProgram {
        kind: BPF_PROG_TYPE_KPROBE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_bytes: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        attach_type: BPF_TRACE_UPROBE_MULTI,
    };
    // The last byte stays zero.
    let last = request.name.len() - 1;
    for (to, from) in request.name[..last].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bpf(PROG_LOAD, &request)
}

/// One link for all places, each with its cookie, in the file at this path.
pub(super) fn link(program: BorrowedFd<'_>, path: &CString, places: &[(u64, u64)]) -> io::Result<OwnedFd> {
    let (offsets, cookies): (Vec<u64>, Vec<u64>) = places.iter().copied().unzip();
    let request = CreateMultiLink {
        program_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: BPF_TRACE_UPROBE_MULTI,
        flags: 0,
        path: path.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        reference_counters: 0,
        cookies: cookies.as_ptr() as u64,
        count: places.len() as u32,
        multi_flags: 0,
        pid: 0,
        padding: 0,
    };
    bpf(LINK_CREATE, &request)
}

/// Of the kinds of maps that the object has.
fn descriptor(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::CgrpStorage(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}
