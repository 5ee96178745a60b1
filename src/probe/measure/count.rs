//! Round trips at fixed intervals, and how many are lost.
//!
//! Owns the schedule: each is sent when it is due, whether or not the one before has come back.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Path;
use crate::probe::failure::{Failed, Failure};
use crate::probe::report::measured::Count;
use crate::probe::report::terminal::{milliseconds, sparkline};
use crate::probe::socket::{Incoming, Message, Socket};
use crate::probe::talk::ended;

/// How often progress is shown at most.
const REFRESH: Duration = Duration::from_millis(100);

/// What was sent and has not come back.
struct Pending {
    index: usize,
    payload: Vec<u8>,
    sent: Instant,
}

/// Sends so many. If some are lost, that is a failure.
pub(super) async fn run(
    path: &Path<'_>,
    count: u32,
    interval: Duration,
) -> Result<(Count, Option<Failed>), Failed> {
    let mut socket = path.open().await?;
    let what = if path.echoes() { "messages" } else { "pings" };
    let mut counted = Count { what, interval, round_trips: Vec::new() };
    let mut pending = VecDeque::new();
    let begun = Instant::now();
    let mut shown = begun;
    let end = loop {
        let number = u32::try_from(counted.round_trips.len()).unwrap_or(u32::MAX);
        let all_sent = number >= count;
        let Some(due) = (if all_sent {
            // The last one has as much time as a whole probe.
            pending.back().map(|last: &Pending| last.sent + path.options.timeout)
        } else {
            Some(begun + interval * number)
        }) else {
            break None;
        };
        tokio::select! {
            incoming = socket.next() => {
                if let Some(end) = settle(incoming, &mut pending, &mut counted) {
                    break Some(end);
                }
            }
            () = sleep_until(due) => {
                if all_sent {
                    break None;
                }
                pending.push_back(send(&mut socket, &mut counted));
            }
        }
        if shown.elapsed() > REFRESH {
            shown = Instant::now();
            show(path, &counted, count);
        }
    };
    let lost = counted.lost();
    let failed = match end {
        Some(end) => {
            let first = pending.front().map_or(counted.round_trips.len(), |first| first.index);
            let one = what.trim_end_matches('s');
            Some(ended(end, &format!("the answer to {one} {} of {count}", first + 1)))
        }
        None if lost > 0 => {
            let seen = format!("{lost} of {count} {what} did not come back.");
            Some(Failed::new(Failure::MessagesLost, seen))
        }
        None => {
            socket.close(1000);
            let _ = tokio::time::timeout(path.options.timeout, socket.next()).await;
            None
        }
    };
    Ok((counted, failed))
}

fn send(socket: &mut Socket, counted: &mut Count) -> Pending {
    let index = counted.round_trips.len();
    let payload = format!("wsecho probe {index} {:08x}", fastrand::u32(..)).into_bytes();
    if counted.what == "pings" {
        socket.ping(&payload);
    } else {
        let payload = payload.clone();
        socket.send(&Message { is_text: true, compressed: false, payload, frames: 1 });
    }
    counted.round_trips.push(None);
    Pending { index, payload, sent: Instant::now() }
}

/// Records what came back. Returns what ends the connection.
fn settle(
    incoming: Incoming,
    pending: &mut VecDeque<Pending>,
    counted: &mut Count,
) -> Option<Incoming> {
    let payload = match incoming {
        Incoming::Message(Message { payload, .. }) | Incoming::Pong(payload) => payload,
        end => return Some(end),
    };
    // A server may put a prefix before a text.
    if let Some(at) = pending.iter().position(|sent| payload.ends_with(&sent.payload))
        && let Some(Pending { index, sent, .. }) = pending.remove(at)
    {
        counted.round_trips[index] = Some(sent.elapsed());
    }
    None
}

fn show(path: &Path<'_>, counted: &Count, count: u32) {
    let median = counted.percentile(50).map(milliseconds).unwrap_or_default();
    let done = counted.round_trips.len();
    let line = sparkline(&counted.round_trips, 40);
    path.progress(&format!("count: {done} of {count}, median {median} {line}"));
}
