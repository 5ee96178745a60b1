//! Every answer that is not a WebSocket: status, headers, text.

use tokio::io::AsyncWriteExt;

use crate::inside::{Inside, handshake, read_head};

/// Sends a request and takes the answer apart: status, head in lower case, body.
async fn ask(inside: &Inside, request: &str) -> (u16, String, String) {
    let answer = inside.exchange(request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), head.to_ascii_lowercase(), body.to_owned())
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn the_exchange_from_the_blog_is_answered_the_way_tornado_does() {
    let mut client = Inside::new("").connect();
    client.write_all(handshake("/socket").as_bytes()).await.unwrap();
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for line in [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-Websocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    ] {
        assert!(head.lines().any(|found| found == line), "{line} in {head}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_refusal_has_its_status_headers_and_text() {
    let good = handshake("/socket");
    let without = |line: &str| good.replace(&format!("{line}\r\n"), "");
    let cases = [
        (good.replace("GET ", "POST "), 405, "allow: get, head, options", "opened with GET"),
        (good.replace("GET ", "BREW "), 405, "allow: get, head", "opened with GET"),
        (
            good.replace("HTTP/1.1", "HTTP/1.0"),
            426,
            "upgrade: websocket",
            "\n    proxy_http_version 1.1;\n",
        ),
        (
            without("Upgrade: websocket"),
            426,
            "sec-websocket-version: 13",
            "\n    proxy_set_header Upgrade $http_upgrade;\n",
        ),
        (
            without("Connection: Upgrade"),
            426,
            "upgrade: websocket",
            "\n    proxy_set_header Connection \"upgrade\";\n",
        ),
        (get("/socket"), 426, "upgrade: websocket", "open it with a WebSocket client"),
        (good.replace("n: 13", "n: 8"), 426, "sec-websocket-version: 13", "version 13"),
        (without("Sec-WebSocket-Version: 13"), 400, "", "must be 13"),
        (without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, "", "Sec-WebSocket-Key"),
        (without("Host: server.example.com"), 400, "", "one Host"),
        (good.replace("Host: s", "Host: x\r\nHost: s"), 400, "", "one Host"),
        (good.replace("Host: s", "Content-Length: 3\r\nHost: s"), 400, "", "body"),
        (get("/nowhere"), 404, "", "/socket"),
        (handshake("/ws/socket"), 404, "", "\n        proxy_pass http://wsecho/;\n"),
    ];
    let inside = Inside::new("");
    for (request, expected, header, sentence) in cases {
        let (status, head, body) = ask(&inside, &request).await;
        assert_eq!(status, expected, "{request}{body}");
        assert!(body.contains(sentence) && body.ends_with('\n'), "{request}{body}");
        for header in [
            header,
            "connection: close",
            "x-content-type-options: nosniff",
            "content-type: text/plain",
        ] {
            assert!(head.contains(header), "{header} in {head}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_json_if_the_client_asks_for_it() {
    let broken = handshake("/socket").replace("Connection: Upgrade\r\n", "Connection: close\r\n");
    let asks = broken.replace("Host: ", "Accept: text/html;q=0.1, application/json\r\nHost: ");
    let (status, head, body) = ask(&Inside::new(""), &asks).await;
    assert_eq!(status, 426);
    assert!(head.contains("content-type: application/json"), "{head}");
    let refusal: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(refusal["reason"], "proxy_connection_lost");
    assert_eq!(refusal["lines"], serde_json::json!(["proxy_set_header Connection \"upgrade\";"]));
    assert!(refusal["elsewhere"].as_str().unwrap().starts_with("any other proxy: "), "{body}");
    assert!(refusal["message"].as_str().unwrap().contains("`Connection: upgrade`"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_request_is_reflected() {
    let inside = Inside::new("");
    for request in [
        get("/mark%3Cscript%3E?mark=1"),
        handshake("/socket?mark").replace("websocket\r\n", "mark\r\n"),
        handshake("/socket").replace("Version: 13", "Version: mark"),
        handshake("/socket").replace("Host: ", "Host: mark mark"),
        "MARK / HTTP/1.1\r\nHost: mark\r\n\r\n".to_owned(),
    ] {
        let (_, head, body) = ask(&inside, &request).await;
        assert!(!(head + &body).to_lowercase().contains("mark"), "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn health_checks_need_no_host_and_may_use_head() {
    let inside = Inside::new("");
    for request in ["GET /healthz HTTP/1.0\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let (status, _, body) = ask(&inside, request).await;
        assert_eq!((status, body.as_str()), (200, "ok\n"), "{request}");
    }
    let (status, head, body) = ask(&inside, "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("content-length: 3"), "{head}");
    assert_eq!(ask(&inside, "POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.0, 405);
}

#[tokio::test(start_paused = true)]
async fn options_is_a_health_check_and_no_refusal() {
    let inside = Inside::new("");
    for path in ["/", "*", "/healthz", "/info", "/socket"] {
        // As HAProxy's bare `option httpchk` sends it.
        let (status, head, body) = ask(&inside, &format!("OPTIONS {path} HTTP/1.0\r\n\r\n")).await;
        assert_eq!((status, body.as_str()), (200, "ok\n"), "{path}");
        assert!(head.contains("\nallow: get, head, options"), "{head}");
    }
    assert_eq!(ask(&inside, "OPTIONS /nowhere HTTP/1.0\r\n\r\n").await.0, 405);
    let off = Inside::new("[http]\ninfo = false");
    assert_eq!(ask(&off, "OPTIONS /info HTTP/1.0\r\n\r\n").await.0, 405);
    let tried = handshake("/socket").replace("GET ", "OPTIONS ");
    assert_eq!(ask(&inside, &tried).await.0, 405, "a handshake is refused");
    assert_eq!(inside.metric("wsecho_handshakes_refused_total{reason=\"method\"}"), 1);
    let mut waiting = inside.connect();
    tokio::task::yield_now().await;
    inside.drain.begin(wsecho::ops::drain::Times::default());
    waiting.write_all(b"OPTIONS / HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(read_head(&mut waiting).await.starts_with("HTTP/1.0 503 "));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_attempt_to_open_a_websocket_is_not_taken_for_one() {
    let inside = Inside::new("");
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    for path in ["/", "/nowhere"] {
        let (status, _, body) =
            ask(&inside, &get(path).replace("Host:", &format!("{h2c}Host:"))).await;
        assert_eq!(status, if path == "/" { 200 } else { 404 }, "{body}");
    }
    assert!(!inside.metrics().contains("refused_total{"), "{}", inside.metrics());
    let plain = get("/socket").replace("Host:", &format!("{h2c}Host:"));
    let head = handshake("/socket").replace("GET ", "HEAD ");
    for (request, status, reason) in [(plain, 426, "no_websocket"), (head, 405, "method")] {
        assert_eq!(ask(&inside, &request).await.0, status, "{request}");
        let name = format!("wsecho_handshakes_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(inside.metric(&name), 1, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_misses_the_endpoints_is_refused_and_told_which_is_meant() {
    let inside = Inside::new("");
    for (path, meant, line) in [
        ("/ws/socket", "/socket is probably meant", "location /ws/ {"),
        ("//socket", "/socket is probably meant", "location /ws/ {"),
        ("/echo/", "/echo is probably meant", "proxy_pass http://wsecho;"),
        ("/", "endpoints: /socket, /echo", "proxy_pass http://wsecho;"),
        ("/other", "endpoints: /socket, /echo", "endpoints"),
    ] {
        let before = inside.metric("wsecho_handshakes_refused_total{reason=\"no_endpoint\"}");
        let (status, head, body) = ask(&inside, &handshake(path)).await;
        assert_eq!(status, 404, "{path}{body}");
        assert!(head.contains("connection: close"), "{head}");
        assert!(body.contains(meant) && body.contains(line), "{path}: {body}");
        let after = inside.metric("wsecho_handshakes_refused_total{reason=\"no_endpoint\"}");
        assert_eq!(after, before + 1, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_root_lists_the_endpoints() {
    let (status, _, body) = ask(&Inside::new(""), &get("/")).await;
    assert_eq!(status, 200);
    for part in ["/socket", "\"server: \"", "/echo"] {
        assert!(body.contains(part), "{part} in {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_at_the_root_takes_websockets_and_shows_browsers_the_list() {
    let inside = Inside::new("[[endpoint]]\npath = \"/\"\nprefix = \"\"");
    let (status, _, body) = ask(&inside, &get("/")).await;
    assert_eq!(status, 200, "{body}");
    let broken = handshake("/").replace("Connection: Upgrade\r\n", "");
    assert_eq!(ask(&inside, &broken).await.0, 426, "a broken handshake is told what is missing");
    inside.open("/").await;
}

#[tokio::test(start_paused = true)]
async fn a_query_string_does_not_hide_the_endpoint() {
    Inside::new("").open("/socket?token=1").await;
}
