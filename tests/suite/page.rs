//! The page at `/`: who gets it, and what its headers let it do.

use std::fs;
use std::path::Path;

use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use crate::inside::{Inside, handshake};

/// What a browser sends with the address that is typed into it.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// Asks for `/`: head in lower case, body.
async fn root(inside: &Inside, method: &str, accept: &str) -> (String, String) {
    let accept = if accept.is_empty() { String::new() } else { format!("Accept: {accept}\r\n") };
    let answer = inside.exchange(&format!("{method} / HTTP/1.1\r\nHost: a\r\n{accept}\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_ascii_lowercase(), body.to_owned())
}

/// The text between the first of each.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("{start} in the page"));
    rest.split_once(end).expect("its end").0
}

#[tokio::test(start_paused = true)]
async fn browsers_get_the_page_and_everybody_else_the_list() {
    let inside = Inside::new("");
    for (accept, is_page) in [
        (BROWSER, true),
        ("text/html", true),
        ("TEXT/HTML;q=0.1", true),
        ("application/json, text/html ; q=1", true),
        ("text/html;q=0", false),
        ("text/html; q=0.000", false),
        ("*/*", false),
        ("text/*", false),
        ("text/plain, text/html+x", false),
        ("", false),
    ] {
        let (head, body) = root(&inside, "GET", accept).await;
        assert!(head.starts_with("http/1.1 200 ok"), "{accept}: {head}");
        assert!(head.contains("\r\nvary: accept\r\n"), "{accept}: {head}");
        assert_eq!(body.starts_with("<!doctype html>"), is_page, "{accept}");
        assert_eq!(body.starts_with("WebSocket echo endpoints:\n"), !is_page, "{accept}");
    }
}

#[tokio::test(start_paused = true)]
async fn head_is_answered_as_get_is_without_the_body() {
    let inside = Inside::new("");
    for accept in ["", BROWSER] {
        let (of_get, _) = root(&inside, "GET", accept).await;
        let (of_head, body) = root(&inside, "HEAD", accept).await;
        let undated = |head: &str| head.split("\r\ndate: ").next().map(str::to_owned);
        assert_eq!(undated(&of_get), undated(&of_head));
        assert_eq!(body, "");
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_can_be_switched_off() {
    let (head, body) = root(&Inside::new("[http]\npage = false"), "GET", BROWSER).await;
    assert!(body.starts_with("WebSocket echo endpoints:\n"), "{body}");
    assert!(!head.contains("vary:"), "there is nothing to choose from: {head}");
}

#[tokio::test(start_paused = true)]
async fn a_websocket_at_the_root_leaves_the_page_there() {
    let inside = Inside::new("[[endpoint]]\npath = \"/\"");
    assert!(root(&inside, "GET", BROWSER).await.1.starts_with("<!doctype html>"));
    inside.open("/").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_in_the_page_but_its_own_style_and_script() {
    let (head, page) = root(&Inside::new(""), "GET", BROWSER).await;
    let hash = |text: &str| {
        let hash = BASE64.encode(&Sha256::digest(text)).to_ascii_lowercase();
        format!("-src 'sha256-{hash}'")
    };
    let policy = between(&head, "\r\ncontent-security-policy: ", "\r\n");
    let script = between(&page, "<script type=\"module\">", "</script>");
    let style = between(&page, "<style>", "</style>");
    let allowed = [
        "default-src 'none'".to_owned(),
        format!("script{}", hash(script)),
        format!("style{}", hash(style)),
        "connect-src 'self'".to_owned(),
        "img-src data:".to_owned(),
        "base-uri 'none'".to_owned(),
        "form-action 'none'".to_owned(),
        "frame-ancestors 'none'".to_owned(),
        "require-trusted-types-for 'script'".to_owned(),
        "trusted-types 'none'".to_owned(),
    ];
    assert_eq!(policy.split("; ").collect::<Vec<_>>(), allowed);
    for tag in ["<script", "<style", "</script", "</style"] {
        assert_eq!(page.matches(tag).count(), 1, "{tag}");
    }
    for line in [
        "content-type: text/html; charset=utf-8",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
        "referrer-policy: no-referrer",
        "cross-origin-opener-policy: same-origin",
        "cross-origin-embedder-policy: require-corp",
        "connection: close",
    ] {
        assert!(head.lines().any(|found| found == line), "{line} in {head}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_is_small_and_works_below_any_prefix() {
    let (_, page) = root(&Inside::new(""), "GET", BROWSER).await;
    assert!(page.len() <= 48 << 10, "{} bytes", page.len());
    for attribute in ["href=\"", "src=\"", "action=\"", "url("] {
        for value in page.split(attribute).skip(1) {
            assert!(value.starts_with('#') || value.starts_with("data:"), "{value:.40}");
        }
    }
    let script = between(&page, "<script type=\"module\">", "</script>");
    // The namespace of drawings is a name, and nothing is fetched from it.
    let addresses = script.replace("http://www.w3.org/2000/svg", "");
    assert!(!addresses.contains("://"), "no address but the page's own");
    for part in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!script.contains(part), "what comes from the network is text: {part}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_is_told_of_the_endpoints_and_no_prefix_can_leave_its_attribute() {
    let config = "limits.max_message_size = \"2 KiB\"\ntimeouts.ping_interval = \"500ms\"\n\
                  [[endpoint]]\npath = \"/a%22\"\nprefix = '\"><script>&amp;<!--'\n";
    let (_, page) = root(&Inside::new(config), "GET", BROWSER).await;
    let told = between(&page, "<meta name=\"wsecho\" content=\"", "\">");
    assert!(!told.contains(['<', '>']), "{told}");
    let plain = told.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">");
    let told: serde_json::Value = serde_json::from_str(&plain.replace("&amp;", "&")).unwrap();
    assert_eq!(told["limit"], 2048);
    assert_eq!(told["ping"], 0.5);
    let endpoint = serde_json::json!({ "path": "/a%22", "prefix": "\"><script>&amp;<!--" });
    assert_eq!(told["endpoints"], serde_json::json!([endpoint]));
}

#[tokio::test(start_paused = true)]
async fn every_option_that_the_page_offers_is_one_that_the_service_takes() {
    let inside = Inside::new("");
    let (_, page) = root(&inside, "GET", BROWSER).await;
    let offers = between(&page, "const OFFERS = {", "};");
    let offers: Vec<_> = offers.lines().filter_map(|line| line.split('\'').nth(1)).collect();
    assert!(offers.len() > 3, "{offers:?}");
    for offer in offers {
        inside.open(&format!("/socket?{offer}")).await;
        // Any text is a greeting; an option that is not known would be ignored.
        if !offer.starts_with("greeting=") {
            let wrong = handshake(&format!("/socket?{}", offer.replace('=', "=?")));
            let refused = inside.exchange(&wrong).await;
            assert!(refused.starts_with("HTTP/1.1 400 "), "{offer}: {refused}");
        }
    }
}

/// The parts of the script are put together by name: one that is forgotten would be missing.
#[tokio::test(start_paused = true)]
async fn every_part_of_the_script_is_in_the_page() {
    let (_, page) = root(&Inside::new(""), "GET", BROWSER).await;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/page")).unwrap()
    {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "js") {
            let part = fs::read_to_string(&path).unwrap();
            let last = part.lines().rev().map(str::trim).find(|line| line.len() > 12).unwrap();
            assert!(page.contains(last), "{} in the page", path.display());
        }
    }
}
