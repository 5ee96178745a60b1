//! What a session does besides echoing, because its client asked for it.
//!
//! Owns what can be asked for, and how many may ask to be left alone. It does not know how it is asked
//! for: in the query of a URL.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Scratch, Session};
use crate::net::stream::Transport;
use crate::ws::engine::{Echo, End};

/// Sessions at a time that are pinged later than usual, or never; only sending finds out that a client
/// has vanished, and whatever is sent restarts the timers along the path, whose length they are there
/// to measure.
const MOST_UNPINGED: usize = 100;

/// How a session differs from the others of its endpoint. Each part is a correct frame at a chosen time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// When a silent client is pinged.
    pub ping: Ping,
    /// A text that is sent before all else.
    pub greeting: Option<Box<str>>,
    /// When the session ends by itself.
    pub close: Option<Closing>,
    /// Whether each frame is answered by one frame, however long.
    pub whole_frames: bool,
}

/// When a silent client is pinged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ping {
    /// After `timeouts.ping_interval`.
    #[default]
    Usual,
    /// After a silence of exactly this length.
    After(Duration),
    /// Never.
    Off,
}

/// A Close that the server sends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// What is closed with.
    pub end: End,
    /// When it is sent.
    pub after: After,
}

/// When the server closes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// So long after the handshake; with nothing, before anything is echoed.
    Time(Duration),
    /// Behind the echo of so many messages, at least one.
    Messages(u64),
}

/// What a session does by itself, and when.
pub(super) enum Plan<'a> {
    /// It pings a client that is silent for so long.
    Usual(Duration),
    /// Boxed, because most sessions have none.
    Scripted(Box<Scripted<'a>>),
}

pub(super) struct Scripted<'a> {
    script: &'a Script,
    /// After which silence the client is pinged.
    ping: Option<Duration>,
    #[expect(dead_code, reason = "counted until it is dropped")]
    place: Option<Unpinged<'a>>,
}

impl<'a> Plan<'a> {
    /// A silent client is pinged as the script says, unless that takes a place and there is none: then,
    /// as without a script, after about `interval`.
    pub(super) fn new(
        script: Option<&'a Script>,
        interval: Duration,
        unpinged: &'a AtomicUsize,
    ) -> Self {
        // Clients that came together should not be pinged together.
        let usual = interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        let Some(script) = script else { return Self::Usual(usual) };
        let takes_place = match script.ping {
            Ping::Usual => false,
            Ping::After(silence) => silence > interval,
            Ping::Off => true,
        };
        let place = if takes_place { Unpinged::new(unpinged) } else { None };
        let ping = match script.ping {
            Ping::Off if place.is_some() => None,
            Ping::After(silence) if place.is_some() || !takes_place => Some(silence),
            _ => Some(usual),
        };
        Self::Scripted(Box::new(Scripted { script, ping, place }))
    }

    /// After which silence the client is pinged; `None` means never.
    pub(super) fn ping(&self) -> Option<Duration> {
        match self {
            Self::Usual(silence) => Some(*silence),
            Self::Scripted(scripted) => scripted.ping,
        }
    }

    /// What is sent before all else.
    fn greeting(&self) -> Option<&'a str> {
        match self {
            Self::Usual(_) => None,
            Self::Scripted(scripted) => scripted.script.greeting.as_deref(),
        }
    }

    /// The bytes of memory that it takes as long as the session lives.
    pub(super) fn held(&self) -> usize {
        self.greeting().map_or(0, str::len)
    }

    /// When to close after the handshake, and how, if a time is set.
    pub(super) fn close(&self) -> Option<(Duration, &'a Closing)> {
        let Self::Scripted(scripted) = self else { return None };
        match &scripted.script.close {
            Some(closing @ Closing { after: After::Time(time), .. }) => Some((*time, closing)),
            _ => None,
        }
    }
}

/// How a session echoes that has a script.
pub(super) fn echo(script: Option<&Script>, echo: Arc<Echo>) -> Arc<Echo> {
    let Some(Script { close, whole_frames, .. }) = script else { return echo };
    let last = match close {
        Some(Closing { end, after: After::Messages(messages) }) => {
            Some(Box::new((*messages, end.clone())))
        }
        _ => None,
    };
    if last.is_none() && !whole_frames {
        return echo;
    }
    let mut echo = Arc::unwrap_or_clone(echo);
    (echo.whole_frames, echo.last) = (*whole_frames, last);
    Arc::new(echo)
}

/// One session that is pinged later than usual, or never, counted as long as it lives.
struct Unpinged<'a>(&'a AtomicUsize);

impl<'a> Unpinged<'a> {
    fn new(all: &'a AtomicUsize) -> Option<Self> {
        let one = Self(all);
        let before = all.fetch_add(1, Ordering::Relaxed);
        (before < MOST_UNPINGED).then_some(one)
    }
}

impl Drop for Unpinged<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S: Transport> Session<'_, S> {
    /// Sends what comes before all else.
    pub(super) fn begin(&mut self, scratch: &mut Scratch) {
        let Scratch { out, spare, .. } = scratch;
        out.clear();
        if let Some(greeting) = self.plan.greeting() {
            self.engine.greet(greeting, out);
            self.owe(out, &[], 0, spare, self.began);
            self.backlog.begins_with_greeting();
        }
        if let Some((Duration::ZERO, closing)) = self.plan.close() {
            out.clear();
            self.engine.close_with(closing.end.clone(), out);
            self.owe(out, &[], 0, spare, self.began);
        }
    }
}
