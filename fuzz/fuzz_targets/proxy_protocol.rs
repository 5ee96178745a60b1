//! PROXY headers; the bodies are those of the property tests.
//!
//! `cargo +nightly fuzz run proxy_protocol -- -max_total_time=60`

#![no_main]

#[path = "../../tests/suite/proxy/protocol.rs"]
mod proxy_protocol;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    proxy_protocol::cut(data);
    proxy_protocol::written(data);
});
