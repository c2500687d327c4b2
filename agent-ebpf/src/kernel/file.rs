//! From a file descriptor of the running task to its socket's cookie. Every step is a checked read: nothing is held.

use super::{Field, Sock, Socket, Task};

/// Kernel's `struct files_struct`: the open files of a process.
pub struct Files;
/// Kernel's `struct fdtable`.
pub struct Table;
/// Kernel's `struct file`.
pub struct File;
/// Kernel's `struct inode`.
pub struct Inode;

#[unsafe(no_mangle)]
static TASK_FILES: Field<Task, *const Files> = Field::new();
#[unsafe(no_mangle)]
static FILES_TABLE: Field<Files, *const Table> = Field::new();
#[unsafe(no_mangle)]
static TABLE_FILES: Field<Table, *const *const File> = Field::new();
#[unsafe(no_mangle)]
static TABLE_SIZE: Field<Table, u32> = Field::new();
#[unsafe(no_mangle)]
static FILE_PRIVATE: Field<File, *const Socket> = Field::new();
#[unsafe(no_mangle)]
static FILE_INODE: Field<File, *const Inode> = Field::new();
#[unsafe(no_mangle)]
static INODE_MODE: Field<Inode, u16> = Field::new();
#[unsafe(no_mangle)]
static SKC_COOKIE: Field<Sock, u64> = Field::new();

/// File type bits of `inode.i_mode`, and those of a socket (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
/// No process has more files than this here.
const MOST_FILES: u32 = 1 << 20;

/// The cookie of the socket behind descriptor `fd` of the running task; `None` when it is no socket or has no cookie.
#[inline(always)]
pub fn socket_cookie(fd: u32) -> Option<u64> {
    if !TASK_FILES.is_present() || !SKC_COOKIE.is_present() {
        return None;
    }
    let table = FILES_TABLE.probe_read(TASK_FILES.probe_read(Task::current())?)?;
    if fd >= TABLE_SIZE.probe_read(table)? || fd >= MOST_FILES {
        return None;
    }
    let slot = TABLE_FILES.probe_read(table)?.wrapping_add(fd as usize);
    let file = Field::<Table, *const File>::at(slot)?;
    if INODE_MODE.probe_read(FILE_INODE.probe_read(file)?)? & S_IFMT != S_IFSOCK {
        return None;
    }
    let sk = Socket::sk_by_reading(FILE_PRIVATE.probe_read(file)?)?;
    SKC_COOKIE.probe_read(sk.cast()).filter(|cookie| *cookie != 0)
}
