//! WebSockets over HTTP/2: a server that offers them, and each way in which it may fail to.

#![expect(clippy::disallowed_methods, reason = "not tasks of the service")]

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use hyper::{Method, Request, Response};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, duplex, split};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::tls::{certificates, config};
use super::{probe, shown, verdict};
use crate::service::{Outcome, Service};

/// The failures that are tested here.
pub const LABELS: &[&str] = &[
    "http2_not_offered",
    "http2_not_announced",
    "http2_failed",
    "http2_timeout",
    "http2_refused",
    "http2_key",
    "http2_session",
];

/// What becomes of an extended CONNECT.
#[derive(Clone, Copy)]
enum Connect {
    Echo,
    /// An echo that ends the stream after one message.
    EchoOnce,
    /// As Envoy in front of an HTTP/1.1 server that refuses what has no key like this.
    NeedsKey(u16),
    Status(u16),
    Reset(Reason),
    GoAway(Reason),
    Silence,
    /// The connection ends before SETTINGS.
    Hangup,
}

/// Serves WebSockets by HTTP/1.1 as they should be, and by HTTP/2 like this.
fn serve(dir: &Path, alpn: &[&[u8]], announces: bool, connect: Connect) -> u16 {
    let acceptor = TlsAcceptor::from(Arc::new(config(dir, "good", false, alpn)));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    listener.set_nonblocking(true).expect("an option");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                        http2(tls, announces, connect).await;
                    } else if let Ok(socket) = accept_async(tls).await {
                        echo(socket, usize::MAX).await;
                    }
                });
            }
        });
    });
    port
}

async fn http2(tls: TlsStream<TcpStream>, announces: bool, connect: Connect) {
    if let Connect::Hangup = connect {
        return;
    }
    let mut builder = Builder::new();
    if announces {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(tls).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        if let Connect::GoAway(reason) = connect {
            connection.abrupt_shutdown(reason);
        } else {
            tokio::spawn(answer(request, respond, connect));
        }
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, connect: Connect) {
    let has_key = request.headers().contains_key("sec-websocket-key");
    let status = match connect {
        Connect::Reset(reason) => return respond.send_reset(reason),
        Connect::Silence | Connect::GoAway(_) | Connect::Hangup => std::future::pending().await,
        Connect::NeedsKey(_) if has_key => 200,
        Connect::Status(status) | Connect::NeedsKey(status) => status,
        Connect::Echo | Connect::EchoOnce if is_proper(&request) => 200,
        Connect::Echo | Connect::EchoOnce => 400,
    };
    let response = Response::builder().status(status).header("content-type", "text/plain");
    let response = response.body(()).expect("a status");
    let Ok(mut send) = respond.send_response(response, false) else { return };
    if status == 200 {
        let most = if let Connect::EchoOnce = connect { 1 } else { usize::MAX };
        session(request.into_body(), send, most).await;
    } else {
        let _ = send.send_data(Bytes::from_static(b"That is why."), true);
    }
}

/// Whether it is the request of RFC 8441, section 5.1, and nothing else.
fn is_proper(request: &Request<RecvStream>) -> bool {
    let protocol = request.extensions().get::<h2::ext::Protocol>();
    let value = |name| request.headers().get(name).map(|value| value.to_str().expect("ASCII"));
    request.method() == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
        && request.uri().scheme_str() == Some("https")
        && request.uri().path_and_query().is_some_and(|path| path == "/echo?a=b")
        && request.uri().authority().is_some_and(|authority| authority == "echo.test:1234")
        && value("sec-websocket-version") == Some("13")
        && value("x-more") == Some("seen")
        && ["sec-websocket-key", "host"].iter().all(|name| value(name).is_none())
}

/// Echoes on an HTTP/2 stream.
async fn session(mut receive: RecvStream, mut send: SendStream<Bytes>, most: usize) {
    let (near, far) = duplex(1 << 16);
    let (mut from, mut to) = split(near);
    let incoming = async {
        while let Some(Ok(data)) = receive.data().await {
            let _ = receive.flow_control().release_capacity(data.len());
            if to.write_all(&data).await.is_err() {
                return;
            }
        }
    };
    let outgoing = async {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let _ = send.send_data(Bytes::copy_from_slice(&buffer[..read]), false);
        }
        let _ = send.send_data(Bytes::new(), true);
    };
    let socket = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    tokio::join!(incoming, outgoing, echo(socket, most));
}

/// Echoes at most so many messages.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>, most: usize) {
    let mut count = 0;
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() || message.is_binary() {
            count += 1;
            if socket.send(message).await.is_err() || count == most {
                return;
            }
        }
    }
}

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];
const AS_ASKED: &[&str] = &["--host=echo.test:1234", "--header=X-More: seen", "--timeout=20s"];

fn url(port: u16) -> String {
    format!("wss://127.0.0.1:{port}/echo?a=b")
}

/// The line of the stage, the verdict, and the exit code.
fn probed(dir: &Path, args: &[&str], port: u16) -> (i32, String, String) {
    let root = format!("--ca={}", dir.join("root.pem").display());
    let outcome = Outcome::of(&mut probe(&[&[&*root], AS_ASKED, args, &[&url(port)]].concat()));
    let text = shown(&outcome, port);
    let stage = text.lines().find(|line| line.contains(" http2")).unwrap_or_default().to_owned();
    let verdict = text.split("\n\n").nth(1).unwrap_or_default().trim_end().replace('\n', " ");
    (outcome.code(), stage, verdict)
}

#[test]
fn websockets_over_http2_are_used_as_a_browser_would() {
    let Some(dir) = certificates() else { return };
    let port = serve(dir, BOTH, true, Connect::Echo);
    let (code, stage, verdict) = probed(dir, &[], port);
    assert_eq!(stage, "  ✓ http2 T ms  extended CONNECT: 200", "{verdict}");
    assert_eq!((code, &*verdict), (0, "WebSockets work on this path: T ms round trip."));
    let root = format!("--ca={}", dir.join("root.pem").display());
    let url = url(port);
    let args = [&[&*root], AS_ASKED, &["--http2=only", &url]].concat();
    let outcome = Outcome::of(&mut probe(&args));
    let text = shown(&outcome, port);
    assert_eq!(outcome.code(), 0, "{text}");
    let (_, stages) = text.split_once("TLS 1.3, h2, localhost").expect("HTTP/2");
    assert_eq!(
        &stages[stages.find('\n').expect("lines")..],
        "
  - http                 left out: --http2 only
  - upgrade              left out: --http2 only
  - echo                 left out: --http2 only
  - ping                 left out: --http2 only
  - close                left out: --http2 only
  ✓ http2 T ms  extended CONNECT: 200

WebSockets work on this path: T ms round trip.
"
    );
    let outcome = Outcome::of(&mut probe(&[&args[..], &["--format=prometheus"]].concat()));
    for (metric, value) in
        [("probe_websocket_connection_upgraded", 1), ("probe_websocket_status_code", 200)]
    {
        let sample = format!("\n{metric}{{url=\"{url}\"}} {value}\n");
        assert!(outcome.stdout.contains(&sample), "{sample} in {}", outcome.stdout);
    }
    let outcome = Outcome::of(&mut probe(&[&args[..], &["--format=json"]].concat()));
    let found: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let found = &found["probes"][0];
    assert_eq!(found["answer"]["status"], 200, "{found}");
    assert!(found["agreed"].is_object(), "{found}");
}

#[test]
fn a_server_that_does_not_offer_websockets_over_http2_is_healthy_and_not_asked_for_them() {
    let Some(dir) = certificates() else { return };
    let root = format!("--ca={}", dir.join("root.pem").display());
    for (alpn, why, label, seen) in [
        (
            &[&b"http/1.1"[..]][..],
            "not offered (ALPN: http/1.1)",
            "http2_not_offered",
            "The server does not choose h2 in ALPN.",
        ),
        (
            &[],
            "not offered (no ALPN)",
            "http2_not_offered",
            "The server does not choose h2 in ALPN.",
        ),
        (
            BOTH,
            "no WebSockets: extended CONNECT is not announced",
            "http2_not_announced",
            "The server speaks HTTP/2, but its SETTINGS do not announce extended CONNECT.",
        ),
    ] {
        let port = serve(dir, alpn, false, Connect::Echo);
        let (code, stage, _) = probed(dir, &[], port);
        assert_eq!((code, stage), (0, format!("  - http2                {why}")));
        let (code, text) = verdict(&[&root, "--http2=only", &url(port)], port);
        let expected = format!("wss://127.0.0.1:PORT/echo?a=b: {seen} ({label})");
        assert_eq!((code, text), (1, expected));
    }
}

#[test]
fn every_way_in_which_it_fails_is_told_apart_and_that_browsers_are_the_ones_to_fail() {
    let Some(dir) = certificates() else { return };
    let root = format!("--ca={}", dir.join("root.pem").display());
    let answers = "The server announces extended CONNECT, but answers it with";
    let ends = "The WebSocket opens over HTTP/2, but fails. The connection was closed before the \
                echo of \"binary\".";
    for (connect, label, seen) in [
        (Connect::Status(404), "http2_refused", format!("{answers} 404 Not Found.")),
        (Connect::Status(400), "http2_refused", format!("{answers} 400 Bad Request.")),
        (
            Connect::NeedsKey(426),
            "http2_key",
            format!("{answers} 426 Upgrade Required; with a Sec-WebSocket-Key it succeeds."),
        ),
        (
            Connect::NeedsKey(400),
            "http2_key",
            format!("{answers} 400 Bad Request; with a Sec-WebSocket-Key it succeeds."),
        ),
        (
            Connect::Reset(Reason::REFUSED_STREAM),
            "http2_failed",
            "The server reset the HTTP/2 stream (REFUSED_STREAM).".to_owned(),
        ),
        (
            Connect::GoAway(Reason::ENHANCE_YOUR_CALM),
            "http2_failed",
            "The server ended the HTTP/2 connection (ENHANCE_YOUR_CALM).".to_owned(),
        ),
        (Connect::Hangup, "http2_failed", "The server closed the HTTP/2 connection.".to_owned()),
        (
            Connect::Silence,
            "http2_timeout",
            "The server did not answer over HTTP/2 in time.".to_owned(),
        ),
        (Connect::EchoOnce, "http2_session", ends.to_owned()),
    ] {
        let timeout = if label == "http2_timeout" { "--timeout=3s" } else { "--timeout=20s" };
        let url = url(serve(dir, BOTH, true, connect));
        let args = [&[timeout, &root], &AS_ASKED[..2], &[&url]].concat();
        let outcome = Outcome::of(&mut probe(&args));
        let text = outcome.stdout.replace('\n', " ");
        assert_eq!(outcome.code(), 1, "{text}");
        let has_body = matches!(connect, Connect::Status(_) | Connect::NeedsKey(_));
        let quote = if has_body { "   | That is why.  " } else { "" };
        for part in [
            "  ✗ http2 ",
            &format!(" {seen} Over HTTP/1.1, the same WebSocket works. {quote}"),
            " that hold an HTTP/2 connection to this host ",
            ", even where curl succeeds over HTTP/1.1.",
            &format!(" ({label}) "),
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }
}

#[test]
fn http2_can_be_left_out_and_needs_tls() {
    let Some(dir) = certificates() else { return };
    let port = serve(dir, BOTH, true, Connect::Status(404));
    let (code, stage, _) = probed(dir, &["--http2=off"], port);
    assert_eq!((code, &*stage), (0, "  - http2                left out: --http2 off"));
    let outcome = Outcome::of(&mut probe(&["--http2=only", "ws://127.0.0.1:1/"]));
    assert_eq!(outcome.code(), 2);
    let said = "--http2 only ws://127.0.0.1:1/: write a wss:// URL";
    assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
}

/// HAProxy with TLS in front of a service, until it is dropped.
struct Haproxy {
    process: Child,
    port: u16,
    _files: TempDir,
}

impl Haproxy {
    fn start(dir: &Path, global: &str, service: &str) -> Self {
        let files = tempfile::tempdir().expect("a folder");
        let pem = files.path().join("good.pem");
        let [chain, key] = ["good.pem", "good.key"].map(|name| fs::read(dir.join(name)).unwrap());
        fs::write(&pem, [chain, key].concat()).expect("a file");
        let config = format!(
            "global\n maxconn 100\n {global}\n\
             defaults\n mode http\n timeout connect 9s\n timeout client 9s\n timeout server 9s\n\
             listen echo\n bind fd@3 ssl crt {} alpn h2,http/1.1\n server wsecho {service}\n",
            pem.display()
        );
        let path = files.path().join("haproxy.cfg");
        fs::write(&path, config).expect("a file");
        // Inherited, so that connections wait until it is ready.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<&0 </dev/null; exec haproxy -db -f \"$0\""]).arg(path);
        let process = command.stdin(OwnedFd::from(listener)).stderr(Stdio::null()).spawn();
        Self { process: process.expect("a shell"), port, _files: files }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn haproxy_carries_websockets_over_http2_unless_it_is_told_not_to_announce_them() {
    let Some(dir) = certificates() else { return };
    if Command::new("haproxy").arg("-v").output().is_err() {
        eprintln!("SKIPPED: haproxy is missing");
        return;
    }
    let root = format!("--ca={}", dir.join("root.pem").display());
    let service = Service::start("");
    for (global, stage) in [
        ("", "  ✓ http2 T ms  extended CONNECT: 200"),
        (
            "h2-workaround-bogus-websocket-clients",
            "  - http2                no WebSockets: extended CONNECT is not announced",
        ),
    ] {
        let haproxy = Haproxy::start(dir, global, &service.addrs[0]);
        let url = format!("wss://127.0.0.1:{}/socket", haproxy.port);
        let outcome = Outcome::of(&mut probe(&[&root, &url]));
        let text = shown(&outcome, haproxy.port);
        assert!(outcome.code() == 0 && text.lines().any(|line| line == stage), "{text}");
    }
}
