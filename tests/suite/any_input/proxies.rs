//! Arbitrary configurations of proxies: whatever the doctor reads, it ends, and judges what it found.

use std::path::Path;

use wsecho::config::Config;
use wsecho::doctor::passage::{Ours, hosts};
use wsecho::doctor::{apache, haproxy, nginx};

/// What configurations are made of; a soup of it gets further than bytes do.
pub const WORDS: &[&str] = &[
    "http",
    "{",
    "}",
    ";",
    "\n",
    " ",
    "server",
    "location",
    "/",
    "=",
    "~",
    "^~",
    "@a",
    "/socket",
    "proxy_pass",
    "http://127.0.0.1:8888",
    "http://$a",
    "set",
    "$a",
    "map",
    "default",
    "if",
    "\"",
    "'",
    "\\",
    "#",
    "upstream",
    "proxy_set_header Upgrade $http_upgrade;",
    "listen\n",
    "backend a\n",
    "frontend a\n",
    "defaults\n",
    "mode http\n",
    "server a 127.0.0.1:8888",
    "default_backend a\n",
    "timeout tunnel",
    "1h",
    "<VirtualHost *:80>\n",
    "</VirtualHost>\n",
    "ProxyPass",
    "ws://",
    "127.0.0.1:8888",
    "RewriteEngine On\n",
    "RewriteRule ^/(.*)",
    "[P]\n",
    "${a}",
    "%{x}",
    "(",
];

/// Reads a text as each of the three, and judges.
pub fn any_configuration(text: &str) {
    let config = Config::default();
    let ours = Ours { addrs: config.boot.bind.clone(), hosts: hosts(text) };
    let file = Path::new("x");
    let mut sections = Vec::new();
    haproxy::parse(text, file, &mut sections);
    let all = [
        nginx::passages(&nginx::parse(text, file), None, &ours, &config),
        haproxy::passages(&sections, &ours).0,
        apache::passages(&apache::parse(text, file), &ours, &config).0,
    ];
    let lines = text.lines().count();
    for passage in all.into_iter().flatten() {
        assert!((1..=lines).contains(&passage.place.line), "{:?} of {text:?}", passage.place);
        for finding in passage.judge(&config).0 {
            assert!(!finding.what.is_empty() && !finding.fix.is_empty(), "{finding:?}");
        }
    }
}
