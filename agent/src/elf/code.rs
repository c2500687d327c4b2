//! A few instructions of x86-64: functions that only return a member or a number or copy two, and where a function returns.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};

/// `endbr64`, which may begin any function.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// Bytes that decide what such a function returns.
pub(super) const GETTER_BYTES: u64 = 16;
/// `ret`.
const RET: u8 = 0xc3;

/// The offset of the member that `mov d(%rdi), %eax` or `%rax`, `ret` returns; `None` for any other code.
pub(super) fn returned_member(code: &[u8]) -> Option<u16> {
    let code = code.strip_prefix(&ENDBR64).unwrap_or(code);
    let code = code.strip_prefix(&[0x48]).unwrap_or(code);
    let (offset, rest) = match code {
        [0x8b, 0x47, short, rest @ ..] => (u32::from(*short), rest),
        [0x8b, 0x87, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]), rest),
        _ => return None,
    };
    // A short offset has a sign.
    (cleared(rest).first() == Some(&RET) && offset < 0x1000 && (code[1] == 0x87 || offset < 0x80))
        .then_some(offset as u16)
}

/// The number that `mov $n, %eax`, `ret` returns.
pub(super) fn returned_number(code: &[u8]) -> Option<u32> {
    let code = code.strip_prefix(&ENDBR64).unwrap_or(code);
    match code {
        [0xb8, a, b, c, d, rest @ ..] | [0x48, 0xc7, 0xc0, a, b, c, d, rest @ ..]
            if cleared(rest).first() == Some(&RET) =>
        {
            Some(u32::from_le_bytes([*a, *b, *c, *d]))
        }
        _ => None,
    }
}

/// What comes after registers were cleared that the caller may not see (`-fzero-call-used-regs`): `xor %edi, %edi` and
/// its like.
fn cleared(mut code: &[u8]) -> &[u8] {
    while let [0x31, 0xff | 0xf6 | 0xd2 | 0xc9, rest @ ..] = code {
        code = rest;
    }
    code
}

/// Offsets of the `ret` instructions of a function; `None` when its code cannot be followed to its end.
pub(super) fn returns(code: &[u8]) -> Option<Vec<u64>> {
    const MOST: usize = 32;
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut returns = Vec::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        if instruction.code() == Code::Retnq {
            returns.push(instruction.ip());
        }
    }
    (!returns.is_empty() && returns.len() <= MOST).then_some(returns)
}

/// The offset of the first of two members, an address and the length behind it, that a function copies out of what its first
/// argument points to; `None` for any other code.
pub(super) fn copied_pair(code: &[u8]) -> Option<u16> {
    /// What stands before is the head of any object.
    const LEAST: u64 = 0x80;
    const LIMIT: u64 = 0x1000;
    let mut first = None;
    for instruction in Decoder::with_ip(64, code, 0, DecoderOptions::NONE) {
        let Some(member) = loaded_member(&instruction) else {
            continue;
        };
        if first.is_some_and(|first| first + 8 == member) {
            return first.map(|first| first as u16);
        }
        if instruction.code() == Code::Mov_r64_rm64 && (LEAST..LIMIT).contains(&member) {
            first = Some(member);
        }
    }
    None
}

/// `mov d(%rdi), register`.
fn loaded_member(instruction: &Instruction) -> Option<u64> {
    let loads = matches!(instruction.code(), Code::Mov_r64_rm64 | Code::Mov_r32_rm32);
    let is_member = instruction.memory_base() == Register::RDI && instruction.memory_index() == Register::None;
    (loads && is_member).then(|| instruction.memory_displacement64())
}
