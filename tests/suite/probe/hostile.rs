//! Servers that want the probe to hang, to swell or to garble what it prints.

use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use rustls::{ServerConnection, StreamOwned};
use tokio::time::Instant;

use super::peer::{CLOSE, PING, PONG, Peer, TEXT, Transport, serve, serve_through};
use super::probe;
use super::tls::{certificates, config};
use crate::service::Outcome;

/// The address space of a probe, in KiB: what a healthy one takes is a quarter of it.
const MEMORY: u32 = 256 * 1024;
/// The deadline of its stages.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long it may take after that, on a busy machine.
const GRACE: Duration = Duration::from_secs(8);
const FORMATS: [&[&str]; 5] =
    [&["-v"], &["-q"], &["--format=nagios"], &["--format=json"], &["--format=prometheus"]];

/// What a probe with little memory prints. It must be in time, and must not print what a terminal
/// obeys.
fn probed(args: &[&str]) -> (i32, String) {
    probed_within(DEADLINE, args)
}

/// The same with another deadline.
fn probed_within(deadline: Duration, args: &[&str]) -> (i32, String) {
    let begun = Instant::now();
    let inner = probe(args);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\"")]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.arg(format!("--timeout={}s", deadline.as_secs()));
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let outcome = Outcome::of(&mut command);
    let took = begun.elapsed();
    assert_eq!(outcome.status.signal(), None, "{args:?}: {}", outcome.stderr);
    assert_eq!(outcome.stderr, "", "{args:?}");
    assert!(took < deadline + GRACE, "{args:?}: {took:?}");
    let is_obeyed = |it: char| {
        (it.is_control() && it != '\n') || matches!(it, '\u{202a}'..='\u{202e}' | '\u{2028}')
    };
    assert!(!outcome.stdout.contains(is_obeyed), "{args:?}: {:?}", outcome.stdout);
    (outcome.code(), outcome.stdout)
}

/// A server, and a part of what is said of it.
struct Case {
    name: &'static str,
    args: &'static [&'static str],
    server: fn(&mut Peer),
    said: &'static str,
}

const fn case(name: &'static str, server: fn(&mut Peer), said: &'static str) -> Case {
    Case { name, args: &[], server, said }
}

/// Sends this until the probe has gone.
fn flood(peer: &mut Peer, piece: &[u8]) {
    let piece = piece.repeat(64 * 1024 / piece.len() + 1);
    while peer.says(&piece) {}
}

/// Sends this byte by byte.
fn drip(peer: &mut Peer, bytes: &[u8]) {
    for byte in bytes {
        if !peer.says([*byte]) {
            return;
        }
        sleep(Duration::from_millis(100));
    }
    peer.wait();
}

const LARGE_HEAD: &str = "The answer's head does not end within 65536 bytes and 100 fields.";

const PLAIN: &[Case] = &[
    case(
        "a field without end",
        |peer| {
            peer.answer_and_flood("HTTP/1.1 200 OK\r\nX: ", b"a");
        },
        LARGE_HEAD,
    ),
    case(
        "fields without end",
        |peer| peer.answer_and_flood("HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        LARGE_HEAD,
    ),
    case(
        "provisional answers without end",
        |peer| peer.answer_and_flood("", b"HTTP/1.1 102 Processing\r\n\r\n"),
        LARGE_HEAD,
    ),
    case(
        "a body without end",
        |peer| {
            let head = "HTTP/1.1 426 No\r\nContent-Type: text/plain\r\n\
                        Content-Length: 100000000000\r\n\r\n";
            peer.answer_and_flood(head, b"spam\n");
        },
        "(http_426)",
    ),
    case(
        "a body without a line break",
        |peer| {
            let head = "HTTP/1.1 403 No\r\nContent-Type: text/plain\r\n\r\n";
            peer.answer_and_flood(head, b"spam");
        },
        "(http_403)",
    ),
    case(
        "an answer byte by byte",
        |peer| {
            peer.head();
            drip(peer, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n");
        },
        "(http_timeout)",
    ),
    case(
        "an echo byte by byte",
        |peer| {
            peer.accept("");
            drip(peer, b"\x81\x7e\x01\x00an echo that takes its time, and then some more");
        },
        "(echo_late)",
    ),
    case(
        "messages that nobody asked for",
        |peer| {
            peer.accept("");
            for number in 0..10_000 {
                peer.send(TEXT, format!("spam {number}").as_bytes());
            }
            peer.wait();
        },
        "(echo_altered)",
    ),
    case(
        "messages without end",
        |peer| {
            peer.accept("");
            flood(peer, b"\x81\x04spam");
        },
        "(echo_altered)",
    ),
    case(
        "pings without end",
        |peer| {
            peer.accept("");
            flood(peer, b"\x89\x04spam");
        },
        "(echo_late)",
    ),
    case(
        "pongs without end",
        |peer| {
            peer.accept("");
            flood(peer, b"\x8a\x04spam");
        },
        "(echo_late)",
    ),
    case(
        "a frame of 100 MiB",
        |peer| {
            peer.accept("");
            peer.say([0x82, 127, 0, 0, 0, 0, 6, 0x40, 0, 0]);
            flood(peer, b"spam");
        },
        "(frame_broken)",
    ),
    case(
        "fragments without end",
        |peer| {
            peer.accept("");
            peer.say(b"\x02\x04spam");
            let fragment = [&[0, 126, 0xff, 0xff][..], &[b'x'; 0xffff]].concat();
            while peer.says(&fragment) {}
        },
        "a message of more than 16777216 bytes",
    ),
    case(
        "empty fragments without end",
        |peer| {
            peer.accept("");
            peer.say(b"\x02\0");
            flood(peer, b"\0\0");
        },
        "(echo_late)",
    ),
    case(
        "a message that inflates to 64 MiB",
        |peer| {
            peer.accept("Sec-WebSocket-Extensions: permessage-deflate\r\n");
            peer.send(TEXT | 0x40, bomb());
            peer.wait();
        },
        "a message that inflates to over 16777216 bytes",
    ),
    Case {
        name: "redirects that grow",
        args: &["--follow"],
        server: |peer| {
            let head = peer.head();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let more = "x".repeat(400);
            peer.say(format!("HTTP/1.1 302 Found\r\nLocation: {path}{more}\r\n\r\n"));
            peer.linger();
        },
        said: "(redirect_loop)",
    },
    Case {
        name: "escapes in each place",
        args: &["--subprotocol=a"],
        server: |peer| {
            let evil = "\u{9b}2J\u{202e}evil";
            peer.accept(&format!(
                "Server: {evil}\r\nVia: {evil}\r\nX-Cache: {evil}\r\n\
                 Sec-WebSocket-Protocol: {evil}\r\n"
            ));
        },
        said: "2J",
    },
    Case {
        name: "a redirect with escapes",
        args: &["--follow"],
        server: |peer| peer.answer("HTTP/1.1 302 \u{9b}2J\r\nLocation: mailto:\u{9b}2J\r\n\r\n"),
        said: "2J",
    },
    case("a status line with escapes", |peer| peer.answer("HTTP/1.1 403 \x1b[2J\r\n\r\n"), "2J"),
    case(
        "a body with escapes",
        |peer| {
            let body =
                "\x1b]0;evil\x07\x1b[2J\u{9b}31m\u{202e} | a=1;;;;\r\0\x08 evil\n".repeat(40);
            peer.answer(&format!(
                "HTTP/1.1 403 \u{9b}2J\u{202e}\r\nContent-Type: text/plain\r\nServer: \u{9b}2J\r\n\r\n{body}"
            ));
        },
        "2J",
    ),
    case(
        "a diagnosis with escapes",
        |peer| {
            peer.answer(
                "HTTP/1.1 426 No\r\nContent-Type: text/plain\r\n\r\n\x1b[2J | evil\n\n(evil)\n",
            );
        },
        "2J",
    ),
    case(
        "a greeting with escapes, and a Close",
        |peer| {
            peer.accept("");
            peer.send(TEXT, b"\x1b[2Jevil");
            peer.send(CLOSE, b"\x03\xf3\x1b[2J | evil\r\nforged: line");
            peer.linger();
        },
        "evil",
    ),
];

impl Peer {
    /// Reads a request, and answers it with more of the same until the probe has gone.
    fn answer_and_flood(&mut self, start: &str, piece: &[u8]) {
        self.head();
        self.say(start);
        flood(self, piece);
    }
}

/// 64 MiB of zeros, compressed as a message.
fn bomb() -> &'static [u8] {
    static BOMB: OnceLock<Vec<u8>> = OnceLock::new();
    BOMB.get_or_init(|| {
        let mut compress = Compress::new(Compression::fast(), false);
        let (zeros, mut out) = (vec![0; 1 << 20], Vec::with_capacity(4 << 20));
        for _ in 0..64 {
            compress.compress_vec(&zeros, &mut out, FlushCompress::None).expect("room");
        }
        compress.compress_vec(&[], &mut out, FlushCompress::Sync).expect("room");
        out.truncate(out.len() - 4);
        out
    })
}

/// Each against a server, a few at once.
fn each(cases: &[Case], url: impl Fn(&Case) -> Vec<String> + Sync) {
    for some in cases.chunks(4) {
        std::thread::scope(|scope| {
            for case in some {
                let url = &url;
                scope.spawn(move || {
                    let target = url(case);
                    let target = target.iter().map(String::as_str);
                    let args: Vec<&str> = case.args.iter().copied().chain(target).collect();
                    let (code, text) = probed(&args);
                    let flat = text.replace("\n    ", " ").replace('\n', " ");
                    assert_eq!(code, 1, "{}: {text}", case.name);
                    assert!(flat.contains(case.said), "{}: {text}", case.name);
                    assert!(text.len() < 10_000, "{}: {text}", case.name);
                });
            }
        });
    }
}

#[test]
fn a_hostile_server_costs_neither_time_nor_memory() {
    bomb();
    each(PLAIN, |case| vec![format!("ws://127.0.0.1:{}/", serve(case.server))]);
}

#[test]
fn nothing_that_a_server_sends_garbles_a_report() {
    let evil = PLAIN.iter().filter(|case| case.name.contains("escapes"));
    for case in evil {
        let port = serve(case.server);
        let url = format!("ws://127.0.0.1:{port}/");
        for format in FORMATS {
            let (code, text) = probed(&[case.args, format, &[&*url]].concat());
            assert!(matches!(code, 1 | 2), "{}: {text}", case.name);
            match format[0] {
                "--format=nagios" => {
                    assert_eq!(text.lines().count(), 1, "{text}");
                    assert_eq!(text.matches('|').count(), 1, "{text}");
                }
                "-q" => assert_eq!(text.lines().count(), 1, "{text}"),
                "--format=json" => {
                    serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
                }
                "--format=prometheus" => {
                    let is_sample =
                        |line: &str| line.starts_with('#') || line.contains("{url=\"ws://");
                    assert!(text.lines().all(is_sample), "{text}");
                }
                _ => assert!(text.lines().all(|it| it.chars().count() <= 100), "{text}"),
            }
        }
    }
}

#[test]
fn a_hostile_http_proxy_costs_no_more() {
    for (server, said) in [
        (
            (|peer| peer.answer_and_flood("HTTP/1.1 200 OK\r\nX: ", b"a")) as fn(&mut Peer),
            "The head of the answer to CONNECT does not end within 65536 bytes and 100 fields.",
        ),
        (|peer| peer.answer_and_flood("", b"HTTP/1.1 102 Processing\r\n\r\n"), "(proxy_broken)"),
        (|peer| peer.answer_and_flood("HTTP/1.1 407 No\r\n\r\n", b"\x1b[2J"), "(proxy_auth)"),
        (|peer| peer.answer_and_flood("HTTP/1.1 200 Ok\r\n\r\n", b"spam"), "(not_http)"),
    ] {
        let proxy = format!("--proxy=http://127.0.0.1:{}", serve(server));
        let (code, text) = probed(&["-q", &proxy, "ws://a.test/"]);
        assert!(code == 1 && text.contains(said), "{text}");
    }
}

/// TLS whose writes go out byte by byte.
struct Dripping(TcpStream);

impl std::io::Read for Dripping {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl std::io::Write for Dripping {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        sleep(Duration::from_millis(20));
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn tls_that_drips_or_has_huge_certificates_costs_no_more() {
    let Some(dir) = certificates() else { return };
    let root = format!("--ca={}", dir.join("root.pem").display());
    let echo: fn(&mut Peer) = |peer| {
        peer.accept("");
        peer.echo_but(|_, _, _, _| false);
    };
    let serve_tls = |name, drips: bool| {
        let config = Arc::new(config(dir, name, false, &[b"http/1.1"]));
        serve_through(
            move |tcp| -> Box<dyn Transport> {
                let tls = ServerConnection::new(Arc::clone(&config)).expect("it is valid");
                if drips {
                    Box::new(StreamOwned::new(tls, Dripping(tcp)))
                } else {
                    Box::new(StreamOwned::new(tls, tcp))
                }
            },
            echo,
        )
    };
    for (name, drips, code, said) in [
        ("good", true, 1, "(tls_timeout)"),
        ("padded", false, 0, "WebSockets work"),
        ("huge", false, 1, "(tls_failed)"),
        ("ansi", false, 1, "(cert_self_signed)"),
    ] {
        let url = format!("wss://127.0.0.1:{}/", serve_tls(name, drips));
        let (found, text) = probed(&[&root, &url]);
        assert!(found == code && text.contains(said), "{name}: {text}");
        for format in FORMATS {
            probed(&[&[&*root], format, &[&*url]].concat());
        }
    }
}

/// The closing handshake is over, but TLS's last words have no room: the server floods, and does not
/// read the pongs.
#[test]
fn a_server_that_does_not_read_cannot_keep_the_probe_from_ending() {
    let Some(dir) = certificates() else { return };
    let config = Arc::new(config(dir, "good", false, &[b"http/1.1"]));
    let port = serve_through(
        move |tcp| {
            let tls = ServerConnection::new(Arc::clone(&config)).expect("it is valid");
            Box::new(StreamOwned::new(tls, tcp))
        },
        |peer| {
            peer.accept("");
            peer.echo_but(|peer, _, first, payload| {
                if first != PING {
                    return false;
                }
                let ping = [&[PING, 125][..], &[b'x'; 125]].concat().repeat(500);
                for _ in 0..60 {
                    peer.say(&ping);
                }
                peer.send(PONG, payload);
                peer.send(CLOSE, b"\x03\xe8");
                while peer.says([PONG, 0]) {
                    sleep(Duration::from_millis(20));
                }
                true
            });
        },
    );
    let root = format!("--ca={}", dir.join("root.pem").display());
    let patience = Duration::from_secs(20);
    let (code, text) = probed_within(patience, &[&root, &format!("wss://127.0.0.1:{port}/")]);
    assert!(matches!(code, 0 | 1) && text.contains(" close "), "{text}");
}

// Frames of RFC 9113, section 6: length, type, flags, stream.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const CONNECT: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1];
const PINGS: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
const HEADERS: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x88];
const CONTINUATION: &[u8] = &[0, 0, 4, 9, 0, 0, 0, 0, 1, 0, 1, b'a', 0];
const PUSH: &[u8] = &[0, 0, 5, 5, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0x88];

#[test]
fn floods_over_http2_cost_no_more() {
    let Some(dir) = certificates() else { return };
    let root = format!("--ca={}", dir.join("root.pem").display());
    let config = Arc::new(config(dir, "good", false, &[b"h2"]));
    for (name, start, piece) in [
        ("SETTINGS", CONNECT, SETTINGS),
        ("PING", CONNECT, PINGS),
        ("CONTINUATION", &[CONNECT, HEADERS].concat()[..], CONTINUATION),
        ("empty CONTINUATION", &[CONNECT, HEADERS].concat(), &[0, 0, 0, 9, 0, 0, 0, 0, 1]),
        ("PUSH_PROMISE", CONNECT, PUSH),
        ("garbage", b"", b"spam"),
    ] {
        let (config, start, piece) = (Arc::clone(&config), start.to_vec(), piece.to_vec());
        let port = serve_through(
            move |tcp| {
                let tls = ServerConnection::new(Arc::clone(&config)).expect("it is valid");
                Box::new(StreamOwned::new(tls, tcp))
            },
            move |peer| {
                peer.say(&start);
                flood(peer, &piece);
            },
        );
        let (code, text) = probed(&[&root, "--http2=only", &format!("wss://127.0.0.1:{port}/")]);
        assert!(code == 1 && text.contains("(http2_"), "{name}: {text}");
    }
}
