//! The engine against tungstenite; the bodies are those of the property tests.
//!
//! `cargo +nightly fuzz run engine -- -max_total_time=60`

#![no_main]
// The tests use more of the support than this target does.
#![allow(dead_code)]

#[path = "../../tests/suite/engine/frames.rs"]
mod frames;
#[path = "../../tests/suite/engine/streams.rs"]
mod streams;
#[path = "../../tests/suite/engine/support.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    streams::compare(data);
    streams::cut(data);
});
