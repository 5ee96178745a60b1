//! Which pages may open a WebSocket: RFC 6455, section 4.2.2, item 4, and section 10.2.
//!
//! Owns how origins are written and compared. It does not know requests: the caller decides which
//! host they are compared with.
//!
//! Browsers let any page open a WebSocket to any host, and say where the page came from; other
//! clients say nothing, or whatever they like. Origins are written as in RFC 6454, section 6.2.

use std::fmt;
use std::str::FromStr;

use hyper::http::uri::Authority;

/// Which origins are allowed: `origins` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// All of them.
    #[default]
    Any,
    /// That of the host and port that the request names.
    SameHost,
    /// The listed ones.
    Only(Vec<Origin>),
}

impl Origins {
    /// Whether a page of this origin may send a request to this host.
    #[must_use]
    pub fn allow(&self, origin: &str, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::SameHost => is_same_host(origin, host),
            Self::Only(listed) => listed.iter().any(|listed| listed.0 == origin),
        }
    }
}

/// A missing port is the scheme's default: browsers always leave that out, and a proxy may.
fn is_same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, origin)) = origin.split_once("://") else { return false };
    let Some(default) = default_port(scheme) else { return false };
    let (Ok(origin), Ok(host)) = (Authority::try_from(origin), Authority::try_from(host)) else {
        return false;
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    !origin.as_str().contains('@')
        && origin.host().eq_ignore_ascii_case(host.host())
        && port(&origin) == port(&host)
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// A scheme, a host and possibly a port, exactly as browsers write them; or `null` or `file://`, which
/// they write for pages without a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Why a text is not an [`Origin`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseOriginError {
    /// It has no scheme, or no valid host.
    #[error("not an origin: write scheme, host and port, such as \"https://example.com:8443\"")]
    Form,
    /// It has no scheme, and is an origin with one.
    #[error("the scheme is missing: write \"{0}\"")]
    Scheme(String),
    /// It has an asterisk, which would be compared literally.
    #[error(
        "origins are compared byte by byte, so an asterisk matches nothing: list each origin, or write \
         origins = \"any\""
    )]
    Wildcard,
    /// It is the address of a WebSocket.
    #[error("an origin is that of the page, not of the WebSocket: write \"{0}\"")]
    WebSocket(String),
    /// Its port is none.
    #[error("the port of an origin is a number from 1 to 65535")]
    Port,
    /// It has a path, a query or a trailing slash.
    #[error("an origin ends with the host or port: write \"{0}\"")]
    Path(String),
    /// It has capitals, which browsers do not write.
    #[error("browsers write origins in lower case: write \"{0}\"")]
    Case(String),
    /// It has the scheme's default port, which browsers leave out.
    #[error("browsers leave out the default port: write \"{0}\"")]
    DefaultPort(String),
}

impl FromStr for Origin {
    type Err = ParseOriginError;

    fn from_str(text: &str) -> Result<Self, ParseOriginError> {
        if matches!(text, "null" | "file://") {
            return Ok(Self(text.to_owned()));
        }
        if text.contains('*') {
            return Err(ParseOriginError::Wildcard);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let with_scheme = format!("https://{text}");
            let is_host = text.contains('.') && with_scheme.parse::<Self>().is_ok();
            return Err(if is_host {
                ParseOriginError::Scheme(with_scheme)
            } else {
                ParseOriginError::Form
            });
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let parsed = Authority::try_from(authority).map_err(|_| ParseOriginError::Form)?;
        if scheme.is_empty() || !scheme.bytes().all(is_scheme) || authority.contains('@') {
            return Err(ParseOriginError::Form);
        }
        if authority != rest {
            return Err(ParseOriginError::Path(format!("{scheme}://{authority}")));
        }
        let lower = text.to_ascii_lowercase();
        if lower.starts_with("ws://") || lower.starts_with("wss://") {
            return Err(ParseOriginError::WebSocket(lower.replacen("ws", "http", 1)));
        }
        if lower != text {
            return Err(ParseOriginError::Case(lower));
        }
        let port = authority.strip_prefix(parsed.host()).unwrap_or_default();
        if !port.is_empty() && parsed.port_u16().is_none_or(|port| port == 0) {
            return Err(ParseOriginError::Port);
        }
        if parsed.port().is_some() && parsed.port_u16() == default_port(scheme) {
            return Err(ParseOriginError::DefaultPort(format!("{scheme}://{}", parsed.host())));
        }
        Ok(Self(lower))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookalikes_of_a_listed_origin_are_refused() {
        let only = Origins::Only(vec!["https://example.com".parse().unwrap()]);
        assert!(only.allow("https://example.com", "whatever"));
        for other in [
            "http://example.com",
            "https://example.com:8443",
            "https://example.com:443",
            "https://example.com/",
            "https://example.com.",
            "https://EXAMPLE.com",
            "https://example.com.evil.example",
            "https://evil.example/https://example.com",
            "https://user@example.com",
            "https://wexample.com",
            "null",
            "",
        ] {
            assert!(!only.allow(other, "example.com"), "{other}");
        }
    }

    #[test]
    fn the_same_host_means_the_same_port_too() {
        for (origin, host, same) in [
            ("http://echo.example", "echo.example", true),
            ("https://echo.example", "echo.example", true),
            ("https://echo.example", "ECHO.example:443", true),
            ("https://echo.example:8443", "echo.example:8443", true),
            ("http://[::1]:8888", "[::1]:8888", true),
            ("https://echo.example:8443", "echo.example", false),
            ("http://echo.example", "echo.example:8888", false),
            ("http://echo.example", "echo.example:443", false),
            ("https://echo.example.evil.example", "echo.example", false),
            ("https://evil.example", "echo.example", false),
            ("https://echo.example@evil.example", "evil.example", false),
            ("ftp://echo.example", "echo.example", false),
            ("null", "null", false),
            ("null", "", false),
        ] {
            assert_eq!(Origins::SameHost.allow(origin, host), same, "{origin} on {host}");
        }
    }

    #[test]
    fn what_no_browser_writes_is_an_error_that_names_the_right_form() {
        for (text, remedy) in [
            ("example.com", "write \"https://example.com\""),
            ("Null", "write scheme, host and port"),
            ("file:///", "write scheme, host and port"),
            ("*", "list each origin"),
            ("https://*.example.com", "list each origin"),
            ("ws://example.com", "write \"http://example.com\""),
            ("wss://Example.com:8443", "write \"https://example.com:8443\""),
            ("https://example.com:99999", "a number from 1 to 65535"),
            ("https://example.com:0", "a number from 1 to 65535"),
            ("https://example.com:", "a number from 1 to 65535"),
            ("https://", "write scheme, host and port"),
            ("https://user@example.com", "write scheme, host and port"),
            ("https://example.com/", "write \"https://example.com\""),
            ("https://Example.com", "write \"https://example.com\""),
            ("https://example.com:443", "write \"https://example.com\""),
        ] {
            let error = text.parse::<Origin>().unwrap_err().to_string();
            assert!(error.contains(remedy), "{text}: {error}");
        }
        for text in [
            "http://localhost:3000",
            "http://[::1]:3000",
            "chrome-extension://abcdef",
            "null",
            "file://",
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), text);
            let only = Origins::Only(vec![text.parse().unwrap()]);
            assert!(only.allow(text, "example.com") && !only.allow("https://a.example", "a"));
        }
    }
}
