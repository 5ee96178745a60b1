//! Clients that do harm, on purpose or not, against the real binary: what they cost in memory and
//! CPU time, what they are told, and that nobody else notices.
//!
//! Memory and CPU time are the kernel's figures for the process. Tests of memory run one worker,
//! since each worker keeps one read buffer for all its sessions, allocated at the first read.

// Test data is small.
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]

mod bombs;
mod broken_frames;
mod burst;
mod client;
mod dead_peers;
mod drain;
mod failing_paths;
mod floods;
mod handshakes;
#[cfg(feature = "faults")]
mod hooks;
mod idle;
mod instances;
mod log_attacks;
pub mod measure;
#[cfg(not(feature = "faults"))]
mod no_hooks;
mod outside_tools;
mod overload;
mod packet_loss;
mod restarts;
mod slow_readers;
mod spent_memory;
mod strangers;
mod time;
mod unfinished;
mod watchdog;
