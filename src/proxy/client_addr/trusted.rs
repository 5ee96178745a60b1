//! Which peers are trusted: `proxy.trusted`.
//!
//! Owns how its entries are written and compared. It does not know what they are trusted with.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::ClientAddr;
use crate::net::addr::PeerAddr;

/// Who is trusted: an entry of `proxy.trusted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedPeer {
    /// Addresses, such as `10.0.0.0/8` or `::1`.
    Network(IpNet),
    /// `unix`: every client of a Unix socket.
    Unix,
}

/// Why a text is not a [`TrustedPeer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTrustedError {
    /// Not one of the known forms.
    #[error("not a network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"")]
    Form,
    /// A host name, which may resolve to another address without notice.
    #[error("host names are not resolved: write an address or a network, e.g. \"192.0.2.0/24\"")]
    Name,
    /// The prefix is missing, or has more bits than the address.
    #[error("the prefix of this network must be a number from 0 to {0}")]
    Prefix(u8),
    /// Bits after the prefix are set, so it is unclear whether the network or the address is meant.
    #[error(
        "an address inside a network: write \"{0}\" for the network or \"{1}\" for the address"
    )]
    HostBits(IpNet, IpAddr),
}

impl FromStr for TrustedPeer {
    type Err = ParseTrustedError;

    fn from_str(text: &str) -> Result<Self, ParseTrustedError> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let Ok(addr) = addr.parse::<IpAddr>() else {
            let name =
                addr.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
            let letters = addr.bytes().any(|byte| byte.is_ascii_alphabetic());
            return Err(if name && letters {
                ParseTrustedError::Name
            } else {
                ParseTrustedError::Form
            });
        };
        let max = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => max,
            Some(digits) if !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(ParseTrustedError::Form);
            }
            Some(digits) => {
                let prefix = digits.parse().ok().filter(|prefix| *prefix <= max);
                prefix.ok_or(ParseTrustedError::Prefix(max))?
            }
        };
        let network = IpNet::new_assert(addr, prefix);
        if network.addr() != network.network() {
            return Err(ParseTrustedError::HostBits(network.trunc(), addr));
        }
        Ok(Self::Network(canonical(network)))
    }
}

/// Addresses are compared in canonical form, where an IPv4-mapped IPv6 address is IPv4.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= MAPPED => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new_assert(v4, v6.prefix_len() - MAPPED).into(),
            None => network,
        },
        _ => network,
    }
}

impl fmt::Display for TrustedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Everyone who is trusted: `proxy.trusted`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted(Vec<TrustedPeer>);

impl Default for Trusted {
    /// This machine: loopback and Unix sockets.
    fn default() -> Self {
        let loopback = [
            Ipv4Net::new_assert([127, 0, 0, 0].into(), 8).into(),
            Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
        ];
        loopback.map(TrustedPeer::Network).into_iter().chain([TrustedPeer::Unix]).collect()
    }
}

impl FromIterator<TrustedPeer> for Trusted {
    fn from_iter<I: IntoIterator<Item = TrustedPeer>>(peers: I) -> Self {
        Self(peers.into_iter().collect())
    }
}

impl Trusted {
    /// Whether `peer` is believed when it speaks for others.
    #[must_use]
    pub fn contains(&self, peer: PeerAddr) -> bool {
        self.trusts(peer.into())
    }

    pub(super) fn trusts(&self, hop: ClientAddr) -> bool {
        self.0.iter().any(|trusted| match (trusted, hop.ip()) {
            (TrustedPeer::Network(network), Some(ip)) => network.contains(&ip),
            (TrustedPeer::Unix, None) => true,
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_trusted_by_default() {
        let listed: Vec<_> = Trusted::default().0.iter().map(ToString::to_string).collect();
        assert_eq!(listed, ["127.0.0.0/8", "::1/128", "unix"]);
        let read = listed.iter().map(|text| text.parse::<TrustedPeer>().unwrap()).collect();
        assert_eq!(Trusted::default(), read);
    }

    #[test]
    fn an_entry_of_trusted_is_a_network_an_address_or_unix() {
        for (text, expected) in [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("192.0.2.1", Ok("192.0.2.1/32")),
            ("2001:db8::/32", Ok("2001:db8::/32")),
            ("::1", Ok("::1/128")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("::ffff:10.0.0.0/104", Ok("10.0.0.0/8")),
            ("::ffff:192.0.2.1", Ok("192.0.2.1/32")),
            ("unix", Ok("unix")),
            (
                "10.0.0.1/8",
                Err(
                    "an address inside a network: write \"10.0.0.0/8\" for the network or \"10.0.0.1\" for the address",
                ),
            ),
            (
                "2001:db8::1/32",
                Err(
                    "an address inside a network: write \"2001:db8::/32\" for the network or \"2001:db8::1\" for the address",
                ),
            ),
            (
                "proxy.example",
                Err(
                    "host names are not resolved: write an address or a network, e.g. \"192.0.2.0/24\"",
                ),
            ),
            (
                "localhost/8",
                Err(
                    "host names are not resolved: write an address or a network, e.g. \"192.0.2.0/24\"",
                ),
            ),
            ("10.0.0.0/33", Err("the prefix of this network must be a number from 0 to 32")),
            ("10.0.0.0/", Err("the prefix of this network must be a number from 0 to 32")),
            ("::/129", Err("the prefix of this network must be a number from 0 to 128")),
            ("::/999", Err("the prefix of this network must be a number from 0 to 128")),
            (
                "10.0.0.0/255.0.0.0",
                Err(
                    "not a network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"",
                ),
            ),
            (
                "10.0.0.0/+8",
                Err(
                    "not a network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"",
                ),
            ),
            (
                "10.*",
                Err(
                    "not a network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"",
                ),
            ),
            (
                "010.0.0.0/8",
                Err(
                    "not a network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"",
                ),
            ),
            (
                "127.0.0.1:80",
                Err(
                    "not a network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"",
                ),
            ),
            (
                "unix:/run/x",
                Err(
                    "not a network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"",
                ),
            ),
            (
                "",
                Err(
                    "not a network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"",
                ),
            ),
        ] {
            let read = text.parse::<TrustedPeer>();
            let read = read.map(|peer| peer.to_string()).map_err(|error| error.to_string());
            assert_eq!(read, expected.map(Into::into).map_err(Into::into), "{text:?}");
        }
    }
}
