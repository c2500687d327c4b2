//! hopline: which destination is slow or failing, in which phase, for which workload.
//!
//! One direction, from the kernel to the reader's eye:
//! `bpf` loads the kernel programs; `reader` takes their events out of the ring buffers in batches; `pipeline` decodes
//! them (`decode`), keeps the table of connections (`connection`), adds owners (`attribution`) and names (`dns`) and counts
//! (`aggregate`); `export` shows the snapshot. `agent` wires these stages and owns their life; `command` is one file
//! per command on top of it; `recording` keeps and reads back the stream of inputs. `fetch` is a client of hopline's own,
//! and `compare` what comes of it beside the records. `sweeper` looks at the kernel's own list of sockets (`sockets`),
//! `tls_targets` at the programs that bring TLS with them (`elf`), `kubernetes` asks who the pods are (`workloads`),
//! `tracer` sends the probes of `path`. `safe_mode` remembers starts and ends, for a node that died under hopline.
pub mod agent;
pub mod aggregate;
pub mod attribution;
pub mod bpf;
pub mod capacity;
pub mod chains;
pub mod cli;
pub mod command;
pub mod compare;
pub mod config;
pub mod connection;
pub mod declared;
pub mod decode;
pub mod dns;
pub mod elf;
pub mod events;
pub mod export;
pub mod fallbacks;
pub mod fetch;
pub mod groups;
pub mod host;
pub mod kernel_side;
pub mod kubernetes;
pub mod memory;
pub mod namespaces;
pub mod owner;
pub mod path;
pub mod pipeline;
pub mod privileges;
pub mod protocol;
pub mod reader;
pub mod recording;
pub mod safe_mode;
pub mod selfmetrics;
pub mod sockets;
pub mod sweeper;
pub mod tls_targets;
pub mod tracer;
pub mod windows;
pub mod workloads;
