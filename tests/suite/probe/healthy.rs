//! Healthy paths: what is printed of them, and what a server may do without being called broken.

use super::peer::{BINARY, CLOSE, PING, PONG, Peer, TEXT, serve, value};
use super::{probe, shown, verdict};
use crate::service::{Outcome, Service};

fn url(port: u16) -> String {
    format!("ws://127.0.0.1:{port}/echo")
}

/// A correct echo.
fn echo(peer: &mut Peer) {
    peer.accept("");
    peer.echo_but(|_, _, _, _| false);
}

#[test]
fn wsecho_itself_is_healthy_and_its_prefix_is_told() {
    let service = Service::start("");
    let addr = &service.addrs[0];
    let port = addr.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let outcome = Outcome::of(&mut probe(&[&format!("ws://{addr}/socket")]));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (0, ""));
    assert_eq!(
        shown(&outcome, port),
        "\
ws://127.0.0.1:PORT/socket
  - resolve              not needed: an address
  ✓ tcp T ms  127.0.0.1:PORT
  - tls                  not used: ws://
  ✓ http T ms  101 Switching Protocols
  ✓ upgrade              accept value correct, permessage-deflate agreed
  ✓ echo T ms  text, binary, empty, non-ASCII, fragmented, 70 KB, compressed, text
                         prefixed with \"server: \"
  ✓ ping T ms
  ✓ close T ms  1000 answered with 1000

WebSockets work on this path: T ms round trip.
"
    );
}

#[test]
fn each_refusal_of_wsecho_is_named_as_it_names_it_itself() {
    let config = "limits.max_connections = 1\norigins = [\"https://a.test\"]\n\
                  [[endpoint]]\npath = \"/socket\"\n\
                  [[endpoint]]\npath = \"/plain\"\noptions = false\n";
    let mut service = Service::start(config);
    let addr = service.addrs[0].clone();
    let refused = |service: &mut Service, args: &[&str], path: &str, label: &str| {
        let url = format!("ws://{addr}{path}");
        let (code, text) = verdict(&[args, &[&*url]].concat(), 0);
        let end = format!(" ({label}, as wsecho itself says)");
        assert!(code == 1 && text.ends_with(&end), "{text}");
        // As the log has it.
        service.log_line(&format!("reason={label}"));
        text
    };
    let text = refused(&mut service, &["--origin=https://b.test"], "/socket", "origin");
    assert!(text.contains(": this origin is not allowed here: it is not in the list"), "{text}");
    refused(&mut service, &["--header=Sec-WebSocket-Key: x"], "/socket", "bad_key");
    refused(&mut service, &["--header=Sec-WebSocket-Version: x"], "/socket", "bad_version");
    refused(&mut service, &[], "/plain?ping=off", "options_off");
    let _only = service.open("/plain");
    refused(&mut service, &[], "/plain", "full");
    let service = Service::start("[proxy]\nproxy_protocol = \"required\"");
    let (_, text) = verdict(&[&format!("ws://{}/socket", service.addrs[0])], 0);
    assert!(text.ends_with("(proxy_protocol_missing, as wsecho itself says)"), "{text}");
}

#[test]
fn a_label_alone_makes_no_answer_wsechos() {
    let port = serve(|peer| {
        peer.answer("HTTP/1.1 403 No\r\nContent-Type: text/plain\r\n\r\n(forbidden)\n");
    });
    let (_, text) = verdict(&[&url(port)], port);
    assert!(text.ends_with("(http_403)"), "{text}");
}

#[test]
fn a_diagnosis_of_wsecho_is_shown_as_it_is() {
    let service = Service::start("");
    let addr = service.addrs[0].clone();
    let port = addr.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let url = format!("ws://{addr}/socket");
    // As nginx sends it without a line for Connection.
    let outcome = Outcome::of(&mut probe(&["--header", "Connection: close", &url]));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (1, ""));
    assert_eq!(
        shown(&outcome, port),
        "\
ws://127.0.0.1:PORT/socket
  - resolve              not needed: an address
  ✓ tcp T ms  127.0.0.1:PORT
  - tls                  not used: ws://
  ✗ http T ms  426 Upgrade Required

a WebSocket handshake arrived, but the proxy in front dropped `Connection: upgrade`

nginx, next to proxy_pass:

    proxy_set_header Connection \"upgrade\";

any other proxy: use HTTP/1.1 to this service, and forward `Upgrade` and `Connection` unchanged

(proxy_connection_lost, as wsecho itself says)
"
    );
}

#[test]
fn several_urls_are_probed_side_by_side_and_the_worst_decides() {
    let port = serve(echo);
    let good = url(port);
    let silent = serve(Peer::wait);
    let bad = url(silent);
    let outcome = Outcome::of(&mut probe(&["-q", "-t", "500ms", &bad, &good, &bad]));
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with(&bad) && lines[0].ends_with("(http_timeout)"), "{}", lines[0]);
    assert!(lines[1].starts_with(&format!("{good}: WebSockets work")), "{}", lines[1]);
    assert_eq!(Outcome::of(&mut probe(&["-q", &good, &good])).code(), 0);
}

#[test]
fn a_greeting_pings_of_the_server_and_its_fragments_are_no_faults() {
    let port = serve(|peer| {
        peer.accept("");
        peer.send(PING, b"are you there?");
        peer.send(TEXT, b"Request served by \x1b[31m17");
        let mut ponged = false;
        peer.echo_but(|peer, _, first, payload| match first {
            PONG => {
                ponged |= payload == b"are you there?";
                true
            }
            BINARY if payload.len() > 9 => {
                assert!(ponged, "pings are answered");
                peer.send(0x02, &payload[..9]);
                peer.send(PONG, b"");
                peer.send(0x80, &payload[9..]);
                true
            }
            _ => false,
        });
    });
    let (code, text) = verdict(&[&url(port)], port);
    assert_eq!(code, 0, "{text}");
}

type Compressor = fn(&[u8]) -> Vec<u8>;

#[test]
fn messages_compressed_by_the_server_are_inflated() {
    const AGREED: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let compressors: [Compressor; 2] = [
        // As it came.
        |payload| payload.to_vec(),
        // A final block, which RFC 7692 allows.
        |payload| {
            let text = inflated(payload);
            let mut out = Vec::new();
            let mut deflate =
                flate2::read::DeflateEncoder::new(&*text, flate2::Compression::best());
            std::io::Read::read_to_end(&mut deflate, &mut out).expect("memory");
            out.push(0);
            out
        },
    ];
    for compress in compressors {
        let port = serve(move |peer| {
            peer.accept(AGREED);
            peer.echo_but(|peer, _, first, payload| {
                let compressed = first == TEXT | 0x40;
                if compressed {
                    peer.send(first, &compress(payload));
                }
                compressed
            });
        });
        let (code, text) = verdict(&[&url(port)], port);
        assert_eq!(code, 0, "{text}");
    }
}

/// The text of a compressed message.
fn inflated(payload: &[u8]) -> Vec<u8> {
    let mut text = vec![0; 1000];
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut inflate = flate2::Decompress::new(false);
    inflate.decompress(&input, &mut text, flate2::FlushDecompress::Sync).expect("it is deflated");
    text.truncate(usize::try_from(inflate.total_out()).expect("small"));
    text
}

#[test]
fn servers_that_are_no_echo_are_probed_with_send_and_expect_or_with_nothing() {
    let port = serve(|peer| {
        peer.accept("");
        let question = peer.frame();
        if question == Some((TEXT, b"{\"id\":1}".to_vec())) {
            peer.send(TEXT, b"{\"event\":\"welcome\"}");
            peer.send(TEXT, b"{\"id\":1,\"result\":42}");
        } else if let Some((PING, payload)) = question {
            peer.send(PONG, &payload);
        }
        peer.echo_but(|_, _, _, _| false);
    });
    let args = ["--send", "{\"id\":1}", "--expect", "\"result\":[0-9]+"];
    let (code, text) = verdict(&[&args[..], &[&url(port)]].concat(), port);
    assert_eq!(code, 0, "{text}");
    let (code, text) = verdict(&["--connect-only", &url(port)], port);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn what_the_command_line_asks_for_is_in_the_request_and_v_shows_no_secret() {
    let port = serve(|peer| {
        let head = peer.accept(
            "Sec-WebSocket-Protocol: v2\r\nSet-Cookie: id=hidden\r\n\
             Location: http://me:private@127.0.0.1/\r\n\
             Content-Location: //me:private@127.0.0.1/\r\n\
             X-Next: /a?token=private&next=http://me:private@127.0.0.1/\r\n",
        );
        assert!(head.starts_with("GET /a?x=1&token=hidden HTTP/1.1\r\n"), "{head}");
        assert_eq!(value(&head, "Host"), "other.example");
        assert_eq!(value(&head, "Origin"), "https://page.example");
        assert_eq!(value(&head, "Sec-WebSocket-Protocol"), "v1, v2");
        assert_eq!(value(&head, "X-Api-Key"), "hidden");
        // "me:hidden/" in base64.
        assert_eq!(value(&head, "Authorization"), "Basic bWU6aGlkZGVuLw==");
        peer.echo_but(|_, _, _, _| false);
    });
    let args = [
        "-v",
        "--header=X-Api-Key: hidden",
        "--header=X-Plain: seen",
        // As people copy it from the RFC.
        "--header=Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "--origin=https://page.example",
        "--subprotocol=v1",
        "--subprotocol=v2",
        "--host=other.example",
        &format!("ws://me:hidden%2F@127.0.0.1:{port}/a?x=1&token=hidden"),
    ];
    let outcome = Outcome::of(&mut probe(&args));
    let text = shown(&outcome, port);
    assert_eq!(outcome.code(), 0, "{text}");
    assert!(!text.contains("hidden") && !text.contains("bWU6"), "{text}");
    // What only the server knows.
    assert!(!text.contains("private"), "{text}");
    for line in [
        "ws://me:…@127.0.0.1:PORT/a?x=1&token=…",
        "  > GET /a?x=1&token=… HTTP/1.1",
        "  > X-Api-Key: …",
        "  > X-Plain: seen",
        "  > Authorization: …",
        "  < HTTP/1.1 101 Switching Protocols",
        "  < Set-Cookie: …",
        "  < Location: http://…@127.0.0.1/",
        "  < Content-Location: …@127.0.0.1/",
        "  < X-Next: /a?token=…&next=http://…@127.0.0.1/",
        "  ✓ upgrade              accept value correct, subprotocol v2",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
    }
}

#[test]
fn redirects_are_followed_only_where_that_is_asked_for() {
    let end = serve(echo);
    let port = serve(move |peer| {
        let to = format!("http://127.0.0.1:{end}/echo");
        peer.answer(&format!("HTTP/1.1 301 Moved Permanently\r\nLocation: {to}\r\n\r\n"));
    });
    let (code, text) = verdict(&[&url(port)], port);
    let said = "The server answered the handshake with 301 Moved Permanently";
    assert_eq!((code, text.contains(said)), (1, true), "{text}");
    assert!(
        text.ends_with(&format!("which leads to http://127.0.0.1:{end}/echo. (redirected)")),
        "{text}"
    );
    let outcome = Outcome::of(&mut probe(&["--follow", &url(port)]));
    let text = shown(&outcome, port);
    assert_eq!(outcome.code(), 0, "{text}");
    let expected = format!(
        "ws://127.0.0.1:PORT/echo\n  301 to ws://127.0.0.1:{end}/echo\nws://127.0.0.1:{end}/echo\n"
    );
    assert!(text.starts_with(&expected), "{text}");
}

#[test]
fn a_server_that_leaves_the_connection_open_is_warned_of() {
    let port = serve(|peer| {
        peer.accept("");
        peer.echo_but(|peer, _, first, payload| {
            if first == CLOSE {
                peer.send(first, payload);
                peer.wait();
            }
            first == CLOSE
        });
    });
    let outcome = Outcome::of(&mut probe(&["-t", "5s", &url(port)]));
    let text = shown(&outcome, port);
    assert_eq!(outcome.code(), 0, "{text}");
    let warning = "\nWarning: After the closing handshake the server leaves the connection open.\n";
    assert!(text.ends_with(warning), "{text}");
}

#[test]
fn colour_is_only_for_terminals_and_output_that_nobody_takes_is_no_panic() {
    let port = serve(echo);
    let outcome = Outcome::of(&mut probe(&[&url(port)]));
    assert!(!outcome.stdout.contains('\x1b'));
    let script = "\"$0\" probe \"$1\" > /dev/full";
    let mut shell = std::process::Command::new("sh");
    let outcome = Outcome::of(shell.args(["-c", script, env!("CARGO_BIN_EXE_wsecho"), &url(port)]));
    assert_eq!(outcome.code(), 1);
    assert!(outcome.stderr.starts_with("wsecho: cannot print: "), "{}", outcome.stderr);
}
