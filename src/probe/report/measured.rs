//! What the measurements of a probe found, as plain data.
//!
//! Owns the figures that follow from what was seen, such as percentiles and the interval that is safe.
//! It does not know how anything was measured.

use std::time::Duration;

/// The kinds of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measurement {
    /// `--count`.
    Count,
    /// `--max-size`.
    MaxSize,
    /// `--idle`.
    Idle,
    /// `--load`.
    Load,
}

impl Measurement {
    /// The option that asks for it.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Count => "--count",
            Self::MaxSize => "--max-size",
            Self::Idle => "--idle",
            Self::Load => "--load",
        }
    }
}

/// The measurements that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Which those are. What is `None` below all the same was not reached: the path failed first.
    pub asked: Vec<Measurement>,
    /// `--count`.
    pub count: Option<Count>,
    /// `--max-size`.
    pub size: Option<Size>,
    /// `--idle`.
    pub idle: Option<Idle>,
    /// `--load`.
    pub load: Option<Load>,
}

impl Measured {
    /// The text in it that came from the network.
    pub(in crate::probe) fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let refused = self.size.iter_mut().filter_map(|it| it.refused.as_mut());
        let limits = self.idle.iter_mut().map(|it| &mut it.limit);
        let ends = limits.filter_map(|limit| match limit {
            Limit::Cut { how, .. } | Limit::Dropped { how, .. } => Some(how),
            Limit::None | Limit::Spoken { .. } => None,
        });
        let cuts = refused.map(|it| &mut it.how).chain(ends);
        cuts.filter_map(|how| match how {
            Cut::Close { reason: text, .. } | Cut::Broken(text) => Some(text),
            _ => None,
        })
    }
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

impl Cut {
    /// The stable name in reports.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Close { .. } => "close_frame",
            Self::Fin => "fin",
            Self::Reset => "reset",
            Self::Unacknowledged => "unacknowledged",
            Self::Broken(_) => "broken",
            Self::Unanswered => "unanswered",
            Self::Altered => "altered",
        }
    }
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

impl Limit {
    /// The stable name in reports and metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cut { .. } => "cut",
            Self::Dropped { .. } => "dropped",
            Self::Spoken { .. } => "spoken",
        }
    }

    /// The silence at which it was seen.
    #[must_use]
    pub fn seen(&self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Cut { after, .. } | Self::Spoken { after } => Some(*after),
            Self::Dropped { by, .. } => Some(*by),
        }
    }

    /// How it shows, and the products that have it by default.
    #[must_use]
    pub fn cut(&self) -> Option<(&Cut, &[&'static str])> {
        match self {
            Self::Cut { how, probably, .. } | Self::Dropped { how, probably, .. } => {
                Some((how, probably))
            }
            Self::None | Self::Spoken { .. } => None,
        }
    }
}

impl Idle {
    /// The longest silence that a connection is known to survive.
    #[must_use]
    pub fn survived(&self) -> Duration {
        match &self.limit {
            Limit::Cut { after, .. } | Limit::Spoken { after } => *after,
            Limit::None | Limit::Dropped { .. } => self.lived,
        }
    }

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

/// What came back under load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The connections that were opened.
    pub connections: usize,
    /// When messages were sent.
    pub pace: Pace,
    /// Bytes of payload in each message.
    pub bytes: usize,
    /// From the first handshake to the end of the last.
    pub opening: Duration,
    /// From the first message to the last echo, and at least as long as messages were sent.
    pub took: Duration,
    /// Messages sent.
    pub sent: u64,
    /// Messages that came back; every byte of them was compared.
    pub echoed: u64,
    /// From when a message was due to its echo. In a closed loop it is due as soon as one before it has
    /// come back. `None` if nothing came back.
    pub latency: Option<Spread>,
    /// In an open loop, from when a message was due until it was sent: how late the probe or its socket
    /// was. It is part of `latency`.
    pub lag: Option<Spread>,
    /// Whether Ctrl-C ended it.
    pub interrupted: bool,
}

/// When messages are sent under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As soon as others have come back.
    Closed {
        /// Messages on their way on each connection.
        in_flight: u16,
    },
    /// At fixed times, whatever comes back.
    Open {
        /// Messages per second over all connections.
        rate: u32,
    },
}

/// How times are spread: each is one that so many per cent did not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The shortest.
    pub min: Duration,
    /// 50 %: the median.
    pub p50: Duration,
    /// 90 %.
    pub p90: Duration,
    /// 99 %.
    pub p99: Duration,
    /// 99.9 %.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

impl Load {
    /// Messages that came back per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
    pub fn rate(&self) -> f64 {
        per_second(self.echoed as f64, self.took)
    }

    /// Handshakes per second, TCP and TLS included; 16 are in flight at once.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "there are at most 1000")]
    pub fn handshake_rate(&self) -> f64 {
        per_second(self.connections as f64, self.opening)
    }
}

fn per_second(count: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count / time.as_secs_f64() }
}

impl Spread {
    /// Each with its stable name.
    #[must_use]
    pub fn all(&self) -> [(&'static str, Duration); 6] {
        let Self { min, p50, p90, p99, p999, max } = *self;
        [("min", min), ("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)]
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
