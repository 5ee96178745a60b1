//! Ordinary answers: plain text, the list of endpoints, health.
//!
//! Owns their form. It does not know what is asked at which path, nor refusals.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};

use crate::config::Endpoint;
use crate::net::field;
use crate::ops::drain::Drain;

/// The only kind of body: short, and complete from the start.
pub type Body = Full<Bytes>;

/// The methods that any path has.
pub(super) const ALLOWED: &str = "GET, HEAD, OPTIONS";

/// Whether a client names a media type among those that it accepts, and does not refuse it with a
/// weight of 0 (RFC 9110, section 12.5.1). A wildcard does not name it: curl sends one.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    field::list(headers, &ACCEPT).any(|range| {
        let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let named = parts.next().is_some_and(|it| it.eq_ignore_ascii_case(media_type.as_bytes()));
        let is_zero = |weight: &[u8]| weight.iter().all(|byte| b"0.".contains(byte));
        let mut weights =
            parts.filter_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
        named && !weights.any(is_zero)
    })
}

/// Text for people. It closes the connection, so that bytes behind a refused handshake are never
/// taken for a request.
pub(super) fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    for (name, value) in [
        (CONNECTION, "close"),
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What `/healthz` answers.
pub(super) fn health(drain: &Drain) -> Response<Body> {
    if drain.is_draining() {
        plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        plain(StatusCode::OK, "ok\n")
    }
}

/// The answer to OPTIONS, which some load balancers check health with.
pub(super) fn options(drain: &Drain) -> Response<Body> {
    let mut response = health(drain);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(ALLOWED));
    response
}

/// A heading, and a line for each endpoint.
pub(super) fn list(status: StatusCode, heading: &str, endpoints: &[Endpoint]) -> Response<Body> {
    let line = |Endpoint { path, prefix, .. }: &Endpoint| match &**prefix {
        "" => format!("  {path}  echoes verbatim\n"),
        prefix => format!("  {path}  echoes; text is prefixed with {prefix:?}\n"),
    };
    let lines: String = endpoints.iter().map(line).collect();
    plain(status, format!("{heading}\n{lines}"))
}
