//! Configuration files; the body is that of the property test.
//!
//! `cargo +nightly fuzz run config -- -max_total_time=60`

#![no_main]

#[path = "../../tests/suite/any_input/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| config::any_text(data));
