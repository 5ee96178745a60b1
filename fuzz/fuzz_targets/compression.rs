//! Compressed messages against miniz_oxide; the body is that of the property test.
//!
//! `cargo +nightly fuzz run compression -- -max_total_time=60`

#![no_main]
// The tests use more of the support than this target does.
#![allow(dead_code)]

#[path = "../../tests/suite/engine/compressed_streams.rs"]
mod compressed_streams;
#[path = "../../tests/suite/engine/deflate.rs"]
mod deflate;
#[path = "../../tests/suite/engine/frames.rs"]
mod frames;
#[path = "../../tests/suite/engine/support.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| compressed_streams::mirror(data));
