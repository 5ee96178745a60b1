//! Who the client is: the PROXY protocol and the forwarding headers, as any bytes.

// Where a body draws from a list, the list is short.
#![allow(clippy::cast_possible_truncation)]

mod client_addr;
mod protocol;

use std::sync::Arc;

use hyper::Request;
use hyper::header::{FORWARDED, HeaderMap, HeaderValue};
use proptest::prelude::*;
use tokio::time::{Duration, Instant};
use wsecho::http::admission::Lane;
use wsecho::http::router::Router;
use wsecho::http::service::Service;
use wsecho::http::upgrade::Caller;
use wsecho::net::addr::PeerAddr;
use wsecho::ops::logging::Lost;
use wsecho::proxy::client_addr::{Trusted, resolve};
use wsecho::ws::session::Budget;

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

/// The time that the answer to a request of 16 KiB takes.
fn cost(head: &str) -> Duration {
    let config = wsecho::config::parse("origins = \"same-host\"").expect("it is valid");
    let service = Service::new(Budget::new(1 << 20), Lost::default(), Lane::new(256));
    let router = Router::new(config.policy, Arc::new(service));
    let mut request = Request::builder().uri("/socket");
    for line in head.lines() {
        let (name, value) = line.split_once(": ").expect("a field");
        request = request.header(name, value);
    }
    let request = request.body(()).expect("a request");
    let run = || {
        let start = Instant::now();
        for _ in 0..10 {
            let mut caller = Caller {
                peer: PeerAddr::Unix,
                proxy: None,
                accepted: start,
                refused: None,
                claim: None,
            };
            let _ = router.answer(&request, &mut caller);
        }
        start.elapsed()
    };
    (0..5).map(|_| run()).min().expect("it ran")
}

#[test]
fn every_list_of_a_head_is_judged_in_linear_time() {
    let base = "Host: a.example\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nOrigin: http://a.example\n";
    let digits = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~";
    let tokens = |count: usize| {
        let token = |at: usize| [digits[at / digits.len()], digits[at % digits.len()]];
        let all = (0..count).map(|at| String::from_utf8(token(at).to_vec()).expect("ASCII"));
        all.collect::<Vec<_>>()
    };
    for (name, element) in [
        ("Connection", ""),
        ("Sec-WebSocket-Protocol", ""),
        ("Sec-WebSocket-Extensions", ""),
        ("Sec-WebSocket-Extensions", "permessage-deflate;"),
        ("X-Forwarded-For", ""),
        ("X-Forwarded-Host", ""),
        ("X-Real-IP", ""),
        ("Via", ""),
        ("Accept", ""),
        ("Forwarded", "a="),
        ("Forwarded", "for=127.0.0.1;a="),
    ] {
        let head = |count: usize| {
            let upgrade = if name == "Connection" { "" } else { "Connection: Upgrade\n" };
            let listed: Vec<_> = tokens(count).iter().map(|it| format!("{element}{it}")).collect();
            format!("{base}{upgrade}{name}: {}\n", listed.join(","))
        };
        let (few, many) = (cost(&head(330)), cost(&head(5280)));
        // Linear time is 16 times as much, quadratic 256 times.
        let most = 64 * few + Duration::from_millis(2);
        assert!(many < most, "{name} {element}: {few:?}, then {many:?}");
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
