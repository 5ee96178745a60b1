//! What a client has been sent and has not yet proved that it read.
//!
//! Owns the count, and the rule that makes patience grow with it. It does not know who waits.
//!
//! A slow reader looks dead: at 1 KB/s the kernel of one with default buffers acknowledges nothing
//! for 130 s, and then as much at once as it would for a fast one. So whoever waits for a client
//! waits longer the more it may have to read first. An answered ping proves that everything sent
//! before the ping was read; a client that sends much but reads nothing proves nothing.

use std::time::Duration;

/// Beyond this many bytes patience does not grow: what the kernels of both ends hold for a client
/// with a receive buffer of 256 KiB.
const MOST: u32 = 448 * 1024;
/// From this many bytes on the kernel's own timeout is off. Its clock may run on for as long as a
/// small window opens and shuts, although bytes are acknowledged all the time: no time is enough.
const MUCH: u32 = 8 * 1024;

/// Bytes that were sent, and may be unread.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unproven {
    bytes: u32,
    since_ping: u32,
}

impl Unproven {
    /// The socket took this many bytes.
    #[inline]
    pub(super) fn sent(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(MOST);
        self.bytes = self.bytes.saturating_add(bytes).min(MOST);
        self.since_ping = self.since_ping.saturating_add(bytes).min(MOST);
    }

    /// A ping is about to be sent.
    pub(super) fn pinged(&mut self) {
        self.since_ping = 0;
    }

    /// Something came after the ping.
    pub(super) fn proved(&mut self) {
        self.bytes = self.since_ping;
    }

    /// How much longer than configured to wait: 1 s for each 1,000 bytes, or a thirtieth of
    /// `timeouts.write` if that is less.
    pub(super) fn allowance(self, write: Duration) -> Duration {
        (write / 30).min(Duration::from_secs(1)) * self.bytes / 1000
    }

    /// Whether so much is unproven that only we may judge the client.
    #[inline]
    pub(super) fn is_much(self) -> bool {
        self.bytes >= MUCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Duration = Duration::from_secs(30);

    #[test]
    fn patience_grows_with_what_is_unproven_up_to_458_seconds() {
        let mut unproven = Unproven::default();
        assert_eq!(unproven.allowance(WRITE), Duration::ZERO);
        unproven.sent(5000);
        assert_eq!(unproven.allowance(WRITE), Duration::from_secs(5));
        assert_eq!(unproven.allowance(2 * WRITE), Duration::from_secs(5));
        assert_eq!(unproven.allowance(WRITE / 5), Duration::from_secs(1));
        unproven.sent(usize::MAX);
        assert_eq!(unproven.allowance(WRITE).as_secs(), 458);
    }

    #[test]
    fn an_answered_ping_proves_what_was_sent_before_it_and_no_more() {
        let mut unproven = Unproven::default();
        unproven.sent(100_000);
        unproven.pinged();
        unproven.sent(7000);
        unproven.proved();
        assert_eq!(unproven.allowance(WRITE).as_secs(), 7);
    }
}
