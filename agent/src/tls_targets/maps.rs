//! Lines of `/proc/PID/maps`, read to their end: a path may hold anything, line breaks written as `\012`.

use std::{fs::File, io::Read as _};

use crate::bpf::Mapping;

/// Longest text that is read: a process may have sixty thousand mappings with paths of four kilobytes.
const MAPS_BYTES: u64 = 4 << 20;

/// The text for a process, cut where it is too long; `None` when the process has gone.
pub(super) fn read(pid: u32) -> Option<String> {
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{pid}/maps")).ok()?;
    file.take(MAPS_BYTES).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The executable mappings of files.
pub(super) fn executable(pid: u32, maps: &str) -> impl Iterator<Item = Mapping> {
    maps.lines().filter_map(move |line| mapping(pid, line))
}

fn mapping(pid: u32, line: &str) -> Option<Mapping> {
    // address perms offset dev inode path
    let mut fields = line.splitn(6, ' ');
    let (first, last) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?.as_bytes();
    let _offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok().filter(|inode| *inode != 0)?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    (permissions.get(2) == Some(&b'x')).then_some(Mapping {
        pid,
        addresses: (number(first)?, number(last)?),
        device: (number(major)? as u32, number(minor)? as u32),
        inode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_counts() {
        let maps = "\
00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/with space\\012and break
00651000-00652000 r--p 00051000 08:02 173521      /usr/bin/other
7f00-7f01 r-xp 00000000 00:00 0                    [vdso]
7fffb2c0d000-7fffb2c2e000 rw-p 00000000 00:00 0   [stack]
7f2-7f3 r-xp 0 fd:0a 7 /a (deleted)
no line at all
-
";
        let found: Vec<Mapping> = executable(9, maps).collect();
        assert_eq!(
            found,
            [
                Mapping {
                    pid: 9,
                    addresses: (0x40_0000, 0x45_2000),
                    device: (8, 2),
                    inode: 173_521
                },
                Mapping {
                    pid: 9,
                    addresses: (0x7f2, 0x7f3),
                    device: (0xfd, 10),
                    inode: 7
                }
            ]
        );
    }
}
