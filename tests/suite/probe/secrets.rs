//! No secret of a command line is ever printed: not of a right one, not of a wrong one, and not if the
//! server sends it back.

use std::sync::atomic::{AtomicUsize, Ordering};

use data_encoding::BASE64;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::peer::{CLOSE, Peer, TEXT, serve};
use super::probe;
use crate::service::Outcome;

const FORMATS: [&str; 5] = ["-v", "-q", "--format=nagios", "--format=json", "--format=prometheus"];

/// Secrets that are nowhere else in a report.
struct Secrets {
    password: String,
    token: String,
    cookie: String,
    proxy: String,
}

impl Secrets {
    fn new() -> Self {
        let secret = || (0..12).map(|_| fastrand::lowercase()).collect::<String>();
        // Longer than what is shown of a line, as that of an OpenID provider.
        let token = secret() + &"x".repeat(600);
        Self { password: secret() + "+/", token, cookie: secret(), proxy: secret() }
    }

    fn assert_hidden(&self, args: &[String], outcome: &Outcome) {
        let Self { password, token, cookie, proxy } = self;
        let basic = ["me", "me2"].map(|me| BASE64.encode(format!("{me}:{password}").as_bytes()));
        let tunnel = BASE64.encode(format!("me:{proxy}").as_bytes());
        for secret in [&password[..12], &token[..12], cookie, proxy, &basic[0], &basic[1], &tunnel]
        {
            for text in [&outcome.stdout, &outcome.stderr] {
                assert!(!text.contains(secret), "{args:?}:\n{text}");
            }
        }
    }
}

/// How many requests were reflected: the ways take turns.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Sends everything back that the request says.
fn reflect(peer: &mut Peer) {
    let head = peer.head();
    if head.is_empty() {
        return;
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let line = head.replace("\r\n", " ");
    let secrets = head.lines().filter(|it| it.contains("uthorization") || it.contains("ookie"));
    let echoed = secrets.fold(String::new(), |all, it| {
        all + "X-Powered-By: " + it + "\r\nSet-Cookie:" + it + "\r\n"
    });
    let has_key = head.contains("Sec-Websocket-Key") || head.contains("Sec-WebSocket-Key");
    match COUNT.fetch_add(1, Ordering::Relaxed) % 7 {
        3 | 4 if !has_key => peer.say(format!("HTTP/1.1 407 No\r\n{echoed}\r\n{head}")),
        0 => peer.say(format!(
            "HTTP/1.1 403 {line}\r\nServer: {path}\r\n{echoed}Content-Type: text/plain\r\n\r\n{head}"
        )),
        1 => peer.say(format!("HTTP/1.1 302 Found\r\nLocation: {path}\r\n{echoed}\r\n")),
        2 => peer.say(format!("HTTP/1.1 302 Found\r\nLocation: mailto:{path}\r\n\r\n")),
        3 => peer.accept_head(&head, &format!("Sec-WebSocket-Protocol: {}\r\n{echoed}", &path[1..])),
        4 => {
            peer.accept_head(&head, &echoed);
            let reason = line.bytes().rev().skip_while(|it| *it == b' ').take(110);
            let reason: Vec<u8> = reason.collect::<Vec<_>>().into_iter().rev().collect();
            peer.send(TEXT, line.as_bytes());
            peer.send(CLOSE, &[&[3, 0xf3], &*reason].concat());
        }
        5 => peer.say(format!(
            "HTTP/1.1 302 Found\r\nLocation: /login?next={}\r\n{echoed}\r\n",
            utf8_percent_encode(&path, NON_ALPHANUMERIC)
        )),
        _ => peer.say(line),
    }
    peer.linger();
}

/// Right command lines, and wrong ones.
fn command_lines(secrets: &Secrets, port: u16, closed: u16) -> Vec<Vec<String>> {
    let Secrets { password, token, cookie, proxy } = secrets;
    let lines = [
        format!("ws://me:{password}@127.0.0.1:{port}/x?token={token}"),
        format!("--follow|ws://127.0.0.1:{port}/x?a=b&api_key={token}"),
        format!(
            "-H|Authorization: Bearer {token}|-H|Cookie: sid={cookie}; b=c|ws://127.0.0.1:{port}/"
        ),
        format!("-H|Authorization: {}|ws://127.0.0.1:{port}/", {
            format!("Basic {}", BASE64.encode(format!("me2:{password}").as_bytes()))
        }),
        format!("-H|X-Api-Key: {token}|ws://127.0.0.1:{port}/"),
        format!("-H|X-Upstream: Bearer {token}|ws://127.0.0.1:{port}/"),
        format!("ws://127.0.0.1:{port}/x?pass={token}"),
        format!("ws://127.0.0.1:{port}/x?cred={token}"),
        format!("ws://127.0.0.1:{port}/x?bearer={token}"),
        format!("ws://127.0.0.1:{port}/x?code={token}"),
        format!("ws://127.0.0.1:{port}/x?%74oken={token}"),
        format!("--subprotocol=bearer|--subprotocol={token}|ws://127.0.0.1:{port}/"),
        format!("--subprotocol=v1.bearer.{cookie}|ws://127.0.0.1:{port}/"),
        format!("--subprotocol=eyJ{cookie}|ws://127.0.0.1:{port}/"),
        format!("--proxy=http://me:{proxy}@127.0.0.1:{port}|ws://a.test/"),
        format!("--proxy=http://me:{proxy}@127.0.0.1:{closed}|ws://a.test/"),
        // Wrong ones.
        format!("ws://me:{password}"),
        format!("ws://me:{password}/x"),
        format!("ws://me:{password}@"),
        format!("ws://me:{password}@:80/"),
        format!("ws://me:{password}@a.test:99999/"),
        format!("ws://me:{password}@a.test:x/"),
        format!("ws://me:{password}/x@a.test/"),
        format!("ws://me:{password}?x@a.test/"),
        format!("ws://me:{password}#x@a.test/"),
        format!("ws://me:a#{password}@a.test/"),
        format!("ws://me:a/{password}@a.test/"),
        format!("ws://me:a {password}@a.test/"),
        format!("ws://me:{password}@ä.test/"),
        format!("ws://me:ä{password}/@a.test/"),
        format!("ws://me:{password}@::1/"),
        format!("http://me:{password}@a.test/x?token={token}"),
        format!("https://me:{password}@a.test#access_token={token}"),
        format!("ftp://me:{password}@a.test/"),
        format!("me:{password}@a.test"),
        format!("me:{password}@a.test:80/x?token={token}"),
        format!("me:{password}"),
        format!("ws://a.test:x/?token={token}&user=a@b"),
        format!("ws://a.test:x/?user=a@b&token={token}"),
        format!("-H|Authorization Bearer {token}|ws://a.test/"),
        format!("-H|Authorization: Bearer {token}\n|ws://a.test/"),
        format!("-H|Coo kie: {cookie}|ws://a.test/"),
        format!("-H|Cookie:|sid={cookie}|ws://a.test/"),
        format!("--header=Cookie: {cookie}\x01|ws://a.test/"),
        format!("--subprotocol=Bearer {token}|ws://a.test/"),
        format!("--haeder=Cookie: {cookie}|ws://a.test/"),
        format!("--proxy=me:{proxy}@127.0.0.1:1|ws://a.test/"),
        format!("--proxy=http://me:{proxy}|ws://a.test/"),
        format!("--proxy=http://me:{proxy}@|ws://a.test/"),
        format!("--proxy=socks5://me:{proxy}@a.test|ws://a.test/"),
        format!("--proxy=http://me:a/{proxy}@a.test:80|ws://a.test/"),
        format!("--prxy=http://me:{proxy}@a.test|ws://a.test/"),
        format!("--timeout|ws://me:{password}@a.test/"),
        format!("--idle|ws://me:{password}@a.test/"),
        format!("--resolve|ws://me:{password}@a.test/"),
        format!("--http2=only|ws://me:{password}@a.test/?token={token}"),
        format!("--format=prometheus|ws://a:{password}@a.test/|ws://a:{password}@a.test/"),
    ];
    lines.iter().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

#[test]
fn no_secret_of_a_command_line_is_printed() {
    let port = serve(reflect);
    // Reserved, so that it refuses.
    let closed = 1;
    let secrets = Secrets::new();
    for line in command_lines(&secrets, port, closed) {
        // The reflecting server has several ways.
        for format in FORMATS.iter().chain(&FORMATS[..1]) {
            let args = [&line[..], &[(*format).to_owned(), "--timeout=2s".to_owned()]].concat();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let outcome = Outcome::of(&mut probe(&args));
            assert_ne!(outcome.code(), 101, "{}", outcome.stderr);
            secrets.assert_hidden(&line, &outcome);
        }
    }
}

#[test]
fn secrets_of_the_environment_and_of_other_commands_are_not_printed() {
    let secrets = Secrets::new();
    let port = serve(reflect);
    for url in [
        format!("http://me:{}@127.0.0.1:{port}", secrets.proxy),
        format!("https://me:{}@127.0.0.1:{port}", secrets.proxy),
        format!("http://me:{}", secrets.proxy),
    ] {
        let mut command = probe(&["-v", "--timeout=2s", "ws://127.0.0.1:1/"]);
        let outcome = Outcome::of(command.env("HTTP_PROXY", &url));
        secrets.assert_hidden(&[url], &outcome);
    }
    // Somebody forgets the name of the command.
    let url = format!("wss://me:{}@a.test/", secrets.password);
    for args in [&[&*url][..], &["check", "a", &url], &["snippet", &url]] {
        let outcome = Outcome::of(crate::service::wsecho().args(args));
        assert_ne!(outcome.code(), 0);
        secrets.assert_hidden(std::slice::from_ref(&url), &outcome);
    }
}

/// A redirect must not lead secrets to another host or port, or out of TLS.
#[test]
fn secrets_in_headers_are_not_sent_on_to_another_server() {
    let other = serve(|peer| {
        let head = peer.head();
        assert!(!head.contains("secret"), "{head}");
        assert!(head.contains("\r\nX-Harmless: seen\r\n"), "{head}");
        peer.accept_head(&head, "Sec-WebSocket-Protocol: chat\r\n");
        peer.echo_but(|_, _, _, _| false);
    });
    let port = serve(move |peer| {
        let head = peer.head();
        assert!(head.contains("Bearer secret"));
        assert!(head.contains("chat, bearer, secret"), "{head}");
        let host = head.split(' ').nth(1).unwrap_or_default();
        peer.say(format!("HTTP/1.1 302 Found\r\nLocation: http:/{host}:{other}/\r\n\r\n"));
        peer.linger();
    });
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("ws://127.0.0.1:{port}/{host}");
        let outcome = Outcome::of(&mut probe(&[
            "-L",
            "-4",
            "--resolve=localhost:127.0.0.1",
            "--header=Authorization: Bearer secret",
            "--header=Cookie: a=secret",
            "--header=X-Harmless: seen",
            "--header=X-Upstream: Bearer secret",
            "--subprotocol=chat",
            "--subprotocol=bearer",
            "--subprotocol=secret",
            &url,
        ]));
        assert_eq!(outcome.code(), 0, "{}", outcome.stdout);
    }
}
