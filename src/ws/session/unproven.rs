//! What a client has been sent and has not yet proved that it read.
//!
//! Owns the count, and the rule that makes patience grow with it. It does not know who waits.
//!
//! A slow reader looks dead: at 1 KB/s the kernel of one with default buffers acknowledges nothing
//! for 130 s, and then as much at once as it would for a fast one. So whoever waits for a client
//! waits longer the more it may have to read first. An answered ping proves that everything sent
//! before the ping was read; a client that sends much but reads nothing proves nothing.

use std::time::Duration;

/// Beyond this many bytes patience does not grow: about what the kernels of both ends hold.
const MOST: u32 = 256 * 1024;
/// The kernel's own timeout is adjusted in steps of this many bytes. One takes 8 s, which is less
/// than what the kernel waits longer than we do.
const STEP: u32 = 8 * 1024;
/// How much longer than we the kernel waits: our own timer can tell a slow peer from a dead one.
const KERNEL_WAITS: Duration = Duration::from_secs(10);

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
        allowance(self.bytes, write)
    }

    /// How many full steps are unproven: only with them does the kernel's timeout change.
    #[inline]
    pub(super) fn steps(self) -> u32 {
        self.bytes / STEP
    }

    /// How long the kernel may wait for an acknowledgement: longer than we wait.
    pub(super) fn user_timeout(self, write: Duration) -> Duration {
        write + KERNEL_WAITS + allowance(self.steps() * STEP, write)
    }
}

fn allowance(bytes: u32, write: Duration) -> Duration {
    (write / 30).min(Duration::from_secs(1)) * bytes / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Duration = Duration::from_secs(30);

    #[test]
    fn patience_grows_with_what_is_unproven_up_to_262_seconds() {
        let mut unproven = Unproven::default();
        assert_eq!(unproven.allowance(WRITE), Duration::ZERO);
        unproven.sent(5000);
        assert_eq!(unproven.allowance(WRITE), Duration::from_secs(5));
        assert_eq!(unproven.allowance(2 * WRITE), Duration::from_secs(5));
        assert_eq!(unproven.allowance(WRITE / 5), Duration::from_secs(1));
        unproven.sent(usize::MAX);
        assert_eq!(unproven.allowance(WRITE).as_secs(), 262);
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

    #[test]
    fn the_kernel_always_waits_longer_than_we_do() {
        let mut unproven = Unproven::default();
        assert_eq!(unproven.user_timeout(WRITE), WRITE + KERNEL_WAITS);
        for _ in 0..MOST / 100 {
            unproven.sent(101);
            assert!(unproven.user_timeout(WRITE) > WRITE + unproven.allowance(WRITE));
        }
    }
}
