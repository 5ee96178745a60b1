//! Arbitrary requests, as the router answers them.
//!
//! Both the property test and the fuzzer call [`any_request`] with raw bytes.

use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use arbitrary::{Result, Unstructured};
use hyper::body::Body as _;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Version};
use tokio::time::Instant;
use wsecho::http::admission::Lane;
use wsecho::http::router::{Answer, Router};
use wsecho::http::service::Service;
use wsecho::http::upgrade::Caller;
use wsecho::net::addr::PeerAddr;
use wsecho::ops::logging::Lost;
use wsecho::ws::session::Budget;

/// Part of everything a request can say, and must not be part of any answer.
const MARK: &str = "mArK";
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The headers that are read, with valid values.
const HEADERS: [(&str, &str); 17] = [
    ("host", "server.example.com"),
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-key", KEY),
    ("sec-websocket-version", "13"),
    ("sec-websocket-protocol", "chat"),
    ("origin", "https://server.example.com"),
    ("accept", "application/json"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-host", "site.example"),
    ("x-forwarded-server", "proxy.example"),
    ("via", "1.1 Caddy"),
    ("x-envoy-expected-rq-timeout-ms", "15000"),
    ("forwarded", "for=192.0.2.1;host=site.example"),
    ("content-length", "0"),
    ("transfer-encoding", "chunked"),
    ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
];
/// How many of them make a handshake: the first ones.
const NEEDED: usize = 5;

static ROUTER: LazyLock<Router> = LazyLock::new(|| {
    let config = wsecho::config::parse("origins = \"same-host\"").expect("it is valid");
    Router::new(
        config.policy,
        Arc::new(Service::new(Budget::new(1 << 20), Lost::default(), Lane::new(256))),
    )
});

/// Any request: nothing panics, none of it is reflected in the answer, and only a complete
/// handshake is upgraded.
pub fn any_request(data: &[u8]) {
    // Once the bytes have run out, every choice is the first one, so this cannot fail.
    let _ = try_any_request(&mut Unstructured::new(data));
}

fn try_any_request(u: &mut Unstructured<'_>) -> Result<()> {
    let path = *u.choose(&[
        "/socket",
        "/socket?mArK",
        "/socket",
        "/",
        "/mArK",
        "/healthz",
        "/mArK/socket",
        "/echo?greeting=mArK&close=4000,mArK&after=3&trace=0123456789abcdef",
        "/echo?ping=mArK",
        "/info",
        "/info?endpoint=/echo&token=mArK&mArK=%6dArK",
    ])?;
    let mut request = Request::builder().uri(path).body(()).expect("a path");
    if u.ratio(1, 8)? {
        *request.method_mut() = u.choose(&[Method::HEAD, Method::POST, Method::PUT])?.clone();
    }
    if u.ratio(1, 8)? {
        *request.version_mut() = *u.choose(&[Version::HTTP_10, Version::HTTP_2])?;
    }
    for (index, (name, good)) in HEADERS.into_iter().enumerate() {
        // Mostly a handshake with a defect or two.
        let lines = match u.int_in_range(0..=15)? {
            0 => usize::from(index >= NEEDED),
            1 => 2,
            _ => usize::from(index < NEEDED),
        };
        for _ in 0..lines {
            let value = if u.ratio(1, 8)? { bad(u, good)? } else { good.as_bytes().to_vec() };
            let value = HeaderValue::from_bytes(&value).expect("without control characters");
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
    let mut caller = Caller {
        peer: PeerAddr::Unix,
        proxy: None,
        accepted: Instant::now(),
        refused: None,
        claim: None,
    };
    let response = match ROUTER.answer(&request, &mut caller) {
        Answer::Plain(response) => response,
        Answer::Upgrade(response, _) => {
            assert_eq!(request.method(), Method::GET);
            assert_eq!(request.version(), Version::HTTP_11);
            for name in ["host", "sec-websocket-key", "sec-websocket-version"] {
                assert_eq!(request.headers().get_all(name).iter().count(), 1, "{request:?}");
            }
            for name in ["upgrade", "connection"] {
                assert!(request.headers().contains_key(name), "{request:?}");
            }
            assert!(!request.headers().contains_key("transfer-encoding"), "{request:?}");
            assert_eq!(request.headers()["sec-websocket-version"], "13");
            response
        }
    };
    let accepted = response.status() == 101;
    let (head, mut body) = response.into_parts();
    for (name, value) in &head.headers {
        // The only thing that is reflected: a token the client offered.
        if name != "sec-websocket-protocol" || !accepted {
            assert!(!contains(value.as_bytes()), "{name}: {value:?}");
        }
    }
    let cx = &mut Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(cx) {
        let data = frame.into_data().expect("there are no trailers");
        // That one is there to show the request.
        assert!(path.starts_with("/info") || !contains(&data), "{request:?}");
    }
    Ok(())
}

/// An invalid value, with the mark.
fn bad(u: &mut Unstructured<'_>, good: &str) -> Result<Vec<u8>> {
    let mut value = Vec::new();
    for _ in 0..u.int_in_range(1..=4)? {
        match u.int_in_range(0..=5)? {
            0 => value.extend(good.as_bytes()),
            1 => value.extend(b","),
            2 => value.extend(b" "),
            3 => value.extend(b"close"),
            _ => value.push(u.arbitrary()?),
        }
    }
    value.extend(MARK.as_bytes());
    let allowed = |byte| if byte < b' ' || byte == 127 { b'\t' } else { byte };
    Ok(value.into_iter().map(allowed).collect())
}

fn contains(text: &[u8]) -> bool {
    text.windows(MARK.len()).any(|found| found.eq_ignore_ascii_case(MARK.as_bytes()))
}
