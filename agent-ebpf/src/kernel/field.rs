//! A member of a kernel struct, found by name when the object is loaded.

use core::marker::PhantomData;

use agent_ebpf::fields::ABSENT;
use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};

/// Member of type `T` in kernel struct `S`: its offset, set by the agent from the kernel's BTF.
///
/// The global sits in a frozen read-only map, so the verifier knows its value: pointer plus offset stays a typed pointer
/// and is checked against the kernel's own BTF (from 5.5).
#[repr(transparent)]
pub struct Field<S, T> {
    offset: Global<u32>,
    types: PhantomData<fn(S) -> T>,
}

impl<S, T: Copy> Field<S, T> {
    pub const fn new() -> Self {
        Self {
            offset: Global::new(ABSENT),
            types: PhantomData,
        }
    }

    /// This kernel has the member.
    #[inline(always)]
    pub fn is_present(&self) -> bool {
        self.offset.load() != ABSENT
    }

    /// Direct load; `structure` must be a typed pointer, as hooks with BTF and `bpf_skc_to_tcp_sock` give it.
    #[inline(always)]
    pub fn read(&self, structure: *const S) -> T {
        // SAFETY: the verifier checks pointer type, offset and size against the kernel's BTF, and faults read as zero.
        unsafe { self.address(structure).read_volatile() }
    }

    /// Load through the helper, for pointers whose type the verifier has lost; `None` when the address cannot be read.
    #[inline(always)]
    pub fn probe_read(&self, structure: *const S) -> Option<T> {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(self.address(structure)) }.ok()
    }

    /// Load of such a member at an address, through the helper.
    #[inline(always)]
    pub fn at(address: *const T) -> Option<T> {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(address) }.ok()
    }

    /// Where the member is.
    #[inline(always)]
    pub fn address(&self, structure: *const S) -> *const T {
        structure.cast::<u8>().wrapping_add(self.offset.load() as usize).cast()
    }
}
