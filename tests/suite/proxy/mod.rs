//! Who the client is: the PROXY protocol and the forwarding headers, as any bytes.

// Where a body draws from a list, the list is short.
#![allow(clippy::cast_possible_truncation)]

mod client_addr;
mod protocol;

use hyper::header::{FORWARDED, HeaderMap, HeaderValue};
use proptest::prelude::*;
use tokio::time::{Duration, Instant};
use wsecho::net::addr::PeerAddr;
use wsecho::proxy::client_addr::{Trusted, resolve};

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..Default::default() })]

    #[test]
    fn any_bytes_are_a_proxy_header_or_not_however_they_are_cut(data in bytes(300)) {
        protocol::cut(&data);
    }

    #[test]
    fn a_proxy_header_that_was_written_is_read_and_its_defects_are_told(data in bytes(400)) {
        protocol::written(&data);
    }

    #[test]
    fn any_headers_are_believed_from_a_trusted_hop_only(data in bytes(400)) {
        client_addr::any_headers(&data);
    }

    #[test]
    fn what_stands_left_of_the_first_untrusted_hop_changes_nothing(data in bytes(600)) {
        client_addr::chain(&data);
    }
}

#[test]
fn long_headers_are_read_in_linear_time() {
    let start = Instant::now();
    let many = |text: &str| text.repeat(4_000_000 / text.len());
    for value in [
        many("for=\"\\\""),
        many("\\\"") + "\"",
        format!("x{}\"", many("\\\"")),
        many("a=\"\";"),
        many(",; "),
        many("for=127.0.0.1,"),
        many("for=\"127.0.0.1\""),
        many("="),
        many("x"),
    ] {
        for name in [FORWARDED.as_str(), "x-forwarded-for", "x-forwarded-proto", "x-real-ip"] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(&value).unwrap());
            let _ = resolve(PeerAddr::Unix, None, &headers, &Trusted::default());
        }
    }
    // It takes a second in a build without optimisation; quadratic time would be hours.
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}
