//! A rate limit for the log lines that peers can cause.
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
/// Lines per second and peer about its sessions: below what journald accepts.
const SESSIONS: u32 = 20;
/// Peers whose sessions are logged in one second.
const SESSION_PEERS: usize = 16 * 1024;

/// Decides which lines are logged, in bounded memory and time whatever peers do.
#[derive(Debug)]
pub struct Limiter(Mutex<State>);

#[derive(Debug)]
struct State {
    logged: HashMap<(Option<IpAddr>, &'static str), Instant>,
    kinds: HashMap<&'static str, Kind>,
    reported: Instant,
    /// Lines about sessions of each peer, in this second.
    sessions: HashMap<Option<IpAddr>, u32>,
    second: Instant,
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
        let now = Instant::now();
        Self(Mutex::new(State {
            logged: HashMap::new(),
            kinds: HashMap::new(),
            reported: now,
            sessions: HashMap::new(),
            second: now,
        }))
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

    /// Whether the end of a session with this peer may be logged now: 20 a second are.
    pub fn admits_session(&self, peer: Option<IpAddr>, kind: &'static str) -> bool {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { kinds, sessions, second, .. } = &mut *state;
        if now >= *second + Duration::from_secs(1) {
            *second = now;
            sessions.clear();
        }
        let known = sessions.len() < SESSION_PEERS || sessions.contains_key(&peer);
        let lines = known.then(|| sessions.entry(peer).or_default()).filter(|it| **it < SESSIONS);
        if let Some(lines) = lines {
            *lines += 1;
            return true;
        }
        kinds.entry(kind).or_insert(Kind { second: now, lines: 0, suppressed: 0 }).suppressed += 1;
        false
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
    async fn a_peer_causes_twenty_lines_a_second_about_its_sessions_and_the_rest_are_counted() {
        let limiter = Limiter::new();
        let (one, two) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        let admitted = |peer| (0..50).filter(|_| limiter.admits_session(peer, "session")).count();
        assert_eq!((admitted(one), admitted(two), admitted(one)), (20, 20, 0));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(admitted(one), 20);
        assert_eq!(limiter.0.lock().unwrap().kinds["session"].suppressed, 30 + 30 + 50 + 30);
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_peers_with_sessions_takes_bounded_memory() {
        let limiter = Limiter::new();
        let peers = (0..u32::MAX).map(|peer| Some(IpAddr::from(peer.to_be_bytes())));
        let admitted = peers.take(2 * SESSION_PEERS).filter(|it| limiter.admits_session(*it, "a"));
        assert_eq!(admitted.count(), SESSION_PEERS);
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
