//! Draining: the only way to start a task, and the guarantee that each one ends.
//!
//! Owns the set of running tasks, the moment at which draining begins, and the schedule by which
//! sessions end. It does not know what a task does, nor what a Close frame is.
//!
//! hyper's graceful shutdown forgets a connection once it is upgraded, so the service tracks every
//! task itself: `clippy.toml` forbids `tokio::spawn`, and [`Drain::spawn`] takes its place.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// How long a drain may take, and how it is spread: `[shutdown]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    /// From the first SIGTERM until whatever still runs is aborted.
    pub timeout: Duration,
    /// The time over which sessions are closed, so that clients do not all reconnect at once.
    pub spread: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), spread: Duration::from_secs(5) }
    }
}

struct Schedule {
    begun: Instant,
    times: Times,
    tasks: u32,
    tickets: AtomicU32,
}

#[derive(Default)]
struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    schedule: OnceLock<Schedule>,
}

impl Tasks {
    /// The schedule of the drain, which has begun.
    fn schedule(&self) -> &Schedule {
        self.schedule.get().expect("`begin` sets the schedule before the token")
    }
}

/// A handle on the set of all tasks; clones share it.
#[derive(Clone, Default)]
pub struct Drain(Arc<Tasks>);

impl Drain {
    /// Starts a task that [`Drain::wait`] waits for. A panic ends only this task.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        #[expect(clippy::disallowed_methods, reason = "every task is tracked here")]
        self.0.tracker.spawn(task);
    }

    /// Begins draining; a second call changes nothing.
    pub fn begin(&self, times: Times) {
        self.0.schedule.get_or_init(|| Schedule {
            begun: Instant::now(),
            times,
            tasks: u32::try_from(self.running()).unwrap_or(u32::MAX).max(1),
            tickets: AtomicU32::new(0),
        });
        self.0.tracker.close();
        self.0.token.cancel();
    }

    /// Whether [`Drain::begin`] was called. Cheap enough for every read of a session.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.schedule.get().is_some()
    }

    /// The number of running tasks.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.tracker.len()
    }

    /// When whatever still runs is aborted; `None` before the drain begins.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.schedule.get().map(|schedule| schedule.begun + schedule.times.timeout)
    }

    /// Waits until the drain begins. Cancel safe.
    pub fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.0.token.cancelled()
    }

    /// Hands out the next slot: the time from which a session closes at its next message boundary.
    /// Slots are spread evenly over `spread`, and the first is due at once.
    ///
    /// # Panics
    /// Before the drain begins.
    #[must_use]
    pub fn slot(&self) -> Instant {
        let schedule = self.0.schedule();
        let ticket = schedule.tickets.fetch_add(1, Ordering::Relaxed).min(schedule.tasks);
        schedule.begun + schedule.times.spread * ticket / schedule.tasks
    }

    /// Waits until every task has ended, or the deadline of the drain, and returns how many are
    /// left. Those are dropped with the runtime.
    pub async fn wait(&self) -> usize {
        self.begun().await;
        let schedule = self.0.schedule();
        let deadline = schedule.begun + schedule.times.timeout;
        // A timeout is no error here: what remains is counted below.
        let _ = timeout_at(deadline, self.0.tracker.wait()).await;
        self.running()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(timeout: u64, spread: u64) -> Times {
        Times { timeout: Duration::from_secs(timeout), spread: Duration::from_secs(spread) }
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_spread_evenly_and_the_first_is_due_at_once() {
        let drain = Drain::default();
        for _ in 0..4 {
            let task = drain.clone();
            drain.spawn(async move {
                task.begun().await;
                std::future::pending::<()>().await;
            });
        }
        let begun = Instant::now();
        let waiting = drain.clone();
        drain.begin(times(30, 8));
        let due: [u64; 3] = std::array::from_fn(|_| (waiting.slot() - begun).as_secs());
        assert_eq!(due, [0, 2, 4]);
        assert_eq!(waiting.wait().await, 4, "the stuck tasks are counted");
        assert_eq!(begun.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panicking_task_ends_alone() {
        let drain = Drain::default();
        let (tell, told) = tokio::sync::oneshot::channel();
        drain.spawn(async { panic!("on purpose") });
        let other = drain.clone();
        drain.spawn(async move {
            other.begun().await;
            tell.send("alive").expect("the test listens");
        });
        tokio::task::yield_now().await;
        drain.begin(times(30, 0));
        assert_eq!(drain.wait().await, 0);
        assert_eq!(told.await, Ok("alive"));
    }
}
