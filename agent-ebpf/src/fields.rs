//! Kernel struct members that the programs read, by name; the agent looks their offsets up in the kernel's BTF.
//!
//! One row per global of `agent-ebpf/src/kernel/`. The agent sets each with `must_exist`, and the linker drops unused
//! globals, so a dead row fails the load.

/// Offset of an optional member that this kernel does not have: the programs skip what needs it.
pub const ABSENT: u32 = u32::MAX;

/// One member of one kernel struct.
#[derive(Clone, Copy, Debug)]
pub struct KernelField {
    /// Name of the `Global<u32>` that takes the offset.
    pub global: &'static str,
    /// Kernel struct.
    pub structure: &'static str,
    /// Path of members; anonymous structs and unions in between are not named.
    pub member: &'static str,
    /// Size in bytes that the programs read; must not exceed the member's.
    pub size: u32,
    /// Without it the agent does not start; an optional one only lowers its feature.
    pub required: bool,
}
