//! What an answer says that opens no WebSocket: who gave it, and why.
//!
//! Owns what is known of foreign servers and proxies by their answers. What wsecho itself answers is
//! shown as it is.

use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, LOCATION, SERVER, VIA};
use hyper::http::response;

use super::exchange::Unanswered;
use super::failure::{Failed, Failure};
use super::report::{Answer, Heads, printable, printable_lines, printable_start};
use super::target::{is_secret, masked, masked_query};
use super::wire::{End, Recording};
use crate::ws::handshake::split_label;

/// The headers that tell who answered, beside `Server` and `Via`.
const TELLING: [&str; 6] = [
    "x-cache",
    "x-powered-by",
    "cf-ray",
    "x-amz-cf-id",
    "x-served-by",
    "x-envoy-upstream-service-time",
];

/// The facts of a head.
pub(super) fn facts(head: &response::Parts) -> Answer {
    let telling = TELLING.iter().map(|name| HeaderName::from_static(name));
    let from = [SERVER, VIA].into_iter().chain(telling).filter_map(|name| {
        let value = printable(head.headers.get(&name)?.as_bytes());
        Some((titled(name.as_str()), value))
    });
    let reason = head.extensions.get::<hyper::ext::ReasonPhrase>();
    Answer {
        status: head.status.as_u16(),
        reason: match reason.map(|reason| printable(reason.as_bytes())) {
            Some(reason) if !reason.is_empty() => reason,
            _ => head.status.canonical_reason().unwrap_or_default().to_owned(),
        },
        from: from.collect(),
        location: head.headers.get(LOCATION).map(|value| shown(&printable(value.as_bytes()))),
    }
}

/// A header's name as people write it.
fn titled(name: &str) -> String {
    let part = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
    name.split('-').map(part).collect::<Vec<_>>().join("-")
}

/// A URL as it came, without its secrets: servers redirect to the same query.
fn shown(url: &str) -> String {
    if url.contains('@') { masked(url) } else { masked_query(url) }
}

/// What an answer other than 101 means.
pub(super) fn refused(head: &response::Parts, body: &[u8]) -> Failed {
    let text = String::from_utf8_lossy(body);
    let Answer { status, reason, location, .. } = facts(head);
    let leads = match location {
        Some(to) if head.status.is_redirection() => format!(", which leads to {to}"),
        _ => String::new(),
    };
    let seen = format!("The server answered the handshake with {status} {reason}{leads}.");
    let failure = if split_label(&text).is_some() {
        Failure::RefusedByWsecho
    } else if speaks_tls(&text) {
        Failure::PlainToTls
    } else if text.contains("No required SSL certificate was sent") {
        Failure::ClientCertificate
    } else {
        by_status(head.status)
    };
    Failed::new(failure, seen).quoting(quote(head, body))
}

/// What a body says to people who read it as it is; nothing if it is for browsers, or compressed.
pub(super) fn quote(head: &response::Parts, body: &[u8]) -> String {
    let kind = head.headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase());
    let is_plain = !head.headers.contains_key(CONTENT_ENCODING)
        && kind.is_some_and(|kind| {
            kind.starts_with(b"text/plain") || kind.starts_with(b"application/json")
        });
    if is_plain { printable_lines(body) } else { String::new() }
}

fn by_status(status: StatusCode) -> Failure {
    match status.as_u16() {
        200..=299 => Failure::UpgradeIgnored,
        300..=399 => Failure::Redirected,
        400 => Failure::BadRequest,
        401 => Failure::Unauthorized,
        403 => Failure::Forbidden,
        404 | 410 => Failure::NotFound,
        405 => Failure::MethodRefused,
        426 => Failure::UpgradeRequired,
        429 => Failure::TooMany,
        502 => Failure::BadGateway,
        503 => Failure::Unavailable,
        504 => Failure::GatewayTimeout,
        500..=599 => Failure::ServerError,
        _ => Failure::OtherStatus,
    }
}

/// How nginx, Apache and Go answer plain HTTP on a TLS port.
fn speaks_tls(body: &str) -> bool {
    [
        "plain HTTP request was sent to HTTPS port",
        "speaking plain HTTP to an SSL-enabled",
        "HTTP request to an HTTPS server",
    ]
    .iter()
    .any(|text| body.contains(text))
}

/// What it means that no answer came.
pub(super) fn unanswered(unanswered: Unanswered, certificate: Failure) -> Failed {
    use rustls::AlertDescription as Alert;
    use rustls::Error::AlertReceived;
    match unanswered {
        // A TLS alert in plain.
        Unanswered::NotHttp(bytes) if bytes.starts_with(&[0x15, 3]) => {
            Failed::new(Failure::PlainToTls, "The answer is a TLS alert.")
        }
        Unanswered::NotHttp(bytes) => {
            let start = printable_start(&bytes);
            Failed::new(Failure::NotHttp, "The answer is not HTTP.").quoting(start)
        }
        Unanswered::HeadTooLarge(most) => {
            let seen =
                format!("The answer's head does not end within {most} bytes and 100 fields.");
            Failed::new(Failure::NotHttp, seen)
        }
        Unanswered::Late(came) => {
            let seen = format!("There was no answer in time; {came} bytes were received.");
            Failed::new(Failure::HttpTimeout, seen)
        }
        // With TLS 1.3 the server judges the client's certificate after the handshake.
        Unanswered::Ended(End::Tls(AlertReceived(
            alert @ (Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied
            | Alert::CertificateRevoked),
        ))) => {
            let seen = format!("The server closed TLS with the alert {alert:?}.");
            Failed::new(certificate, seen)
        }
        Unanswered::Ended(end) => {
            let seen = match end {
                End::Fin => "The server closed the connection without an answer.".to_owned(),
                End::Reset => "The connection was reset before an answer.".to_owned(),
                End::Tls(error) => format!("TLS failed before an answer: {error}."),
                End::Other(error) => format!("The connection failed before an answer: {error}."),
            };
            Failed::new(Failure::HttpClosed, seen)
        }
    }
}

/// Both heads of a recording, secrets masked.
pub(super) fn heads(recording: &Recording) -> Heads {
    Heads { request: lines(&recording.sent), answer: lines(&recording.received) }
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut is_hidden = false;
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let is_folded = line.starts_with(b" ") || line.starts_with(b"\t");
        let line = printable(line);
        let name = line.split_once(':').map(|(name, _)| name.trim()).filter(|_| !lines.is_empty());
        is_hidden = name.is_some_and(is_secret) || (is_folded && is_hidden);
        lines.push(match name {
            Some(name) if is_hidden && !is_folded => format!("{name}: …"),
            _ if is_hidden => "…".to_owned(),
            // The request line, Location, and other words that may be a URL.
            _ => {
                let word = |it| if str::contains(it, "//") { shown(it) } else { masked_query(it) };
                line.split(' ').map(word).collect::<Vec<_>>().join(" ")
            }
        });
    }
    lines
}
