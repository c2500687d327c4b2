//! The stack that each kernel program needs, read from its instructions, and which programs would get a private stack that
//! tasks share. Used by `build.rs`, which refuses those, and by `tests/stack_sizes.rs`.

use std::{collections::BTreeSet, collections::HashSet, fmt};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya_obj::{Object, ProgramSection, generated::bpf_insn};

/// A function with so much stack gets a private one (`BPF_PRIV_STACK_MIN_SIZE`), after rounding up.
const PRIVATE: u32 = 64;
/// What the kernel rounds a function's stack up to, for its compiler.
const ROUNDED_TO: u32 = 16;
const FRAME_POINTER: usize = 10;
const REGISTERS: usize = 11;
/// Registers that a call overwrites: 0 to 5.
const CALL_CLOBBERS: usize = 6;

const LOAD_IMMEDIATE_64: u8 = 0x18;
const CALL: u8 = 0x85;
/// `BPF_FUNC_tail_call`.
const TAIL_CALL: i32 = 12;
/// Kinds of `src_reg` in a call and in a 64-bit load: another function of the program.
const PSEUDO_CALL: u8 = 1;
const PSEUDO_FUNCTION: u8 = 4;

/// What the kernel does about the stack of a type of program, on x86-64 from 6.13 on (`bpf_enable_priv_stack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Private {
    /// One per CPU; nothing keeps tasks that preempt each other from sharing it.
    Shared,
    /// One per CPU; a run that preempts another of the same program is skipped, and counted.
    Guarded,
    /// None.
    Never,
}

/// One program with all the functions that it calls.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: &'static str,
    /// What that means for its stack.
    pub private: Private,
    /// Bytes of stack of each function, the program's own first.
    pub stacks: Vec<u32>,
    /// A program with a tail call has no private stack.
    pub has_tail_call: bool,
}

impl Program {
    /// Reads linked instructions: the program, then the functions that it calls.
    pub fn new(name: &str, section: &ProgramSection, instructions: &[bpf_insn]) -> Result<Self> {
        let (kind, private) = kind(section);
        let stacks = functions(instructions)
            .into_iter()
            .map(|function| stack(function).with_context(|| format!("kernel program {name}")))
            .collect::<Result<_>>()?;
        let is_tail_call = |one: &bpf_insn| one.code == CALL && one.src_reg() == 0 && one.imm == TAIL_CALL;
        Ok(Self {
            name: name.to_owned(),
            kind,
            private,
            stacks,
            has_tail_call: instructions.iter().any(is_tail_call),
        })
    }

    /// The largest of its functions.
    pub fn largest(&self) -> u32 {
        self.stacks.iter().copied().max().unwrap_or_default()
    }

    fn has_private_stack(&self) -> bool {
        self.private != Private::Never && !self.has_tail_call && self.largest().next_multiple_of(ROUNDED_TO) >= PRIVATE
    }

    /// Refuses a program whose runs would overwrite each other's stack.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.private != Private::Shared || !self.has_private_stack(),
            "kernel program {} ({}) has a function with {} bytes of stack: from Linux 6.13 on, tasks that preempt each \
             other would share its private stack. Call kernel::private_stack::turn_off() in it, or stay at {} bytes",
            self.name,
            self.kind,
            self.largest(),
            PRIVATE - ROUNDED_TO
        );
        Ok(())
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let private = match (self.has_private_stack(), self.private) {
            (true, Private::Shared) => "yes, shared: refused",
            (true, _) => "yes, one run at a time",
            (false, Private::Never) => "never",
            (false, _) if self.has_tail_call => "turned off",
            (false, _) => "no, small",
        };
        let stacks: Vec<String> = self.stacks.iter().map(u32::to_string).collect();
        write!(f, "{:26} {:16} {private:24} {}", self.name, self.kind, stacks.join(" "))
    }
}

/// Every program of an object file, by name.
pub fn programs(object: &[u8]) -> Result<Vec<Program>> {
    let mut parsed = Object::parse(object).map_err(|error| anyhow!("the kernel object: {error}"))?;
    let sections: HashSet<usize> = parsed.functions.keys().map(|(section, _)| *section).collect();
    parsed
        .relocate_calls(&sections)
        .map_err(|error| anyhow!("the kernel object: {error}"))?;
    let mut programs = parsed
        .programs
        .iter()
        .map(|(name, program)| {
            let function = parsed
                .functions
                .get(&program.function_key())
                .with_context(|| format!("kernel program {name} has no code"))?;
            Program::new(name, &program.section, &function.instructions)
        })
        .collect::<Result<Vec<_>>>()?;
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(programs)
}

/// The table that people read.
pub fn table(programs: &[Program]) -> String {
    let head = format!(
        "{:26} {:16} {:24} stack of each function\n",
        "program", "type", "private stack"
    );
    programs
        .iter()
        .fold(head, |text, program| text + &format!("{program}\n"))
}

fn kind(section: &ProgramSection) -> (&'static str, Private) {
    use Private::{Guarded, Never, Shared};
    match section {
        ProgramSection::KProbe | ProgramSection::KRetProbe => ("kprobe", Shared),
        ProgramSection::UProbe { .. } | ProgramSection::URetProbe { .. } => ("uprobe", Shared),
        ProgramSection::TracePoint => ("tracepoint", Shared),
        ProgramSection::RawTracePoint => ("raw tracepoint", Shared),
        ProgramSection::PerfEvent => ("perf_event", Shared),
        ProgramSection::BtfTracePoint => ("tp_btf", Guarded),
        ProgramSection::FEntry { .. } => ("fentry", Guarded),
        ProgramSection::FExit { .. } => ("fexit", Guarded),
        ProgramSection::Iter { .. } => ("iter", Never),
        ProgramSection::SockOps => ("sock_ops", Never),
        ProgramSection::CgroupSkb { .. } => ("cgroup_skb", Never),
        ProgramSection::CgroupSockAddr { .. } => ("cgroup_sock_addr", Never),
        // A type that is new here: as careful as can be until somebody has looked it up.
        _ => ("?", Shared),
    }
}

/// The functions of a linked program: each begins where one is called, or its address taken.
fn functions(instructions: &[bpf_insn]) -> Vec<&[bpf_insn]> {
    let mut starts = BTreeSet::from([0]);
    for (at, one) in instructions.iter().enumerate() {
        let is_function = (one.code == CALL && one.src_reg() == PSEUDO_CALL)
            || (one.code == LOAD_IMMEDIATE_64 && one.src_reg() == PSEUDO_FUNCTION);
        if is_function && let Some(start) = (at + 1).checked_add_signed(one.imm as isize) {
            starts.insert(start.min(instructions.len()));
        }
    }
    let ends = starts.iter().skip(1).copied().chain([instructions.len()]);
    starts
        .iter()
        .zip(ends)
        .filter_map(|(start, end)| instructions.get(*start..end))
        .collect()
}

/// Bytes of stack of one function: the lowest address relative to the frame pointer that is used or made.
///
/// Registers are followed from one instruction to the next and not along jumps: LLVM makes an address on the stack by a copy
/// of the frame pointer and an addition right behind it.
fn stack(function: &[bpf_insn]) -> Result<u32> {
    let mut offsets = [None; REGISTERS];
    offsets[FRAME_POINTER] = Some(0_i32);
    let mut lowest = 0;
    let mut rest = function.iter();
    while let Some(one) = rest.next() {
        let (to, from) = (usize::from(one.dst_reg()), usize::from(one.src_reg()));
        ensure!(to < REGISTERS && from < REGISTERS, "an instruction names no register");
        let memory = |base: Option<i32>| base.map_or(0, |base| base + i32::from(one.off));
        match one.code & 0x07 {
            // LD
            0 => {
                offsets[to] = None;
                if one.code == LOAD_IMMEDIATE_64 {
                    rest.next();
                }
            }
            // LDX
            1 => {
                lowest = lowest.min(memory(offsets[from]));
                offsets[to] = None;
            }
            // ST, STX
            2 | 3 => lowest = lowest.min(memory(offsets[to])),
            // ALU64
            7 => {
                offsets[to] = computed(*one, offsets[to], offsets[from])?;
                lowest = lowest.min(offsets[to].unwrap_or_default());
            }
            // ALU
            4 => offsets[to] = None,
            // JMP, JMP32
            _ if one.code == CALL => offsets[..CALL_CLOBBERS].fill(None),
            _ => {}
        }
    }
    Ok(lowest.unsigned_abs())
}

/// What 64-bit arithmetic makes of a register: its offset from the frame pointer, when it still has one.
fn computed(one: bpf_insn, to: Option<i32>, from: Option<i32>) -> Result<Option<i32>> {
    const OPERATION: u8 = 0xf0;
    const BY_REGISTER: u8 = 0x08;
    const ADD: u8 = 0x00;
    const SUBTRACT: u8 = 0x10;
    const MOVE: u8 = 0xb0;
    let is_register = one.code & BY_REGISTER != 0;
    match (one.code & OPERATION, is_register) {
        (MOVE, true) => Ok(from),
        (ADD, false) => Ok(to.map(|offset| offset + one.imm)),
        (SUBTRACT, false) => Ok(to.map(|offset| offset - one.imm)),
        (ADD | SUBTRACT, true) if to.or(from).is_some() => Err(anyhow!("an address on the stack is not a constant")),
        _ => Ok(None),
    }
}
