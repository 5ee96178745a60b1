//! Where the doctor takes clients of a proxy to enter, and where an echo would prove nothing.

use std::collections::BTreeSet;

use wsecho::config::Config;
use wsecho::doctor::passage::Entry;
use wsecho::proxy::snippet::Product;

use super::passages;

/// What leads everything to the service.
const PASS: &str = "location / { proxy_pass http://127.0.0.1:8888; }";

/// An entry in one line.
fn shown(entry: &Entry) -> String {
    let scheme = if entry.secure { "wss" } else { "ws" };
    let mut text = format!("{scheme}://{} at {}", entry.host, entry.addr);
    for (word, holds) in [("local", entry.local), ("introduced", entry.introduced)] {
        if holds {
            text.push_str(", ");
            text.push_str(word);
        }
    }
    entry.barred.map_or(text.clone(), |why| format!("{text}, barred: {why}"))
}

/// The entries of all passages of a configuration, each once.
fn entries(product: Product, text: &str) -> Vec<String> {
    let passages = passages(product, text, &Config::default());
    assert!(!passages.is_empty(), "{text}");
    let all: BTreeSet<_> = passages.iter().filter_map(|it| it.entry.as_ref()).map(shown).collect();
    all.into_iter().collect()
}

fn check(product: Product, text: &str, expected: &[&str]) {
    assert_eq!(entries(product, text), expected, "{text}");
}

const NAMELESS: &str = "barred: the configuration tells no name that leads there";
const CERTIFICATE: &str = "barred: it asks clients for a certificate";
const REDIRECT: &str = "barred: it may redirect what comes without TLS";

#[test]
fn clients_of_nginx_enter_by_tls_and_a_name_of_the_server() {
    const TO_TLS: &str = "if ($scheme = http) { return 301 https://$host$request_uri; }";
    let other = |more: &str| format!("server {{ {more} return 404; }}");
    let with_certificate =
        format!("listen 443 ssl; ssl_verify_client on; server_name a.example; {PASS}");
    for (before, server, expected) in [
        // One block for both, and a redirect in a block of its own.
        (
            "",
            format!("listen 80; listen 443 ssl; server_name a.example; {TO_TLS} {PASS}"),
            "wss://a.example at 127.0.0.1:443".to_owned(),
        ),
        (
            &*other("listen 80; server_name a.example;"),
            format!("listen 443 ssl; server_name a.example; {PASS}"),
            "wss://a.example at 127.0.0.1:443".into(),
        ),
        (
            "",
            format!("listen 443; ssl on; server_name a.example; {PASS}"),
            "wss://a.example at 127.0.0.1:443".into(),
        ),
        (
            "",
            format!("listen 80; listen 443 ssl; {PASS}"),
            "wss://127.0.0.1 at 127.0.0.1:443".into(),
        ),
        // Behind a balancer that ends TLS.
        (
            "",
            format!(
                "listen 80; if ($http_x_forwarded_proto = http) {{ return 301 https://$host; }} {PASS}"
            ),
            format!("ws://127.0.0.1 at 127.0.0.1:80, {REDIRECT}"),
        ),
        (
            "",
            format!("listen 80; location / {{ proxy_pass http://127.0.0.1:8888; {TO_TLS} }}"),
            format!("ws://127.0.0.1 at 127.0.0.1:80, {REDIRECT}"),
        ),
        // Listeners of other kinds.
        (
            "",
            format!("listen 443 quic reuseport; listen 443 ssl; {PASS}"),
            "wss://127.0.0.1 at 127.0.0.1:443".into(),
        ),
        (
            "",
            format!("listen unix:/run/a.sock; listen [::]:8443 ssl proxy_protocol; {PASS}"),
            "wss://::1 at [::1]:8443, introduced".into(),
        ),
        ("", with_certificate.clone(), format!("wss://a.example at 127.0.0.1:443, {CERTIFICATE}")),
        (
            "ssl_verify_client on;",
            format!("listen 443 ssl; {PASS}"),
            format!("wss://127.0.0.1 at 127.0.0.1:443, {CERTIFICATE}"),
        ),
        ("", format!("listen 8080; {with_certificate}"), "ws://a.example at 127.0.0.1:8080".into()),
        // What is written for an address goes before what is written for all.
        (
            &other("listen 127.0.0.1:80;"),
            format!("listen 80; server_name a.example; {PASS}"),
            format!("ws://a.example at 127.0.0.1:80, {NAMELESS}"),
        ),
        (
            "",
            format!("listen 127.0.0.1:80; listen 8000-8009; {PASS}"),
            "ws://127.0.0.1 at 127.0.0.1:8000".into(),
        ),
        (
            "",
            format!("listen localhost:81; {PASS}"),
            "ws://127.0.0.1 at 127.0.0.1:81, local".into(),
        ),
    ] {
        check(Product::Nginx, &format!("http {{ {before} server {{ {server} }} }}"), &[&expected]);
    }
    let only_unix = format!("http {{ server {{ listen unix:/run/a.sock; {PASS} }} }}");
    check(Product::Nginx, &only_unix, &[]);
    let stream = "stream { server { listen 53 udp; listen 443 ssl; proxy_pass 127.0.0.1:8888; } }";
    check(Product::Nginx, stream, &["wss://127.0.0.1 at 127.0.0.1:443"]);
}

#[test]
fn only_a_name_leads_to_a_server_of_nginx_that_is_not_the_first() {
    let other = |more: &str| format!("server {{ {more} return 404; }}");
    for (before, server, expected) in [
        (
            "",
            format!("listen 80; server_name _ \"\" ~^b a.example b.example; {PASS}"),
            "ws://a.example at 127.0.0.1:80".into(),
        ),
        (
            "",
            format!("listen 80; server_name *.a.example; {PASS}"),
            "ws://wsecho.a.example at 127.0.0.1:80".into(),
        ),
        (
            "",
            format!("listen 80; server_name .a.example; {PASS}"),
            "ws://a.example at 127.0.0.1:80".into(),
        ),
        ("", format!("server_name _; {PASS}"), "ws://127.0.0.1 at 127.0.0.1:80".into()),
        (
            &other("listen 80;"),
            format!("listen 80; server_name ~^b; {PASS}"),
            format!("ws://127.0.0.1 at 127.0.0.1:80, {NAMELESS}"),
        ),
        (
            &other("listen 80;"),
            format!("listen *:80 default_server; server_name _; {PASS}"),
            "ws://127.0.0.1 at 127.0.0.1:80".into(),
        ),
        (
            &other("listen 81;"),
            format!("listen 80; server_name _; {PASS}"),
            "ws://127.0.0.1 at 127.0.0.1:80".into(),
        ),
    ] {
        check(Product::Nginx, &format!("http {{ {before} server {{ {server} }} }}"), &[&expected]);
    }
}

#[test]
fn clients_of_haproxy_enter_by_tls_where_any_name_will_do() {
    for (front, expected) in [
        ("bind :80\nbind :443 ssl crt /c", "wss://127.0.0.1 at 127.0.0.1:443".to_owned()),
        (
            "bind :80\nbind :443 ssl crt /c\nhttp-request redirect scheme https unless { ssl_fc }",
            "wss://127.0.0.1 at 127.0.0.1:443".to_owned(),
        ),
        (
            "bind :80\ndefault_backend b\nredirect scheme https\nfrontend g\nbind :443 ssl crt /c",
            "wss://127.0.0.1 at 127.0.0.1:443".into(),
        ),
        (
            "bind :80\nredirect scheme https code 301 if !{ ssl_fc }",
            format!("ws://127.0.0.1 at 127.0.0.1:80, {REDIRECT}"),
        ),
        (
            "bind :80\nhttp-request redirect location /a if { path / }",
            "ws://127.0.0.1 at 127.0.0.1:80".into(),
        ),
        (
            "bind unix@/a\nbind quic4@:443 ssl crt /c alpn h3\nbind ipv4@:8443,ipv6@:::8443 ssl crt /c",
            "wss://127.0.0.1 at 127.0.0.1:8443".into(),
        ),
        ("bind :::443 v4v6 ssl crt /c accept-proxy", "wss://::1 at [::1]:443, introduced".into()),
        (
            "bind :443 ssl crt /c ca-file /a verify required",
            format!("wss://127.0.0.1 at 127.0.0.1:443, {CERTIFICATE}"),
        ),
        (
            "bind :443 ssl crt /c ca-file /a verify required\nbind :80",
            "ws://127.0.0.1 at 127.0.0.1:80".into(),
        ),
        (
            "bind :443 ssl crt /c ca-file /a verify optional",
            "wss://127.0.0.1 at 127.0.0.1:443".into(),
        ),
        (
            "bind :443 ssl crt /c strict-sni",
            format!("wss://127.0.0.1 at 127.0.0.1:443, {NAMELESS}"),
        ),
        (
            "bind 127.0.0.1:81\ntcp-request connection expect-proxy layer4",
            "ws://127.0.0.1 at 127.0.0.1:81, local, introduced".into(),
        ),
        (
            "bind :81\ntcp-request connection expect-proxy layer4 if { src 10.0.0.1 }",
            "ws://127.0.0.1 at 127.0.0.1:81".into(),
        ),
    ] {
        let text = format!(
            "defaults\nmode http\nfrontend f\n{front}\ndefault_backend b\n\
             backend b\nserver s 127.0.0.1:8888\n"
        );
        check(Product::Haproxy, &text, &[&expected]);
    }
}

#[test]
fn clients_of_apache_enter_by_tls_and_a_name_of_the_virtual_host() {
    const PASS: &str = "ProxyPass / ws://127.0.0.1:8888/\n";
    const TLS: &str = "SSLEngine on\n";
    let host = |at: &str, lines: &str| format!("<VirtualHost {at}>\n{lines}</VirtualHost>\n");
    let named = format!("ServerName https://a.example:443\n{PASS}");
    let to_tls = "RewriteEngine on\nRewriteRule ^ https://%{HTTP_HOST}%{REQUEST_URI} [R=301,L]\n";
    for (text, expected) in [
        (
            host("*:80", "Redirect / https://a.example/\n")
                + &host("*:443", &[TLS, &named].concat()),
            "wss://a.example at 127.0.0.1:443".to_owned(),
        ),
        // All inherit from the main server.
        (
            PASS.to_owned()
                + &host("*:80", "Redirect / https://a.example/\n")
                + &host("*:443", TLS),
            "wss://127.0.0.1 at 127.0.0.1:443".into(),
        ),
        (
            host("*:80", &[to_tls, PASS].concat()),
            format!("ws://127.0.0.1 at 127.0.0.1:80, {REDIRECT}"),
        ),
        (PASS.to_owned(), "ws://127.0.0.1 at 127.0.0.1:80".into()),
        (
            PASS.to_owned() + &host("*:80", "ProxyPass / http://127.0.0.1:1/\n"),
            "ws://127.0.0.1 at 127.0.0.1:443".into(),
        ),
        (
            host("[::1]:81 *:443", &[TLS, &named].concat()),
            "wss://a.example at 127.0.0.1:443".into(),
        ),
        (host("*", &named), "ws://a.example at 127.0.0.1:443".into()),
        (host("_default_:*", &named), "ws://a.example at 127.0.0.1:80".into()),
        (host("[::1]:81", PASS), "ws://::1 at [::1]:81, local".into()),
        (
            host("*:443", &format!("{TLS}SSLVerifyClient require\n{named}")),
            format!("wss://a.example at 127.0.0.1:443, {CERTIFICATE}"),
        ),
        (
            host("*:80", "ServerName b.example\n") + &host("*:80", PASS),
            format!("ws://127.0.0.1 at 127.0.0.1:80, {NAMELESS}"),
        ),
        (
            host("*:80", "ServerName b.example\n")
                + &host("*:80", &format!("ServerAlias *.a.example\n{PASS}")),
            "ws://wsecho.a.example at 127.0.0.1:80".into(),
        ),
        (
            host("127.0.0.1:80", "ServerName b.example\n") + &host("*:80", &named),
            format!("ws://a.example at 127.0.0.1:80, {NAMELESS}"),
        ),
        (
            host("*:80", &format!("RemoteIPProxyProtocol On\n{named}")),
            "ws://a.example at 127.0.0.1:80, introduced".into(),
        ),
    ] {
        check(Product::Apache, &format!("Listen 80\nListen 443\n{text}"), &[&expected]);
    }
}
