//! Real files of this machine where there are any, made ones, and anything.

use proptest::prelude::*;

use super::*;
use crate::elf::code::{copied_pair, returned_member, returned_number, returns};

#[test]
fn members_are_read_off_functions() {
    assert_eq!(returned_member(&[0x8b, 0x87, 0xb0, 0, 0, 0, 0xc3]), Some(0xb0));
    assert_eq!(returned_member(&[0x48, 0x8b, 0x47, 0x08, 0xc3]), Some(8));
    assert_eq!(
        returned_member(&[0xf3, 0x0f, 0x1e, 0xfa, 0x8b, 0x87, 0xac, 0, 0, 0, 0xc3]),
        Some(0xac)
    );
    assert_eq!(
        returned_member(&[0x48, 0x8b, 0x47, 0x68, 0x31, 0xff, 0xc3]),
        Some(0x68),
        "registers cleared"
    );
    assert_eq!(returned_member(&[0x8b, 0x47, 0xf8, 0xc3]), None, "before the pointer");
    assert_eq!(returned_member(&[0x8b, 0x87, 0, 0, 1, 0, 0xc3]), None, "too far");
    assert_eq!(returned_member(&[0x8b, 0x47, 0x08, 0x90]), None, "goes on");
    assert_eq!(returned_member(&[0x8b]), None);
    assert_eq!(returned_number(&[0xb8, 0x30, 1, 0, 0x30, 0xc3]), Some(0x3000_0130));
    assert_eq!(returned_number(&[0xb8, 0x30, 1]), None);
}

#[test]
fn returns_are_found_between_instructions_only() {
    // mov $0xc3, %eax; ret; ud2; ret
    assert_eq!(
        returns(&[0xb8, 0xc3, 0, 0, 0, 0xc3, 0x0f, 0x0b, 0xc3]),
        Some(vec![5, 8])
    );
    assert_eq!(returns(&[0x90]), None, "none");
    assert_eq!(returns(&[0x06, 0xc3]), None, "no instruction");
}

#[test]
fn two_members_are_read_off_a_function() {
    // mov 0x488(%rdi), %rax; xor %ecx, %ecx; mov %rax, (%rsi); mov 0x490(%rdi), %ecx
    let direct = [
        0x48, 0x8b, 0x87, 0x88, 4, 0, 0, 0x31, 0xc9, 0x48, 0x89, 6, 0x8b, 0x8f, 0x90, 4, 0, 0,
    ];
    assert_eq!(copied_pair(&direct), Some(0x488));
    assert_eq!(copied_pair(&direct[..9]), None, "one");
    // mov 0xa8(%rdi), %rax; mov 0x3c8(%rax), %rcx; mov 0x3d0(%rax), %eax
    let through_another = [
        0x48, 0x8b, 0x87, 0xa8, 0, 0, 0, 0x48, 0x8b, 0x88, 0xc8, 3, 0, 0, 0x8b, 0x80, 0xd0, 3, 0, 0,
    ];
    assert_eq!(copied_pair(&through_another), None, "OpenSSL 1.1.1");
    // mov 0x30(%rdi), %rax; mov 0x38(%rdi), %ecx
    assert_eq!(copied_pair(&[0x48, 0x8b, 0x47, 0x30, 0x8b, 0x4f, 0x38]), None, "near");
}

#[test]
fn what_is_no_program_is_told_apart() {
    assert_eq!(tls_code(&&b"#!/bin/sh\n"[..]), Err(Refusal::NotElf));
    let mut header = [0; 64];
    header[..5].copy_from_slice(b"\x7fELF\x01");
    assert_eq!(tls_code(&&header[..]), Err(Refusal::OtherMachine), "32 bit");
    header[4..6].copy_from_slice(&[2, 1]);
    header[18] = 62;
    assert_eq!(tls_code(&&header[..]), Err(Refusal::Malformed), "no table");
}

/// A header that is right, and anything behind it.
fn image() -> impl Strategy<Value = Vec<u8>> {
    let words = proptest::collection::vec(prop_oneof![0_u64..512, any::<u64>()], 8..64);
    words.prop_map(|words| {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&[62, 0]);
        if let [_, ..] = bytes[54..] {
            bytes[54..56].copy_from_slice(&[56, 0]);
        }
        bytes
    })
}

proptest! {
    #[test]
    fn anything_has_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        drop(tls_code(&&bytes[..]));
    }

    #[test]
    fn any_image_has_an_answer(bytes in image()) {
        drop(tls_code(&&bytes[..]));
    }
}
