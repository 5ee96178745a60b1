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
/// What a server says so soon after the handshake is no end of the silence.
const GREETING: Duration = Duration::from_secs(1);
/// The most rounds of narrowing down.
const ROUNDS: usize = 8;

/// Tries silence of up to this long.
pub(super) async fn run(path: &Path<'_>, max: Duration) -> Result<Idle, Failed> {
    let quiet = quiet_target(path).await;
    let quiet = Path { target: quiet.as_ref().unwrap_or(path.target), ..*path };
    let show = |silent: usize, since: Duration, idle: &Idle| {
        let [since, max, lived] = [since, idle.max, idle.lived].map(|it| it.as_secs());
        path.progress(&format!(
            "idle: {silent} connections silent for {since} s of {max} s, {lived} s is safe so far"
        ));
    };
    search(max, async |count| open(&quiet, count).await, &show).await
}

/// Round after round, on connections from `open`, which may be fewer than it is asked for.
async fn search(
    max: Duration,
    open: impl AsyncFn(usize) -> Result<Vec<Socket>, Failed>,
    show: &dyn Fn(usize, Duration, &Idle),
) -> Result<Idle, Failed> {
    let mut idle =
        Idle { max, lived: Duration::ZERO, limit: Limit::None, accidents: 0, connections: 0 };
    for round in 0..ROUNDS {
        let dead = match &idle.limit {
            Limit::Dropped { by, .. } => Some(*by),
            _ => None,
        };
        let lived = idle.lived;
        let rungs = |count| ladder(lived, dead, max, count);
        let sockets = match open(rungs(CONNECTIONS).len()).await {
            Ok(sockets) => sockets,
            Err(failed) if round == 0 => return Err(failed),
            // Sessions that were dropped on the way may still fill the server's limit.
            Err(_) => break,
        };
        idle.connections = idle.connections.max(sockets.len());
        let rungs = rungs(sockets.len());
        match climb(sockets, &rungs, &mut idle, show).await {
            // To be narrowed down further.
            Some(limit @ Limit::Dropped { .. }) => idle.limit = limit,
            Some(limit) => {
                idle.limit = limit;
                break;
            }
            // All lived, or there was nothing left to try.
            None if dead.is_none() || rungs.is_empty() => break,
            None => {}
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
        .flat_map(|known| [known.saturating_sub(half), known + half])
        .filter(|rung| *rung > lived && *rung < end)
        .collect();
    rungs.sort_unstable();
    rungs.dedup();
    let room = count.saturating_sub(last);
    if rungs.len() > room {
        rungs = (0..room).map(|index| rungs[index * rungs.len() / room]).collect();
    }
    // Proportions do not help near zero.
    let seconds = |time: Duration| time.max(EXACT / 4).as_secs_f64();
    while rungs.len() < room {
        let edges = [&[lived], &rungs[..], &[end]].concat();
        let gaps = edges.windows(2).filter(|gap| gap[1].saturating_sub(gap[0]) > EXACT);
        let ratio = |gap: &[Duration]| seconds(gap[1]) / seconds(gap[0]);
        let Some(widest) = gaps.max_by(|one, other| ratio(one).total_cmp(&ratio(other))) else {
            break;
        };
        let middle = (seconds(widest[0]) * seconds(widest[1])).sqrt();
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
    sockets: Vec<Socket>,
    rungs: &[Duration],
    idle: &mut Idle,
    show: &dyn Fn(usize, Duration, &Idle),
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
                show(silent.len(), begun.elapsed(), idle);
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
            // Others that were silent for longer have lived.
            (_, None) if silence.lasted < idle.lived => idle.accidents += 1,
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
    let opened = Instant::now();
    let mut begun = opened;
    loop {
        let incoming = tokio::select! {
            incoming = socket.next_or_ping() => incoming,
            () = sleep_until(begun + rung) => break,
            () = hurry.notified() => break,
        };
        let lasted = begun.elapsed();
        match incoming {
            None | Some(Incoming::Message(_) | Incoming::Pong(_))
                if opened.elapsed() < GREETING =>
            {
                begun = Instant::now();
            }
            None | Some(Incoming::Message(_) | Incoming::Pong(_)) => {
                return Silence { lasted, end: End::Spoken };
            }
            Some(end) => return Silence { lasted, end: End::Cut(cut(end)) },
        }
    }
    let lasted = begun.elapsed();
    let payload = format!("wsecho probe {:08x}", fastrand::u32(..)).into_bytes();
    socket.ping(&payload);
    let until = Instant::now() + ANSWER;
    let end = loop {
        match timeout_at(until, socket.next()).await {
            Ok(Incoming::Pong(answer)) if answer == payload => break End::Lived,
            Ok(Incoming::Message(_) | Incoming::Pong(_)) => {}
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// What becomes of a connection that was silent for so long.
    #[derive(Clone, Copy)]
    enum Fate {
        /// It is ended without a Close frame.
        Fin(u64),
        /// It is ended with one.
        Close(u64),
        /// Nothing passes any more.
        Dropped(u64),
        /// The server pings.
        Pinged(u64),
        /// The server pings again and again.
        Chatter(u64),
        /// Nothing ever happens to it.
        Open,
    }

    /// A path and a server behind it.
    async fn serve(mut client: DuplexStream, fate: Fate) {
        let (Fate::Fin(millis)
        | Fate::Close(millis)
        | Fate::Dropped(millis)
        | Fate::Pinged(millis)
        | Fate::Chatter(millis)) = fate
        else {
            return answer(client, None).await;
        };
        let silent = Duration::from_millis(millis);
        match tokio::time::timeout(silent, client.read_u8()).await {
            Ok(Ok(first)) => return answer(client, Some(first)).await,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        match fate {
            Fate::Fin(_) | Fate::Open => {}
            Fate::Close(_) => client.write_all(b"\x88\x06\x03\xe8idle").await.unwrap_or_default(),
            Fate::Dropped(_) => while client.read_u8().await.is_ok() {},
            Fate::Pinged(_) => {
                client.write_all(b"\x89\0").await.unwrap_or_default();
                answer(client, None).await;
            }
            Fate::Chatter(_) => {
                while client.write_all(b"\x89\0").await.is_ok() {
                    tokio::time::sleep(silent).await;
                }
            }
        }
    }

    /// Answers pings and Close frames, the first byte of which may have come already.
    async fn answer(mut client: DuplexStream, mut begun: Option<u8>) {
        loop {
            let first = match begun.take() {
                Some(first) => first,
                None => match client.read_u8().await {
                    Ok(first) => first,
                    Err(_) => return,
                },
            };
            let Ok(length) = client.read_u8().await else { return };
            let mut rest = vec![0; 4 + usize::from(length & 0x7f)];
            if client.read_exact(&mut rest).await.is_err() {
                return;
            }
            let opcode = match first {
                0x8a => continue,
                0x89 => 0x8a,
                close => close,
            };
            let (mask, payload) = rest.split_at(4);
            let mut frame = vec![opcode, length & 0x7f];
            frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
            client.write_all(&frame).await.unwrap_or_default();
        }
    }

    /// What is found on a path with this fate for each connection, by number, and in what time.
    #[expect(clippy::disallowed_methods, reason = "no drain waits for a test")]
    async fn found(max: u64, admitted: usize, fate: impl Fn(usize) -> Fate) -> (Idle, Duration) {
        let begun = Instant::now();
        let numbers = std::cell::Cell::new(0);
        let open = async |count: usize| {
            let sockets = (0..count.min(admitted)).map(|_| {
                let (client, server) = duplex(1024);
                tokio::spawn(serve(server, fate(numbers.replace(numbers.get() + 1))));
                Socket::new(Box::new(client), false)
            });
            Ok(sockets.collect())
        };
        let idle = search(Duration::from_secs(max), open, &|_, _, _| {}).await;
        (idle.expect("it opens"), begun.elapsed())
    }

    fn secs(limit: &Limit) -> u64 {
        match limit {
            Limit::None => 0,
            Limit::Cut { after, .. } | Limit::Spoken { after } => after.as_secs(),
            Limit::Dropped { by, .. } => by.as_secs(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_visible_end_is_timed_exactly_at_once() {
        for admitted in [1, 2, CONNECTIONS] {
            let (idle, took) = found(300, admitted, |_| Fate::Fin(60_000)).await;
            let probably = known::timeouts(Duration::from_secs(60), Duration::from_secs(60));
            assert!(probably.contains(&"nginx (proxy_read_timeout)"));
            let after = Duration::from_secs(60);
            assert_eq!(idle.limit, Limit::Cut { after, how: Cut::Fin, probably }, "{admitted}");
            assert!(took < Duration::from_secs(70), "{admitted}: {took:?}");
            assert_eq!(idle.connections, admitted);
        }
        let (idle, _) = found(300, CONNECTIONS, |_| Fate::Close(45_000)).await;
        let after = Duration::from_secs(45);
        let how = Cut::Close { code: Some(1000), reason: "idle".to_owned() };
        assert_eq!(idle.limit, Limit::Cut { after, how, probably: Vec::new() });
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_drop_is_narrowed_down_to_a_second() {
        for millis in [700, 4_000, 31_700, 60_000, 123_456, 240_000, 299_000] {
            for admitted in [3, CONNECTIONS] {
                let (idle, took) = found(300, admitted, |_| Fate::Dropped(millis)).await;
                let Limit::Dropped { by, how: Cut::Unanswered, probably } = &idle.limit else {
                    panic!("{millis}: {idle:?}");
                };
                let drop = Duration::from_millis(millis);
                assert!(idle.lived <= drop && drop <= *by, "{millis}: {idle:?}");
                assert!(by.saturating_sub(idle.lived) <= EXACT, "{millis} by {admitted}: {idle:?}");
                let is_known = [60_000, 240_000].contains(&millis);
                assert_eq!(!probably.is_empty(), is_known, "{millis}: {idle:?}");
                // At a known timeout the first round is enough.
                let at_once = drop + Duration::from_secs(15);
                assert!(!is_known || admitted < CONNECTIONS || took < at_once, "{took:?}");
                let (rounds, extra) = if admitted < CONNECTIONS { (9, 60) } else { (4, 40) };
                let most = drop * rounds + Duration::from_secs(extra);
                assert!(took < most, "{millis} by {admitted}: {took:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_without_a_limit_takes_as_long_as_the_longest_silence() {
        let (idle, took) = found(300, CONNECTIONS, |_| Fate::Open).await;
        assert_eq!((&idle.limit, idle.lived.as_secs()), (&Limit::None, 300));
        assert!(took < Duration::from_secs(301), "{took:?}");
        assert_eq!(found(1, CONNECTIONS, |_| Fate::Open).await.0.lived.as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_dead_among_the_living_is_an_accident() {
        for fate in [Fate::Fin(2_000), Fate::Dropped(2_000)] {
            for unlucky in [0, 7, 13] {
                let (idle, _) =
                    found(300, CONNECTIONS, |it| if it == unlucky { fate } else { Fate::Open })
                        .await;
                // A drop is only noticed by a connection whose silence outlasts it.
                assert!(idle.accidents == 1 || unlucky == 0, "{unlucky}: {idle:?}");
                assert_eq!((&idle.limit, idle.lived.as_secs()), (&Limit::None, 300));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_a_ping_of_the_server_nothing_is_claimed() {
        let (idle, took) = found(300, CONNECTIONS, |_| Fate::Pinged(20_000)).await;
        assert_eq!((idle.limit, idle.accidents), (Limit::Spoken { after: took }, 0));
        assert_eq!(took.as_secs(), 20);
        // As a greeting it is taken for none.
        let (idle, _) = found(10, CONNECTIONS, |_| Fate::Pinged(500)).await;
        assert_eq!(secs(&idle.limit), 0, "{idle:?}");
        let (idle, _) = found(10, CONNECTIONS, |_| Fate::Chatter(500)).await;
        assert_eq!(idle.limit, Limit::Spoken { after: Duration::from_millis(500) });
    }

    #[test]
    fn the_ladder_has_no_more_rungs_than_connections_and_ends_at_its_end() {
        let seconds = |count| {
            let rungs = ladder(Duration::ZERO, None, Duration::from_secs(300), count);
            rungs.iter().map(Duration::as_secs_f64).collect::<Vec<_>>()
        };
        for count in 1..=CONNECTIONS {
            let rungs = seconds(count);
            assert!(rungs.len() <= count && rungs.is_sorted() && rungs.ends_with(&[300.0]));
        }
        let full = seconds(CONNECTIONS);
        assert!([29.5, 30.5, 59.5, 60.5, 99.5, 100.5].iter().all(|it| full.contains(it)));
        let narrow = ladder(
            Duration::from_secs(40),
            Some(Duration::from_secs(41)),
            Duration::from_secs(300),
            CONNECTIONS,
        );
        assert!(narrow.is_empty());
    }
}
