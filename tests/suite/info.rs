//! `/info`: what arrived of a request, and what became of a handshake with a trace.

use std::time::Duration;

use futures_util::StreamExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::time::advance;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use wsecho::ops::drain::Times;

use crate::inside::{Inside, handshake, read_head, read_to_end};
use crate::service::{Service, upgrade};

/// A plain request with these header lines.
fn get(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: echo.example.com\r\n{lines}\r\n")
}

/// Sends a request and takes the answer apart: status, head in lower case, body.
async fn ask(inside: &Inside, request: &str) -> (u16, String, String) {
    let answer = inside.exchange(request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), head.to_ascii_lowercase(), body.to_owned())
}

/// What `/info` says of a request.
async fn info(inside: &Inside, request: &str) -> Value {
    let (status, _, body) = ask(inside, request).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("it is JSON")
}

#[tokio::test(start_paused = true)]
async fn a_plain_request_is_shown_as_it_arrived() {
    let inside = Inside::new("[http]\nname = \"web1\"");
    advance(Duration::from_millis(1500)).await;
    let (status, head, body) =
        ask(&inside, &get("/info?a=1", "X-Thing: one\r\nX-Thing: two\r\n")).await;
    assert_eq!(status, 200);
    for line in ["cache-control: no-store", "content-type: application/json", "connection: close"] {
        assert!(head.lines().any(|found| found == line), "{line} in {head}");
    }
    assert!(!head.contains("access-control"), "{head}");
    let found: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        found,
        json!({
            "instance": "web1",
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": 1.5,
            "peer": "unix",
            "proxy_header": null,
            "client": {
                "address": "unix",
                "reason": "peer",
                "message": "it is the peer of the socket, and no proxy named another client",
                "hops": [],
                "ignored": [],
            },
            "received": {
                "method": "GET",
                "target": "/info?a=1",
                "http_version": "HTTP/1.1",
                "scheme": "http",
                "host": "echo.example.com",
            },
            "reported": { "scheme": null, "host": null, "path": null, "prefix": null },
            "handshake": {
                "upgrade": null,
                "connection": null,
                "origin": null,
                "key": false,
                "version": null,
                "subprotocols": [],
                "extensions": [],
                "endpoint": "/socket",
                "options": true,
                "agreed": { "subprotocol": null, "extensions": [] },
            },
            "headers": [
                { "name": "host", "value": "echo.example.com" },
                { "name": "x-thing", "value": "one" },
                { "name": "x-thing", "value": "two" },
            ],
            "verdict": {
                "reason": "no_websocket",
                "message": "this is a plain request, so it does not show how handshakes arrive",
            },
            "warnings": [],
        })
    );
}

#[tokio::test(start_paused = true)]
async fn the_instance_is_named_after_its_host_by_default() {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(info(&Inside::new(""), &get("/info", "")).await["instance"], host.trim());
}

#[tokio::test(start_paused = true)]
async fn the_client_is_the_one_that_a_trusted_proxy_names_whatever_the_client_claims() {
    let inside = Inside::new("");
    for (lines, address, reason, ignored) in [
        ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1", "x_forwarded_for", json!([])),
        (
            "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n",
            "192.0.2.1",
            "x_forwarded_for",
            json!([["x-forwarded-for", "written_by_client"]]),
        ),
        (
            "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nForwarded: for=6.6.6.6\r\n",
            "unix",
            "headers_disagree",
            json!([["forwarded", "disagrees"], ["x-forwarded-for", "disagrees"]]),
        ),
        ("X-Real-IP: 192.0.2.1\r\n", "192.0.2.1", "x_real_ip", json!([])),
        ("X-Real-IP: x\r\n", "unix", "bad_x_real_ip", json!([["x-real-ip", "not_an_address"]])),
    ] {
        let found = &info(&inside, &get("/info", lines)).await["client"];
        let names = found["ignored"].as_array().unwrap().iter();
        let names: Vec<Value> = names.map(|it| json!([it["header"], it["reason"]])).collect();
        assert_eq!(
            (&found["address"], &found["reason"], &json!(names)),
            (&json!(address), &json!(reason), &ignored),
            "{lines}"
        );
    }
    let distrustful = Inside::new("[proxy]\ntrusted = [\"10.0.0.0/8\"]");
    let lines = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\n\
                 X-Forwarded-Uri: /a\r\nX-Forwarded-Prefix: /b\r\n";
    let found = info(&distrustful, &get("/info", lines)).await;
    assert_eq!(found["client"]["address"], "unix");
    assert_eq!(found["client"]["ignored"][2]["reason"], "sender_untrusted", "{found}");
    assert_eq!(
        found["reported"],
        json!({"scheme": null, "host": null, "path": null, "prefix": null})
    );
    assert_eq!(found["warnings"][0]["reason"], "peer_untrusted");
}

#[tokio::test(start_paused = true)]
async fn what_a_trusted_proxy_reports_of_the_request_is_shown_and_what_it_hides_is_warned_of() {
    let inside = Inside::new("");
    inside.listens_on([8888]);
    let whole = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\
                 X-Forwarded-Host: site.example\r\nX-Forwarded-Prefix: /ws\r\n\
                 X-Original-URI: /ws/info?token=s3cr3t\r\n";
    let found = info(&inside, &get("/info", whole)).await;
    assert_eq!(
        found["reported"],
        json!({
            "scheme": "https",
            "host": "site.example",
            "path": "/ws/info?token=[redacted]",
            "prefix": "/ws",
        })
    );
    assert_eq!(found["warnings"], json!([]));
    let bare = get("/info", "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n");
    let bare = bare.replace("echo.example.com", "127.0.0.1:8888");
    let found = info(&inside, &bare).await;
    let reasons: Vec<_> =
        found["warnings"].as_array().unwrap().iter().map(|it| &it["reason"]).collect();
    assert_eq!(reasons, ["host_lost", "scheme_unknown", "hop_untrusted"]);
    assert_eq!(found["warnings"][0]["lines"], json!(["proxy_set_header Host $http_host;"]));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_is_judged_by_the_rules_of_the_endpoint_that_is_asked_about() {
    let config = "[[endpoint]]\npath = \"/a\"\nsubprotocols = \"none\"\n\
                  [[endpoint]]\npath = \"/b%20c\"\nsubprotocols = [\"chat\"]";
    let inside = Inside::new(config);
    let offer = "Sec-WebSocket-Protocol: mqtt, chat\r\nUpgrade: websocket\r\nConnection: close\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
                 Origin: https://a.example\r\nSec-WebSocket-Key: x\r\n";
    for (query, endpoint, agreed) in
        [("", "/a", Value::Null), ("?endpoint=%2Fb%2520c", "/b%20c", json!("chat"))]
    {
        let found = info(&inside, &get(&format!("/info{query}"), offer)).await;
        let part = &found["handshake"];
        assert_eq!(part["endpoint"], endpoint);
        assert_eq!(part["agreed"]["subprotocol"], agreed, "{query}");
        assert_eq!(part["subprotocols"], json!(["mqtt", "chat"]));
        assert_eq!(part["extensions"], json!(["permessage-deflate; client_max_window_bits"]));
        assert_eq!(part["origin"], "https://a.example");
    }
    for query in ["endpoint=/c", "endpoint=%", "trace=1"] {
        let (status, _, body) = ask(&inside, &get(&format!("/info?{query}"), "")).await;
        assert_eq!(status, 400, "{query}: {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_can_be_switched_off_and_answers_nothing_but_get_and_head() {
    let off = Inside::new("[http]\ninfo = false");
    assert_eq!(ask(&off, &get("/info", "")).await.0, 404);
    assert_eq!(ask(&off, &handshake("/info")).await.0, 404);
    let inside = Inside::new("");
    assert_eq!(ask(&inside, &get("/info", "").replace("GET", "POST")).await.0, 405);
    let (status, head, body) = ask(&inside, &get("/info", "").replace("GET", "HEAD")).await;
    assert_eq!((status, &*body), (200, ""), "{head}");
}

/// A handshake with a trace, and what `/info` says of it.
async fn trace(inside: &Inside, id: &str) -> Value {
    info(inside, &get(&format!("/info?trace={id}"), "")).await["trace"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_trace_tells_what_its_handshake_was_answered_with() {
    let inside = Inside::new("origins = \"same-host\"");
    let id = "0123456789abcdef";
    let path = format!("/socket?trace={id}");
    assert_eq!(trace(&inside, id).await["outcome"], "never");

    let broken = handshake(&path).replace("Connection: Upgrade", "Connection: close");
    assert_eq!(ask(&inside, &broken).await.0, 426);
    advance(Duration::from_secs(2)).await;
    let found = trace(&inside, &id.to_ascii_uppercase()).await;
    assert_eq!(found["outcome"], "broken");
    assert_eq!(found["id"], id);
    assert_eq!(found["seconds_ago"], 2.0);
    assert_eq!(found["reason"], "proxy_connection_lost");
    assert_eq!(found["lines"], json!(["proxy_set_header Connection \"upgrade\";"]));
    assert!(found["message"].as_str().unwrap().contains("dropped"), "{found}");

    let foreign = handshake(&path).replace("Host:", "Origin: https://a.example\r\nHost:");
    assert_eq!(ask(&inside, &foreign).await.0, 403);
    let found = trace(&inside, id).await;
    assert_eq!((&found["outcome"], &found["reason"]), (&json!("refused"), &json!("origin")));

    let astray = handshake(&format!("/ws/socket?trace={id}"));
    assert_eq!(ask(&inside, &astray).await.0, 404);
    assert_eq!(trace(&inside, id).await["reason"], "no_endpoint");

    let _open = inside.open(&path).await;
    let found = trace(&inside, id).await;
    assert_eq!(found["outcome"], "opened");
    assert_eq!(found.get("reason"), None);
    assert_eq!(trace(&inside, "0123456789abcdee").await["outcome"], "never", "another trace");
    advance(Duration::from_secs(30)).await;
    assert_eq!(trace(&inside, id).await["outcome"], "never", "30 s are over");
}

#[tokio::test(start_paused = true)]
async fn a_malformed_trace_opens_a_websocket_all_the_same() {
    let _open = Inside::new("").open("/socket?trace=mine").await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_traces_is_told_from_a_handshake_that_never_came() {
    let inside = Inside::new("");
    for id in 0..=1024 {
        ask(&inside, &get(&format!("/socket?trace={id:016x}"), "")).await;
    }
    assert_eq!(trace(&inside, &format!("{:016x}", 0)).await["outcome"], "forgotten");
    assert_eq!(trace(&inside, &format!("{:016x}", 1)).await["outcome"], "refused");
    advance(Duration::from_secs(30)).await;
    assert_eq!(trace(&inside, &format!("{:016x}", 0)).await["outcome"], "never");
}

/// Where secrets travel.
const PLACES: [&str; 41] = [
    "Authorization: Basic @\r\n",
    "authorization: @\r\n",
    "Proxy-Authorization: Bearer @\r\n",
    "Cookie: a=@; b=c\r\n",
    "COOKIE: @\r\n",
    "X-Api-Key: @\r\n",
    "X-Auth-Request-Access-Token: @\r\n",
    "X-Amz-Security-Token: a@b\r\n",
    "X-Anything: Bearer @\r\n",
    "X-Anything: ApiKey @\r\n",
    "X-Anything: a, Bearer @\r\n",
    "X-Anything: HMAC a:@\r\n",
    "X-Anything: AWS4-HMAC-SHA256 x/@\r\n",
    "X-Anything: {\"a\":1,\"token\":\"@\"}\r\n",
    "X-Anything: {\"a\": {\"db_pass\" : \"x&@\"}}\r\n",
    "X-Anything: {'pin': '@'}\r\n",
    "X-Anything: %7B%22token%22%3A%22@%22%7D\r\n",
    "X-Anything: \"token\"=\"@\"\r\n",
    "X-Pass: @\r\n",
    "X-Pin: @\r\n",
    "X-Sid: @\r\n",
    "X-Sig: @\r\n",
    "X-Hmac: @\r\n",
    "X-Passcode: @\r\n",
    "Referer: https://a.example/?PHPSESSID=@\r\n",
    "Referer: https://a.example/?connect.sid=s%3A@\r\n",
    "Referer: https://a.example/?next=https%3A%2F%2Fuser%3A@%40host\r\n",
    "X-Forwarded-For: 192.0.2.1\r\nX-Original-URI: /?a={%22token%22:%22b&@%22}&c\r\n",
    "Sec-WebSocket-Protocol: token-@\r\n",
    "Sec-WebSocket-Protocol: chat, auth_@\r\n",
    "Sec-WebSocket-Protocol: bearer.@, chat\r\n",
    "Sec-WebSocket-Extensions: x; sess=@\r\n",
    "Referer: https://a.example/?session_id=@\r\n",
    "Referer: https://user:@@a.example/\r\n",
    "X-Original-URI: /info?a=1&access_token=x;@,@&b\r\n",
    "X-Forwarded-Uri: /info?next=%2F%3Fpassword%3D@%26c\r\n",
    "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Uri: /?sig=@\r\n",
    "Origin: https://@@a.example\r\n",
    "Sec-WebSocket-Protocol: chat, access_token\r\nSec-WebSocket-Protocol: @\r\n",
    "Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.@\r\n",
    "Upgrade: websocket\r\nConnection: x, token=@\r\nSec-WebSocket-Key: x\r\n",
];

/// Targets with a secret in them.
const TARGETS: [&str; 18] = [
    "/info",
    "/info?token=@",
    "/info?a&API_key=x@&b",
    "/info?%74oken=@&trace=0123456789abcdef",
    "/info?PHPSESSID=@",
    "/info?connect.sid=@",
    "/info?sess=@&a",
    "/info?passcode=@",
    "/info?pw=@",
    "/info?db_pass=@&userpass=@",
    "/info?user%5Bpass%5D=@",
    "/info?SAMLResponse=@",
    "/info?data=%7B%22a%22%3A1%2C%22token%22%3A%22@%22%7D",
    "/info?data=%257B%2522token%2522%253A%2522@%2522%257D",
    "/info?data={%22token%22:%22x&@%22}",
    "/info?next=https%3A%2F%2Fuser%3A@%40host",
    "/info?next=https:%2F%2F@@echo%2F&b",
    "http://user:@@echo.example.com/info?code=@",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..Default::default() })]

    #[test]
    fn no_secret_of_a_request_is_ever_in_the_answer(
        secret in "[A-Za-z0-9]{12,40}",
        target in 0..TARGETS.len(),
        places in proptest::collection::vec(0..PLACES.len(), 0..6),
    ) {
        let lines: String = places.into_iter().map(|place| PLACES[place]).collect();
        // The sign between user and host is one, the others are places for the secret.
        let fill = |text: &str| {
            text.replace("@@a.", "@\0a.").replace("@@echo", "@\0echo").replace('@', &secret).replace('\0', "@")
        };
        let request = get(&fill(TARGETS[target]), &fill(&lines));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (status, head, body) =
            runtime.block_on(async { ask(&Inside::new(""), &request).await });
        prop_assert_eq!(status, 200, "{}", body);
        prop_assert!(!body.contains(&secret) && !head.contains(&secret), "{}\n{}", request, body);
    }
}

/// A WebSocket on `/info`, with these header lines.
async fn socket(inside: &Inside, target: &str, lines: &str) -> WebSocketStream<DuplexStream> {
    let mut client = inside.connect();
    let request = handshake(target).replace("Host:", &format!("{lines}Host:"));
    client.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    WebSocketStream::from_raw_socket(client, Role::Client, None).await
}

#[tokio::test(start_paused = true)]
async fn a_websocket_on_info_is_told_the_same_and_closed() {
    let inside = Inside::new("[[endpoint]]\npath = \"/a\"\nprefix = \"p\"\noptions = false");
    let mut socket = socket(&inside, "/info?ping=off", "Cookie: a=s3cr3t\r\n").await;
    let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["verdict"]["reason"], "complete");
    assert_eq!(found["received"]["target"], "/info?ping=off");
    assert_eq!(found["handshake"]["options"], false);
    assert!(!text.contains("s3cr3t"), "{text}");
    let end = socket.next().await.unwrap().unwrap();
    assert_eq!(end, Message::Close(Some(CloseFrame { code: 1000.into(), reason: "".into() })));
    while socket.next().await.is_some() {}
    drop(socket);
    inside.drain.begin(Times::default());
    inside.drain.wait().await;
    assert_eq!(inside.metric("wsecho_sessions_ended_total{how=\"told\"}"), 1);
}

#[test]
fn the_line_of_a_websocket_on_info_does_not_say_that_its_url_asked_for_the_end() {
    let mut service = Service::start("");
    let mut socket = upgrade(service.connect(), "/info");
    while socket.read().is_ok() {}
    let line = service.log_line("session ended");
    assert!(line.contains("session ended: closed with 1000, all was said client="), "{line}");
    assert!(line.ends_with(" ended=told"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn no_page_of_another_site_reads_info_over_a_websocket() {
    let inside = Inside::new("");
    let foreign = handshake("/info").replace("Host:", "Origin: https://a.example\r\nHost:");
    assert_eq!(ask(&inside, &foreign).await.0, 403);
    socket(&inside, "/info", "Origin: https://server.example.com\r\n").await;
    let listed = Inside::new("origins = [\"https://a.example\"]");
    socket(&listed, "/info", "Origin: https://a.example\r\n").await;
    let own = foreign.replace("a.example", "server.example.com");
    assert_eq!(ask(&listed, &own).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn limits_hold_for_info_as_for_endpoints() {
    let inside = Inside::new("limits.max_connections_per_client = 1");
    let lines = "X-Forwarded-For: 192.0.2.1\r\n";
    let mut held = inside.connect();
    let first = handshake("/echo").replace("Host:", &format!("{lines}Host:"));
    held.write_all(first.as_bytes()).await.unwrap();
    read_head(&mut held).await;
    let second = first.replace("/echo", "/info");
    assert_eq!(ask(&inside, &second).await.0, 429);
    for request in [handshake("/info"), get("/info", "")] {
        let (mut client, _) = inside.connect_with(1 << 20, true);
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 503 "), "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn asking_for_a_trace_over_a_websocket_is_no_handshake_of_that_trace() {
    let inside = Inside::new("");
    let id = "0123456789abcdef";
    for _ in 0..2 {
        let mut socket = socket(&inside, &format!("/info?trace={id}"), "").await;
        let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["trace"]["outcome"], "never");
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_handshake_is_told_what_the_other_half_was() {
    let request = handshake("/info").replace("Connection: Upgrade", "Connection: close");
    let found = info(&Inside::new(""), &request).await;
    assert_eq!(found["verdict"]["reason"], "proxy_connection_lost");
    let lines = json!(["proxy_set_header Connection \"upgrade\";"]);
    assert_eq!(found["verdict"]["lines"], lines);
}

#[tokio::test(start_paused = true)]
async fn the_largest_head_is_shown_and_what_is_said_over_a_websocket_is_charged_to_the_budget() {
    let inside = Inside::new("limits.buffer_budget = \"1 MiB\"");
    for junk in ["eyJ,", "=", "a=", "%3d", "&=", "://@", "\"\\", "a=%2525"] {
        let lines = format!("X-Junk: {}\r\nOrigin: http://a\r\n", junk.repeat(15_000 / junk.len()));
        let found = info(&inside, &get("/info", &lines)).await;
        assert_eq!(found["headers"][1]["name"], "x-junk");
    }
    let lines = format!("X-Junk: {}\r\nHost:", "j".repeat(15_000));
    let request = handshake("/info").replace("Host:", &lines);
    let mut unread = Vec::new();
    // Once the budget is spent, a head as long is not even read.
    loop {
        let (mut client, _) = inside.connect_with(1024, false);
        if client.write_all(request.as_bytes()).await.is_err() {
            break;
        }
        unread.push(client);
        assert!(unread.len() < 60, "what is held twice is charged twice");
    }
    let (status, _, body) = ask(&inside, &handshake("/info")).await;
    assert_eq!(status, 503);
    assert!(body.contains("limits.buffer_budget"), "{body}");
    drop(unread);
    socket(&inside, "/info", "").await;
}

#[tokio::test(start_paused = true)]
async fn the_answer_is_not_much_longer_than_the_head_whatever_is_in_that() {
    let inside = Inside::new("");
    for (line, element) in [
        ("Sec-WebSocket-Protocol: token,", &b"a,"[..]),
        ("Sec-WebSocket-Protocol: ", b"sid.\xff\xff,"),
        ("Sec-WebSocket-Extensions: ", b"a,"),
        ("Sec-WebSocket-Extensions: ", b"\xff"),
        ("Sec-WebSocket-Extensions: ", b"sid=,"),
        ("Sec-WebSocket-Extensions: ", &[[255; 240].as_slice(), b","].concat()),
        ("Sec-WebSocket-Version: ", b"\xff,"),
        ("Upgrade: ", b"\xff"),
        ("Connection: ", b"sid=&"),
        ("Origin: ", b"://@"),
        ("Forwarded: ", b"for=\"[::1]\","),
        ("X-Forwarded-For: ", b"::1,"),
        ("X-Forwarded-For: ::1\r\nX-Forwarded-Prefix: ", b"eyJ\""),
        ("X-Forwarded-For: ::1\r\nX-Original-URI: ", b"sid=&"),
        ("X-Junk: ", b"\xff"),
    ] {
        let lines = [b"GET /info HTTP/1.1\r\nHost: a\r\n", line.as_bytes()].concat();
        let mut request = [lines, element.repeat(15_800 / element.len())].concat();
        request.extend_from_slice(b"\r\n\r\n");
        let mut client = inside.connect();
        client.write_all(&request).await.unwrap();
        let answer = read_to_end(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{line}: {answer}");
        let most = 5 * request.len();
        assert!(answer.len() < most, "{line}{element:?}: {} of {most} bytes", answer.len());
    }
}

#[tokio::test(start_paused = true)]
async fn an_unread_answer_is_charged_to_the_budget_and_none_is_given_once_that_is_spent() {
    const USED: &str = "wsecho_buffer_used_bytes";
    let inside = Inside::new("limits.buffer_budget = \"1 MiB\"");
    // No longer than what is read without regard to the budget.
    let request = get("/info", &format!("X-Junk: {}\r\n", "sid=&".repeat(700)));
    let mut unread = Vec::new();
    loop {
        let (mut client, _) = inside.connect_with(1024, false);
        client.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut client).await.to_ascii_lowercase();
        if head.starts_with("http/1.1 503 ") {
            break;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = head.len() + length.expect("it has a body").parse::<usize>().unwrap();
        unread.push(client);
        assert_eq!(inside.metric(USED), (unread.len() * (length - 4096)) as u64);
    }
    assert_eq!(inside.metric(USED) >> 20, 1, "nobody is refused before it is spent");
    assert!(ask(&inside, &get("/info", "")).await.2.contains("limits.buffer_budget"));
    assert_eq!(ask(&inside, &get("/healthz", "")).await.0, 200);
    let mut first = unread.swap_remove(0);
    assert!(read_to_end(&mut first).await.ends_with("}\n"));
    drop(unread);
    assert_eq!(ask(&inside, &request).await.0, 200);
    assert_eq!(inside.metric(USED), 0);
}
