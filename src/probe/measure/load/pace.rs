//! When each message of an open loop is due.
//!
//! Owns the schedule, which no answer delays: message k of all is due k/rate after the begin, on the
//! connections in turn. Latency that counts from there is free of coordinated omission.

use std::io;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

const SECOND: u64 = 1_000_000_000;

/// Messages that are closer together than this are sent together.
const QUANTUM: Duration = Duration::from_micros(20);

/// The schedule of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Messages per second, over all connections.
    rate: u64,
    connections: u64,
    /// Messages in all.
    total: u64,
}

impl Schedule {
    pub(super) fn new(rate: u32, connections: usize, time: Duration) -> Self {
        let rate = u64::from(rate);
        let total = (nanos(time) * rate).div_ceil(SECOND);
        Self { rate, connections: connections as u64, total }
    }

    /// When a message of a connection is due, from the begin.
    pub(super) fn due(&self, connection: usize, index: u64) -> Duration {
        self.offset(index * self.connections + connection as u64)
    }

    /// How many messages of a connection are due after so much time.
    pub(super) fn count(&self, connection: usize, elapsed: Duration) -> u64 {
        self.so_far(elapsed).saturating_sub(connection as u64).div_ceil(self.connections)
    }

    fn offset(&self, message: u64) -> Duration {
        Duration::from_nanos((message * SECOND).div_ceil(self.rate))
    }

    /// How many messages of all are due.
    fn so_far(&self, elapsed: Duration) -> u64 {
        (nanos(elapsed) * self.rate / SECOND + 1).min(self.total)
    }

    /// Calls `wake` with each connection that has a message due, up to the last message.
    ///
    /// With a timer of the kernel, because those of tokio are up to two milliseconds late.
    pub(super) async fn run(&self, begun: Instant, wake: impl Fn(usize)) -> io::Result<()> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "an OwnedFd keeps the promise for which its successor is unsafe"
        )]
        let timer = AsyncFd::new(timer)?;
        let mut woken = 0;
        while woken < self.total {
            let wait = self.offset(woken).saturating_sub(begun.elapsed()).max(QUANTUM);
            let once = Itimerspec {
                it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                it_value: Timespec::try_from(wait).map_err(io::Error::other)?,
            };
            timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
            let expired = |timer: &_| Ok(rustix::io::read(timer, &mut [0; 8])?);
            timer.async_io(Interest::READABLE, expired).await?;
            let due = self.so_far(begun.elapsed());
            for message in woken..due.min(woken + self.connections) {
                wake(usize::try_from(message % self.connections).expect("it was an index"));
            }
            woken = due;
        }
        Ok(())
    }
}

/// No run is so long that this overflows, nor that a product with a rate does.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_due_once_and_evenly_over_all_connections() {
        for (rate, connections, seconds) in [(1, 1, 3), (10, 3, 1), (1000, 16, 2), (7, 10, 1)] {
            let time = Duration::from_secs(seconds);
            let schedule = Schedule::new(rate, connections, time);
            let all = (0..connections).map(|it| schedule.count(it, time)).sum::<u64>();
            assert_eq!(all, u64::from(rate) * seconds, "{rate}/s on {connections}");
            for connection in 0..connections {
                for index in 0..schedule.count(connection, time) {
                    let due = schedule.due(connection, index);
                    assert!(schedule.count(connection, due) > index, "{connection} {index}");
                    let before = due.checked_sub(Duration::from_nanos(1));
                    let counted = before.map_or(0, |time| schedule.count(connection, time));
                    assert_eq!(counted, index, "{rate}/s, connection {connection}");
                }
            }
        }
        let schedule = Schedule::new(1000, 4, Duration::from_secs(1));
        assert_eq!(schedule.due(0, 0), Duration::ZERO);
        assert_eq!(schedule.due(3, 2), Duration::from_millis(11));
    }
}
