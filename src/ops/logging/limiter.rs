//! A rate limit for the log lines that peers can cause without ever opening a WebSocket.
//!
//! Owns which peers were logged, and when. It does not know what a line says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A peer causes at most one line of a kind in this time.
const SILENCE: Duration = Duration::from_secs(60);
/// Peers and kinds that are remembered. Beyond that, only the rate of each kind is limited.
const KEYS: usize = 1024;
/// Lines of one kind per second, from all peers.
const RATE: u32 = 10;

/// Decides which lines are logged, in bounded memory and time whatever peers do.
#[derive(Debug)]
pub struct Limiter(Mutex<State>);

#[derive(Debug)]
struct State {
    logged: HashMap<(Option<IpAddr>, &'static str), Instant>,
    kinds: HashMap<&'static str, Kind>,
    reported: Instant,
}

#[derive(Debug)]
struct Kind {
    second: Instant,
    lines: u32,
    suppressed: u64,
}

impl Limiter {
    /// A limiter that has seen no peer yet.
    #[must_use]
    pub fn new() -> Self {
        let (logged, kinds, reported) = (HashMap::new(), HashMap::new(), Instant::now());
        Self(Mutex::new(State { logged, kinds, reported }))
    }

    /// Whether a line of this kind may be logged for this peer now; `None` stands for all peers
    /// without an address.
    pub fn admits(&self, peer: Option<IpAddr>, kind: &'static str) -> bool {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { logged, kinds, .. } = &mut *state;
        let of_kind = kinds.entry(kind).or_insert(Kind { second: now, lines: 0, suppressed: 0 });
        if now >= of_kind.second + Duration::from_secs(1) {
            (of_kind.second, of_kind.lines) = (now, 0);
        }
        let silent = logged.get(&(peer, kind)).is_some_and(|last| now < *last + SILENCE);
        if silent || of_kind.lines == RATE {
            of_kind.suppressed += 1;
            return false;
        }
        of_kind.lines += 1;
        if logged.len() == KEYS {
            logged.retain(|_, last| now < *last + SILENCE);
        }
        if logged.len() < KEYS {
            logged.insert((peer, kind), now);
        }
        true
    }

    /// Logs, at most once a minute, how many lines of each kind were suppressed.
    pub fn report(&self) {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now < state.reported + SILENCE {
            return;
        }
        state.reported = now;
        for (kind, Kind { suppressed, .. }) in &mut state.kinds {
            let suppressed = std::mem::take(suppressed);
            if suppressed > 0 {
                tracing::info!(reason = kind, suppressed, "similar lines were suppressed");
            }
        }
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_causes_one_line_of_a_kind_per_minute() {
        let limiter = Limiter::new();
        let (one, two) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        assert!(limiter.admits(one, "a") && limiter.admits(one, "b") && limiter.admits(two, "a"));
        assert!(!limiter.admits(one, "a"));
        tokio::time::advance(SILENCE).await;
        assert!(limiter.admits(one, "a") && !limiter.admits(one, "a"));
    }

    #[tokio::test(start_paused = true)]
    async fn many_peers_cause_ten_lines_a_second_and_bounded_memory() {
        let limiter = Limiter::new();
        let mut peers = (0..u32::MAX).map(|peer| Some(IpAddr::from(peer.to_be_bytes())));
        for _ in 0..200 {
            let admitted = peers.by_ref().take(50).filter(|peer| limiter.admits(*peer, "a"));
            assert_eq!(admitted.count(), RATE as usize);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(limiter.0.lock().unwrap().logged.len() <= KEYS);
    }
}
