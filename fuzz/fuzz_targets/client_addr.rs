//! Forwarding headers; the bodies are those of the property tests.
//!
//! `cargo +nightly fuzz run client_addr -- -max_total_time=60`

#![no_main]

#[path = "../../tests/suite/proxy/client_addr.rs"]
mod client_addr;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    client_addr::any_headers(data);
    client_addr::chain(data);
});
