//! How long the path lets a silent connection live.
//!
//! Owns the schedule. Several connections are silent for different times at once. One that is ended
//! meanwhile tells the limit by itself; one that was dropped silently is only found by a ping at its
//! end, and then the times between the last that lived and the first that did not are tried. A
//! connection that dies where a longer silence is survived is an accident.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, interval, sleep_until, timeout_at};

use super::{Path, Running, cut, known, next};
use crate::probe::failure::Failed;
use crate::probe::report::measured::{Cut, Idle, Limit};
use crate::probe::socket::{Incoming, Socket};
use crate::probe::target::Target;

/// The most connections at once: one below wsecho's own limit for a client.
const CONNECTIONS: usize = 15;
/// How long a pong may take; longer than the kernel waits for an acknowledgement.
const ANSWER: Duration = Duration::from_secs(5);
/// How exactly the limit is searched for.
const EXACT: Duration = Duration::from_secs(1);
/// How far apart one limit may end connections that began together.
const SPREAD: Duration = Duration::from_millis(1500);
/// What a server says at first is no end of the silence.
const GREETING: Duration = Duration::from_secs(1);
/// The most rounds of narrowing down.
const ROUNDS: usize = 8;

/// Tries silence of up to this long.
pub(super) async fn run(path: &Path<'_>, max: Duration) -> Result<Idle, Failed> {
    let mut idle =
        Idle { max, lived: Duration::ZERO, limit: Limit::None, accidents: 0, connections: 0 };
    let quiet = quiet_target(path).await;
    let quiet = Path { target: quiet.as_ref().unwrap_or(path.target), ..*path };
    for round in 0..ROUNDS {
        let dead = match &idle.limit {
            Limit::Dropped { by, .. } => Some(*by),
            _ => None,
        };
        let rungs = |count| ladder(idle.lived, dead, max, count);
        let sockets = match open(&quiet, rungs(CONNECTIONS).len()).await {
            Ok(sockets) => sockets,
            Err(failed) if round == 0 => return Err(failed),
            // Sessions that were dropped on the way may still fill the server's limit.
            Err(_) => break,
        };
        idle.connections = idle.connections.max(sockets.len());
        let rungs = rungs(sockets.len());
        if rungs.is_empty() {
            break;
        }
        match climb(&quiet, sockets, &rungs, &mut idle).await {
            // Narrowed down further, unless that is exact enough.
            Some(limit @ Limit::Dropped { .. }) => idle.limit = limit,
            Some(limit) => {
                idle.limit = limit;
                break;
            }
            None => break,
        }
    }
    if let Limit::Dropped { by, probably, .. } = &mut idle.limit {
        *probably = known::timeouts(idle.lived, *by);
    }
    Ok(idle)
}

/// The target with `ping=off`, which keeps wsecho silent, if the server takes that.
async fn quiet_target(path: &Path<'_>) -> Option<Target> {
    let mark = if path.target.path.contains('?') { '&' } else { '?' };
    let quiet = format!("{}{mark}ping=off", path.target.path);
    let target = Target { path: quiet, ..path.target.clone() };
    let opened = Path { target: &target, ..*path }.open().await;
    if let Ok(mut socket) = opened {
        bye(&mut socket).await;
        return Some(target);
    }
    None
}

/// Opens up to so many connections: as many as are admitted, but at least one.
async fn open(path: &Path<'_>, count: usize) -> Result<Vec<Socket>, Failed> {
    let mut opening: Running<_> = Vec::new();
    for _ in 0..count {
        opening.push(Box::pin(path.open()));
    }
    let mut sockets = Vec::new();
    let mut refused = None;
    while let Some(opened) = next(&mut opening).await {
        match opened {
            Ok(socket) => sockets.push(socket),
            Err(failed) => refused = Some(failed),
        }
    }
    match refused {
        Some(failed) if sockets.is_empty() => Err(failed),
        _ => Ok(sockets),
    }
}

/// The silences to try: known limits plus and minus half a second, and what fills the widest gaps.
/// The last is `max` as long as nothing is known to be dead.
fn ladder(lived: Duration, dead: Option<Duration>, max: Duration, count: usize) -> Vec<Duration> {
    let half = EXACT / 2;
    let end = dead.unwrap_or(max);
    let last = usize::from(dead.is_none());
    let mut rungs: Vec<Duration> = known::TIMEOUTS
        .iter()
        .map(|(seconds, _)| Duration::from_secs(*seconds))
        .flat_map(|known| [known - half, known + half])
        .filter(|rung| *rung > lived && *rung < end)
        .collect();
    rungs.sort_unstable();
    rungs.dedup();
    let room = count.saturating_sub(last);
    if rungs.len() > room {
        rungs = (0..room).map(|index| rungs[index * rungs.len() / room]).collect();
    }
    // Proportions do not help near zero.
    let floor = lived.max(EXACT / 2);
    while rungs.len() < room {
        let mut edges = vec![floor];
        edges.extend(rungs.iter().copied().filter(|rung| *rung > floor));
        edges.push(end);
        let gaps = edges.windows(2).filter(|gap| gap[1].saturating_sub(gap[0]) > EXACT);
        let ratio = |gap: &[Duration]| gap[1].as_secs_f64() / gap[0].as_secs_f64();
        let Some(widest) = gaps.max_by(|one, other| ratio(one).total_cmp(&ratio(other))) else {
            break;
        };
        let middle = (widest[0].as_secs_f64() * widest[1].as_secs_f64()).sqrt();
        rungs.push(Duration::from_secs_f64(middle));
        rungs.sort_unstable();
    }
    if last == 1 && count > 0 {
        rungs.push(end);
    }
    rungs
}

/// How the silence of one connection ended.
struct Silence {
    /// Its length.
    lasted: Duration,
    end: End,
}

enum End {
    /// A ping was answered after it.
    Lived,
    /// The server said something.
    Spoken,
    /// The connection ended by itself.
    Cut(Cut),
    /// A ping was not answered after it.
    Dead(Cut),
}

/// One round: each connection is silent for one of these times. Returns what limits them.
async fn climb(
    path: &Path<'_>,
    sockets: Vec<Socket>,
    rungs: &[Duration],
    idle: &mut Idle,
) -> Option<Limit> {
    let hurry = Notify::new();
    let begun = Instant::now();
    let mut silent: Running<_> = Vec::new();
    for (socket, rung) in sockets.into_iter().zip(rungs) {
        silent.push(Box::pin(silence(socket, *rung, &hurry)));
    }
    let mut second = interval(Duration::from_secs(1));
    // The first that died, and when the others are asked whether they did, too.
    let mut suspect: Option<(Silence, Instant)> = None;
    loop {
        let ask = suspect.as_ref().map_or(begun, |(_, ask)| *ask);
        let ended = tokio::select! {
            ended = next(&mut silent) => ended,
            () = sleep_until(ask), if suspect.is_some() => {
                hurry.notify_one();
                if let Some((_, ask)) = &mut suspect {
                    *ask += ANSWER * 2;
                }
                continue;
            }
            _ = second.tick() => {
                show(path, silent.len(), begun.elapsed(), idle);
                continue;
            }
        };
        let Some(silence) = ended else {
            return suspect.map(|(suspect, _)| limit(suspect));
        };
        match (silence.end, suspect.take()) {
            (End::Spoken, _) => return Some(Limit::Spoken { after: silence.lasted }),
            (End::Lived, before) => {
                idle.lived = idle.lived.max(silence.lasted);
                match before {
                    Some((dead, _)) if dead.lasted < silence.lasted => idle.accidents += 1,
                    before => suspect = before,
                }
            }
            (end, None) => {
                let ask = match end {
                    End::Cut(_) => Instant::now() + SPREAD,
                    _ => Instant::now(),
                };
                suspect = Some((Silence { lasted: silence.lasted, end }, ask));
            }
            // Two of them are no accident. One that ended by itself tells more.
            (end, Some((before, _))) => {
                let dead = Silence { lasted: silence.lasted, end };
                let visible = matches!((&before.end, &dead.end), (End::Dead(_), End::Cut(_)));
                return Some(limit(if visible { dead } else { before }));
            }
        }
    }
}

fn limit(silence: Silence) -> Limit {
    let Silence { lasted: after, end } = silence;
    match end {
        End::Cut(how) => {
            let half = EXACT / 2;
            let probably = known::timeouts(after.saturating_sub(half), after + half);
            Limit::Cut { after, how, probably }
        }
        End::Dead(how) => Limit::Dropped { by: after, how, probably: Vec::new() },
        End::Spoken => Limit::Spoken { after },
        End::Lived => Limit::None,
    }
}

/// Is silent for so long, or until the others want to know, then pings.
async fn silence(mut socket: Socket, rung: Duration, hurry: &Notify) -> Silence {
    let mut begun = Instant::now();
    loop {
        let incoming = tokio::select! {
            incoming = socket.next_or_ping() => incoming,
            () = sleep_until(begun + rung) => break,
            () = hurry.notified() => break,
        };
        let lasted = begun.elapsed();
        match incoming {
            None | Some(Incoming::Message(_) | Incoming::Pong(_)) if lasted < GREETING => {
                begun = Instant::now();
            }
            None | Some(Incoming::Message(_) | Incoming::Pong(_)) => {
                return Silence { lasted, end: End::Spoken };
            }
            Some(end) => return Silence { lasted, end: End::Cut(cut(end)) },
        }
    }
    let lasted = begun.elapsed();
    socket.ping(b"wsecho probe");
    let until = Instant::now() + ANSWER;
    let end = loop {
        match timeout_at(until, socket.next()).await {
            Ok(Incoming::Pong(_)) => break End::Lived,
            Ok(Incoming::Message(_)) => {}
            Ok(end) => break End::Dead(cut(end)),
            Err(_) => break End::Dead(Cut::Unanswered),
        }
    };
    if let End::Lived = end {
        bye(&mut socket).await;
    }
    Silence { lasted, end }
}

/// Closes politely.
async fn bye(socket: &mut Socket) {
    socket.close(1000);
    // Nothing depends on how it ends.
    let _ = timeout_at(Instant::now() + ANSWER, socket.next()).await;
}

fn show(path: &Path<'_>, silent: usize, since: Duration, idle: &Idle) {
    let [since, max, lived] = [since, idle.max, idle.lived].map(|it| it.as_secs());
    path.progress(&format!(
        "idle: {silent} connections silent for {since} s of {max} s at most, {lived} s is safe so far"
    ));
}
