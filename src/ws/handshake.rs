//! The server's side of the opening handshake: RFC 6455, section 4.2.
//!
//! Owns every `Sec-WebSocket-*` name and every reason to refuse a request. It reads the head of a
//! request and nothing else: it does not know the paths, nor what follows the handshake.

mod offer;
mod origin;
mod rejection;
mod trace;

use hyper::header::{
    CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
};
use hyper::http::uri::Authority;
use hyper::{Method, Request};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub use self::offer::Offer;
pub use self::origin::{Origin, Origins, ParseOriginError};
pub use self::rejection::{Compared, Rejection, labelled, split_label};
pub use self::trace::{Connection, Front, Trace, Upgrade};
use crate::net::field::{is_token, list};
use crate::ws::deflate::offer::Agreement;

/// The only version there is (RFC 6455, section 4.2.1, item 6).
pub const VERSION: &str = "13";
/// The most subprotocols that may be offered: a head has room for thousands, clients offer a few.
pub const MAX_SUBPROTOCOLS: usize = 64;

/// What an endpoint demands of a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Which subprotocol is confirmed.
    pub subprotocols: &'a Subprotocols,
    /// Which origins are allowed.
    pub origins: &'a Origins,
    /// Whether the client must send `Origin`, which only browsers do unasked.
    pub require_origin: bool,
    /// Whether compression is agreed to.
    pub compression: bool,
}

/// Which of the offered subprotocols is confirmed: `subprotocols` of an endpoint.
///
/// Confirming none of the offered ones is no error here, but browsers then fail the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Subprotocols {
    /// The first one offered, whatever it is.
    #[default]
    Any,
    /// None of them.
    None,
    /// The first one offered that is listed.
    Only(Vec<String>),
}

/// The answer to a valid handshake.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    /// `Sec-WebSocket-Accept`.
    pub accept: HeaderValue,
    /// What was negotiated.
    pub agreed: Agreed,
}

/// What both sides agreed on.
#[derive(Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `Sec-WebSocket-Protocol`, if one was chosen.
    pub subprotocol: Option<HeaderValue>,
    /// Compression, if it was offered in a way that can be accepted.
    pub compression: Option<Agreement>,
}

/// Checks a request against RFC 6455, section 4.2.1, and computes the answer of section 4.2.2.
///
/// `trace` is that of `request`. `site` is the host that the client asked for, if a proxy named it;
/// otherwise that of the request counts.
///
/// # Errors
/// The first reason to refuse. What a proxy can drop is judged before what only a client can get
/// wrong, so that the answer blames the right side.
pub fn check<B>(
    request: &Request<B>,
    trace: Trace,
    rules: Rules<'_>,
    site: Option<&str>,
) -> Result<Accepted, Rejection> {
    let headers = request.headers();
    match *request.method() {
        Method::GET => {}
        // As for GET, unless it asks for what GET would get.
        Method::HEAD if !trace.is_complete() => {}
        _ => return Err(Rejection::Method),
    }
    let key_lost = !trace.key && trace.front == Front::Envoy;
    if !trace.is_complete() || key_lost {
        return Err(Rejection::Upgrade(trace));
    }
    let version = single(headers, &SEC_WEBSOCKET_VERSION).ok_or(Rejection::BadVersion)?;
    if version != VERSION.as_bytes() {
        let other = !version.is_empty() && version.iter().all(u8::is_ascii_digit);
        return Err(if other { Rejection::Version } else { Rejection::BadVersion });
    }
    let key = single(headers, &SEC_WEBSOCKET_KEY)
        .filter(|key| is_16_bytes_in_base64(key))
        .ok_or(Rejection::BadKey)?;
    let host = single(headers, &HOST).and_then(host_in).ok_or(Rejection::BadHost)?;
    // An absolute target's overrules it (RFC 9112, section 3.2.2).
    let host = match request.uri().authority() {
        Some(target) => host_in(target.as_str().as_bytes()).ok_or(Rejection::BadHost)?,
        None => host,
    };
    let empty = single(headers, &CONTENT_LENGTH).is_some_and(|length| length == b"0");
    if headers.contains_key(TRANSFER_ENCODING) || (headers.contains_key(CONTENT_LENGTH) && !empty) {
        return Err(Rejection::Body);
    }
    match headers.contains_key(ORIGIN) {
        false if rules.require_origin => return Err(Rejection::NoOrigin),
        false => {}
        true => admit(headers, rules.origins, site, &host)?,
    }
    Ok(Accepted {
        accept: value(derive_accept_key(key).as_bytes()),
        agreed: agree(headers, rules)?,
    })
}

/// What is agreed on with a client that offers this.
///
/// # Errors
/// When the offer breaks the grammar.
pub fn agree(headers: &HeaderMap, rules: Rules<'_>) -> Result<Agreed, Rejection> {
    let subprotocol = choose(headers, rules.subprotocols)?.map(value);
    let compression = rules.compression.then(|| Agreement::find(offers(headers))).flatten();
    Ok(Agreed { subprotocol, compression })
}

fn value(bytes: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(bytes).expect("it came out of a header")
}

/// The lines of a request that offer extensions (RFC 6455, section 9.1).
pub fn offers(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(SEC_WEBSOCKET_EXTENSIONS).into_iter().map(HeaderValue::as_bytes)
}

/// Checks the origin of a page. Where all may connect, it does not matter how it is written.
fn admit(
    headers: &HeaderMap,
    origins: &Origins,
    site: Option<&str>,
    host: &Authority,
) -> Result<(), Rejection> {
    let compared = match (origins, site) {
        (Origins::Any, _) => return Ok(()),
        (Origins::Only(_), _) => Compared::List,
        (Origins::SameHost, Some(_)) => Compared::ForwardedHost,
        (Origins::SameHost, None) => Compared::Host,
    };
    let origin = single(headers, &ORIGIN).ok_or(Rejection::NoOrigin)?;
    std::str::from_utf8(origin)
        .is_ok_and(|origin| origins.allow(origin, site.unwrap_or(host.as_str())))
        .then_some(())
        .ok_or(Rejection::Origin(compared))
}

/// A host with or without a port (RFC 9110, section 7.2).
fn host_in(text: &[u8]) -> Option<Authority> {
    let host = Authority::try_from(text).ok().filter(|host| !host.as_str().contains('@'))?;
    let port = host.as_str().strip_prefix(host.host())?;
    let good = !host.host().is_empty() && (matches!(port, "" | ":") || host.port_u16().is_some());
    good.then_some(host)
}

/// The first offered subprotocol that the rules confirm (section 4.2.2, item 5.5).
fn choose<'a>(headers: &'a HeaderMap, rules: &Subprotocols) -> Result<Option<&'a [u8]>, Rejection> {
    let offered = list(headers, &SEC_WEBSOCKET_PROTOCOL).take(MAX_SUBPROTOCOLS + 1);
    let offered: Vec<&[u8]> = offered.collect();
    if offered.len() > MAX_SUBPROTOCOLS {
        return Err(Rejection::BadSubprotocol);
    }
    for (index, protocol) in offered.iter().enumerate() {
        if !is_token(protocol) || offered[..index].contains(protocol) {
            return Err(Rejection::BadSubprotocol);
        }
    }
    Ok(offered.into_iter().find(|offered| match rules {
        Subprotocols::Any => true,
        Subprotocols::None => false,
        Subprotocols::Only(listed) => listed.iter().any(|listed| listed.as_bytes() == *offered),
    }))
}

/// The value of a header that must not be repeated.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut lines = headers.get_all(name).into_iter();
    lines.next().filter(|_| lines.next().is_none()).map(|line| line.as_bytes().trim_ascii())
}

/// 16 bytes are 22 characters and two of padding. The last of the 22 holds two bits, and whatever is
/// in its others is ignored: it is not 0 in the example of RFC 6455, section 4.1.
fn is_16_bytes_in_base64(key: &[u8]) -> bool {
    let Some(digits) = key.strip_suffix(b"==") else { return false };
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    digits.len() == 22 && digits.iter().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Version;

    /// The request of RFC 6455, section 1.3, with changes: `-Name` removes, `+Name: v` adds a line,
    /// `Name: v` replaces.
    fn request(changes: &[&str]) -> Request<()> {
        let mut request = Request::builder()
            .uri("/chat")
            .header("Host", "server.example.com")
            .header("Upgrade", "websocket")
            .header("Connection", "Upgrade")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Version", "13")
            .body(())
            .unwrap();
        for change in changes {
            let (name, value) = change.split_once(": ").unwrap_or((change, ""));
            let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).unwrap();
            let value = HeaderValue::from_str(value).unwrap();
            match name.split_at(1) {
                ("-", name) => drop(request.headers_mut().remove(header(name))),
                ("+", name) => drop(request.headers_mut().append(header(name), value)),
                _ => drop(request.headers_mut().insert(header(name), value)),
            }
        }
        request
    }

    const LENIENT: Rules<'_> = Rules {
        subprotocols: &Subprotocols::Any,
        origins: &Origins::Any,
        require_origin: false,
        compression: true,
    };

    fn judge(changes: &[&str]) -> Result<Accepted, Rejection> {
        check_by(&request(changes), LENIENT, None)
    }

    fn check_by(
        request: &Request<()>,
        rules: Rules<'_>,
        site: Option<&str>,
    ) -> Result<Accepted, Rejection> {
        check(request, Trace::of(request), rules, site)
    }

    #[test]
    fn the_example_of_the_rfc_is_answered_as_printed_there() {
        let accepted = judge(&[]).unwrap();
        assert_eq!(accepted.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accepted.agreed.subprotocol, None);
    }

    #[test]
    fn what_the_grammar_allows_is_accepted() {
        let allowed: [&[&str]; 14] = [
            &["Connection: keep-alive, Upgrade"],
            &["Connection: keep-alive", "+Connection: upgrade"],
            &["Connection: keep-alive,\tUPGRADE\t,"],
            &["Connection: close, upgrade"],
            &["Upgrade: h2c, websocket"],
            &["Upgrade: WebSocket"],
            &["Content-Length: 0"],
            &["Host: [::1]:8888"],
            &["Sec-WebSocket-Extensions: permessage-deflate"],
            // The example key of RFC 6455, section 4.1.
            &["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC=="],
            &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="],
            &["Host: server.example.com:"],
            &["Origin: https://a.example", "+Origin: https://b.example"],
            &["Origin: null"],
        ];
        for changes in allowed {
            assert!(judge(changes).is_ok(), "{changes:?}");
        }
        let mut request = request(&[]);
        let latin_1 = HeaderValue::from_bytes(b"https://caf\xe9.example").unwrap();
        request.headers_mut().insert(ORIGIN, latin_1);
        assert!(check_by(&request, LENIENT, None).is_ok(), "all origins are allowed");
        let rules = Rules { origins: &Origins::SameHost, ..LENIENT };
        let refused = check_by(&request, rules, None).err();
        assert_eq!(refused, Some(Rejection::Origin(Compared::Host)));
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        use Rejection as R;
        let complete = Trace::of(&request(&[]));
        let no_upgrade = R::Upgrade(Trace { upgrade: Upgrade::Absent, ..complete });
        let other_upgrade = R::Upgrade(Trace { upgrade: Upgrade::Other, ..complete });
        let no_connection = R::Upgrade(Trace { connection: Connection::Absent, ..complete });
        let keep_alive = R::Upgrade(Trace { connection: Connection::KeepAlive, ..complete });
        let other_connection = R::Upgrade(Trace { connection: Connection::Other, ..complete });
        let refused: [(&[&str], Rejection); 26] = [
            (&["-Upgrade"], no_upgrade),
            (&["Upgrade: h2c"], other_upgrade),
            (&["Upgrade: websocket2"], other_upgrade),
            (&["-Connection"], no_connection),
            (&["Connection: keep-alive"], keep_alive),
            (&["Connection: foo Upgrade"], other_connection),
            (&["Connection: upgraded"], other_connection),
            (&["Sec-WebSocket-Version: 8"], R::Version),
            (&["Sec-WebSocket-Version: 14"], R::Version),
            (&["-Sec-WebSocket-Version"], R::BadVersion),
            (&["+Sec-WebSocket-Version: 8"], R::BadVersion),
            (&["+Sec-WebSocket-Version: 13"], R::BadVersion),
            (&["Sec-WebSocket-Version: 13, 8"], R::BadVersion),
            (&["-Sec-WebSocket-Key"], R::BadKey),
            (&["+Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="], R::BadKey),
            (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ="], R::BadKey),
            (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQQ=="], R::BadKey),
            (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"], R::BadKey),
            (&["Sec-WebSocket-Key: dGhlIHNhbXBs*SBub25jZQ=="], R::BadKey),
            (&["-Host"], R::BadHost),
            (&["+Host: other.example"], R::BadHost),
            (&["Host: a b"], R::BadHost),
            (&["Host: x:99999"], R::BadHost),
            (&["Host: :80"], R::BadHost),
            (&["Content-Length: 5"], R::Body),
            (&["Transfer-Encoding: chunked"], R::Body),
        ];
        for (changes, rejection) in refused {
            assert_eq!(judge(changes), Err(rejection), "{changes:?}");
        }
    }

    #[test]
    fn method_and_http_version_are_judged_first() {
        let mut request = request(&["-Host"]);
        *request.version_mut() = Version::HTTP_10;
        let Err(Rejection::Upgrade(trace)) = check_by(&request, LENIENT, None) else {
            panic!("HTTP/1.0 knows no upgrade");
        };
        assert!(!trace.http_1_1 && trace.is_attempt());
        *request.method_mut() = Method::POST;
        assert_eq!(check_by(&request, LENIENT, None), Err(Rejection::Method));
    }

    #[test]
    fn head_is_told_to_use_get_only_where_nothing_else_is_wrong() {
        for (changes, is_method) in [(&[][..], true), (&["-Upgrade"], false)] {
            let mut request = request(changes);
            *request.method_mut() = Method::HEAD;
            let refused = check_by(&request, LENIENT, None).unwrap_err();
            assert_eq!(refused == Rejection::Method, is_method, "{changes:?}: {refused:?}");
        }
    }

    #[test]
    fn a_key_that_envoy_did_not_make_is_the_proxys_fault() {
        let envoy = ["-Sec-WebSocket-Key", "x-envoy-expected-rq-timeout-ms: 15000"];
        let Err(Rejection::Upgrade(trace)) = judge(&envoy) else { panic!("it is Envoy's") };
        assert!(trace.is_complete() && !trace.key && trace.front == Front::Envoy);
        let bad = ["Sec-WebSocket-Key: x", "x-envoy-expected-rq-timeout-ms: 15000"];
        assert_eq!(judge(&bad), Err(Rejection::BadKey), "the client made it");
    }

    #[test]
    fn the_nearest_proxy_is_known_by_what_it_adds() {
        for (headers, front) in [
            (&[][..], Front::Unnamed),
            (&["via: 1.1 Caddy"], Front::Caddy),
            (&["via: 1.1 Caddy, 1.1 cache (Varnish/7.1)"], Front::Varnish),
            (&["via: 1.1 Caddy", "+via: 1.1 cache (squid/5.7)"], Front::Squid),
            (&["via: http/1.1 cache[0] (ApacheTrafficServer/9.2)"], Front::TrafficServer),
            (&["via: 1.1 somebody"], Front::Unnamed),
            (&["x-varnish: 32770"], Front::Varnish),
            (&["x-envoy-external-address: 192.0.2.1"], Front::Envoy),
            (&["x-forwarded-host: a", "x-forwarded-server: b"], Front::Apache),
            (&["x-host: a", "x-forwarded-proto: http"], Front::Lighttpd),
            (&["x-host: a"], Front::Unnamed),
            (&["x-forwarded-host: a"], Front::Unnamed),
        ] {
            assert_eq!(Trace::of(&request(headers)).front, front, "{headers:?}");
        }
    }

    #[test]
    fn an_absolute_target_overrules_the_host() {
        let rules = Rules { origins: &Origins::SameHost, ..LENIENT };
        let judge = |target: &str, origin: &str| {
            let mut request = request(&[&format!("Origin: {origin}")]);
            *request.uri_mut() = target.parse().unwrap();
            check_by(&request, rules, None).err()
        };
        let by_host = Some(Rejection::Origin(Compared::Host));
        let target = "http://site.example:8080/chat";
        assert_eq!(judge(target, "http://site.example:8080"), None);
        assert_eq!(judge(target, "http://server.example.com"), by_host);
        assert_eq!(judge("http://a@site.example/", "http://a"), Some(Rejection::BadHost));
    }

    #[test]
    fn more_subprotocols_than_anyone_offers_are_refused() {
        let offer = |count: usize| {
            let offered: Vec<_> = (0..count).map(|index| format!("p{index}")).collect();
            judge(&[&format!("Sec-WebSocket-Protocol: {}", offered.join(","))]).err()
        };
        assert_eq!(offer(MAX_SUBPROTOCOLS), None);
        assert_eq!(offer(MAX_SUBPROTOCOLS + 1), Some(Rejection::BadSubprotocol));
    }

    #[test]
    fn subprotocols_are_confirmed_by_the_rules() {
        type Case<'a> = (&'a [&'a str], &'a Subprotocols, Result<Option<&'a str>, Rejection>);
        let only = Subprotocols::Only(vec!["mqtt".into(), "chat".into()]);
        let cases: [Case<'_>; 7] = [
            (&[], &Subprotocols::Any, Ok(None)),
            (&["Sec-WebSocket-Protocol: a, b"], &Subprotocols::Any, Ok(Some("a"))),
            (&["Sec-WebSocket-Protocol: a"], &Subprotocols::None, Ok(None)),
            (
                &["Sec-WebSocket-Protocol: soap", "+Sec-WebSocket-Protocol: chat, mqtt"],
                &only,
                Ok(Some("chat")),
            ),
            (&["Sec-WebSocket-Protocol: Chat"], &only, Ok(None)),
            (&["Sec-WebSocket-Protocol: a b"], &Subprotocols::Any, Err(Rejection::BadSubprotocol)),
            (
                &["Sec-WebSocket-Protocol: a, a"],
                &Subprotocols::None,
                Err(Rejection::BadSubprotocol),
            ),
        ];
        for (changes, rules, expected) in cases {
            let rules = Rules { subprotocols: rules, ..LENIENT };
            let chosen = check_by(&request(changes), rules, None)
                .map(|ok| ok.agreed.subprotocol.map(|value| value.to_str().unwrap().to_owned()));
            assert_eq!(chosen, expected.map(|some| some.map(str::to_owned)), "{changes:?}");
        }
    }

    #[test]
    fn compression_is_agreed_to_where_it_is_offered_and_allowed() {
        let offered = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";
        let unknown = "Sec-WebSocket-Extensions: permessage-deflate; unknown";
        let next_line = "+Sec-WebSocket-Extensions: permessage-deflate";
        for (changes, compression, expected) in [
            (&[][..], true, false),
            (&[offered], true, true),
            (&[offered], false, false),
            (&[unknown], true, false),
            (&[unknown, next_line], true, true),
        ] {
            let accepted = check_by(&request(changes), Rules { compression, ..LENIENT }, None);
            let agreed = accepted.expect("offers never refuse a handshake").agreed;
            assert_eq!(agreed.compression.is_some(), expected, "{changes:?} {compression}");
        }
    }

    #[test]
    fn origins_are_compared_with_the_host_that_the_client_called() {
        type Case<'a> = (&'a [&'a str], Option<&'a str>, bool, Option<Rejection>);
        let by_host = Some(Rejection::Origin(Compared::Host));
        let by_site = Some(Rejection::Origin(Compared::ForwardedHost));
        let rules =
            |require_origin| Rules { origins: &Origins::SameHost, require_origin, ..LENIENT };
        let page = "Origin: https://server.example.com";
        let same = "Origin: https://site.example";
        let cases: [Case<'_>; 8] = [
            (&[page], None, false, None),
            (&[page], Some("site.example"), false, by_site),
            (&[same], Some("site.example"), true, None),
            (&[same], None, true, by_host),
            (&["Origin: null"], None, false, by_host),
            (&[], None, false, None),
            (&[], None, true, Some(Rejection::NoOrigin)),
            (
                &[page, "+Origin: https://server.example.com"],
                None,
                false,
                Some(Rejection::NoOrigin),
            ),
        ];
        for (changes, site, require, expected) in cases {
            let judged = check_by(&request(changes), rules(require), site);
            assert_eq!(judged.err(), expected, "{changes:?} {site:?}");
        }
    }
}
