//! The secrets of a command line, which a server or a proxy may send back: no report shows them.
//!
//! Owns where they are, and the forms in which they come back. Whether a name is that of a secret is
//! for `target` to say.

use data_encoding::BASE64;
use hyper::header::{COOKIE, HeaderMap};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Options;
use super::report::Report;
use super::target::{Target, is_secret, is_secret_header, secret_subprotocols};

/// The shortest that is looked for, in bytes: shorter ones are in any text.
const SHORTEST: usize = 4;

/// What must not be shown.
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Those of a target and of what is sent to it.
    pub(super) fn of(target: &Target, options: &Options) -> Self {
        let mut found = Self(Vec::new());
        if let Some(credentials) = &target.credentials {
            found.add_credentials(credentials);
        }
        let query = target.path.split_once('?').map_or("", |(_, query)| query);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            if is_secret(name) {
                found.add(value);
            }
        }
        found.add_headers(&options.asked.headers);
        for token in secret_subprotocols(&options.asked.subprotocols) {
            found.add(token);
        }
        if let Ok(Some(via)) = options.proxies.proxy_for(target)
            && let Some(basic) = via.authorization()
        {
            found.add_authorization(&basic);
        }
        // The longest first: one may be a part of another.
        found.0.sort_by_key(|it| std::cmp::Reverse(it.len()));
        found
    }

    /// A secret as written, and percent-decoded; both also as a query carries them, such as that of a
    /// redirect to a login.
    fn add(&mut self, secret: &str) {
        let decoded = percent_decode_str(secret).decode_utf8_lossy();
        for form in [secret, &*decoded].into_iter().filter(|it| it.len() >= SHORTEST) {
            self.0.push(utf8_percent_encode(form, NON_ALPHANUMERIC).to_string());
            self.0.push(form.to_owned());
        }
    }

    /// `user:password`, also as Basic authentication sends it (RFC 7617).
    fn add_credentials(&mut self, credentials: &str) {
        let decoded: Vec<u8> = percent_decode_str(credentials).collect();
        self.add(&BASE64.encode(&decoded));
        self.add(credentials.split_once(':').map_or(credentials, |(_, password)| password));
    }

    fn add_authorization(&mut self, value: &str) {
        let token = value.split_once(' ').map_or(value, |(_, token)| token);
        self.add(token);
        let credentials =
            BASE64.decode(token.as_bytes()).ok().and_then(|it| String::from_utf8(it).ok());
        if let Some((_, password)) = credentials.as_deref().and_then(|it| it.split_once(':')) {
            self.add(password);
        }
    }

    fn add_headers(&mut self, headers: &HeaderMap) {
        for (name, value) in headers.iter().filter(|(name, value)| is_secret_header(name, value)) {
            let value = String::from_utf8_lossy(value.as_bytes());
            self.add(&value);
            if name == COOKIE {
                value.split("; ").filter_map(|it| it.split_once('=')).for_each(|it| self.add(it.1));
            } else {
                self.add_authorization(&value);
            }
        }
    }

    /// Masks them wherever text from the network is in a report.
    pub(super) fn hide(&self, report: &mut Report) {
        let Report { answer, heads, agreed, redirects, failed, measured, .. } = report;
        let mut texts: Vec<&mut String> = vec![&mut report.url];
        texts.extend(&mut report.warnings);
        texts.extend(measured.texts());
        texts.extend([&mut report.greeting, &mut report.prefix].into_iter().flatten());
        if let Some(answer) = answer {
            texts.push(&mut answer.reason);
            texts.extend(answer.from.iter_mut().map(|(_, value)| value));
            texts.extend(&mut answer.location);
        }
        if let Some(heads) = heads {
            texts.extend(heads.request.iter_mut().chain(&mut heads.answer));
        }
        if let Some(agreed) = agreed {
            texts.extend([&mut agreed.subprotocol, &mut agreed.extensions].into_iter().flatten());
        }
        for redirect in redirects {
            texts.extend([&mut redirect.url, &mut redirect.location]);
        }
        if let Some(failed) = failed {
            texts.push(&mut failed.seen);
            texts.extend(&mut failed.quote);
        }
        for text in texts {
            for secret in &self.0 {
                if text.contains(secret) {
                    *text = text.replace(secret, "…");
                }
            }
            *text = self.without_beginnings(text);
        }
    }

    /// A text without the beginnings of secrets, where it was cut.
    fn without_beginnings(&self, text: &str) -> String {
        let mut pieces: Vec<&str> = text.split('…').collect();
        let rest = pieces.pop().unwrap_or_default();
        let mut masked = String::new();
        for piece in pieces {
            let lengths = self.0.iter().filter_map(|secret| {
                let shorter = (SHORTEST..secret.len()).rev();
                let mut starts = shorter.filter_map(|len| secret.get(..len));
                starts.find(|start| piece.ends_with(start)).map(str::len)
            });
            masked += &piece[..piece.len() - lengths.max().unwrap_or_default()];
            masked.push('…');
        }
        masked + rest
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probe::report::measured::{Cut, Idle, Limit, Refused, Size};

    #[test]
    fn a_secret_is_masked_where_a_measurement_quotes_it() {
        let close = || Cut::Close { code: Some(1011), reason: "no access for pa55word".to_owned() };
        let mut report = Report::default();
        let refused = Refused { bytes: 2, how: close(), probably: &[] };
        report.measured.size =
            Some(Size { largest_bytes: 1, limit_bytes: 2, refused: Some(refused) });
        let second = Duration::from_secs(1);
        report.measured.idle = Some(Idle {
            max: second,
            lived: second,
            limit: Limit::Cut { after: second, how: close(), probably: Vec::new() },
            accidents: 0,
            connections: 1,
        });
        Secrets(vec!["pa55word".to_owned()]).hide(&mut report);
        let shown = format!("{report:?}");
        assert_eq!(shown.matches("no access for …").count(), 2, "{shown}");
        assert!(!shown.contains("pa55word"), "{shown}");
    }
}
