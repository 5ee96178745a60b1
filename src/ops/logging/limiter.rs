//! A limit on the log lines that peers can cause without ever opening a WebSocket.
//!
//! Owns who was written about, and when. It does not know what a line says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A peer causes one line of a kind in this time.
const SILENCE: Duration = Duration::from_secs(60);
/// Peers and kinds that are remembered. Beyond them the rate of the kind alone is a limit.
const KEYS: usize = 1024;
/// Lines of one kind in one second, whoever causes them.
const RATE: u32 = 10;

/// Decides which lines are written. Memory and time are bounded whatever peers do.
#[derive(Debug)]
pub struct Limiter(Mutex<State>);

#[derive(Debug)]
struct State {
    told: HashMap<(Option<IpAddr>, &'static str), Instant>,
    kinds: HashMap<&'static str, Kind>,
    reported: Instant,
}

#[derive(Debug)]
struct Kind {
    second: Instant,
    lines: u32,
    left_out: u64,
}

impl Limiter {
    /// Nobody was written about yet.
    #[must_use]
    pub fn new() -> Self {
        let (told, kinds, reported) = (HashMap::new(), HashMap::new(), Instant::now());
        Self(Mutex::new(State { told, kinds, reported }))
    }

    /// Whether a line of this kind may be written about this peer now; `None` are all the peers
    /// without an address.
    pub fn admits(&self, peer: Option<IpAddr>, kind: &'static str) -> bool {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { told, kinds, .. } = &mut *state;
        let of_kind = kinds.entry(kind).or_insert(Kind { second: now, lines: 0, left_out: 0 });
        if now >= of_kind.second + Duration::from_secs(1) {
            (of_kind.second, of_kind.lines) = (now, 0);
        }
        let silent = told.get(&(peer, kind)).is_some_and(|last| now < *last + SILENCE);
        if silent || of_kind.lines == RATE {
            of_kind.left_out += 1;
            return false;
        }
        of_kind.lines += 1;
        if told.len() == KEYS {
            told.retain(|_, last| now < *last + SILENCE);
        }
        if told.len() < KEYS {
            told.insert((peer, kind), now);
        }
        true
    }

    /// Writes, at most once a minute, how many lines of each kind were left out.
    pub fn report(&self) {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now < state.reported + SILENCE {
            return;
        }
        state.reported = now;
        for (kind, Kind { left_out, .. }) in &mut state.kinds {
            let suppressed = std::mem::take(left_out);
            if suppressed > 0 {
                tracing::info!(reason = kind, suppressed, "more of the same was left out");
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
    async fn a_peer_causes_one_line_of_a_kind_in_a_minute() {
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
        assert!(limiter.0.lock().unwrap().told.len() <= KEYS);
    }
}
