//! The engine from outside: against the rules, against another implementation, in any pieces.

// Test data is small, and tables are as long as they need to be.
#![allow(clippy::cast_possible_truncation, clippy::option_option, clippy::too_many_lines)]

mod chunks;
mod close;
mod compressed_streams;
mod compression;
mod defects;
pub mod deflate;
mod differential;
mod fragments;
mod frames;
mod streams;
pub mod support;
mod whole_frames;
mod writing;
