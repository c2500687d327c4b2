//! What `build.rs` refuses: kernel programs whose private stack tasks would share.

#[path = "../build/stack_sizes.rs"]
mod stack_sizes;

use aya_obj::{ProgramSection, generated::bpf_insn};

use stack_sizes::{Program, programs, table};

/// The object of this build.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hopline-ebpf"));

const UPROBE: ProgramSection = ProgramSection::UProbe { sleepable: false };
const EXIT: bpf_insn = insn(0x95, 0, 0, 0, 0);
/// `call 12`, as `kernel::private_stack::turn_off` has it.
const TAIL_CALL: bpf_insn = insn(0x85, 0, 0, 0, 12);

const fn insn(code: u8, to: u8, from: u8, off: i16, imm: i32) -> bpf_insn {
    // SAFETY: the same layout: code, two registers of four bits, offset, immediate.
    unsafe {
        std::mem::transmute(
            (imm as u32 as u64) << 32 | (off as u16 as u64) << 16 | ((from << 4 | to) as u64) << 8 | code as u64,
        )
    }
}

/// `*(u64 *)(r10 - depth) = r1`.
const fn store(depth: i16) -> bpf_insn {
    insn(0x7b, 10, 1, -depth, 0)
}

/// Its largest function, and whether it may be built.
fn check(section: &ProgramSection, instructions: &[bpf_insn], largest: u32, passes: bool) {
    let program = Program::new("test", section, instructions).expect("its stack is known");
    assert_eq!(program.largest(), largest, "{program}");
    assert_eq!(program.check().is_ok(), passes, "{program}");
}

#[test]
fn a_private_stack_that_tasks_would_share_is_refused() {
    check(&UPROBE, &[EXIT], 0, true);
    check(&UPROBE, &[store(48), EXIT], 48, true);
    // Rounded up to 64.
    check(&UPROBE, &[store(56), EXIT], 56, false);
    check(&UPROBE, &[store(152), EXIT], 152, false);
    check(&UPROBE, &[TAIL_CALL, store(152), EXIT], 152, true);
    check(&ProgramSection::TracePoint, &[store(72), EXIT], 72, false);
    check(&ProgramSection::KProbe, &[store(72), EXIT], 72, false);
    check(&ProgramSection::RawTracePoint, &[store(72), EXIT], 72, false);
    check(&ProgramSection::PerfEvent, &[store(72), EXIT], 72, false);
    check(&ProgramSection::BtfTracePoint, &[store(320), EXIT], 320, true);
    check(&ProgramSection::SockOps, &[store(320), EXIT], 320, true);
    // Nobody has looked at this type.
    check(
        &ProgramSection::Xdp {
            frags: false,
            attach_type: aya_obj::programs::XdpAttachType::Interface,
        },
        &[store(72), EXIT],
        72,
        false,
    );
}

#[test]
fn addresses_and_called_functions_count() {
    let copied = insn(0xbf, 1, 10, 0, 0);
    let moved = insn(0x07, 1, 0, 0, -64);
    check(&UPROBE, &[copied, moved, EXIT], 64, false);
    // r1 is no longer an address on the stack: the call has overwritten it.
    let helper = insn(0x85, 0, 0, 0, 5);
    check(&UPROBE, &[copied, helper, moved, EXIT], 0, true);
    let call = insn(0x85, 0, 1, 0, 1);
    check(&UPROBE, &[call, EXIT, store(100), EXIT], 100, false);
    check(&UPROBE, &[call, EXIT, store(100), TAIL_CALL, EXIT], 100, true);
    // Two functions of 40 bytes are not one of 80.
    check(&UPROBE, &[call, store(40), EXIT, store(40), EXIT], 40, true);
    let by_register = insn(0x0f, 1, 2, 0, 0);
    assert!(Program::new("test", &UPROBE, &[copied, by_register, EXIT]).is_err());
}

#[test]
fn this_object_needs_its_tail_calls() {
    let all = programs(OBJECT).expect("the object was built");
    for program in &all {
        program.check().expect("the build has checked it");
    }
    println!("{}", table(&all));
    // The same object without them.
    let call = [0x85, 0, 0, 0, 12, 0, 0, 0];
    let mut other = OBJECT.to_vec();
    let places: Vec<usize> = other
        .windows(call.len())
        .enumerate()
        .filter(|(_, bytes)| **bytes == call)
        .map(|(at, _)| at)
        .collect();
    for at in places {
        other[at + 4] = 14;
    }
    let refused: Vec<String> = programs(&other)
        .expect("it parses")
        .into_iter()
        .filter(|program| program.check().is_err())
        .map(|program| program.name)
        .collect();
    assert_eq!(refused, ["sys_exit_connect", "tls_probe"]);
}
