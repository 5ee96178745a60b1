//! The client's side of the opening handshake: RFC 6455, section 4.1.
//!
//! Owns the request and the check of a 101. What any other answer means is for `answer` to say.

use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::Empty;
use hyper::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::response;
use hyper::{Method, Request, Uri, Version};
use percent_encoding::percent_decode_str;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::failure::{Failed, Failure};
use super::report::{Agreed, printable};
use super::target::{Target, is_secret_header, secret_subprotocols};
use crate::net::field::list;
use crate::ws::handshake;

/// What is offered: no window has to be kept between messages.
pub(super) const OFFER: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What a handshake asks for beyond the URL.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// More headers (`--header`), which replace those of the same name.
    pub headers: HeaderMap,
    /// The page that asks (`--origin`).
    pub origin: Option<HeaderValue>,
    /// The subprotocols offered (`--subprotocol`).
    pub subprotocols: Vec<String>,
    /// `Host` instead of the URL's (`--host`).
    pub host: Option<HeaderValue>,
    /// Whether compression is not offered.
    pub uncompressed: bool,
}

/// A handshake to be sent.
pub(super) struct Handshake {
    pub request: Request<Empty<Bytes>>,
    accept: String,
}

impl Handshake {
    pub(super) fn new(target: &Target, asked: &Asked) -> Self {
        let key = BASE64.encode(&fastrand::u128(..).to_ne_bytes());
        let mut request = Request::new(Empty::new());
        // Target has read the path as part of a URL.
        *request.uri_mut() = target.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        let text = |text: &str| HeaderValue::from_str(text).ok();
        let authorization = target.credentials.as_deref().and_then(|credentials| {
            let decoded: Vec<u8> = percent_decode_str(credentials).collect();
            text(&format!("Basic {}", BASE64.encode(&decoded)))
        });
        // Nothing secret is sent to where a redirect leads.
        let withheld =
            if target.is_foreign { secret_subprotocols(&asked.subprotocols) } else { Vec::new() };
        let offered = asked.subprotocols.iter().filter(|it| !withheld.contains(it));
        let offered = offered.map(String::as_str).collect::<Vec<_>>().join(", ");
        for (name, value) in [
            (HOST, asked.host.clone().or_else(|| text(&target.authority()))),
            (CONNECTION, Some(HeaderValue::from_static("Upgrade"))),
            (UPGRADE, Some(HeaderValue::from_static("websocket"))),
            (SEC_WEBSOCKET_VERSION, Some(HeaderValue::from_static(handshake::VERSION))),
            (SEC_WEBSOCKET_KEY, text(&key)),
            (
                SEC_WEBSOCKET_EXTENSIONS,
                (!asked.uncompressed).then_some(HeaderValue::from_static(OFFER)),
            ),
            (SEC_WEBSOCKET_PROTOCOL, text(&offered).filter(|_| !offered.is_empty())),
            (ORIGIN, asked.origin.clone()),
            (AUTHORIZATION, authorization),
        ] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        for name in asked.headers.keys() {
            let values = asked.headers.get_all(name);
            if target.is_foreign && values.iter().any(|value| is_secret_header(name, value)) {
                continue;
            }
            headers.remove(name);
            for value in values {
                headers.append(name, value.clone());
            }
        }
        let key = request.headers().get(SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
        let accept = derive_accept_key(key);
        Self { request, accept }
    }

    /// The same as an extended CONNECT (RFC 8441, section 5). That has no use for a key, which only a
    /// faulty proxy needs. `None` if `Host` is no authority.
    pub(super) fn over_http2(&self, with_key: bool) -> Option<Request<()>> {
        let mut headers = self.request.headers().clone();
        let authority = headers.get(HOST)?.to_str().ok()?.to_owned();
        // What belongs to a connection is malformed in HTTP/2 (RFC 9113, section 8.2.2).
        for name in [HOST, CONNECTION, UPGRADE, TE, TRANSFER_ENCODING] {
            headers.remove(name);
        }
        if !with_key {
            headers.remove(SEC_WEBSOCKET_KEY);
        }
        let path = self.request.uri().path_and_query()?.clone();
        let uri = Uri::builder().scheme("https").authority(authority).path_and_query(path);
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri.build().ok()?;
        *request.headers_mut() = headers;
        Some(request)
    }

    /// Checks a 101 as every client has to (section 4.1, items 2 to 6 of the answer).
    pub(super) fn check(&self, head: &response::Parts, asked: &Asked) -> Result<Agreed, Failed> {
        check(&self.accept, head, &asked.subprotocols)
    }
}

fn check(accept: &str, head: &response::Parts, offered: &[String]) -> Result<Agreed, Failed> {
    let headers = &head.headers;
    let failed = |failure, seen: String| Err(Failed::new(failure, seen));
    if head.version == Version::HTTP_10 {
        return failed(Failure::Http10, "The 101 is an answer of HTTP/1.0.".to_owned());
    }
    if !has_token(headers, &UPGRADE, b"websocket") {
        return failed(Failure::UpgradeMissing, shown(headers, &UPGRADE));
    }
    if !has_token(headers, &CONNECTION, b"upgrade") {
        return failed(Failure::ConnectionMissing, shown(headers, &CONNECTION));
    }
    if headers.get_all(SEC_WEBSOCKET_ACCEPT).iter().count() > 1 {
        let seen = "The 101 has more than one Sec-WebSocket-Accept.".to_owned();
        return failed(Failure::AcceptWrong, seen);
    }
    match headers.get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes().trim_ascii()) {
        None => {
            let seen = "The 101 has no Sec-WebSocket-Accept.".to_owned();
            return failed(Failure::AcceptMissing, seen);
        }
        Some(value) if value != accept.as_bytes() => {
            let value = printable(value);
            let seen = format!("Sec-WebSocket-Accept is {value}, but should be {accept}.");
            return failed(Failure::AcceptWrong, seen);
        }
        Some(_) => {}
    }
    terms(headers, offered, "The 101")
}

/// What an answer agrees to, which must have been offered; `answer` is what a failure calls it.
pub(super) fn terms(
    headers: &HeaderMap,
    offered: &[String],
    answer: &str,
) -> Result<Agreed, Failed> {
    let failed = |failure, seen: String| Err(Failed::new(failure, seen));
    let extensions = list_of(headers, &SEC_WEBSOCKET_EXTENSIONS);
    if let Some(extensions) = extensions.as_deref().filter(|it| !was_offered(it)) {
        let seen = format!("{answer} accepts `{extensions}`, but `{OFFER}` was offered.");
        return failed(Failure::ExtensionUnasked, seen);
    }
    let subprotocol = list_of(headers, &SEC_WEBSOCKET_PROTOCOL);
    match &subprotocol {
        Some(chosen) if !offered.contains(chosen) => {
            let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
            let seen = format!("{answer} selects the subprotocol {chosen}; offered: {offered}.");
            failed(Failure::SubprotocolUnasked, seen)
        }
        None if !offered.is_empty() => {
            let offered = offered.join(", ");
            let seen = format!("{answer} selects no subprotocol; offered: {offered}.");
            failed(Failure::SubprotocolIgnored, seen)
        }
        _ => Ok(Agreed { subprotocol, extensions }),
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    list(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

fn shown(headers: &HeaderMap, name: &HeaderName) -> String {
    let title = if name == UPGRADE { "Upgrade" } else { "Connection" };
    match list_of(headers, name) {
        Some(value) => format!("The 101 has `{title}: {value}`."),
        None => format!("The 101 has no `{title}`."),
    }
}

/// The values of a list as one text, if there are any.
fn list_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let items: Vec<String> = list(headers, name).map(printable).collect();
    (!items.is_empty()).then(|| items.join(", "))
}

/// Whether an answer may follow [`OFFER`] (RFC 7692, section 7.1): a server may leave parameters out
/// and ask for a smaller window of its own, but not of a client that did not offer one.
fn was_offered(extensions: &str) -> bool {
    let mut parts = extensions.split(';').map(str::trim);
    parts.next().is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate"))
        && parts.all(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let bits = value.trim().trim_matches('"').parse::<u8>();
            match name.trim().to_ascii_lowercase().as_str() {
                "server_no_context_takeover" | "client_no_context_takeover" => value.is_empty(),
                "server_max_window_bits" => bits.is_ok_and(|bits| (8..=15).contains(&bits)),
                _ => false,
            }
        })
}
