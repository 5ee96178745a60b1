//! Measurements: round trips, the largest message, the life of silent connections.

use std::time::Duration;

use regex_lite::Regex;
use wsecho::probe::failure::Failure;

use super::peer::{BINARY, CLOSE, PING, PONG, Peer, TEXT, serve};
use super::{probe, shown, verdict};
use crate::service::{Outcome, Service};

/// Failures that need `--count`.
pub const LABELS: &[&str] = &["messages_lost"];

/// A server, what is seen of it, and what that means.
type Case = (fn(&mut Peer), &'static str, &'static str);

/// The lines behind the stages and what follows them, of a healthy probe of this server.
fn measured(args: &[&str], server: fn(&mut Peer)) -> String {
    let port = serve(server);
    let url = format!("ws://127.0.0.1:{port}/");
    let outcome = Outcome::of(&mut probe(&[&[&*url][..], args].concat()));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (0, ""), "{}", outcome.stdout);
    behind_the_stages(&shown(&outcome, port))
}

fn behind_the_stages(text: &str) -> String {
    let (_, rest) = text.split_once("  ✓ close T ms  1000 answered with 1000\n").expect("healthy");
    let (lines, verdict) =
        rest.split_once("WebSockets work on this path: T ms round trip.\n").expect("a verdict");
    format!("{lines}{verdict}")
}

fn echo(peer: &mut Peer) {
    peer.accept("");
    peer.echo_but(|_, _, _, _| false);
}

/// An echo with a limit in the size of a message, above which `refuse` is called.
fn limited(peer: &mut Peer, limit: usize, refuse: fn(&mut Peer)) {
    peer.accept("");
    peer.echo_but(|peer, _, _, payload| {
        if payload.len() > limit {
            refuse(peer);
        }
        payload.len() > limit
    });
}

#[test]
fn the_largest_message_of_wsecho_is_its_limit_and_the_reason_is_quoted() {
    let service = Service::start("");
    let addr = &service.addrs[0];
    let port = addr.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let url = format!("ws://{addr}/socket");
    let outcome = Outcome::of(&mut probe(&[&url, "--max-size"]));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (0, ""));
    assert_eq!(
        behind_the_stages(&shown(&outcome, port)),
        "    max-size      1 MiB  comes back; 1,048,577 bytes: Close 1009, \"wsecho: message over 1 MiB
                         (limits.max_message_size)\"

The largest message that makes the round trip has 1,048,576 bytes. wsecho itself refuses larger
ones: `limits.max_message_size` there.
"
    );
}

#[test]
fn who_refuses_larger_messages_is_told_as_far_as_it_shows() {
    let cases: [Case; 5] = [
        (
            |peer| limited(peer, (4 << 20) - 1, |peer| peer.send(CLOSE, b"\x03\xf1")),
            "4,194,304 bytes: Close 1009",
            "refuses larger ones (1009). Probably aiohttp (max_msg_size): that is the default there. Raise its limit",
        ),
        (
            |peer| limited(peer, 70_000, |peer| peer.send(CLOSE, b"\x03\xf1too big")),
            "70,001 bytes: Close 1009, \"too big\"",
            "The server, or a proxy that reads messages, refuses larger ones (1009). Raise its limit",
        ),
        (
            |peer| limited(peer, 1 << 17, |peer| peer.send(CLOSE, b"\x03\xf3")),
            "131,073 bytes: Close 1011",
            "The server fails at larger ones (1011): its log says why.",
        ),
        (
            |peer| limited(peer, 80_000, Peer::linger),
            "80,001 bytes: FIN, without a Close frame",
            "Larger ones end the connection without a Close frame: probably a proxy or firewall",
        ),
        (
            |peer| limited(peer, 80_000, Peer::reset),
            "80,001 bytes: RST, without a Close frame",
            "Larger ones end the connection without a Close frame: probably a proxy or firewall",
        ),
    ];
    std::thread::scope(|scope| {
        for (server, seen, who) in cases {
            scope.spawn(move || {
                let text = measured(&["--max-size"], server);
                let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(flat.contains(seen) && flat.contains(who), "{flat}");
            });
        }
    });
}

#[test]
fn messages_that_get_stuck_or_come_back_changed_are_too_large_as_well() {
    let stuck = measured(&["--max-size=100kB", "--timeout=3s"], |peer| {
        limited(peer, 99_998, |_| {});
    });
    assert!(
        stuck.contains("    max-size    99998 B  comes back; 99,999 bytes: no answer in time\n"),
        "{stuck}"
    );
    let changed = measured(&["--max-size=100kB"], |peer| {
        limited(peer, 99_998, |peer| peer.send(BINARY, b"cut short"));
    });
    assert!(changed.contains("99,999 bytes: something else came back\n"), "{changed}");
}

#[test]
fn up_to_the_limit_of_the_search_nothing_is_claimed_to_be_too_large() {
    assert_eq!(
        measured(&["--max-size", "200 kB"], echo),
        "    max-size   200000 B  comes back; no larger one was tried

Messages of up to 200,000 bytes make the round trip.
"
    );
}

/// A proxy with a limit on all that a connection carries is not one with a limit on messages.
#[test]
fn what_a_connection_carries_in_total_is_no_limit_of_a_message() {
    let text = measured(&["--max-size=300kB"], |peer| {
        let mut total = 0;
        peer.accept("");
        peer.echo_but(|peer, _, _, payload| {
            total += payload.len();
            let is_over = total > 310_000;
            if is_over {
                peer.linger();
            }
            is_over
        });
    });
    assert!(text.starts_with("    max-size   300000 B  comes back;"), "{text}");
}

#[test]
fn round_trips_are_counted_and_drawn() {
    let text = measured(&["--count=20", "--interval=10ms"], echo);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        "    count T ms  20 messages, 0 lost, min T ms, median T ms, p99 T ms, max T ms"
    );
    let bars = lines[1].trim_start();
    assert!(bars.chars().count() == 20 && bars.contains('█'), "{bars:?}");
    // A server that is no echo answers pings.
    let text = measured(&["--count=3", "--interval=1ms", "--connect-only"], |peer| {
        peer.accept("");
        peer.echo_but(|_, _, first, _| first == TEXT || first == BINARY);
    });
    assert!(text.starts_with("    count T ms  3 pings, 0 lost, min T ms"), "{text}");
}

#[test]
fn lost_messages_are_a_failure_and_drawn_as_such() {
    // The second message after those of the stages, which are on another connection.
    let swallow = |peer: &mut Peer| {
        peer.accept("");
        peer.echo_but(|_, _, first, payload| {
            first == TEXT && payload.starts_with(b"wsecho probe 1 ")
        });
    };
    let port = serve(swallow);
    let url = format!("ws://127.0.0.1:{port}/");
    let args = ["--count=4", "--interval=1ms", "--timeout=2s", &url];
    let outcome = Outcome::of(&mut probe(&args));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (1, ""));
    let text = shown(&outcome, port);
    assert!(text.contains("  4 messages, 1 lost (25.0 %), min T ms"), "{text}");
    assert!(text.lines().any(|line| line.trim_start().chars().nth(1) == Some('×')), "{text}");
    assert!(text.contains(Failure::MessagesLost.meaning()));
    let (code, line) = verdict(&args, port);
    assert_eq!(
        (code, &*line),
        (1, "ws://127.0.0.1:PORT/: 1 of 4 messages did not come back. (messages_lost)")
    );
}

#[test]
fn a_session_that_ends_while_messages_are_counted_is_a_failure() {
    let port = serve(|peer| {
        peer.accept("");
        peer.echo_but(|peer, _, first, payload| {
            let is_last = first == TEXT && payload.starts_with(b"wsecho probe 2 ");
            if is_last {
                peer.send(CLOSE, b"\x03\xe9");
            }
            is_last
        });
    });
    let url = format!("ws://127.0.0.1:{port}/");
    let (code, line) = verdict(&["--count=9", "--interval=50ms", &url], port);
    let expected = "ws://127.0.0.1:PORT/: Instead of the answer to message 3 of 9, a Close frame with code 1001 came. (closed_early)";
    assert_eq!((code, &*line), (1, expected));
}

#[test]
fn a_silent_session_of_wsecho_is_not_pinged_and_lives() {
    // Without ping=off it would be pinged after half a second.
    let service = Service::start("timeouts.ping_interval = \"500ms\"\ntimeouts.pong = \"1s\"");
    let addr = &service.addrs[0];
    let port = addr.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let url = format!("ws://{addr}/echo?a=b");
    let outcome = Outcome::of(&mut probe(&[&url, "--idle", "2s"]));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (0, ""));
    assert_eq!(
        behind_the_stages(&shown(&outcome, port)),
        "    idle          2.0 s  and still open

A silent connection lives for at least 2.0 s.
Send something at least every 1.3 s; with wsecho, `timeouts.ping_interval = \"1s 100ms\"` does.
"
    );
}

#[test]
fn silent_connections_that_are_cut_or_spoken_to_are_told_apart() {
    let cases: [Case; 4] = [
        (
            |peer| fall_silent(peer, Peer::linger),
            "then FIN, without a Close frame",
            "Something on the path ends silent connections after 2.0 s, without a Close frame.",
        ),
        (
            |peer| fall_silent(peer, Peer::reset),
            "then RST, without a Close frame",
            "Something on the path ends silent connections after 2.0 s, without a Close frame.",
        ),
        (
            |peer| fall_silent(peer, |peer| peer.send(CLOSE, b"\x03\xe9idle")),
            "then Close 1001, \"idle\"",
            "Silent connections are ended with a Close frame after 2.0 s: by the server",
        ),
        (
            |peer| fall_silent(peer, |peer| peer.send(PING, b"?")),
            "then the server sends something",
            "The server sends something after 2.0 s of silence",
        ),
    ];
    std::thread::scope(|scope| {
        for (server, seen, what) in cases {
            scope.spawn(move || {
                let text = measured(&["--idle=4s"], server);
                // On a busy machine it is later.
                let later = Regex::new(r"(2\.\d|3\.[0-5]) s").expect("it is valid");
                let text = later.replace_all(&text, "2.0 s");
                let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(flat.starts_with(&format!("idle 2.0 s {seen}")), "{flat}");
                assert!(flat.contains(what), "{flat}");
            });
        }
    });
}

/// An echo that does something to a connection that is silent for two seconds.
fn fall_silent(peer: &mut Peer, then: fn(&mut Peer)) {
    peer.accept("");
    peer.echo_until_silent(Duration::from_secs(2), then);
}

#[test]
fn a_server_without_ping_off_is_measured_at_its_own_path() {
    let text = measured(&["--idle=1s"], |peer| {
        let head = peer.head();
        if head.contains("ping=off") {
            peer.say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            return peer.linger();
        }
        peer.accept_head(&head, "");
        peer.echo_but(|_, _, _, _| false);
    });
    assert!(text.contains("A silent connection lives for at least 1.0 s."), "{text}");
}

#[test]
fn an_answer_to_one_ping_in_a_thousand_is_not_taken_for_another() {
    // A pong that nobody asked for, before the one that is due.
    let text = measured(&["--count=5", "--interval=1ms", "--connect-only"], |peer| {
        peer.accept("");
        peer.echo_but(|peer, _, first, _| {
            if first == PING {
                peer.send(PONG, b"");
            }
            false
        });
    });
    assert!(text.starts_with("    count T ms  5 pings, 0 lost,"), "{text}");
}

#[test]
fn options_without_a_sense_are_refused() {
    let url = "ws://127.0.0.1:9/";
    for (args, says) in [
        (&["--idle", url][..], "write the URL first, or \"--idle 6m\""),
        (&["--max-size", url], "write the URL first, or \"--max-size 16MiB\""),
        (&["--idle=56m", url], "write 1s to 55m"),
        (&["--max-size=65MiB", url], "write \"1 B\" to \"64 MiB\""),
        (&["--max-size=0B", url], "write \"1 B\" to \"64 MiB\""),
        (&["--count=0", url], "0 is not in 1..=100000"),
        (&["--interval=1s", url], "--count <N>"),
        (&["--max-size", "--connect-only", url], "cannot be used with"),
    ] {
        let outcome = Outcome::of(&mut probe(args));
        assert_eq!(outcome.code(), 2, "{args:?}: {}", outcome.stdout);
        assert!(outcome.stderr.contains(says), "{args:?}: {}", outcome.stderr);
    }
}
