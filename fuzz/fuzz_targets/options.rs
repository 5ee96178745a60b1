//! Options in the query of a URL; the body is that of the property test.
//!
//! `cargo +nightly fuzz run options -- -max_total_time=60`

#![no_main]

#[path = "../../tests/suite/any_input/options.rs"]
mod options;

libfuzzer_sys::fuzz_target!(|data: &[u8]| options::any_query(data));
