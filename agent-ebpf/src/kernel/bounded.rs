//! Numbers whose bounds the verifier sees.

use core::arch::asm;

/// `value`, which is from 1 to `LIMIT` (a power of two), in a form that can only be so.
///
/// The compiler knows a bound from an earlier branch, drops the second check and compares in another register; the
/// verifier then knows nothing. A mask of a number that the compiler knows nothing of survives.
#[inline(always)]
pub fn from_one_to<const LIMIT: u32>(value: u32) -> u32 {
    index::<LIMIT>(value.wrapping_sub(1)) as u32 + 1
}

/// `value`, which is below `LIMIT` (a power of two), in a form that can only be so; see [`from_one_to`].
#[inline(always)]
pub fn index<const LIMIT: u32>(value: u32) -> usize {
    const { assert!(LIMIT.is_power_of_two(), "a mask") };
    let mut rest = u64::from(value);
    // A real instruction: without one, two lines of source would share a place, which the kernel refuses.
    // SAFETY: a register is moved into itself.
    unsafe { asm!("{0} = {0}", inout(reg) rest, options(nomem, nostack, preserves_flags)) };
    (rest & u64::from(LIMIT - 1)) as usize
}
