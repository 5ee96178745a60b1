//! Every failure from the request on, each provoked by a server that does one thing wrong.

use wsecho::probe::failure::Failure;
use wsecho::probe::report::Stage;

use super::peer::{BINARY, CLOSE, PING, PONG, Peer, TEXT, serve};
use super::{http2, load, measured, network, probe, shown, tls, verdict};
use crate::service::Outcome;

/// A server, and what is said of it: the label, and what was seen.
pub struct Case {
    label: &'static str,
    args: &'static [&'static str],
    server: fn(&mut Peer),
    seen: &'static str,
}

const fn case(label: &'static str, server: fn(&mut Peer), seen: &'static str) -> Case {
    Case { label, args: &[], server, seen }
}

/// For what only shows by waiting. Everything else is over long before.
const BRIEF: &[&str] = &["--timeout=3s"];

const HTTP: &[Case] = &[
    case(
        "plain_to_tls",
        |peer| peer.answer("\x15\x03\x01\0\x02\x02\n"),
        "The answer is a TLS alert.",
    ),
    case(
        "plain_to_tls",
        |peer| {
            peer.answer(
                "HTTP/1.1 400 Bad Request\r\n\r\n\
                 <h1>The plain HTTP request was sent to HTTPS port</h1>",
            );
        },
        "The server answered the handshake with 400 Bad Request.",
    ),
    Case {
        label: "http_timeout",
        args: BRIEF,
        server: Peer::wait,
        seen: "There was no answer in time; 0 bytes were received.",
    },
    Case {
        label: "http_timeout",
        args: BRIEF,
        server: |peer| {
            peer.head();
            peer.say("HTTP/1.1 101 Sw");
            peer.wait();
        },
        seen: "There was no answer in time; 15 bytes were received.",
    },
    // A body without an end hides no status.
    case(
        "upgrade_ignored",
        |peer| {
            peer.head();
            peer.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
            peer.wait();
        },
        "The server answered the handshake with 200 OK.",
    ),
    case(
        "http_closed",
        |peer| peer.answer(""),
        "The server closed the connection without an answer.",
    ),
    case(
        "http_closed",
        |peer| peer.answer("HTTP/1.1 101 Switching Protocols\r\nUpgr"),
        "The server closed the connection without an answer.",
    ),
    case(
        "http_closed",
        |peer| {
            peer.head();
            peer.reset();
        },
        "The connection was reset before an answer.",
    ),
    case(
        "http_closed",
        |peer| {
            peer.head();
            peer.say("HTTP/1.1 101 Switching Protocols\r\nUpgr");
            peer.reset();
        },
        "The connection was reset before an answer.",
    ),
    case("not_http", |peer| peer.answer("SSH-2.0-OpenSSH_7.4\r\n"), "The answer is not HTTP."),
    Case {
        label: "bad_redirect",
        args: &["--follow"],
        server: |peer| peer.answer("HTTP/1.1 302 Found\r\nLocation: mailto://x y\r\n\r\n"),
        seen: "The server redirects (302) to mailto://x y.",
    },
    case(
        "redirected",
        |peer| peer.answer("HTTP/1.1 301 Moved Permanently\r\nLocation: /ws/\r\n\r\n"),
        "The server answered the handshake with 301 Moved Permanently, which leads to /ws/.",
    ),
    Case {
        label: "redirect_loop",
        args: &["--follow"],
        server: |peer| peer.answer("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"),
        seen: "After 10 redirects, another follows. The server redirects (302) to /.",
    },
    case(
        "refused_by_wsecho",
        |peer| {
            peer.answer(
                "HTTP/1.1 426 Upgrade Required\r\nContent-Type: text/plain\r\n\r\nlost\n\n\
                 nginx:\n\n    line;\n\nothers\n\n(proxy_upgrade_lost)\n",
            );
        },
        "lost (proxy_upgrade_lost, as wsecho itself says)",
    ),
    case(
        "upgrade_ignored",
        |peer| peer.answer("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>"),
        "The server answered the handshake with 200 OK.",
    ),
    case(
        "http_400",
        |peer| peer.answer("HTTP/1.1 400 \r\n\r\n"),
        "The server answered the handshake with 400 Bad Request.",
    ),
    // As by a server that refuses what a load balancer sent before the request.
    case(
        "http_400",
        |peer| {
            peer.say("HTTP/1.1 400 Early\r\nContent-Length: 0\r\n\r\n");
            peer.linger();
        },
        "The server answered the handshake with 400 Early.",
    ),
    case(
        "http_401",
        |peer| peer.answer("HTTP/1.1 401 No\r\n\r\n"),
        "The server answered the handshake with 401 No.",
    ),
    case(
        "http_403",
        |peer| peer.answer("HTTP/1.1 403 No\r\n\r\n"),
        "The server answered the handshake with 403 No.",
    ),
    case(
        "http_404",
        |peer| peer.answer("HTTP/1.1 404 No\r\n\r\n"),
        "The server answered the handshake with 404 No.",
    ),
    case(
        "http_405",
        |peer| peer.answer("HTTP/1.1 405 No\r\n\r\n"),
        "The server answered the handshake with 405 No.",
    ),
    case(
        "http_426",
        |peer| peer.answer("HTTP/1.1 426 No\r\n\r\n"),
        "The server answered the handshake with 426 No.",
    ),
    case(
        "http_429",
        |peer| peer.answer("HTTP/1.1 429 No\r\n\r\n"),
        "The server answered the handshake with 429 No.",
    ),
    case(
        "http_5xx",
        |peer| peer.answer("HTTP/1.1 500 No\r\n\r\n"),
        "The server answered the handshake with 500 No.",
    ),
    case(
        "http_502",
        |peer| peer.answer("HTTP/1.0 502 No\r\n\r\n"),
        "The server answered the handshake with 502 No.",
    ),
    case(
        "http_503",
        |peer| peer.answer("HTTP/1.1 503 No\r\n\r\n"),
        "The server answered the handshake with 503 No.",
    ),
    case(
        "http_504",
        |peer| peer.answer("HTTP/1.1 504 No\r\n\r\n"),
        "The server answered the handshake with 504 No.",
    ),
    case(
        "http_other",
        |peer| peer.answer("HTTP/1.1 418 No\r\n\r\n"),
        "The server answered the handshake with 418 No.",
    ),
];

const UPGRADE: &[Case] = &[
    // Not even if the first of them is right.
    case(
        "accept_wrong",
        |peer| {
            peer.accept("Sec-WebSocket-Accept: x\r\n");
            peer.echo_but(|_, _, _, _| false);
        },
        "The 101 has more than one Sec-WebSocket-Accept.",
    ),
    case(
        "accept_missing",
        |peer| peer.answer("HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
        "The 101 has no Sec-WebSocket-Accept.",
    ),
    case(
        "upgrade_header_missing",
        |peer| peer.answer("HTTP/1.1 101 Ok\r\nConnection: upgrade\r\n\r\n"),
        "The 101 has no `Upgrade`.",
    ),
    case(
        "connection_header_missing",
        |peer| {
            peer.answer("HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: keep-alive\r\n\r\n");
        },
        "The 101 has `Connection: keep-alive`.",
    ),
    case(
        "upgrade_http_1_0",
        |peer| peer.answer("HTTP/1.0 101 Ok\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
        "The 101 is an answer of HTTP/1.0.",
    ),
    case(
        "extension_not_offered",
        |peer| drop(peer.accept("Sec-WebSocket-Extensions: x-webkit-deflate-frame\r\n")),
        "The 101 accepts `x-webkit-deflate-frame`, but `permessage-deflate; \
         server_no_context_takeover; client_no_context_takeover` was offered.",
    ),
    case(
        "extension_not_offered",
        |peer| {
            peer.accept(
                "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=9\r\n",
            );
        },
        "The 101 accepts `permessage-deflate; client_max_window_bits=9`, but `permessage-deflate; \
         server_no_context_takeover; client_no_context_takeover` was offered.",
    ),
    case(
        "subprotocol_not_offered",
        |peer| drop(peer.accept("Sec-WebSocket-Protocol: mqtt\r\n")),
        "The 101 selects the subprotocol mqtt; offered: none.",
    ),
    Case {
        label: "subprotocol_ignored",
        args: &["--subprotocol=a", "--subprotocol=b"],
        server: |peer| drop(peer.accept("")),
        seen: "The 101 selects no subprotocol; offered: a, b.",
    },
];

/// Echoes correctly but for the frame with this number.
fn but(peer: &mut Peer, number: usize, mut wrong: impl FnMut(&mut Peer, &[u8])) {
    peer.accept("");
    peer.echo_but(|peer, count, _, payload| {
        if count == number {
            wrong(peer, payload);
        }
        count == number
    });
}

/// The number of the frame with 70 KB, and of the first of two messages at once.
const LARGE: usize = 7;
const PAIR: usize = 8;

const ECHO: &[Case] = &[
    Case {
        label: "echo_late",
        args: BRIEF,
        server: |peer| but(peer, 1, |_, _| ()),
        seen: "The message \"binary\" did not come back in time.",
    },
    case(
        "echo_altered",
        |peer| {
            but(peer, 1, |peer, payload| {
                peer.send(BINARY, &[&payload[..63], &[!payload[63]]].concat());
            });
        },
        "The echo of \"binary\" is not what was sent: byte 63 of 64 differs.",
    ),
    case(
        "echo_altered",
        |peer| but(peer, LARGE, |peer, payload| peer.send(BINARY, &payload[..65_536])),
        "The echo of \"70 KB\" is not what was sent: 65536 bytes instead of 70000.",
    ),
    case(
        "echo_altered",
        |peer| but(peer, 3, |peer, payload| peer.send(TEXT, &payload.to_ascii_uppercase())),
        "The echo of \"non-ASCII\" is not what was sent: byte 0 of 35 differs.",
    ),
    case(
        "echo_type",
        |peer| but(peer, 0, |peer, payload| peer.send(BINARY, payload)),
        "The message \"text\" was sent as text and came back as binary.",
    ),
    case(
        "echo_doubled",
        |peer| {
            but(peer, 1, |peer, payload| {
                peer.send(BINARY, payload);
                peer.send(BINARY, payload);
            });
        },
        "The same message came back twice.",
    ),
    case(
        "echo_doubled",
        |peer| {
            but(peer, PAIR + 1, |peer, payload| {
                peer.send(TEXT, payload);
                peer.send(TEXT, payload);
            });
        },
        "The same message came back twice.",
    ),
    case(
        "echo_order",
        |peer| {
            let mut first = Vec::new();
            peer.accept("");
            peer.echo_but(|peer, count, _, payload| match count {
                PAIR => {
                    first = payload.to_vec();
                    true
                }
                9 => {
                    peer.send(TEXT, payload);
                    peer.send(TEXT, &first);
                    true
                }
                _ => false,
            });
        },
        "Of two messages sent at once, the second came back first.",
    ),
    Case {
        label: "expectation_unmet",
        args: &["--timeout=3s", "--send=hello", "--expect=^ready$"],
        server: |peer| {
            peer.accept("");
            peer.echo_but(|_, _, _, _| false);
        },
        seen: "None of the 1 messages received matches `^ready$`.",
    },
    case(
        "message_too_big",
        |peer| but(peer, LARGE, |peer, _| peer.send(CLOSE, b"\x03\xf1over 64 KiB")),
        "The server refused the message \"70 KB\" with close code 1009.",
    ),
    case(
        "compression_broken",
        |peer| {
            peer.accept("Sec-WebSocket-Extensions: permessage-deflate\r\n");
            peer.echo_but(|peer, _, first, payload| {
                let compressed = first == TEXT | 0x40;
                if compressed {
                    peer.send(TEXT, payload);
                }
                compressed
            });
        },
        "The echo of a compressed message is unreadable: text that is not UTF-8.",
    ),
    case(
        "compression_broken",
        |peer| {
            peer.accept("Sec-WebSocket-Extensions: permessage-deflate\r\n");
            peer.echo_but(|peer, _, first, _| {
                let compressed = first == TEXT | 0x40;
                if compressed {
                    peer.send(CLOSE, b"\x03\xeareserved bits");
                }
                compressed
            });
        },
        "The server answered a compressed message with a Close frame.",
    ),
    case(
        "frame_broken",
        |peer| but(peer, 0, |peer, payload| peer.send(TEXT | 0x40, payload)),
        "Instead of the echo of \"text\", an illegal frame came: reserved bit set without a negotiated extension.",
    ),
    case(
        "frame_broken",
        |peer| but(peer, 0, |peer, _| peer.say([TEXT, 0x81, 0, 0, 0, 0, b'x'])),
        "Instead of the echo of \"text\", an illegal frame came: a frame of the server is masked.",
    ),
    case(
        "frame_broken",
        |peer| but(peer, 0, |peer, _| peer.send(0x80, b"x")),
        "Instead of the echo of \"text\", an illegal frame came: a continuation frame outside a message.",
    ),
    case(
        "closed_early",
        |peer| but(peer, 2, |peer, _| peer.send(CLOSE, b"\x03\xf3crashed \x1b[2J")),
        "Instead of the echo of \"empty\", a Close frame with code 1011 came.",
    ),
    case(
        "cut",
        |peer| drop(peer.accept("")),
        "The connection was closed before the echo of \"text\".",
    ),
    case(
        "reset",
        |peer| but(peer, 4, |peer, _| peer.reset()),
        "The connection was reset before the echo of \"fragmented\".",
    ),
    Case {
        label: "pong_late",
        args: BRIEF,
        server: |peer| {
            peer.accept("");
            peer.echo_but(|_, _, first, _| first == PING);
        },
        seen: "The ping was not answered in time.",
    },
    // A flood outlasts no deadline.
    Case {
        label: "pong_late",
        args: BRIEF,
        server: |peer| {
            peer.accept("");
            peer.echo_but(|peer, _, first, _| {
                while first == PING && peer.says([PONG, 0, PING, 1, b'x'].repeat(1000)) {}
                false
            });
        },
        seen: "The ping was not answered in time.",
    },
    case(
        "pong_altered",
        |peer| {
            peer.accept("");
            peer.echo_but(|peer, _, first, _| {
                if first == PING {
                    peer.send(PONG, b"pong");
                }
                first == PING
            });
        },
        "The pong carries 4 bytes that are not the payload of the ping.",
    ),
    Case {
        label: "close_late",
        args: BRIEF,
        server: |peer| {
            peer.accept("");
            peer.echo_but(|_, _, first, _| first == CLOSE);
        },
        seen: "Close 1000 was not answered in time.",
    },
    case(
        "close_altered",
        |peer| {
            peer.accept("");
            peer.echo_but(|peer, _, first, _| {
                if first == CLOSE {
                    peer.send(CLOSE, b"\x03\xe9");
                }
                first == CLOSE
            });
        },
        "Close 1000 was answered with 1001.",
    ),
    case(
        "close_cut",
        |peer| {
            peer.accept("");
            peer.echo_but(|peer, _, first, _| {
                if first == CLOSE {
                    peer.linger();
                }
                first == CLOSE
            });
        },
        "The connection was closed without an answer to Close 1000.",
    ),
];

fn each(cases: &'static [Case]) {
    // Side by side, because some wait for a timeout.
    std::thread::scope(|scope| {
        for Case { label, args, server, seen } in cases {
            scope.spawn(move || {
                let port = serve(*server);
                let url = format!("ws://127.0.0.1:{port}/");
                let (code, text) = verdict(&[args, &[&*url][..]].concat(), port);
                let expected = match *label {
                    "refused_by_wsecho" => format!("ws://127.0.0.1:PORT/: {seen}"),
                    label => format!("ws://127.0.0.1:PORT/: {seen} ({label})"),
                };
                assert_eq!((code, &*text), (1, &*expected));
            });
        }
    });
}

#[test]
fn each_answer_that_opens_no_websocket_is_told_apart() {
    each(HTTP);
}

#[test]
fn each_wrong_101_is_told_apart() {
    each(UPGRADE);
}

#[test]
fn a_wrong_accept_value_is_shown_beside_the_right_one() {
    let port = serve(|peer| {
        peer.answer(
            "HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
    });
    let (code, text) = verdict(&[&format!("ws://127.0.0.1:{port}/")], port);
    assert_eq!(code, 1);
    assert!(text.contains("is s3pPLMBiTxaQ9kYGzzhZRbK+xOo=, but should be "), "{text}");
    assert!(text.ends_with("=. (accept_wrong)"), "{text}");
}

#[test]
fn each_fault_of_an_open_websocket_is_told_apart() {
    each(ECHO);
}

#[test]
fn a_failure_is_printed_as_what_was_seen_what_it_means_and_what_to_do() {
    let port = serve(|peer| {
        peer.accept("Server: nginx/1.20.1\r\nVia: 1.1 edge\r\n");
        peer.echo_but(|peer, count, _, _| {
            if count == 2 {
                peer.send(CLOSE, b"\x03\xf3crashed \x1b[2J");
            }
            count == 2
        });
    });
    let outcome = Outcome::of(&mut probe(&[&format!("ws://127.0.0.1:{port}/chat")]));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (1, ""));
    assert_eq!(
        shown(&outcome, port),
        "\
ws://127.0.0.1:PORT/chat
  - resolve              not needed: an address
  ✓ tcp T ms  127.0.0.1:PORT
  - tls                  not used: ws://
  ✓ http T ms  101 Switching Protocols, Server: nginx/1.20.1, Via: 1.1 edge
  ✓ upgrade              accept value correct
  ✗ echo T ms  text, binary

Instead of the echo of \"empty\", a Close frame with code 1011 came.

  | crashed \\u{1b}[2J

The server ended the session; the close code and the reason say why.
Read the server's log.

(closed_early)
"
    );
}

/// A table in which a failure is missing has a hole.
#[test]
fn every_failure_has_a_test() {
    let here = [HTTP, UPGRADE, ECHO].concat_labels();
    let others = [network::LABELS, tls::LABELS, http2::LABELS, measured::LABELS];
    let others = [others.concat(), load::LABELS.to_vec()].concat();
    let tested = [&here[..], &others, &["accept_wrong"]].concat();
    let missing: Vec<_> =
        Failure::ALL.iter().map(|it| it.label()).filter(|label| !tested.contains(label)).collect();
    assert_eq!(missing, [""; 0]);
    let stages: Vec<_> = Failure::ALL.iter().map(|it| it.stage()).collect();
    assert!(stages.is_sorted(), "the table is in the order of the stages");
    assert_eq!(stages.last(), Some(&Stage::Http2));
}

trait Labels {
    fn concat_labels(&self) -> Vec<&'static str>;
}

impl Labels for [&[Case]; 3] {
    fn concat_labels(&self) -> Vec<&'static str> {
        self.iter().flat_map(|cases| cases.iter().map(|case| case.label)).collect()
    }
}
