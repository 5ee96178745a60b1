//! What is wrong in front although WebSockets pass, in a label and a sentence.
//!
//! Owns both, and what gives each away. It does not know requests.

use std::fmt;

use super::{NGINX, Remedy, host_remedy};
use crate::ops::metrics::Label;
use crate::proxy::client_addr::{Account, Because, Disbelief};

/// Something in front that works, and still hides from the service what it should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// `Host` names the upstream instead of the site.
    HostLost,
    /// No proxy says whether the client used TLS.
    SchemeUnknown,
    /// The sender of the forwarding headers is not trusted.
    PeerUntrusted,
    /// What is taken for the client names others before it.
    HopUntrusted,
    /// Two headers name different clients.
    HeadersDisagree,
    /// `X-Real-IP` is not a single address.
    BadXRealIp,
}

impl Warning {
    /// Judges what became of a request's forwarding headers. `host_lost` says whether a proxy
    /// replaced `Host`.
    #[must_use]
    pub fn all(account: &Account, host_lost: bool) -> Vec<Self> {
        let Account { client, ignored, .. } = account;
        let untrusted = matches!(client.because, Because::PeerUntrusted | Because::ProxyUntrusted);
        let has_more = ignored.iter().any(|it| it.because == Disbelief::WrittenByClient);
        [
            (Self::HostLost, host_lost),
            (Self::SchemeUnknown, client.is_forwarded() && client.scheme.is_none()),
            (Self::PeerUntrusted, untrusted),
            (Self::HopUntrusted, has_more),
            (Self::HeadersDisagree, matches!(client.because, Because::Disagree(..))),
            (Self::BadXRealIp, client.because == Because::BadXRealIp),
        ]
        .into_iter()
        .filter_map(|(warning, holds)| holds.then_some(warning))
        .collect()
    }

    /// The lines that fix it, where the proxy lacks some.
    #[must_use]
    pub fn remedy(self) -> Option<Remedy> {
        const REAL_IP: &str = "proxy_set_header X-Real-IP $remote_addr;";
        const SET_ALL: &str = "any other proxy: set each of these headers itself, or remove it";
        let (lines, elsewhere) = match self {
            Self::HostLost => return Some(host_remedy()),
            Self::PeerUntrusted | Self::HopUntrusted => return None,
            Self::SchemeUnknown => (
                vec!["proxy_set_header X-Forwarded-Proto $scheme;"],
                "any other proxy: set X-Forwarded-Proto to http or https",
            ),
            Self::HeadersDisagree => {
                let usual = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
                (vec![usual, REAL_IP, "proxy_set_header Forwarded \"\";"], SET_ALL)
            }
            Self::BadXRealIp => (vec![REAL_IP], SET_ALL),
        };
        Some(Remedy { location: NGINX, lines, elsewhere })
    }
}

impl Label for Warning {
    fn label(&self) -> &'static str {
        match self {
            Self::HostLost => "host_lost",
            Self::SchemeUnknown => "scheme_unknown",
            Self::PeerUntrusted => "peer_untrusted",
            Self::HopUntrusted => "hop_untrusted",
            Self::HeadersDisagree => "headers_disagree",
            Self::BadXRealIp => "bad_x_real_ip",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostLost => {
                "the proxy in front replaced `Host`: with origins = \"same-host\", pages of this \
                 site are refused"
            }
            Self::SchemeUnknown => {
                "no proxy says whether the client used http or https: X-Forwarded-Proto is missing"
            }
            Self::PeerUntrusted => {
                "forwarding headers came from somebody who is not in proxy.trusted: if that is your \
                 proxy, add it there; otherwise a client made them up"
            }
            Self::HopUntrusted => {
                "what is taken for the client names others before it: if it is a proxy of yours, \
                 add it to proxy.trusted; otherwise the client made them up"
            }
            Self::HeadersDisagree => {
                "two forwarding headers name different clients, so neither is believed"
            }
            Self::BadXRealIp => "X-Real-IP is not a single address, so it is not believed",
        })
    }
}
