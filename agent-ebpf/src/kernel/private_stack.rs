//! The kernel's private stack, turned off for programs that may be preempted.
//!
//! From 6.13 on (a76ab5731e32, x86-64) a program of type kprobe (uprobes too), tracepoint, perf_event or raw tracepoint gets
//! one stack per CPU for each of its functions that needs 64 bytes, rounded up to 16. A uprobe program may be preempted and
//! has no recursion guard: another task on the same CPU then runs it on the same stack, and facts of one connection end up at
//! another (*measured* with preempt=full: 2 to 10 of 3 million). `agent/build.rs` refuses such a program without [`turn_off`].

use core::arch::asm;

/// To be called once, anywhere in a program: all of its functions keep the kernel's own stack.
///
/// A program with a tail call has no private stack. The kernel looks for that instruction before it verifies anything
/// (`check_subprogs`); the verifier never gets to it, so it needs no program array and no arguments, and is then removed as
/// dead code (tried on 6.1, 6.12, 6.18 and 7.2).
#[inline(always)]
pub fn turn_off() {
    // SAFETY: the branch is always taken, and `call 12` (`BPF_FUNC_tail_call`) never reached.
    unsafe {
        asm!(
            "{never} = 0",
            "if {never} == 0 goto +1",
            "call 12",
            never = out(reg) _,
            options(nomem, nostack, preserves_flags)
        );
    }
}
