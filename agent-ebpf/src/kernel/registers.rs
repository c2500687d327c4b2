//! Registers of a probed program (`struct pt_regs` of x86-64).

use core::{arch::asm, mem::offset_of};

use aya_ebpf::{bindings::pt_regs, programs::ProbeContext};

/// One register, by its offset. The compiler would compute the address first, which the verifier refuses for a context:
/// the offset must be in the load itself.
macro_rules! register {
    ($name:ident) => {
        #[inline(always)]
        pub fn $name(ctx: &ProbeContext) -> u64 {
            let value: u64;
            // SAFETY: the context is valid for the program's run, and this is within it.
            unsafe {
                asm!(
                    "{value} = *(u64 *)({regs} + {offset})",
                    value = lateout(reg) value,
                    regs = in(reg) ctx.regs,
                    offset = const offset_of!(pt_regs, $name),
                    options(nostack, readonly, preserves_flags),
                );
            }
            value
        }
    };
}

register!(rax);
register!(rbx);
register!(rdi);
register!(rsi);
register!(rdx);
register!(r14);
