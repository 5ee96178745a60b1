//! Which faults are certainly a proxy's, and not its clients': what the alert `WsechoProxyFault` counts.
//!
//! Owns that decision. It does not know requests, nor the verdicts.
//!
//! Any client can send half a handshake, and through a proxy that works it arrives as if the proxy had
//! dropped the other half. No single request can tell the two apart. But a client cannot forge which
//! address a trusted proxy names for it, and a proxy that drops parts of handshakes lets none through.
//! So each client counts once in 15 minutes, and none does while WebSockets are opened through the same
//! proxy.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::client_addr::ClientAddr;
use crate::net::addr::PeerAddr;

/// For how long a client and a WebSocket that was opened are remembered: the alert looks as far back.
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// How many of each are remembered.
const KEYS: usize = 4096;

/// What a proxy can do to a handshake that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It forwards only part of the upgrade.
    Upgrade,
    /// It replaces `Host`.
    Host,
}

/// What is remembered of proxies and their clients.
#[derive(Debug, Default)]
pub struct Blame(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When a handshake last came without this fault, by proxy.
    passed: HashMap<(Option<IpAddr>, Fault), Instant>,
    /// When this client last counted.
    counted: HashMap<IpAddr, Instant>,
}

impl Blame {
    /// Notes a handshake that this proxy forwarded without this fault.
    pub fn acquit(&self, proxy: PeerAddr, of: Fault) {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remember(&mut state.passed, (ClientAddr::from(proxy).ip(), of), now);
    }

    /// Whether a fault counts, in a request that this proxy forwarded for this client.
    #[must_use]
    pub fn counts(&self, proxy: PeerAddr, client: ClientAddr, fault: Fault) -> bool {
        let Some(client) = client.ip().map(network) else { return false };
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |then: &Instant| now < *then + WINDOW;
        let passes =
            state.passed.get(&(ClientAddr::from(proxy).ip(), fault)).is_some_and(is_recent);
        let counted = state.counted.get(&client).is_some_and(is_recent);
        !passes && !counted && remember(&mut state.counted, client, now)
    }
}

/// An IPv6 client can use any address of its network, and sites get up to a /48.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 80)).into(),
        IpAddr::V4(_) => client,
    }
}

/// Returns whether there was room.
fn remember<K: Eq + Hash>(times: &mut HashMap<K, Instant>, key: K, now: Instant) -> bool {
    if times.len() >= KEYS {
        times.retain(|_, then| now < *then + WINDOW);
    }
    let has_room = times.len() < KEYS || times.contains_key(&key);
    if has_room {
        times.insert(key, now);
    }
    has_room
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: PeerAddr = PeerAddr::Unix;

    fn client(text: &str) -> ClientAddr {
        ClientAddr::Ip(text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn each_client_counts_once_in_a_window() {
        let blame = Blame::default();
        let counts = |text: &str| blame.counts(PROXY, client(text), Fault::Upgrade);
        assert_eq!(
            [counts("192.0.2.1"), counts("192.0.2.1"), counts("192.0.2.2")],
            [true, false, true]
        );
        assert!(counts("2001:db8:1::1") && !counts("2001:db8:1:ffff::2"), "one site");
        assert!(!blame.counts(PROXY, ClientAddr::Unix, Fault::Upgrade), "no proxy named it");
        tokio::time::advance(WINDOW).await;
        assert!(counts("192.0.2.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_lets_websockets_through_is_not_blamed() {
        let blame = Blame::default();
        blame.acquit(PROXY, Fault::Upgrade);
        let other = PeerAddr::Tcp("10.0.0.1:9".parse().unwrap());
        for (proxy, text, fault, expected) in [
            (PROXY, "192.0.2.1", Fault::Upgrade, false),
            (PROXY, "192.0.2.1", Fault::Host, true),
            (other, "192.0.2.2", Fault::Upgrade, true),
        ] {
            assert_eq!(blame.counts(proxy, client(text), fault), expected, "{proxy:?} {fault:?}");
        }
        tokio::time::advance(WINDOW).await;
        assert!(blame.counts(PROXY, client("192.0.2.3"), Fault::Upgrade), "it may be broken since");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let blame = Blame::default();
        let counted = |index: u32| {
            let client = ClientAddr::Ip(IpAddr::from(index.to_be_bytes()));
            blame.counts(PROXY, client, Fault::Upgrade)
        };
        assert_eq!((0..5000).filter(|index| counted(*index)).count(), KEYS);
        tokio::time::advance(WINDOW).await;
        assert!(counted(9999));
        assert_eq!(blame.0.lock().unwrap().counted.len(), 1);
    }
}
