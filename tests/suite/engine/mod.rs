//! The engine from outside: by its rules, against another implementation, and in any pieces.

// Test data is small and the tables are as long as what they list.
#![allow(clippy::cast_possible_truncation, clippy::option_option, clippy::too_many_lines)]

mod chunks;
mod close;
mod defects;
mod differential;
mod fragments;
mod frames;
mod streams;
pub mod support;
mod writing;
