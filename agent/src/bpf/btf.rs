//! Offsets of kernel struct members by name, from the running kernel's BTF.
//!
//! aya applies CO-RE relocations but rustc emits none, and its BTF types cannot be asked for members. Walks the raw
//! types once per question; total on any bytes. Format: Documentation/bpf/btf.rst of the kernel.

use agent_ebpf::fields::{ABSENT, FIELDS, KernelField};

use super::BpfError;

const MAGIC: u16 = 0xeb9f;

/// BTF kinds that matter here.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// The running kernel's types as aya wants them, and all that we want to know of them.
#[derive(Debug)]
pub(super) struct Kernel {
    /// For loading programs.
    pub(super) btf: aya::Btf,
    /// Offset of each of [`FIELDS`], for the global that holds it.
    pub(super) offsets: Vec<(&'static str, u32)>,
    /// Arguments of the tracepoint `tcp_retransmit_skb`.
    pub(super) retransmit_arguments: u32,
    /// Storage may vanish while a program holds it.
    pub(super) storage_may_vanish: bool,
}

impl Kernel {
    /// Reads them. Our questions are answered before aya reads the types for itself: both at once would be the most memory
    /// that the agent ever needs.
    pub(super) fn running() -> Result<Self, BpfError> {
        let types = KernelTypes::of_running_kernel()?;
        let offset = |field: &'static KernelField| Ok((field.global, types.offset(field)?));
        let offsets = FIELDS.iter().map(offset).collect::<Result<_, BpfError>>()?;
        let retransmit_arguments = types.tracepoint_arguments("tcp_retransmit_skb");
        // The member came with the fault. Where the struct itself is not known, nothing is known.
        let storage_may_vanish = types.has_member("bpf_local_storage_elem", "state") != Some(false);
        drop(types);
        let btf = aya::Btf::from_sys_fs().map_err(|error| BpfError::Object(error.to_string()))?;
        Ok(Self {
            btf,
            offsets,
            retransmit_arguments,
            storage_may_vanish,
        })
    }
}

/// Raw BTF with an index from type id to position.
#[derive(Debug)]
pub(super) struct KernelTypes {
    data: Vec<u8>,
    strings: usize,
    /// Position of each type; id 0 is void.
    positions: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Type {
    position: usize,
    name: u32,
    kind: u32,
    members: u32,
    bitfields: bool,
    /// Size in bytes, or the id of the type pointed to, by kind.
    target: u32,
}

impl KernelTypes {
    /// Reads `/sys/kernel/btf/vmlinux`.
    pub(super) fn of_running_kernel() -> Result<Self, BpfError> {
        let path = "/sys/kernel/btf/vmlinux";
        let data = std::fs::read(path).map_err(|source| BpfError::NoBtf { path, source })?;
        Self::parse(data).ok_or(BpfError::MalformedBtf { path })
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
        if u16_at(&data, 0)? != MAGIC {
            return None;
        }
        let header = u32_at(&data, 4)? as usize;
        let types = header + u32_at(&data, 8)? as usize;
        let end = types + u32_at(&data, 12)? as usize;
        let strings = header + u32_at(&data, 16)? as usize;
        let mut this = Self {
            data,
            strings,
            positions: vec![0],
        };
        let mut position = types;
        while position < end {
            let ty = this.type_at(position)?;
            this.positions.push(position);
            position += 12 + tail_bytes(ty.kind, ty.members) as usize;
        }
        Some(this)
    }

    /// Offset of a member, with its size checked; [`ABSENT`] for an optional one that this kernel lacks.
    pub(super) fn offset(&self, field: &KernelField) -> Result<u32, BpfError> {
        let missing = || BpfError::MissingField {
            structure: field.structure,
            member: field.member,
        };
        match self.member(field.structure, field.member) {
            Some((offset, size)) if size >= field.size => Ok(offset),
            _ if field.required => Err(missing()),
            _ => Ok(ABSENT),
        }
    }

    /// Number of arguments that a tracepoint passes, from its `btf_trace_*` type; 0 when there is no such tracepoint.
    pub(super) fn tracepoint_arguments(&self, tracepoint: &str) -> u32 {
        let name = format!("btf_trace_{tracepoint}");
        self.find(kind::TYPEDEF, &name)
            .and_then(|ty| self.resolve(ty.target))
            .and_then(|pointer| self.resolve(pointer.target))
            .filter(|ty| ty.kind == kind::FUNC_PROTO)
            // The first one is the registration's own data, which programs are not given.
            .map_or(0, |prototype| prototype.members.saturating_sub(1))
    }

    /// Whether the struct has such a member; `None` for a struct that this kernel has not.
    pub(super) fn has_member(&self, structure: &str, member: &str) -> Option<bool> {
        self.find(kind::STRUCT, structure)?;
        Some(self.member(structure, member).is_some())
    }

    /// Byte offset and size of `path` (members joined by dots) in the struct called `structure`.
    fn member(&self, structure: &str, path: &str) -> Option<(u32, u32)> {
        let mut ty = self.find(kind::STRUCT, structure)?;
        let mut offset = 0;
        let mut size = 0;
        for name in path.split('.') {
            let (bits, member, bitfield_bits) = self.member_of(ty, name)?;
            offset += bits / 8;
            size = if bitfield_bits > 0 { 1 } else { self.size(member)? };
            ty = self.resolve(member).unwrap_or(ty);
        }
        Some((offset, size))
    }

    /// Bit offset, type and bits (0: no bitfield) of a member, looked for in anonymous members too.
    fn member_of(&self, ty: Type, name: &str) -> Option<(u32, u32, u32)> {
        for index in 0..ty.members as usize {
            let position = ty.position + 12 + index * 12;
            let (name_offset, member) = (self.u32(position)?, self.u32(position + 4)?);
            let packed = self.u32(position + 8)?;
            let (bits, width) = if ty.bitfields {
                (packed & 0x00ff_ffff, packed >> 24)
            } else {
                (packed, 0)
            };
            if name_offset == 0 {
                let inner = self.resolve(member)?;
                if matches!(inner.kind, kind::STRUCT | kind::UNION)
                    && let Some((inner_bits, found, width)) = self.member_of(inner, name)
                {
                    return Some((bits + inner_bits, found, width));
                }
            } else if self.string(name_offset) == Some(name.as_bytes()) {
                return Some((bits, member, width));
            }
        }
        None
    }

    fn find(&self, kind: u32, name: &str) -> Option<Type> {
        self.positions
            .iter()
            .skip(1)
            .filter_map(|&position| self.type_at(position))
            .find(|ty| {
                // A declaration without members is not the struct.
                ty.kind == kind
                    && (ty.members > 0 || kind != kind::STRUCT)
                    && self.string(ty.name) == Some(name.as_bytes())
            })
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, id: u32) -> Option<Type> {
        let mut ty = self.type_by_id(id)?;
        // Longer chains than this do not occur; a loop in hostile bytes must end.
        for _ in 0..32 {
            match ty.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    ty = self.type_by_id(ty.target)?;
                }
                _ => return Some(ty),
            }
        }
        None
    }

    fn size(&self, id: u32) -> Option<u32> {
        let ty = self.resolve(id)?;
        match ty.kind {
            kind::PTR => Some(8),
            kind::ARRAY => {
                let position = ty.position + 12;
                let (element, count) = (self.u32(position)?, self.u32(position + 8)?);
                // Arrays of arrays are not read by any field.
                let element = self.resolve(element)?;
                let size = if element.kind == kind::PTR { 8 } else { element.target };
                size.checked_mul(count)
            }
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 => Some(ty.target),
            _ => None,
        }
    }

    fn type_by_id(&self, id: u32) -> Option<Type> {
        self.type_at(*self.positions.get(id as usize).filter(|_| id != 0)?)
    }

    fn type_at(&self, position: usize) -> Option<Type> {
        let info = self.u32(position + 4)?;
        Some(Type {
            position,
            name: self.u32(position)?,
            kind: (info >> 24) & 0x1f,
            members: info & 0xffff,
            bitfields: info >> 31 != 0,
            target: self.u32(position + 8)?,
        })
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.data.get(self.strings + offset as usize..)?;
        rest.split(|&byte| byte == 0).next()
    }

    fn u32(&self, position: usize) -> Option<u32> {
        u32_at(&self.data, position)
    }
}

/// Bytes that follow the twelve of every type.
fn tail_bytes(kind: u32, members: u32) -> u32 {
    match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => members * 12,
        kind::ENUM | kind::FUNC_PROTO => members * 8,
        _ => 0,
    }
}

fn u16_at(data: &[u8], position: usize) -> Option<u16> {
    data.get(position..position + 2)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

fn u32_at(data: &[u8], position: usize) -> Option<u32> {
    data.get(position..position + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anything that has BTF has these, and their sizes are ABI.
    #[test]
    fn finds_members_of_the_running_kernel() {
        let Ok(types) = KernelTypes::of_running_kernel() else {
            eprintln!("skipped: this kernel has no BTF");
            return;
        };
        assert_eq!(types.member("iphdr", "ttl"), Some((8, 1)));
        assert_eq!(types.member("in6_addr", "in6_u"), Some((0, 16)));
        assert_eq!(types.member("tcp_sock", "no_such_member"), None);
        assert_eq!(types.has_member("tcp_sock", "no_such_member"), Some(false));
        assert_eq!(types.has_member("iphdr", "ttl"), Some(true));
        assert_eq!(types.has_member("no_such_struct", "ttl"), None);
        assert!(
            types
                .member("tcp_sock", "rack.rtt_us")
                .is_some_and(|(offset, size)| offset > 0 && size == 4)
        );
        assert!(types.tracepoint_arguments("tcp_retransmit_skb") >= 2);
        assert_eq!(types.tracepoint_arguments("no_such_tracepoint"), 0);
    }

    #[test]
    fn refuses_cut_or_foreign_bytes() {
        assert!(KernelTypes::parse(Vec::new()).is_none());
        assert!(KernelTypes::parse(vec![0; 64]).is_none());
        let Ok(data) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            return;
        };
        for length in [2, 8, 20, 24, 100, 5000] {
            // Cut inside the types: refused, without a panic.
            assert!(KernelTypes::parse(data[..length].to_vec()).is_none(), "{length} bytes");
        }
    }
}
