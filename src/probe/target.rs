//! What is probed: a WebSocket URL, RFC 6455 section 3.
//!
//! Owns the form of such a URL, and what people write instead. It does not know connections.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use percent_encoding::{CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::net::secret;

/// A WebSocket URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether it is `wss`.
    pub secure: bool,
    /// The name or address, without brackets.
    pub host: String,
    /// The port, 80 or 443 unless given.
    pub port: u16,
    /// The path with the query.
    pub path: String,
    /// `user:password`, as written.
    pub credentials: Option<String>,
    /// Whether redirects led here from another host or port, or out of TLS: secrets are not sent there.
    pub is_foreign: bool,
}

/// Why a text is no [`Target`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTargetError {
    /// Something that means this URL, shown without its secrets.
    #[error("{0}: write \"{1}\"")]
    Meant(&'static str, String),
    /// The authority is not a host with or without a port.
    #[error("not a WebSocket URL: write ws://HOST/PATH or wss://HOST/PATH")]
    Form,
    /// A host with characters beyond ASCII.
    #[error("the host is not ASCII: write it as DNS knows it (xn--…)")]
    NonAscii,
    /// A host with the zone of a link-local address.
    #[error(
        "an address with a zone, such as %eth0, cannot be probed: write one that is not link-local"
    )]
    Zone,
}

impl Target {
    /// The port that the scheme implies.
    fn usual_port(secure: bool) -> u16 {
        if secure { 443 } else { 80 }
    }

    /// The host and, unless it is the usual one, the port, as in `Host` (RFC 9110, section 7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        let host = bracketed(&self.host);
        if self.port == Self::usual_port(self.secure) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// The host and the port, as a socket address is written.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }

    /// Where a redirect from here leads, if that is a place to open a WebSocket (RFC 3986, section 5.2).
    #[must_use]
    pub fn join(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next()?;
        let scheme = if self.secure { "wss" } else { "ws" };
        let (scheme, rest) = match scheme_of(location) {
            Some((given, rest)) => match &*given.to_ascii_lowercase() {
                "http" | "ws" => ("ws", rest),
                "https" | "wss" => ("wss", rest),
                _ => return None,
            },
            None => (scheme, location),
        };
        let (path, query) = rest.split_once('?').map_or((rest, None), |it| (it.0, Some(it.1)));
        let own = self.path.split('?').next()?;
        let (authority, path) = if let Some(rest) = path.strip_prefix("//") {
            let at = rest.find('/').unwrap_or(rest.len());
            (rest[..at].to_owned(), rest[at..].to_owned())
        } else if path.starts_with('/') {
            (self.authority(), path.to_owned())
        } else if path.is_empty() {
            (self.authority(), own.to_owned())
        } else {
            (self.authority(), format!("{}/{path}", own.rsplit_once('/')?.0))
        };
        let query = query.map_or(String::new(), |query| format!("?{query}"));
        let url = format!("{scheme}://{authority}{}{query}", without_dots(&path));
        let joined: Self = url.parse().ok()?;
        let is_only_secured =
            (self.secure, self.port) == (false, 80) && (joined.secure, joined.port) == (true, 443);
        let is_foreign = joined.host != self.host
            || (joined.port != self.port && !is_only_secured)
            || (self.secure && !joined.secure)
            || self.is_foreign;
        let credentials = match joined.credentials {
            None if !is_foreign => self.credentials.clone(),
            given => given,
        };
        Some(Self { credentials, is_foreign, ..joined })
    }
}

/// The scheme of a URL, and what is behind its colon; `None` if it is relative.
fn scheme_of(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once(':')?;
    let is_scheme = scheme.starts_with(|it: char| it.is_ascii_alphabetic())
        && scheme.bytes().all(|it| it.is_ascii_alphanumeric() || b"+.-".contains(&it));
    is_scheme.then_some((scheme, rest))
}

/// A path without `.` and `..` (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                // The first is the empty one in front of the root.
                if segment == ".." && kept.len() > 1 {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    kept.join("/")
}

/// A host as it stands in a URL.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// As in a URL, secrets masked: the password, and values of the query whose names say that they are
/// one.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        let user = match self.credentials.as_deref().map(|it| it.split_once(':')) {
            Some(Some((user, _))) => format!("{user}:…@"),
            Some(None) => "…@".to_owned(),
            None => String::new(),
        };
        write!(f, "{scheme}://{user}{}{}", self.authority(), masked_query(&self.path))
    }
}

/// Whether a name of a header or a parameter says that its value is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name: Vec<u8> = percent_decode_str(name).collect();
    !name.to_ascii_lowercase().starts_with(b"sec-websocket-") && secret::is_secret(&name)
}

/// Whether the value of a header is a secret, by its name or its form.
pub(super) fn is_secret_header(name: &HeaderName, value: &HeaderValue) -> bool {
    is_secret(name.as_str()) || secret::has_credentials(value.as_bytes())
}

/// Those of the subprotocols offered that are secrets.
pub(super) fn secret_subprotocols(offered: &[String]) -> Vec<&String> {
    let hidden = secret::among_subprotocols(offered.iter().map(String::as_bytes));
    offered.iter().zip(hidden).filter_map(|(it, hidden)| hidden.then_some(it)).collect()
}

/// A URL or a path whose query and fragment show no secret.
pub(super) fn masked_query(text: &str) -> String {
    let masked = text.split_inclusive(['?', '&', ';', '#']).map(|piece| {
        let pair = piece.trim_end_matches(['?', '&', ';', '#']);
        match pair.split_once('=') {
            Some((name, value)) if is_secret(name) && !value.is_empty() => {
                format!("{name}=…{}", &piece[pair.len()..])
            }
            _ => piece.to_owned(),
        }
    });
    masked.collect()
}

/// What may be shown of a text that was to be a URL: in a malformed one, a password may be anywhere
/// before an `@`, or where the port should be.
pub(super) fn masked(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        // A path may have a URL in its query.
        Some((scheme, rest)) => (format!("{}://", masked_query(scheme)), rest),
        None if looks_like_host(text) || text.contains('@') => (String::new(), text),
        // A word of a header whose quotes are missing, perhaps.
        None => return "…".to_owned(),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", rest),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_address = authority.starts_with('[') || authority.parse::<IpAddr>().is_ok();
    match authority.split_once(':') {
        Some((host, port)) if !is_address && !port.is_empty() && port.parse::<u16>().is_err() => {
            format!("{scheme}{user}{host}:…")
        }
        _ => format!("{scheme}{user}{}", masked_query(rest)),
    }
}

/// Whether a text without a scheme begins as hosts do that people write.
fn looks_like_host(text: &str) -> bool {
    let host = text.split(['/', '?', '#']).next().unwrap_or_default();
    let is_of_host =
        |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"-.:[]".contains(&it);
    (host == "localhost" || host.contains(['.', ':'])) && host.bytes().all(is_of_host)
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let form = || ParseTargetError::Form;
        let meant = |why, url: String| Err(ParseTargetError::Meant(why, masked(&url)));
        if let Some(url) = with_slashes(text) {
            return meant("the slashes are missing", url);
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None if !looks_like_host(text.rsplit('@').next().unwrap_or_default()) => {
                return Err(form());
            }
            None => return meant("the scheme is missing", format!("wss://{text}")),
        };
        let secure = match &*scheme {
            "ws" => false,
            "wss" => true,
            "http" => return meant("not a WebSocket URL", format!("ws://{rest}")),
            "https" => return meant("not a WebSocket URL", format!("wss://{rest}")),
            _ => return Err(form()),
        };
        if let Some((before, _)) = rest.split_once('#') {
            let url = format!("{scheme}://{before}");
            return meant("a WebSocket URL has no fragment (write %23 for a `#`)", url);
        }
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        if !host.is_ascii() {
            return Err(ParseTargetError::NonAscii);
        }
        if host.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok() && !host.starts_with('[') {
            let url = rest.replacen(host, &format!("[{host}]"), 1);
            return meant("an IPv6 address needs brackets", format!("{scheme}://{url}"));
        }
        if host.contains('%') && host.matches(':').count() > 1 {
            return Err(ParseTargetError::Zone);
        }
        let uri: Uri = format!("{scheme}://{rest}").parse().map_err(|_| form())?;
        let authority = uri.authority().ok_or_else(form)?;
        let written = port(authority).ok_or_else(form)?;
        let host = self::host(authority).ok_or_else(form)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // As browsers do. A redirect could otherwise bring in what a terminal obeys.
        let path = utf8_percent_encode(path, CONTROLS).to_string();
        Ok(Self {
            secure,
            host: host.to_ascii_lowercase(),
            port: written.unwrap_or(Self::usual_port(secure)),
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            is_foreign: false,
            credentials: authority.as_str().rsplit_once('@').map(|(user, _)| user.to_owned()),
        })
    }
}

/// The URL of a text in which two slashes are missing behind the scheme.
fn with_slashes(text: &str) -> Option<String> {
    let (scheme, rest) = scheme_of(text).filter(|(_, rest)| !rest.starts_with("//"))?;
    let scheme = match &*scheme.to_ascii_lowercase() {
        "ws" | "http" => "ws",
        "wss" | "https" => "wss",
        _ => return None,
    };
    // A host may have such a name, and a port.
    let is_port = rest.split(['/', '?']).next()?.parse::<u16>().is_ok();
    (!is_port).then(|| format!("{scheme}://{}", rest.trim_start_matches('/')))
}

/// The host of an authority, without the brackets of an IPv6 address; `None` if it is none.
pub(super) fn host(authority: &Authority) -> Option<&str> {
    let host = authority.host();
    match host.strip_prefix('[') {
        None => Some(host).filter(|host| !host.is_empty()),
        Some(rest) => rest.strip_suffix(']').filter(|ip| ip.parse::<Ipv6Addr>().is_ok()),
    }
}

/// The port of an authority, if it has one; `None` if it is none.
#[expect(clippy::option_option, reason = "absent and wrong are different things")]
pub(super) fn port(authority: &Authority) -> Option<Option<u16>> {
    let host = authority.as_str().rsplit('@').next()?;
    match host.strip_prefix(authority.host())? {
        "" | ":" => Some(None),
        port if port.starts_with(":+") => None,
        port => port.strip_prefix(':')?.parse().ok().filter(|port| *port != 0).map(Some),
    }
}

/// `HOST:IP`, as `--resolve` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The name.
    pub host: String,
    /// Its address.
    pub ip: IpAddr,
}

impl FromStr for Pinned {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pinned = text.split_once(':').and_then(|(host, ip)| {
            let ip = ip.trim_matches(['[', ']']).parse().ok()?;
            (!host.is_empty()).then(|| Self { host: host.to_ascii_lowercase(), ip })
        });
        pinned.ok_or_else(|| "write HOST:IP, such as echo.example.com:192.0.2.7".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_their_secrets() {
        for (text, host, port, path, shown) in [
            ("ws://a.example", "a.example", 80, "/", "ws://a.example/"),
            ("wss://A.example/x?y=1", "a.example", 443, "/x?y=1", "wss://a.example/x?y=1"),
            ("wss://a.example:443/", "a.example", 443, "/", "wss://a.example/"),
            (
                "ws://a.example/\u{9b}\u{e9}",
                "a.example",
                80,
                "/%C2%9B%C3%A9",
                "ws://a.example/%C2%9B%C3%A9",
            ),
            ("WS://[::1]:8888/echo", "::1", 8888, "/echo", "ws://[::1]:8888/echo"),
            (
                "ws://a.example?token=x&b=2",
                "a.example",
                80,
                "/?token=x&b=2",
                "ws://a.example/?token=…&b=2",
            ),
            ("ws://u:p@a.example/", "a.example", 80, "/", "ws://u:…@a.example/"),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!((&*target.host, target.port, &*target.path), (host, port, path), "{text}");
            assert_eq!(target.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_url_is_answered_with_the_one_that_was_meant() {
        for (text, said) in [
            ("http://a.example/x", "write \"ws://a.example/x\""),
            ("https://a.example", "write \"wss://a.example\""),
            ("a.example/x", "write \"wss://a.example/x\""),
            ("ws://::1/", "write \"ws://[::1]/\""),
            ("ws://a.example/#top", "write \"ws://a.example/\""),
            ("ws://caf\u{e9}.example/", "xn--"),
            ("ftp://a.example/", "ws://HOST/PATH"),
            ("ws://a.example:99999/", "ws://HOST/PATH"),
            ("ws://a.example:0/", "ws://HOST/PATH"),
            ("ws://a.example:+80/", "ws://HOST/PATH"),
            ("ws://a%62.example:80/", "ws://HOST/PATH"),
            ("wss:a.example/x", "write \"wss://a.example/x\""),
            ("http:/a.example:8080", "write \"ws://a.example:8080\""),
            ("ws:8080/x", "write \"wss://ws:8080/x\""),
            ("ws://[::1]x/", "ws://HOST/PATH"),
            ("ws://[a.example]/", "ws://HOST/PATH"),
            ("ws://[fe80::1%25eth0]:8888/", "write one that is not link-local"),
            ("ws://[fe80::1%eth0]:8888/", "write one that is not link-local"),
            ("ws://fe80::1%eth0/", "write one that is not link-local"),
            ("ws:///x", "ws://HOST/PATH"),
            ("", "ws://HOST/PATH"),
        ] {
            let error = text.parse::<Target>().expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn redirects_are_joined_as_urls_are() {
        let here: Target = "wss://a.example:8443/x/y?z".parse().unwrap();
        for (location, url) in [
            ("https://b.example/z#f", "wss://b.example/z"),
            ("http://b.example", "ws://b.example/"),
            ("//b.example/z", "wss://b.example/z"),
            ("/z", "wss://a.example:8443/z"),
            ("z", "wss://a.example:8443/x/z"),
            ("?a=1", "wss://a.example:8443/x/y?a=1"),
            ("", "wss://a.example:8443/x/y"),
            ("../z?n=http://c/../d", "wss://a.example:8443/z?n=http://c/../d"),
            ("/a/./b/../../../c/..", "wss://a.example:8443/"),
            ("HTTPS://b.example", "wss://b.example/"),
            ("z:/y", ""),
            ("ftp://b.example/", ""),
            ("mailto:x@b.example", ""),
            ("javascript:alert(1)", ""),
        ] {
            let joined = here.join(location).map_or(String::new(), |it| it.to_string());
            assert_eq!(joined, url, "{location}");
        }
    }

    #[test]
    fn a_redirect_keeps_secrets_where_they_were_meant_for() {
        for (from, to, is_foreign, credentials) in [
            ("ws://u:p@a.example/", "/b", false, Some("u:p")),
            ("ws://u:p@a.example/", "https://a.example/b", false, Some("u:p")),
            ("ws://u:p@a.example/", "http://a.example:8080/b", true, None),
            ("ws://u:p@a.example:8080/", "https://a.example/b", true, None),
            ("wss://u:p@a.example/", "http://a.example/b", true, None),
            ("ws://u:p@a.example/", "http://b.example/", true, None),
            ("ws://u:p@a.example/", "http://v:q@a.example/", false, Some("v:q")),
        ] {
            let joined = from.parse::<Target>().unwrap().join(to).expect(to);
            let found = (joined.is_foreign, joined.credentials.as_deref());
            assert_eq!(found, (is_foreign, credentials), "{from} to {to}");
        }
    }
}
