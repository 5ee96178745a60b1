//! What the doctor calls the fault of a proxy's configuration, where the products differ from what one
//! would expect. `tests/proxy/doctor.py` asks the same of real ones.

use wsecho::config::Config;
use wsecho::proxy::snippet::Product;

use super::passages;

/// What nginx needs to pass a handshake on.
const HEADERS: &str = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                       proxy_set_header Connection upgrade;";

/// The labels of what is wrong on every way to the service.
fn labels(product: Product, text: &str) -> Vec<&'static str> {
    let config = Config::default();
    let all = passages(product, text, &config);
    assert!(!all.is_empty(), "{text}");
    all.iter().flat_map(|it| it.judge(&config).0).map(|it| it.label).collect()
}

fn check(product: Product, text: &str, expected: Option<&str>) {
    assert_eq!(labels(product, text), Vec::from_iter(expected), "{text}");
}

#[test]
fn a_timeout_of_zero_is_none_in_haproxy_and_none_is_left_in_nginx_and_apache() {
    for (timeouts, expected) in [
        ("timeout client 0\ntimeout server 0", None),
        ("timeout client 0s\ntimeout server 0\ntimeout tunnel 0ms", None),
        ("timeout client 1h\ntimeout server 1h\ntimeout tunnel 0", None),
        ("timeout client 0\ntimeout server 3s", Some("idle_timeout")),
        ("timeout client 3s\ntimeout server 3s\ntimeout tunnel 0", Some("idle_timeout")),
        ("timeout client 1h\ntimeout server 1h\ntimeout tunnel 3s", Some("idle_timeout")),
    ] {
        let text = format!("listen a\nmode http\nbind :80\n{timeouts}\nserver a 127.0.0.1:8888");
        check(Product::Haproxy, &text, expected);
    }
    let nginx = format!(
        "http {{ server {{ {HEADERS} proxy_read_timeout 0; location / {{ \
         proxy_pass http://127.0.0.1:8888; }} }} }}"
    );
    check(Product::Nginx, &nginx, Some("idle_timeout"));
    check(Product::Apache, "Timeout 0\nProxyPass / ws://127.0.0.1:8888/", Some("idle_timeout"));
}

#[test]
fn a_time_of_apache_may_have_a_unit_but_in_timeout() {
    for (lines, expected) in [
        ("Timeout 3min\nProxyPass / ws://127.0.0.1:8888/", Some("idle_timeout")),
        ("Timeout 3\nProxyPass / ws://127.0.0.1:8888/ timeout=2mi", None),
        ("Timeout 3\nProxyPass / ws://127.0.0.1:8888/ timeout=2000ms", Some("idle_timeout")),
    ] {
        check(Product::Apache, lines, expected);
    }
}

#[test]
fn with_a_variable_nginx_passes_the_path_of_proxy_pass_as_it_is() {
    for (location, target, expected) in [
        ("/ws/", "$b/socket", None),
        ("/", "$b", None),
        ("/socket", "127.0.0.1:8888$request_uri", None),
        ("^~ /ws/", "$b/echo?a=1", None),
        ("/", "$b/", Some("no_endpoint")),
        ("/ws/", "$b/", Some("no_endpoint")),
        ("/ws/", "127.0.0.1:8888/", None),
    ] {
        let text = format!(
            "http {{ server {{ set $b 127.0.0.1:8888; {HEADERS}
            location {location} {{ proxy_pass http://{target}; }} }} }}"
        );
        check(Product::Nginx, &text, expected);
    }
}

#[test]
fn a_handshake_takes_the_way_that_the_conditions_of_a_rule_leave_it() {
    let ws = "RewriteRule ^/(.*) ws://127.0.0.1:8888/$1 [P,L]\n";
    let http = "RewriteRule ^/(.*) http://127.0.0.1:8888/$1 [P,L]\n";
    for (rules, expected) in [
        (["RewriteCond %{HTTP:Upgrade} =websocket [NC]\n", ws, http].concat(), None),
        (["RewriteCond %{HTTP:Upgrade} !=websocket [NC]\n", http, ws].concat(), None),
        (
            ["RewriteCond %{HTTP:Upgrade} ^WebSocket$ [NC]\nRewriteCond %{HTTP:Connection} upgrade [NC]\n", ws, http]
                .concat(),
            None,
        ),
        (
            ["RewriteCond %{HTTP:Upgrade} =h2c [OR]\nRewriteCond %{HTTP:upgrade} websocket\n", ws, http].concat(),
            None,
        ),
        (["RewriteCond %{HTTP:Upgrade} =\"\"\n", http, ws].concat(), None),
        (["RewriteCond %{REQUEST_URI} !^/(socket|echo)\n", http, ws].concat(), None),
        // A condition is for the next rule only, whatever that does.
        (
            ["RewriteCond %{HTTP:Upgrade} !=websocket\nRewriteRule ^/a - [F]\n", http].concat(),
            Some("proxy_apache"),
        ),
        (["RewriteCond %{HTTP:Upgrade} =websocket\n", http].concat(), Some("proxy_apache")),
        // Case counts without NC, so the first rule is for nobody.
        (["RewriteCond %{HTTP:Upgrade} =WebSocket\n", ws, http].concat(), Some("proxy_apache")),
        // What only a request can tell may let it through to the next.
        (["RewriteCond %{HTTP_HOST} =a\n", ws, http].concat(), Some("proxy_apache")),
        ([ws, http].concat(), None),
    ] {
        check(Product::Apache, &format!("RewriteEngine On\n{rules}"), expected);
    }
    let before = "RewriteEngine On\nRewriteCond %{HTTP:Upgrade} =websocket [NC]\n\
        RewriteRule .* ws://127.0.0.1:8888%{REQUEST_URI} [P,L]\nProxyPass / http://127.0.0.1:8888/";
    check(Product::Apache, before, None);
}

#[test]
fn apache_passes_upgrades_only_to_the_protocol_that_is_named() {
    for (option, expected) in [
        ("upgrade=websocket", None),
        ("upgrade=WebSocket", None),
        ("upgrade=ANY", None),
        ("upgrade=NONE", Some("proxy_apache")),
        ("upgrade=foo", Some("proxy_apache")),
        ("", Some("proxy_apache")),
    ] {
        let text = format!("ProxyPass / http://127.0.0.1:8888/ {option}");
        check(Product::Apache, &text, expected);
    }
}

#[test]
fn apache_finds_the_path_of_a_rule_in_the_section_around_it() {
    let inside = |section: &str, lines: &str| {
        let name = section.split(' ').next().unwrap();
        format!("<{section}>\n{lines}\n</{name}>")
    };
    for (text, expected) in [
        (inside("LocationMatch ^/(socket|echo)$", "ProxyPassMatch ws://127.0.0.1:8888/$1"), None),
        (
            inside("LocationMatch ^/(socket|echo)$", "ProxyPassMatch http://127.0.0.1:8888/$1"),
            Some("proxy_apache"),
        ),
        (
            inside("Location ~ ^/(socket|echo)$", "ProxyPassMatch ws://127.0.0.1:8888/no/$1"),
            Some("no_endpoint"),
        ),
        (inside("Location /socket", "ProxyPassMatch ws://127.0.0.1:8888"), None),
        // The whole path follows where the rule does not say which part does.
        ("ProxyPassMatch ^/(socket|echo)$ ws://127.0.0.1:8888".to_owned(), None),
        ("ProxyPassMatch ^/socket ws://127.0.0.1:8888/x".to_owned(), Some("no_endpoint")),
        ("ProxyPassMatch ^(/socket)$ ws://127.0.0.1:8888$1".to_owned(), None),
    ] {
        check(Product::Apache, &text, expected);
    }
}
