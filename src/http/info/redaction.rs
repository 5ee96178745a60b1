//! What of a request may be shown: everything but its secrets.
//!
//! Owns where in a text secrets are, by the names and forms of `net::secret`. It does not know what else
//! is shown, nor to whom.

use std::borrow::Cow;

use crate::http::query::unescape;
use crate::net::secret::{self, has_credentials};

/// What stands in place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// How often a value may be encoded before it counts as a secret.
const DEPTH: usize = 3;

/// Whether what has this name, percent-encoded or not, is a secret.
fn is_secret(name: &[u8]) -> bool {
    secret::is_secret(&unescape(name).0)
}

/// The value of a header, as far as it may be shown.
pub(super) fn header(name: &str, value: &[u8]) -> String {
    // The nonce of a handshake is none of anybody's secrets.
    if name != "sec-websocket-key" && (is_secret(name.as_bytes()) || has_credentials(value)) {
        return REDACTED.to_owned();
    }
    let value = if name.ends_with("host") { without_user(value) } else { Cow::Borrowed(value) };
    text(&value)
}

/// A URL, or whatever else may have one in it, as far as it may be shown.
pub(super) fn text(value: &[u8]) -> String {
    let value = without_users(value);
    let mut shown: Vec<Cow<'_, str>> = Vec::new();
    for piece in value.split(|byte| *byte == b'&') {
        let Some(start) = secret_from(piece, DEPTH) else {
            shown.push(String::from_utf8_lossy(piece));
            continue;
        };
        shown.push(String::from_utf8_lossy(&piece[..start]) + REDACTED);
        // Within quotes it may go on.
        if has_quote(&piece[start..], DEPTH) {
            break;
        }
    }
    without_jwts(&shown.join("&"))
}

/// Subprotocols as offered, as far as they may be shown.
pub(super) fn subprotocols(offered: &[&[u8]]) -> Vec<String> {
    let show = |(offered, hidden): (&&[u8], bool)| {
        if hidden { REDACTED.to_owned() } else { String::from_utf8_lossy(offered).into_owned() }
    };
    let hidden = secret::among_subprotocols(offered.iter().copied());
    offered.iter().zip(hidden).map(show).collect()
}

/// Where a secret begins between two `&`, if there is one: the first value with the name of a secret
/// hides all behind it.
fn secret_from(piece: &[u8], depth: usize) -> Option<usize> {
    let names_secret = |at: usize| {
        let before = &piece[..at];
        match piece[at] {
            b'=' => is_secret(name_before(before)),
            // Of JSON. Without quotes, it is the host before a port.
            b':' => {
                let quote = before.trim_ascii_end().last();
                quote.is_some_and(|last| is_quote(*last)) && is_secret(name_before(before))
            }
            _ => false,
        }
    };
    if let Some(at) = (0..piece.len()).find(|at| names_secret(*at)) {
        return Some(at + 1);
    }
    // A URL or JSON within the value: its own signs are encoded.
    let inner = decoded(piece)?;
    let hides = |inner: &[u8]| {
        without_users(inner) != inner
            || inner
                .split(|byte| *byte == b'&')
                .any(|piece| secret_from(piece, depth - 1).is_some())
    };
    let first = piece.iter().position(|byte| *byte == b'=');
    (depth == 0 || hides(&inner)).then(|| first.map_or(0, |at| at + 1))
}

/// What a text means that is percent-encoded; `None` if it is not.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let (inner, _) = unescape(text);
    (inner != text && text.contains(&b'%')).then_some(inner)
}

fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'')
}

/// Whether there is a quote in a text, encoded up to so many times.
fn has_quote(text: &[u8], depth: usize) -> bool {
    text.iter().any(|byte| is_quote(*byte))
        || (depth > 0 && decoded(text).is_some_and(|inner| has_quote(&inner, depth - 1)))
}

/// The name that ends a text, without the quotes around it.
fn name_before(text: &[u8]) -> &[u8] {
    let is_around = |byte: &u8| is_quote(*byte) || byte.is_ascii_whitespace() || *byte == b'\\';
    let end = text.iter().rposition(|byte| !is_around(byte)).map_or(0, |at| at + 1);
    let text = &text[..end];
    let start = text.iter().rposition(|byte| b"?&;,=#/ \t\"'".contains(byte));
    &text[start.map_or(0, |at| at + 1)..]
}

/// An authority without its user and password.
fn without_user(authority: &[u8]) -> Cow<'_, [u8]> {
    match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => Cow::Owned([REDACTED.as_bytes(), &authority[at..]].concat()),
        None => Cow::Borrowed(authority),
    }
}

/// A text without the users and passwords of the URLs in it.
fn without_users(text: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(3).position(|found| found == b"://") {
        let (before, url) = rest.split_at(at + 3);
        let end = url.iter().position(|byte| b"/?# \"".contains(byte)).unwrap_or(url.len());
        shown.extend_from_slice(before);
        shown.extend_from_slice(&without_user(&url[..end]));
        rest = &url[end..];
    }
    shown.extend_from_slice(rest);
    shown
}

/// A text without JSON Web Tokens, which all begin alike: with the code for `{"`.
fn without_jwts(text: &str) -> String {
    let part = |letter: char| letter.is_ascii_alphanumeric() || "-_.=".contains(letter);
    let mut pieces = text.split("eyJ");
    let mut shown = pieces.next().unwrap_or_default().to_owned();
    // The parts of one token begin alike.
    let mut within = false;
    for token in pieces {
        let rest = token.trim_start_matches(part);
        if !within {
            shown += REDACTED;
        }
        shown += rest;
        within = rest.is_empty();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_the_name_of_a_secret_are_hidden_and_others_are_not() {
        for (given, shown) in [
            ("/info", "/info"),
            (
                "/info?trace=0123456789abcdef&endpoint=/echo",
                "/info?trace=0123456789abcdef&endpoint=/echo",
            ),
            ("/?token=s3cr3t", "/?token=[redacted]"),
            ("/?a=1&access_token=s3;cr,3t&b=2", "/?a=1&access_token=[redacted]&b=2"),
            ("/?TOKEN=x&Api-Key=x&sid=x", "/?TOKEN=[redacted]&Api-Key=[redacted]&sid=[redacted]"),
            ("/?%74oken=x", "/?%74oken=[redacted]"),
            ("/?token%5B%5D=x", "/?token%5B%5D=[redacted]"),
            ("/?next=%2Fa%3Ftoken%3Dx%26b%3D1&c=2", "/?next=[redacted]&c=2"),
            ("/?next=%252Fa%253Ftoken%253Dx", "/?next=[redacted]"),
            ("/?a=b?token=x", "/?a=b?token=[redacted]"),
            ("https://u:p@a.example/x?y=1", "https://[redacted]@a.example/x?y=1"),
            ("https://u:p@a@a.example", "https://[redacted]@a.example"),
            ("/?q=eyJhbGciOi.eyJzdWI.x-_y&b", "/?q=[redacted]&b"),
            ("/?PHPSESSID=x&connect.sid=x", "/?PHPSESSID=[redacted]&connect.sid=[redacted]"),
            ("/?user%5Bpass%5D=x&b=2", "/?user%5Bpass%5D=[redacted]&b=2"),
            ("/?compass=n&bypass=1&design=2", "/?compass=n&bypass=1&design=2"),
            ("/?next=https%3A%2F%2Fu%3Ap%40a.example&b=2", "/?next=[redacted]&b=2"),
            ("/?next=https%3A%2F%2Fa.example%2F&b=2", "/?next=https%3A%2F%2Fa.example%2F&b=2"),
            ("/?d=%7B%22token%22%3A%22x%22%7D&b=2", "/?d=[redacted]"),
            ("/?d=%7B%22a%22%3A%22x%22%7D&b=2", "/?d=%7B%22a%22%3A%22x%22%7D&b=2"),
            (r#"{"a":"b","token":"c&d"}"#, r#"{"a":"b","token":[redacted]"#),
            (r#"{"a":"b&c"}"#, r#"{"a":"b&c"}"#),
            ("https://auth.example:8080/", "https://auth.example:8080/"),
            ("for=192.0.2.1;proto=https", "for=192.0.2.1;proto=https"),
            ("a=100%", "a=100%"),
        ] {
            assert_eq!(text(given.as_bytes()), shown, "{given}");
        }
    }

    #[test]
    fn a_header_is_hidden_by_its_name_or_its_form() {
        for (name, value, shown) in [
            ("authorization", "Basic eDp5", REDACTED),
            ("cookie", "a=b", REDACTED),
            ("x-api-key", "x", REDACTED),
            ("x-amz-security-token", "x", REDACTED),
            ("x-custom", "Bearer x", REDACTED),
            ("x-custom", "bearer", "bearer"),
            ("x-custom", "ApiKey x", REDACTED),
            ("x-custom", "a, Bearer x", REDACTED),
            ("x-custom", "HMAC-SHA256 x", REDACTED),
            ("x-custom", "a passage", "a passage"),
            ("x-pin", "1", REDACTED),
            ("host", "u:p@a.example", "[redacted]@a.example"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13", "13"),
            ("user-agent", "curl/8", "curl/8"),
            ("x-forwarded-for", "192.0.2.1", "192.0.2.1"),
            ("referer", "https://a.example/?token=x", "https://a.example/?token=[redacted]"),
        ] {
            assert_eq!(header(name, value.as_bytes()), shown, "{name}: {value}");
        }
    }

    #[test]
    fn tokens_among_subprotocols_are_hidden() {
        for (offered, shown) in [
            (&["mqtt", "chat"][..], &["mqtt", "chat"][..]),
            (&["access_token", "abc"], &["access_token", REDACTED]),
            (&["chat", "Bearer", "abc", "def"], &["chat", "Bearer", REDACTED, REDACTED]),
            (&["base64url.bearer.authorization.k8s.io.YWJj", "v4"], &[REDACTED, REDACTED]),
            (&["eyJhbGci", "chat"], &[REDACTED, "chat"]),
            (&["token-s3", "chat"], &[REDACTED, REDACTED]),
            (&["auth_s3"], &[REDACTED]),
            (&["v12.stomp", "graphql-transport-ws"], &["v12.stomp", "graphql-transport-ws"]),
        ] {
            let offered: Vec<_> = offered.iter().map(|name| name.as_bytes()).collect();
            assert_eq!(subprotocols(&offered), shown);
        }
    }
}
