//! `lab internal race`: threads that preempt each other inside a probe in libcrypto, and know how often they were there.
//!
//! Each call puts one error of libssl's into the thread's queue. Intruders hold a connection whose handshake goes on, so what
//! their calls say is about it; victims never read from a socket, so what theirs say is about none. An intruder has a real-time
//! priority: it wakes in the middle of a victim's probe, on the same processor. Needs no compiler: libcrypto by `dlopen`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::hello::client_hello;

const LIBRARY: &CStr = c"libcrypto.so.3";
/// `ERR_LIB_SSL` and `SSL_R_CERTIFICATE_VERIFY_FAILED`.
const LIBSSL: c_int = 20;
const VERIFY_FAILED: c_int = 134;
/// Real-time priorities: the server's bytes must come whatever the intruders do.
const INTRUDER: c_int = 10;
const SERVER: c_int = 11;
/// An intruder's pause after each call: long enough for a victim to get into its probe.
const PAUSE: Duration = Duration::from_micros(30);
/// Between two bytes of a server's hello.
const DRIP: Duration = Duration::from_millis(100);
/// hopline takes a fact for one of the handshake that the thread has read of less than two seconds ago.
const FRESH: Duration = Duration::from_millis(500);
/// So long an intruder waits for a byte before it gives up.
const PATIENCE: Duration = Duration::from_mins(1);

/// Arguments of `lab internal race`.
#[derive(Debug, clap::Args)]
pub(crate) struct RaceArguments {
    #[arg(long, default_value_t = 16)]
    victims: usize,
    #[arg(long, default_value_t = 8)]
    intruders: usize,
    #[arg(long)]
    seconds: u64,
}

/// Calls that were made: the generator's own truth.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Race {
    /// By threads that read of no handshake.
    pub(crate) of_no_handshake: u64,
    /// By threads in the middle of one.
    pub(crate) of_a_handshake: u64,
}

/// What a finished race printed.
pub(crate) fn race(output: &str) -> Result<Race> {
    serde_json::from_str(output.trim()).context("race")
}

/// Says `ready` once the library is mapped, begins at the next line of stdin, prints a [`Race`].
pub(crate) fn run(arguments: &RaceArguments) -> Result<()> {
    let errors = Errors::of_libcrypto()?;
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let is_over = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let race = thread::scope(|scope| {
        let server = scope.spawn(|| drip(&listener, arguments.intruders, &is_over));
        let intruders: Vec<_> = (0..arguments.intruders)
            .map(|_| scope.spawn(|| intrude(errors, address, end)))
            .collect();
        let victims: Vec<_> = (0..arguments.victims)
            .map(|_| scope.spawn(|| suffer(errors, end)))
            .collect();
        let of_a_handshake = intruders.into_iter().map(joined).sum::<Result<u64>>();
        let of_no_handshake = victims.into_iter().map(joined).sum::<Result<u64>>();
        is_over.store(true, Ordering::Relaxed);
        joined(server)?;
        anyhow::Ok(Race {
            of_no_handshake: of_no_handshake?,
            of_a_handshake: of_a_handshake?,
        })
    })?;
    println!("{}", serde_json::to_string(&race)?);
    Ok(())
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().ok().context("a thread panicked")?
}

/// `ERR_new()` and `ERR_set_error(library, reason, format, …)`.
#[derive(Clone, Copy, Debug)]
struct Errors {
    new: unsafe extern "C" fn(),
    set: unsafe extern "C" fn(c_int, c_int, *const c_char, ...),
}

impl Errors {
    fn of_libcrypto() -> Result<Self> {
        // SAFETY: the library's initialisation has no preconditions; it is never unloaded.
        let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW) };
        ensure!(!library.is_null(), "no {}", LIBRARY.to_string_lossy());
        let function = |name: &CStr| -> Result<*mut c_void> {
            // SAFETY: the handle was just opened, the name ends with a zero.
            let address = unsafe { libc::dlsym(library, name.as_ptr()) };
            ensure!(!address.is_null(), "no {} in libcrypto", name.to_string_lossy());
            Ok(address)
        };
        // SAFETY: these are the functions' types in OpenSSL 3 (include/openssl/err.h).
        unsafe {
            Ok(Self {
                new: std::mem::transmute::<*mut c_void, unsafe extern "C" fn()>(function(c"ERR_new")?),
                set: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int, c_int, *const c_char, ...)>(
                    function(c"ERR_set_error")?,
                ),
            })
        }
    }

    /// One run of the probe.
    fn raise(self) {
        // SAFETY: no format is allowed; both work on this thread's own queue.
        unsafe {
            (self.new)();
            (self.set)(LIBSSL, VERIFY_FAILED, std::ptr::null());
        }
    }
}

/// Raises errors without a pause.
#[expect(clippy::unnecessary_wraps, reason = "joined as the other threads are")]
fn suffer(errors: Errors, end: Instant) -> Result<u64> {
    let mut calls = 0;
    while Instant::now() < end {
        errors.raise();
        calls += 1;
    }
    Ok(calls)
}

/// Raises errors in the middle of a handshake, each time after a pause.
fn intrude(errors: Errors, server: SocketAddr, end: Instant) -> Result<u64> {
    become_real_time(INTRUDER)?;
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(&client_hello("race.lab.test"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    let mut calls = 0;
    stream.read_exact(&mut byte)?;
    let mut read = Instant::now();
    while Instant::now() < end {
        if read.elapsed() > FRESH {
            stream.read_exact(&mut byte).context("the next byte of a hello")?;
            read = Instant::now();
        }
        errors.raise();
        calls += 1;
        thread::sleep(PAUSE);
    }
    Ok(calls)
}

/// A server's hello to every client, byte by byte, until the race is over.
fn drip(listener: &TcpListener, clients: usize, is_over: &AtomicBool) -> Result<()> {
    become_real_time(SERVER)?;
    let mut streams = listener.incoming().take(clients).collect::<io::Result<Vec<_>>>()?;
    // A record of 16 384 bytes with a ServerHello that never ends (RFC 5246 section 7.4.1.3), version 3.3.
    let hello = [22, 3, 3, 0x40, 0, 2, 0, 0x3f, 0xfc, 3, 3];
    for byte in hello.into_iter().chain(std::iter::repeat(0)) {
        if is_over.load(Ordering::Relaxed) {
            return Ok(());
        }
        for stream in &mut streams {
            // One that has finished is gone.
            drop(stream.write_all(&[byte]));
        }
        thread::sleep(DRIP);
    }
    Ok(())
}

/// This thread runs before all others that are not.
fn become_real_time(priority: c_int) -> Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameters live through the call, which is about this thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameters) };
    ensure!(result == 0, "real-time priority: {}", io::Error::last_os_error());
    Ok(())
}
