//! What the doctor reads: configurations of proxies, tables of /proc, answers of programs; the bodies are
//! those of the property tests.
//!
//! `cargo +nightly fuzz run doctor -- -max_total_time=60`

#![no_main]

#[path = "../../tests/suite/any_input/proxies.rs"]
mod proxies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    proxies::any_configuration(&text);
    proxies::any_answer(&text);
});
