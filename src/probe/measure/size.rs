//! The largest message that makes the round trip, and what comes instead of a larger one.
//!
//! Owns the search. Every refusal is that of one message alone on a new connection, so a limit on
//! what a connection carries in total is not mistaken for one on messages.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Path, cut, known};
use crate::probe::failure::Failed;
use crate::probe::report::measured::{Cut, Refused, Size};
use crate::probe::socket::{Incoming, Message, Socket};

/// The slowest path on which a message still comes back in time, in bytes per second each way.
const SLOWEST: usize = 256 * 1024;

/// Searches up to this limit, in bytes.
pub(super) async fn run(path: &Path<'_>, limit: usize) -> Result<Size, Failed> {
    let (mut largest, mut refused) = (0, None);
    let mut open = None;
    while let Some(bytes) = next(largest, refused.as_ref().map(|(bytes, _)| *bytes), limit) {
        path.progress(&format!("max-size: {largest} bytes came back, trying {bytes}"));
        match attempt(path, bytes, &mut open).await? {
            None => largest = bytes,
            Some(how) => refused = Some((bytes, how)),
        }
    }
    if let Some(mut socket) = open {
        socket.close(1000);
        // Nothing depends on how it ends.
        let _ = timeout_at(Instant::now() + path.options.timeout, socket.next()).await;
    }
    let refused = refused.map(|(bytes, how)| {
        let is_limit = matches!(how, Cut::Close { code: Some(1009), .. });
        Refused { bytes, how, probably: if is_limit { known::sizes(largest) } else { &[] } }
    });
    Ok(Size { largest_bytes: largest, limit_bytes: limit, refused })
}

/// The size to try next: by doubling, then next to powers of two, where limits are, then by halving.
fn next(largest: usize, refused: Option<usize>, limit: usize) -> Option<usize> {
    match refused {
        None if largest >= limit => None,
        None => Some((largest * 2).clamp(1024, limit.max(1024)).min(limit)),
        Some(refused) if refused <= largest + 1 => None,
        Some(refused) if refused.is_power_of_two() => Some(refused - 1),
        Some(_) if largest.is_power_of_two() => Some(largest + 1),
        Some(refused) => Some(largest + (refused - largest) / 2),
    }
}

/// Sends a message of so many bytes and waits for it; what comes instead, if it does not come back.
async fn attempt(
    path: &Path<'_>,
    bytes: usize,
    open: &mut Option<Socket>,
) -> Result<Option<Cut>, Failed> {
    let payload: Vec<u8> = (0..bytes).map(|_| fastrand::u8(..)).collect();
    let message = Message { is_text: false, compressed: false, payload, frames: 1 };
    loop {
        let used = open.take();
        let is_new = used.is_none();
        let mut socket = match used {
            Some(socket) => socket,
            None => path.open().await?,
        };
        let how = round_trip(&mut socket, &message, path.options.timeout).await;
        if how.is_none() {
            *open = Some(socket);
        }
        if how.is_none() || is_new {
            return Ok(how);
        }
    }
}

async fn round_trip(socket: &mut Socket, message: &Message, timeout: Duration) -> Option<Cut> {
    // The server may put something before it.
    socket.allow(message.payload.len() + 1024);
    socket.send(message);
    let seconds = message.payload.len() / SLOWEST;
    let until = Instant::now() + timeout + Duration::from_secs(seconds as u64);
    loop {
        match timeout_at(until, socket.next()).await {
            Ok(Incoming::Message(came)) if came.payload == message.payload => return None,
            // A greeting, or a pong that nobody asked for.
            Ok(Incoming::Message(Message { is_text: true, .. }) | Incoming::Pong(_)) => {}
            Ok(other) => return Some(cut(other)),
            Err(_) => return Some(Cut::Unanswered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a path that takes up to `most` bytes is asked, and what is found.
    fn search(most: usize, limit: usize) -> (Vec<usize>, usize) {
        let (mut tried, mut largest, mut refused) = (Vec::new(), 0, None);
        while let Some(bytes) = next(largest, refused, limit) {
            tried.push(bytes);
            if bytes <= most {
                largest = bytes;
            } else {
                refused = Some(bytes);
            }
        }
        (tried, largest)
    }

    #[test]
    fn every_limit_is_found_exactly_and_powers_of_two_soon() {
        for most in (0..3000).chain([65_535, 65_536, 65_537, 100_000, 1 << 20, (4 << 20) - 1]) {
            let (tried, largest) = search(most, 16 << 20);
            assert_eq!(largest, most);
            assert!(tried.len() < 50, "{most}: {tried:?}");
        }
        let (tried, _) = search(1 << 20, 16 << 20);
        assert_eq!(tried[tried.len() - 3..], [2 << 20, (2 << 20) - 1, (1 << 20) + 1]);
    }

    #[test]
    fn nothing_beyond_the_limit_is_tried() {
        for limit in [1, 1000, 1024, 5000] {
            let (tried, largest) = search(1 << 20, limit);
            assert_eq!((tried.iter().max(), largest), (Some(&limit), limit));
        }
    }
}
