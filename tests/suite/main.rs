//! All integration tests, in one binary.
//!
//! There are two harnesses: [`inside`] runs one connection in this process on a paused clock,
//! [`service`] runs the real binary.

mod fault_proxy;
mod inside;
mod launch;
mod proc;
mod service;

mod any_input;
mod architecture;
mod behind_proxy;
mod command_line;
mod compression;
mod configuration;
mod connection;
mod doctor;
mod engine;
mod faults;
mod http_answers;
mod info;
mod life_cycle;
mod listeners;
mod logs;
mod operations;
mod options;
mod page;
mod probe;
mod probe_formats;
mod proxy;
mod roll;
mod session;
mod shipped_files;
