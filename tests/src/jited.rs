//! Programs as the kernel compiled them: does one use a private stack? Asked of the kernel, not of hopline.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result, ensure};

use crate::bpf;

/// `add r9, gs:[this_cpu_off]`: the address of this CPU's private stack (`emit_priv_frame_ptr`, `arch/x86/net/bpf_jit_comp.c`).
const PRIVATE_FRAME: [u8; 5] = [0x65, 0x4c, 0x03, 0x0c, 0x25];
/// Types that may have one without a recursion guard: kprobe (uprobes too), tracepoint, `perf_event`, raw tracepoint.
const UNGUARDED: [u32; 4] = [2, 5, 7, 17];
/// A larger image than any program here has.
const IMAGE_BYTES: usize = 1 << 20;
const NAME_BYTES: usize = 16;

/// One loaded program.
#[derive(Debug)]
pub(crate) struct Jited {
    pub(crate) name: String,
    program_type: u32,
    pub(crate) has_private_stack: bool,
}

impl Jited {
    /// Nothing but a tail call or a small stack keeps its runs from sharing a private stack.
    pub(crate) fn is_unguarded(&self) -> bool {
        UNGUARDED.contains(&self.program_type)
    }
}

/// `struct bpf_prog_info`, as far as it is needed.
#[repr(C)]
#[derive(Default)]
struct Info {
    program_type: u32,
    id: u32,
    tag: [u8; 8],
    image_bytes: u32,
    instruction_bytes: u32,
    image: u64,
    instructions: u64,
    load_time: u64,
    user: u32,
    maps: u32,
    map_ids: u64,
    name: [u8; NAME_BYTES],
}

#[repr(C)]
struct InfoRequest {
    program: u32,
    info_bytes: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// The programs that a process holds, each once.
pub(crate) fn held_by(pid: u32) -> Result<Vec<Jited>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed while the directory is read.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let of_program = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(of_program.map(|id| id.trim().parse::<u32>()).transpose()?);
    }
    ids.into_iter()
        .map(|id| {
            let by_id = ById { id, ..ById::default() };
            let program = bpf::owned(bpf::bpf(bpf::PROG_GET_FD_BY_ID, &by_id)?)?;
            look_at(program.as_fd()).with_context(|| format!("program {id}"))
        })
        .collect()
}

/// Whether this kernel gives private stacks: a program that must get one, if any does.
pub(crate) fn kernel_gives_private_stacks() -> Result<bool> {
    let program = bpf::load_with_stack()?;
    Ok(look_at(program.as_fd())?.has_private_stack)
}

fn look_at(program: BorrowedFd<'_>) -> Result<Jited> {
    let mut image = vec![0_u8; IMAGE_BYTES];
    let mut info = Info {
        image_bytes: IMAGE_BYTES as u32,
        image: image.as_mut_ptr() as u64,
        ..Info::default()
    };
    let request = InfoRequest {
        program: program.as_raw_fd().cast_unsigned(),
        info_bytes: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf::bpf(bpf::OBJ_GET_INFO_BY_FD, &request)?;
    let bytes = info.image_bytes as usize;
    ensure!(
        (1..=IMAGE_BYTES).contains(&bytes),
        "the kernel shows {bytes} bytes of its image"
    );
    let end = info.name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
    Ok(Jited {
        name: String::from_utf8_lossy(&info.name[..end]).into_owned(),
        program_type: info.program_type,
        has_private_stack: image[..bytes]
            .windows(PRIVATE_FRAME.len())
            .any(|bytes| bytes == PRIVATE_FRAME),
    })
}
