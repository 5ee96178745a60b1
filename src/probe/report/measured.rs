//! What the measurements of a probe found, as plain data.
//!
//! Owns the figures that follow from what was seen, such as percentiles and the interval that is safe.
//! It does not know how anything was measured.

use std::time::Duration;

/// The measurements that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// `--count`.
    pub count: Option<Count>,
    /// `--max-size`.
    pub size: Option<Size>,
    /// `--idle`.
    pub idle: Option<Idle>,
}

/// How something stopped working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A Close frame.
    Close {
        /// Its code, if it had one.
        code: Option<u16>,
        /// Its reason, escaped and cut.
        reason: String,
    },
    /// The connection was closed without a Close frame.
    Fin,
    /// The connection was reset.
    Reset,
    /// The kernel gave up on the connection, because nobody acknowledged what was sent.
    Unacknowledged,
    /// The connection failed in another way.
    Broken(String),
    /// What was sent was not answered in time.
    Unanswered,
    /// A message came back changed.
    Altered,
}

/// Round trips at fixed intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// What was sent: `messages` or `pings`.
    pub what: &'static str,
    /// From one to the next.
    pub interval: Duration,
    /// Each round trip in the order of sending; `None` if it never ended.
    pub round_trips: Vec<Option<Duration>>,
}

impl Count {
    /// How many were not answered.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.round_trips.iter().filter(|trip| trip.is_none()).count()
    }

    /// The share that was not answered, in percent.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "there are at most 100,000")]
    pub fn lost_percent(&self) -> f64 {
        self.lost() as f64 * 100.0 / self.round_trips.len().max(1) as f64
    }

    /// The round trip that this share, in percent, did not exceed; 0 is the shortest, 100 the longest.
    /// `None` if all were lost.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut times: Vec<_> = self.round_trips.iter().flatten().copied().collect();
        times.sort_unstable();
        let rank = (times.len() * percent).div_ceil(100);
        times.get(rank.saturating_sub(1)).copied()
    }
}

/// The largest message that makes the round trip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its payload; 0 if none came back.
    pub largest_bytes: usize,
    /// The largest that was to be tried.
    pub limit_bytes: usize,
    /// The smallest that did not come back; `None` if all did.
    pub refused: Option<Refused>,
}

/// A message that did not come back, alone on a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its payload.
    pub bytes: usize,
    /// What came instead.
    pub how: Cut,
    /// The products that have this limit by default.
    pub probably: &'static [&'static str],
}

/// How long the path lets a silent connection live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// The longest silence that was to be tried.
    pub max: Duration,
    /// The longest silence after which a connection still worked.
    pub lived: Duration,
    /// What ended longer ones.
    pub limit: Limit,
    /// Connections that ended sooner than others that were as silent: accidents.
    pub accidents: usize,
    /// The most connections that were open at once.
    pub connections: usize,
}

/// What ends silent connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Nothing, up to the longest silence that was tried.
    None,
    /// They are ended visibly.
    Cut {
        /// After so much silence.
        after: Duration,
        /// How.
        how: Cut,
        /// The timeouts that are as long by default.
        probably: Vec<&'static str>,
    },
    /// They are dropped silently, or end as soon as something is sent.
    Dropped {
        /// The shortest silence after which one no longer worked.
        by: Duration,
        /// What came of sending something.
        how: Cut,
        /// The timeouts that are as long by default.
        probably: Vec<&'static str>,
    },
    /// The server sends something by itself, so no connection is silent for longer.
    Spoken {
        /// After so much silence.
        after: Duration,
    },
}

impl Idle {
    /// The longest pause between messages or pings that is safe: two thirds of what is known to live,
    /// so that a late timer does no harm. `None` if the server spoke before anything was known.
    #[must_use]
    pub fn safe_pause(&self) -> Option<Duration> {
        let lives = match &self.limit {
            Limit::Cut { after, .. } => *after,
            Limit::None | Limit::Dropped { .. } => self.lived,
            Limit::Spoken { .. } => return None,
        };
        Some(floor(lives * 2 / 3)).filter(|pause| !pause.is_zero())
    }

    /// The `timeouts.ping_interval` of wsecho for that pause, at most the default: it pings up to a
    /// tenth later.
    #[must_use]
    pub fn ping_interval(&self) -> Option<Duration> {
        const DEFAULT: Duration = Duration::from_secs(25);
        self.safe_pause().map(|pause| floor(pause * 10 / 11).min(DEFAULT))
    }
}

/// Whole seconds, or tenths of them below ten.
fn floor(time: Duration) -> Duration {
    let unit = if time < Duration::from_secs(10) { 100 } else { 1000 };
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis / unit * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_round_trips_that_happened() {
        let trips = |count: u64| Count {
            what: "pings",
            interval: Duration::ZERO,
            round_trips: (1..=count).rev().map(|it| Some(Duration::from_millis(it))).collect(),
        };
        let found = |count, percent| trips(count).percentile(percent).map(|it| it.as_millis());
        assert_eq!([0, 50, 99, 100].map(|it| found(100, it)), [1, 50, 99, 100].map(Some));
        assert_eq!([0, 50, 99, 100].map(|it| found(3, it)), [1, 2, 3, 3].map(Some));
        assert_eq!(found(0, 50), None);
        let half = Count { round_trips: vec![None, Some(Duration::ZERO)], ..trips(0) };
        assert_eq!((half.lost(), half.lost_percent().to_string()), (1, "50".to_owned()));
    }

    #[test]
    fn the_pause_is_two_thirds_of_what_lives_and_pings_may_be_late() {
        let idle = |after| Idle {
            max: Duration::from_secs(300),
            lived: Duration::ZERO,
            limit: Limit::Cut {
                after: Duration::from_millis(after),
                how: Cut::Fin,
                probably: Vec::new(),
            },
            accidents: 0,
            connections: 1,
        };
        let pauses = |after| {
            let idle = idle(after);
            [idle.safe_pause(), idle.ping_interval()].map(|it| it.map(|it| it.as_millis()))
        };
        assert_eq!(pauses(60_003), [Some(40_000), Some(25_000)]);
        assert_eq!(pauses(30_000), [Some(20_000), Some(18_000)]);
        assert_eq!(pauses(3_000), [Some(2_000), Some(1_800)]);
        assert_eq!(pauses(0), [None, None]);
    }
}
