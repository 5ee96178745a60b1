//! Load: what comes back is counted, a stall shows where it must, and every other end is told.

use std::io::Read as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use regex_lite::Regex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use wsecho::probe::failure::Failure;

use super::peer::{BINARY, CLOSE, PING, PONG, Peer, TEXT, serve};
use super::{probe, shown, verdict};
use crate::service::{Outcome, Service};

/// What a server does with a message instead of echoing it.
type Act = fn(&mut Peer, &[u8]);

/// Failures that need `--load`.
pub const LABELS: &[&str] = &["load_stalled", "load_cut", "load_altered"];

/// What JSON has of a load on a server that bears it.
fn load(args: &[&str]) -> Value {
    let outcome = Outcome::of(&mut probe(&[&["--format=json"][..], args].concat()));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (0, ""), "{}", outcome.stdout);
    found(&outcome.stdout)
}

fn found(json: &str) -> Value {
    let printed: Value = serde_json::from_str(json).expect("JSON");
    printed["probes"][0]["load"].clone()
}

fn seconds(load: &Value, percentile: &str) -> f64 {
    load["latency"][percentile].as_f64().expect("a number")
}

fn service_url(service: &Service) -> String {
    format!("ws://{}/socket", service.addrs[0])
}

/// Whether a connection is the one of the stages, which come first.
fn is_first(connections: &AtomicUsize) -> bool {
    connections.fetch_add(1, Ordering::SeqCst) == 0
}

/// The URL of a server whose connections do this once the stages have passed.
fn serve_load(script: impl Fn(&mut Peer) + Clone + Send + 'static) -> (u16, String) {
    let connections = Arc::new(AtomicUsize::new(0));
    let port = serve(move |peer: &mut Peer| {
        if is_first(&connections) {
            peer.accept("");
            peer.echo_but(|_, _, _, _| false);
        } else {
            script(peer);
        }
    });
    (port, format!("ws://127.0.0.1:{port}/"))
}

#[test]
fn a_closed_loop_is_shown_with_its_table() {
    let service = Service::start("");
    let port = service.addrs[0].rsplit(':').next().and_then(|it| it.parse().ok()).expect("a port");
    let url = service_url(&service);
    let args = ["--load=1s", "--connections=3", "--in-flight=8", "--message-size=100B", &url];
    let outcome = Outcome::of(&mut probe(&args));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (0, ""), "{}", outcome.stdout);
    let text = shown(&outcome, port);
    let numbers = Regex::new(r" +[0-9,]+(/s| messages)(/s)?").expect("it is valid");
    let text = numbers.replace_all(&text, " N$1$2");
    let (_, text) = text.split_once("answered with 1000\n").expect("healthy");
    let times = Regex::new("(latency  )( +[0-9]+\\.[0-9]{1,3}){6}\n").expect("it is valid");
    let text = times.replace_all(text, "$1 N\n").replace("/s  N", "/s N");
    let took = Regex::new(r"in [0-9.]+ s,").expect("it is valid");
    let text = took.replace(&text, "in T s,");
    let table = "    load N/s N messages of 100 bytes in T s, 8 in flight on each connection
                         3 connections opened in T ms, N/s
                         ms             min      p50      p90      p99    p99.9      max
                         latency   N

WebSockets work on this path: T ms round trip.
Under load, N messages/s came back: half of them within T ms, 99 % within T ms.
";
    assert!(text.starts_with(table), "{text}");
}

#[test]
fn all_that_an_open_loop_sends_comes_back_and_is_counted_once() {
    let service = Service::start("");
    let url = service_url(&service);
    let args = ["--load=1", "--rate=1000", "--connections=7", &url];
    let load = load(&args);
    assert_eq!((load["sent"].as_u64(), load["echoed"].as_u64()), (Some(1000), Some(1000)));
    assert_eq!((load["connections"].as_u64(), load["in_flight"].as_u64()), (Some(7), None));
    let at = |name| seconds(&load, name);
    let names = ["min", "p50", "p90", "p99", "p99_9", "max"].map(|it| format!("{it}_seconds"));
    assert!(names.windows(2).all(|pair| at(&pair[0]) <= at(&pair[1])), "{load}");
    assert!(load["send_lag"]["min_seconds"].as_f64() <= Some(at("max_seconds")), "{load}");
}

#[test]
fn messages_of_every_size_come_back_whole_and_through_every_transport() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("socket");
    let bind = format!("bind = [\"127.0.0.1:0\", \"unix:{}\"]", socket.display());
    let service = Service::start(&bind);
    let url = service_url(&service);
    for size in ["0B", "1B", "125B", "126B", "65535B", "65536B", "1MiB"] {
        let load =
            load(&["--load=1", "--connections=2", "--in-flight=3", "--message-size", size, &url]);
        assert_eq!(load["sent"], load["echoed"], "{size}");
        assert!(load["sent"].as_u64() > Some(6), "{size}: {load}");
    }
    let unix = socket.to_str().expect("UTF-8");
    let load = load(&["--load=1", "--rate=50", "--unix", unix, "ws://elsewhere.example/socket"]);
    assert_eq!(load["echoed"].as_u64(), Some(50));
}

/// Loads a server that stops for half a second at its hundredth message.
fn stalled(pace: &str) -> Value {
    let (_, url) = serve_load(|peer| {
        let mut echoed = 0;
        peer.accept("");
        peer.echo_but(|_, _, _, _| {
            echoed += 1;
            if echoed == 100 {
                thread::sleep(STALL);
            }
            false
        });
    });
    load(&["--load=2", pace, &url])
}

const STALL: Duration = Duration::from_millis(500);

#[test]
fn a_stalled_server_shows_in_the_open_loops_p99_and_not_in_the_closed_loops_median() {
    let open = stalled("--rate=200");
    assert_eq!(open["echoed"].as_u64(), Some(400), "{open}");
    assert!(seconds(&open, "p99_seconds") > 0.4, "{open}");
    let closed = stalled("--in-flight=1");
    assert!(seconds(&closed, "p50_seconds") < 0.1, "{closed}");
    assert!(seconds(&closed, "max_seconds") >= STALL.as_secs_f64(), "{closed}");
    assert_eq!(closed["sent"], closed["echoed"], "{closed}");
}

#[test]
fn a_server_that_fails_under_load_is_a_failure_with_what_came_back() {
    const ALTERED: &str = "An echo is not what was sent: ";
    // What is done with message 10, the failure, and what is seen of it; where a random byte decides
    // which one differs, that is left open.
    let cases: [(Act, &str, &str); 9] = [
        (
            |peer, _| peer.send(CLOSE, b"\x03\xf4full"),
            "load_cut",
            "Instead of an echo, a Close frame with code 1012 came. ",
        ),
        (|peer, _| peer.linger(), "load_cut", "The connection was closed before an echo. "),
        (|peer, _| peer.reset(), "load_cut", "The connection was reset before an echo. "),
        (
            |peer, payload| peer.send(BINARY, &flipped(payload)),
            "load_altered",
            "byte 31 of 32 differs. ",
        ),
        (|peer, payload| peer.send(BINARY, &payload[1..]), "load_altered", "byte "),
        (
            |peer, payload| peer.send(BINARY, &payload[..31]),
            "load_altered",
            "31 bytes came back instead of 32. ",
        ),
        (
            |peer, payload| peer.send(BINARY, &[payload, b"!"].concat()),
            "load_altered",
            "more than 32 bytes came back. ",
        ),
        (
            |peer, payload| peer.send(TEXT, payload),
            "load_altered",
            "a text came back for a binary message. ",
        ),
        (
            |peer, payload| peer.send(0x92, payload),
            "frame_broken",
            "Instead of an echo, an illegal frame came: reserved bit set without a negotiated extension. ",
        ),
    ];
    for (act, label, seen) in cases {
        let (port, url) = serve_load(move |peer| after(9, peer, act));
        let (code, line) = verdict(&["--load=60", &url], port);
        let altered = if label == "load_altered" { ALTERED } else { "" };
        let begins = format!("ws://127.0.0.1:PORT/: {altered}{seen}");
        let ends = format!(" s and 9 echoes. ({label})");
        assert!(code == 1 && line.starts_with(&begins) && line.ends_with(&ends), "{line}");
    }
}

#[test]
fn a_message_that_comes_twice_is_noticed_at_once() {
    let (port, url) = serve_load(|peer| {
        after(9, peer, |peer, payload| (0..2).for_each(|_| peer.send(BINARY, payload)));
    });
    let (code, line) = verdict(&["--load=60", &url], port);
    assert!(code == 1 && line.ends_with(" s and 10 echoes. (load_altered)"), "{line}");
}

/// Echoes so many messages, then does something else with one, and waits.
fn after(count: usize, peer: &mut Peer, act: Act) {
    let mut echoed = 0;
    peer.accept("");
    peer.echo_but(|peer, _, first, payload| {
        echoed += usize::from(first == BINARY);
        let is_due = echoed == count + 1 && first == BINARY;
        if is_due {
            act(peer, payload);
        }
        is_due
    });
}

fn flipped(payload: &[u8]) -> Vec<u8> {
    let (last, rest) = payload.split_last().expect("it is not empty");
    [rest, &[last ^ 1]].concat()
}

/// Which of them came twice cannot be told, but that one did.
#[test]
fn an_empty_message_too_many_is_noticed() {
    let (port, url) = serve_load(|peer| {
        after(9, peer, |peer, _| (0..2).for_each(|_| peer.send(BINARY, b"")));
    });
    let (code, line) = verdict(&["--load=1", "--message-size=0B", &url], port);
    assert_eq!(code, 1, "{line}");
    assert!(line.contains("more messages came back than were sent."), "{line}");
}

#[test]
fn a_server_that_stops_answering_under_load_is_not_waited_for_for_ever() {
    let (port, url) = serve_load(|peer| after(9, peer, |peer, _| peer.wait()));
    let (code, line) = verdict(&["--load=60", "--timeout=1s", &url], port);
    assert_eq!(code, 1, "{line}");
    let seen = "A connection with 1 messages outstanding got no echo for 1 s. That was after ";
    assert!(line.contains(seen) && line.ends_with(" s and 9 echoes. (load_stalled)"), "{line}");
    // One that answers a little at a time is not waited for, either.
    let (port, url) = serve_load(|peer| {
        peer.accept("");
        peer.echo_but(|_, _, _, _| {
            thread::sleep(Duration::from_millis(100));
            false
        });
    });
    let (code, line) = verdict(&["--load=1", "--timeout=1s", "--rate=100", &url], port);
    assert_eq!(code, 1, "{line}");
    assert!(
        line.contains(" messages had not come back on one connection 1 s after the last was due. "),
        "{line}"
    );
    assert!(line.ends_with("(load_stalled)"), "{line}");
}

#[test]
fn pings_are_answered_between_messages_and_fragments_and_greetings_are_understood() {
    let (pong, pongs) = mpsc::channel();
    let port = serve(move |peer: &mut Peer| {
        let pong = pong.clone();
        peer.accept("");
        peer.send(TEXT, b"welcome");
        peer.echo_but(|peer, _, first, payload| {
            if first == BINARY && payload.len() == 32 {
                peer.send(PING, b"there?");
                peer.send(0x02, &payload[..5]);
                peer.send(PONG, b"");
                peer.send(0x00, b"");
                peer.send(0x80, &payload[5..]);
            } else if first == PONG {
                // The test may be over.
                let _ = pong.send(payload.to_vec());
            }
            first == PONG || (first == BINARY && payload.len() == 32)
        });
    });
    let load = load(&["--load=1", "--rate=20", &format!("ws://127.0.0.1:{port}/")]);
    assert_eq!(load["echoed"].as_u64(), Some(20), "{load}");
    let pongs: Vec<_> = pongs.try_iter().collect();
    assert!(!pongs.is_empty() && pongs.iter().all(|pong| pong == b"there?"), "{pongs:?}");
}

#[test]
fn a_connection_that_is_refused_is_explained_and_nothing_is_sent() {
    let service = Service::start("limits.max_connections_per_client = 3");
    let addr = &service.addrs[0];
    let port = addr.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let (code, line) = verdict(&["--load=60", "--connections=9", &service_url(&service)], port);
    let said = "Connection 4 of 9: this client has reached its limit";
    assert!(code == 1 && line.contains(said) && line.contains("(client_full, "), "{line}");
}

#[test]
fn ctrl_c_ends_a_load_with_what_it_has_so_far() {
    let (begun, begins) = mpsc::channel();
    let (_, url) = serve_load(move |peer| {
        let begun = begun.clone();
        peer.accept("");
        peer.echo_but(|_, count, _, _| {
            // The last message never comes back.
            if count == 101 {
                let _ = begun.send(());
            }
            count > 100
        });
    });
    let mut command = probe(&["--format=json", "--load=60", &url]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the probe");
    begins.recv_timeout(Duration::from_secs(30)).expect("it is under load");
    let pid = Pid::from_raw(child.id().try_into().expect("a number")).expect("a process");
    kill_process(pid, Signal::INT).expect("it runs");
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("a report");
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "{text}");
    let load = found(&text);
    assert_eq!((load["sent"].as_u64(), load["echoed"].as_u64()), (Some(102), Some(101)), "{load}");
    assert_eq!(load["interrupted"].as_bool(), Some(true), "{load}");
}

#[test]
fn a_broken_path_is_explained_and_not_loaded() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let port = serve(move |peer: &mut Peer| {
        counted.fetch_add(1, Ordering::SeqCst);
        peer.answer("HTTP/1.1 404 Not Found\r\n\r\n");
    });
    let (code, line) = verdict(&["--load=60", &format!("ws://127.0.0.1:{port}/")], port);
    assert!(code == 1 && line.ends_with("(http_404)"), "{line}");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_load_has_caps_and_stays_on_this_host() {
    let url = "ws://127.0.0.1:9/";
    let far = "ws://192.0.2.1:9/echo";
    let stays = format!(
        "wsecho: --load {far}: not a loopback address; if the server is yours, add --i-own-this"
    );
    for (args, says) in [
        (&["--load=0", url][..], "write 1s to 5m"),
        (&["--load=301", url], "write 1s to 5m"),
        (&["--load", url], "write the URL first, or \"--load 10s\""),
        (&["--load=1", "--connections=0", url], "0 is not in 1..=1000"),
        (&["--load=1", "--connections=1001", url], "1001 is not in 1..=1000"),
        (&["--load=1", "--in-flight=1025", url], "1025 is not in 1..=1024"),
        (&["--load=1", "--rate=0", url], "0 is not in 1..=1000000"),
        (&["--load=1", "--rate=1000001", url], "1000001 is not in 1..=1000000"),
        (&["--load=1", "--message-size=1025KiB", url], "write \"0 B\" to \"1 MiB\""),
        (&["--load=1", "--rate=1", "--in-flight=2", url], "cannot be used with"),
        (&["--load=1", "--connect-only", url], "cannot be used with"),
        (&["--load=1", "--follow", url], "cannot be used with"),
        (&["--rate=1", url], "--load <TIME>"),
        (&["--i-own-this", url], "--load <TIME>"),
        (&["--load=1", url, "ws://127.0.0.1:8/"], "--load takes one URL"),
        (&["--load=1", far], &stays),
        (&["--load=1", "ws://echo.example.com/"], "not a loopback address"),
        (&["--load=1", "ws://localhost.example.com/"], "not a loopback address"),
        (&["--load=1", "ws://[::ffff:192.0.2.1]/"], "not a loopback address"),
        (&["--load=1", "--resolve=localhost:192.0.2.1", "ws://localhost/"], "not a loopback"),
        (&["--load=1", "--proxy=http://127.0.0.1:9", url], "not a loopback address"),
    ] {
        let outcome = Outcome::of(&mut probe(args));
        assert_eq!(outcome.code(), 2, "{args:?}: {}", outcome.stdout);
        assert!(outcome.stderr.contains(says), "{args:?}: {}", outcome.stderr);
    }
    // These stay, or are meant; nobody listens there.
    let refused = Failure::Refused.label();
    for args in [
        &["--load=1", "ws://127.0.0.9:9/"][..],
        &["--load=1", "ws://[::ffff:127.0.0.1]:9/"],
        &["--load=1", "--resolve=echo.example.com:127.0.0.1", "ws://echo.example.com:9/"],
        &["--load=1", "--i-own-this", "--resolve=a.example:127.0.0.1", "ws://a.example:9/"],
    ] {
        let (code, line) = verdict(args, 9);
        assert!(code == 1 && line.ends_with(&format!("({refused})")), "{args:?}: {line}");
    }
}
