//! Requests; the body is that of the property test.
//!
//! `cargo +nightly fuzz run handshake -- -max_total_time=60`

#![no_main]

#[path = "../../tests/suite/any_input/handshake.rs"]
mod handshake;

libfuzzer_sys::fuzz_target!(|data: &[u8]| handshake::any_request(data));
