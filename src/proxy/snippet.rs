//! A complete configuration of each proxy, for the service as it is configured here.
//!
//! Owns the templates in `snippet/` and what fills them. The lines that a
//! verdict asks for come from [`super::diagnosis`]. It does not know where the service's addresses
//! and paths are configured, nor where the text goes.
//!
//! In a template, a line that starts with `#` and no space is ready to be uncommented; all other
//! comments explain.
//!
//! Sources: nginx's ngx_http_proxy_module and ngx_stream_proxy_module, HAProxy's configuration
//! manual, Apache's mod_proxy, and the manuals of Caddy, Traefik, Envoy, Varnish and lighttpd. The
//! oldest supported versions of the first three are those of EL 7: nginx 1.20 (EPEL), HAProxy 1.5,
//! Apache 2.4.6.

mod template;
mod upstream;

use std::net::SocketAddr;

use self::template::{Values, fill, text, when};
pub use self::upstream::machine;
use self::upstream::{Address, Upstream, decoded, escaped, notes, quoted};
use super::diagnosis::{
    ENVOY, HTTP_VERSION, LIGHTTPD, SET_CONNECTION, SET_HOST, SET_UPGRADE, VARNISH_PIPE,
    VARNISH_RECV,
};
use crate::net::addr::ListenAddr;

/// A proxy that there is a template for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Product {
    /// nginx, as /etc/nginx/conf.d/wsecho.conf.
    Nginx,
    /// HAProxy, as a part of /etc/haproxy/haproxy.cfg.
    Haproxy,
    /// Apache 2.4, as /etc/httpd/conf.d/wsecho.conf.
    Apache,
    /// Caddy 2, as a part of /etc/caddy/Caddyfile.
    Caddy,
    /// Traefik 3, as a file for its file provider.
    Traefik,
    /// Envoy, as /etc/envoy/envoy.yaml.
    Envoy,
    /// Varnish 6 and newer, as /etc/varnish/default.vcl.
    Varnish,
    /// lighttpd 1.4, as a part of its configuration.
    Lighttpd,
}

impl Product {
    /// Whether there is a configuration for several machines.
    #[must_use]
    pub fn takes_machines(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy)
    }
}

/// What a proxy has to know about the service behind it.
#[derive(Clone, Debug)]
pub struct Backend<'a> {
    /// Where it listens: at least one address.
    pub bind: &'a [ListenAddr],
    /// The machines that share the sessions, instead of `bind`; none if it is this one. Only where
    /// [`Product::takes_machines`].
    pub machines: &'a [SocketAddr],
    /// The paths of its endpoints.
    pub paths: Vec<&'a str>,
    /// Whether its listeners require the PROXY protocol.
    pub proxy_protocol: bool,
}

/// The configuration with which `product` passes everything to `service`.
#[must_use]
pub fn render(product: Product, service: &Backend<'_>) -> String {
    let Backend { bind, machines, ref paths, proxy_protocol } = *service;
    let several = !machines.is_empty();
    let upstreams = if several { Upstream::of_machines(machines) } else { Upstream::of(bind) };
    match product {
        Product::Nginx if proxy_protocol => nginx_stream(&upstreams, several),
        Product::Nginx => nginx_http(&upstreams, paths, several),
        Product::Haproxy => haproxy(&upstreams, paths, proxy_protocol, several),
        Product::Apache => apache(&upstreams, paths, proxy_protocol),
        Product::Caddy => caddy(&upstreams, paths, proxy_protocol),
        Product::Traefik => traefik(&upstreams, proxy_protocol),
        Product::Envoy => envoy(&upstreams, proxy_protocol),
        Product::Varnish => varnish(&upstreams, proxy_protocol),
        Product::Lighttpd => lighttpd(&upstreams, proxy_protocol),
    }
}

fn nginx_http(upstreams: &[Upstream], paths: &[&str], several: bool) -> String {
    let endpoints: Vec<String> = paths.iter().map(|path| nginx_expression(path)).collect();
    let unix = upstreams.iter().any(Upstream::is_unix);
    fill(
        include_str!("snippet/nginx_http.conf"),
        &[
            ("note", notes(upstreams)),
            ("server", nginx_servers(upstreams)),
            ("unix?", when(unix)),
            ("no_unix?", when(!unix && !several)),
            ("one?", when(!several)),
            ("several?", when(several)),
            ("endpoints", text(endpoints.join("|"))),
            ("http_version", text(HTTP_VERSION)),
            ("set_upgrade", text(SET_UPGRADE)),
            ("set_connection", text(SET_CONNECTION)),
            ("set_host", text(SET_HOST)),
        ],
    )
}

fn nginx_stream(upstreams: &[Upstream], several: bool) -> String {
    fill(
        include_str!("snippet/nginx_stream.conf"),
        &[
            ("note", notes(upstreams)),
            ("server", nginx_servers(upstreams)),
            ("several?", when(several)),
        ],
    )
}

fn nginx_servers(upstreams: &[Upstream]) -> Values {
    upstreams.iter().map(|upstream| upstream.named("unix:", &['"', '\\'])).collect()
}

/// A path as a regular expression: every byte that could mean something to nginx's parser or to PCRE
/// is written in hexadecimal.
fn nginx_expression(path: &str) -> String {
    let written = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'_' | b'-' => char::from(byte).into(),
        _ => format!("\\x{byte:02x}"),
    };
    decoded(path).into_iter().map(written).collect::<Vec<String>>().concat()
}

fn haproxy(upstreams: &[Upstream], paths: &[&str], proxy_protocol: bool, several: bool) -> String {
    const SPECIAL: [char; 3] = ['"', '\\', '$'];
    let one = upstreams.len() == 1;
    let server = |(index, upstream): (usize, &Upstream)| {
        let number = if one { String::new() } else { (index + 1).to_string() };
        format!("wsecho{number} {}", upstream.named("unix@", &SPECIAL))
    };
    let endpoints: Vec<String> = paths.iter().map(|path| quoted(path, &SPECIAL)).collect();
    fill(
        include_str!("snippet/haproxy.cfg"),
        &[
            ("endpoints", text(endpoints.join(" "))),
            ("unix?", when(upstreams.iter().any(Upstream::is_unix))),
            ("proxy_protocol?", when(proxy_protocol)),
            ("note", notes(upstreams)),
            ("server", upstreams.iter().enumerate().map(server).collect()),
            ("send_proxy", text(if proxy_protocol { " send-proxy-v2" } else { "" })),
            ("one?", when(!several)),
            ("several?", when(several)),
            ("connect", text(if several { "2s" } else { "5s" })),
            // Each of them may refuse before the last one is tried.
            ("retries", text(upstreams.len().to_string())),
        ],
    )
}

fn apache(upstreams: &[Upstream], paths: &[&str], proxy_protocol: bool) -> String {
    const SPECIAL: [char; 2] = ['"', '\\'];
    let first = upstreams.first().expect("a service listens on at least one address");
    let url = |scheme: &str| match &first.address {
        Address::Tcp(tcp) => format!("{scheme}://{tcp}"),
        // The socket precedes the URL, whose host is then no more than a name.
        Address::Unix(path) => format!("unix:{}|{scheme}://localhost", escaped(path, &SPECIAL)),
    };
    let (ws, http) = (url("ws"), url("http"));
    let endpoint = |path: &&str| {
        let path = escaped(&String::from_utf8_lossy(&decoded(path)), &SPECIAL);
        format!("\"{path}\" \"{ws}{path}\"")
    };
    fill(
        include_str!("snippet/apache.conf"),
        &[
            ("proxy_protocol?", when(proxy_protocol)),
            ("note", notes(&upstreams[..1])),
            ("unix?", when(first.is_unix())),
            ("several?", when(upstreams.len() > 1)),
            ("endpoint", paths.iter().map(endpoint).collect()),
            ("rest?", when(!paths.contains(&"/"))),
            ("ws", text(&ws)),
            ("http", text(http)),
        ],
    )
}

fn caddy(upstreams: &[Upstream], paths: &[&str], proxy_protocol: bool) -> String {
    // A backslash is a character like any other, except before a quotation mark.
    const SPECIAL: [char; 1] = ['"'];
    let servers: Vec<_> = upstreams.iter().map(|it| it.named("unix/", &SPECIAL)).collect();
    let endpoints: Vec<_> = paths.iter().map(|path| quoted(path, &SPECIAL)).collect();
    fill(
        include_str!("snippet/caddy.caddyfile"),
        &[
            ("endpoints", text(endpoints.join(" "))),
            ("note", notes(upstreams)),
            ("unix?", when(upstreams.iter().any(Upstream::is_unix))),
            ("servers", text(servers.join(" "))),
            ("proxy_protocol?", when(proxy_protocol)),
        ],
    )
}

fn traefik(upstreams: &[Upstream], proxy_protocol: bool) -> String {
    let tcp = |upstream: &Upstream| match upstream.address {
        Address::Tcp(tcp) => Some(tcp.to_string()),
        Address::Unix(_) => None,
    };
    fill(
        include_str!("snippet/traefik.yml"),
        &[
            ("proxy_protocol?", when(proxy_protocol)),
            ("unix?", when(upstreams.iter().any(Upstream::is_unix))),
            ("note", notes(upstreams)),
            ("server", upstreams.iter().filter_map(tcp).collect()),
        ],
    )
}

fn envoy(upstreams: &[Upstream], proxy_protocol: bool) -> String {
    let server = |upstream: &Upstream| match &upstream.address {
        Address::Tcp(tcp) => {
            let (ip, port) = (tcp.ip(), tcp.port());
            format!("{{socket_address: {{address: \"{ip}\", port_value: {port}}}}}")
        }
        Address::Unix(path) => format!("{{pipe: {{path: \"{}\"}}}}", escaped(path, &['"', '\\'])),
    };
    fill(
        include_str!("snippet/envoy.yaml"),
        &[
            ("upgrade", text(ENVOY)),
            ("proxy_protocol?", when(proxy_protocol)),
            ("unix?", when(upstreams.iter().any(Upstream::is_unix))),
            ("note", notes(upstreams)),
            ("server", upstreams.iter().map(server).collect()),
        ],
    )
}

fn varnish(upstreams: &[Upstream], proxy_protocol: bool) -> String {
    let first = upstreams.first().expect("a service listens on at least one address");
    let address = match &first.address {
        Address::Tcp(tcp) => {
            vec![format!(".host = \"{}\";", tcp.ip()), format!(".port = \"{}\";", tcp.port())]
        }
        Address::Unix(path) => text(format!(".path = \"{path}\";")),
    };
    fill(
        include_str!("snippet/varnish.vcl"),
        &[
            ("note", notes(&upstreams[..1])),
            ("several?", when(upstreams.len() > 1)),
            ("unix?", when(first.is_unix())),
            ("address", address),
            ("proxy_protocol?", when(proxy_protocol)),
            ("recv", text(VARNISH_RECV)),
            ("pipe", VARNISH_PIPE.map(String::from).into()),
        ],
    )
}

fn lighttpd(upstreams: &[Upstream], proxy_protocol: bool) -> String {
    let server = |upstream: &Upstream| match &upstream.address {
        Address::Tcp(tcp) => format!("\"host\" => \"{}\", \"port\" => {}", tcp.ip(), tcp.port()),
        Address::Unix(path) => format!("\"socket\" => \"{}\"", escaped(path, &['"', '\\'])),
    };
    fill(
        include_str!("snippet/lighttpd.conf"),
        &[
            ("proxy_protocol?", when(proxy_protocol)),
            ("note", notes(upstreams)),
            ("unix?", when(upstreams.iter().any(Upstream::is_unix))),
            ("server", upstreams.iter().map(server).collect()),
            ("upgrade", text(LIGHTTPD)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::super::diagnosis::{Diagnosis, host_remedy};
    use super::*;
    use crate::ws::handshake::{Connection, Front, Trace, Upgrade};

    fn rendered(product: Product, bind: &[&str], paths: &[&str], proxy_protocol: bool) -> String {
        shared(product, bind, &[], paths, proxy_protocol)
    }

    /// The same where several machines share the sessions.
    fn shared(
        product: Product,
        bind: &[&str],
        machines: &[&str],
        paths: &[&str],
        proxy_protocol: bool,
    ) -> String {
        let bind: Vec<ListenAddr> = bind.iter().map(|addr| addr.parse().unwrap()).collect();
        let machines: Vec<_> = machines.iter().map(|addr| machine(addr).unwrap()).collect();
        let (bind, machines, paths) = (&bind[..], &machines[..], paths.to_vec());
        let text = render(product, &Backend { bind, machines, paths, proxy_protocol });
        for line in text.lines() {
            let comment = line.trim_start().starts_with("# ") && !line.contains("#  ");
            assert!(line.trim_end() == line && !(comment && line.len() > 100), "{line:?}");
        }
        text
    }

    /// The lines that begin with `word`, without indentation.
    fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
        text.lines().map(str::trim).filter(|line| line.starts_with(word)).collect()
    }

    #[test]
    fn every_line_that_a_verdict_asks_for_is_in_the_configuration() {
        let nothing = Trace {
            http_1_1: false,
            upgrade: Upgrade::Absent,
            connection: Connection::Other,
            key: true,
            front: Front::Unnamed,
        };
        let apache = Trace {
            http_1_1: true,
            connection: Connection::KeepAlive,
            front: Front::Apache,
            ..nothing
        };
        let behind = |front| Diagnosis::of(Trace { http_1_1: true, front, ..nothing }).remedy;
        for (product, remedy) in [
            (Product::Caddy, behind(Front::Caddy)),
            (Product::Envoy, behind(Front::Envoy)),
            (Product::Lighttpd, behind(Front::Lighttpd)),
            (Product::Varnish, behind(Front::Varnish)),
            (Product::Nginx, Diagnosis::of(nothing).remedy),
            (Product::Nginx, Some(host_remedy())),
            (Product::Apache, Diagnosis::of(apache).remedy),
        ] {
            let text = rendered(product, &["127.0.0.1:8888"], &["/socket", "/echo"], false);
            for line in remedy.unwrap().lines {
                // Caddy's line opens a block.
                let found = ["", " {"].map(|end| text.contains(&format!("{line}{end}\n")));
                assert!(found.contains(&true), "{line} in {text}");
            }
        }
    }

    #[test]
    fn a_proxy_connects_to_every_address_and_never_to_a_wildcard() {
        let bind = ["0.0.0.0:80", "[::]:80", "unix:/run/w.sock", "systemd", "127.0.0.1:8888"];
        let text = rendered(Product::Nginx, &bind, &["/"], false);
        let expected = [
            "server 127.0.0.1:80 max_fails=0;",
            "server [::1]:80 max_fails=0;",
            "server unix:/run/w.sock max_fails=0;",
            "server 127.0.0.1:8888 max_fails=0;",
        ];
        assert_eq!(lines(&text, "server ")[..4], expected);
        let text = rendered(Product::Haproxy, &bind, &["/"], false);
        let expected = [
            "server wsecho1 127.0.0.1:80 check",
            "server wsecho2 [::1]:80 check",
            "server wsecho3 unix@/run/w.sock check",
            "server wsecho4 127.0.0.1:8888 check",
        ];
        assert_eq!(lines(&text, "server "), expected);
    }

    #[test]
    fn each_product_writes_addresses_in_its_own_way() {
        let bind = ["[::1]:80", "unix:/run/w x.sock"];
        for (product, expected) in [
            (Product::Caddy, &["reverse_proxy [::1]:80 \"unix//run/w x.sock\" {"][..]),
            (Product::Traefik, &["- url: http://[::1]:80"]),
            (
                Product::Envoy,
                &[
                    "- endpoint: {address: {socket_address: {address: \"::1\", port_value: 80}}}",
                    "- endpoint: {address: {pipe: {path: \"/run/w x.sock\"}}}",
                ],
            ),
            (Product::Varnish, &[".host = \"::1\";", ".port = \"80\";"]),
            (
                Product::Lighttpd,
                &[
                    "( \"host\" => \"::1\", \"port\" => 80 ),",
                    "( \"socket\" => \"/run/w x.sock\" ),",
                ],
            ),
        ] {
            let text = rendered(product, &bind, &["/"], false);
            for line in expected {
                assert_eq!(lines(&text, line), [*line], "{text}");
            }
        }
        let text = rendered(Product::Varnish, &["unix:/run/w.sock"], &["/"], false);
        assert_eq!(lines(&text, ".path"), [".path = \"/run/w.sock\";"]);
    }

    #[test]
    fn several_machines_share_the_sessions_and_none_that_refuses_costs_one() {
        let machines = ["192.0.2.11:8888", "[2001:db8::12]:8888"];
        let text = shared(Product::Nginx, &["unix:/run/w"], &machines, &["/"], false);
        let servers =
            ["server 192.0.2.11:8888 max_fails=0;", "server [2001:db8::12]:8888 max_fails=0;"];
        assert_eq!(lines(&text, "server ")[..2], servers);
        assert_eq!(lines(&text, "least_conn;").len(), 1, "{text}");
        assert_eq!(lines(&text, "proxy_connect_timeout"), ["proxy_connect_timeout 2s;"]);
        assert!(!text.contains("/run/w"), "{text}");
        let text = shared(Product::Nginx, &["unix:/run/w"], &machines, &["/"], true);
        assert_eq!(lines(&text, "server ")[..2], servers);
        assert_eq!(lines(&text, "least_conn;").len(), 1, "{text}");
        let text = shared(Product::Haproxy, &["unix:/run/w"], &machines, &["/"], false);
        let servers =
            ["server wsecho1 192.0.2.11:8888 check", "server wsecho2 [2001:db8::12]:8888 check"];
        assert_eq!(lines(&text, "server "), servers);
        assert_eq!(lines(&text, "balance"), ["balance leastconn"]);
        assert_eq!(lines(&text, "retries"), ["retries 2"]);
        assert!(lines(&text, "default-server")[0].contains(" on-error mark-down"), "{text}");
        for product in [Product::Nginx, Product::Haproxy] {
            let text = rendered(product, &["127.0.0.1:80", "127.0.0.2:80"], &["/"], false);
            for word in ["least_conn", "balance", "retries"] {
                assert_eq!(lines(&text, word), [""; 0], "one machine, whatever it listens on");
            }
        }
    }

    #[test]
    fn nginx_never_avoids_an_address_not_even_the_only_one() {
        // An administrator who adds a second one sees how.
        for proxy_protocol in [false, true] {
            let text = rendered(Product::Nginx, &["127.0.0.1:80"], &["/"], proxy_protocol);
            assert_eq!(lines(&text, "server 1"), ["server 127.0.0.1:80 max_fails=0;"]);
        }
    }

    #[test]
    fn clients_are_served_over_ipv4_and_ipv6_alike() {
        for (product, proxy_protocol, over_ipv4, over_ipv6) in [
            (Product::Nginx, false, "listen 80;", "listen [::]:80;"),
            (Product::Nginx, false, "#listen 443 ssl;", "#listen [::]:443 ssl;"),
            (Product::Nginx, true, "listen 80;", "listen [::]:80;"),
            (Product::Nginx, true, "#listen 443 ssl;", "#listen [::]:443 ssl;"),
            (Product::Haproxy, false, "bind :80", "bind :::80 v6only"),
            (Product::Haproxy, false, "#bind :443 ", "#bind :::443 v6only "),
        ] {
            let text = rendered(product, &["127.0.0.1:8888"], &["/"], proxy_protocol);
            let [ipv4, ipv6] = [over_ipv4, over_ipv6].map(|line| lines(&text, line).len());
            assert!(ipv4 > 0 && ipv4 == ipv6, "{over_ipv6} in {text}");
        }
    }

    #[test]
    fn an_address_that_is_not_known_here_is_explained() {
        for (bind, note) in [("systemd", "wsecho.socket"), ("127.0.0.1:0", "leaves the port open")]
        {
            for product in Product::value_variants().iter().copied() {
                let text = rendered(product, &[bind], &["/"], false);
                assert!(text.contains(note) && text.contains("127.0.0.1"), "{text}");
            }
        }
    }

    #[test]
    fn the_proxy_protocol_is_sent_by_those_that_can_and_the_others_say_so() {
        for (product, line) in [
            (Product::Nginx, "\n        proxy_protocol on;\n"),
            (Product::Haproxy, "\n    server wsecho 127.0.0.1:8888 check send-proxy-v2\n"),
            (Product::Apache, "\n# WARNING: Apache cannot send the PROXY protocol,"),
            (Product::Caddy, "\n\t\t\t\tproxy_protocol v2\n"),
            (
                Product::Traefik,
                "\n# WARNING: Traefik sends the PROXY protocol from TCP routers only",
            ),
            (Product::Envoy, "\n        config: {version: V2}\n"),
            (Product::Varnish, "\n    .proxy_header = 2;\n"),
            (Product::Lighttpd, "\n# WARNING: lighttpd cannot send the PROXY protocol,"),
        ] {
            let [off, required] =
                [false, true].map(|on| rendered(product, &["127.0.0.1:8888"], &["/"], on));
            assert!(required.contains(line) && !off.contains(line), "{required}");
        }
    }

    #[test]
    fn apache_passes_each_endpoint_as_a_websocket_and_the_rest_as_http() {
        let text = rendered(Product::Apache, &["[::]:80"], &["/a", "/b"], false);
        let expected = [
            r#"ProxyPass "/a" "ws://[::1]:80/a""#,
            r#"ProxyPass "/b" "ws://[::1]:80/b""#,
            r#"ProxyPass "/" "http://[::1]:80/""#,
        ];
        assert_eq!(lines(&text, "ProxyPass "), expected);
        let text = rendered(Product::Apache, &["unix:/run/socket", "127.0.0.1:80"], &["/"], false);
        let expected = [r#"ProxyPass "/" "unix:/run/socket|ws://localhost/""#];
        assert_eq!(lines(&text, "ProxyPass "), expected);
    }

    #[test]
    fn what_a_product_could_misread_is_quoted() {
        let paths = ["/a%20b", "/$x;y{z}", "/q\"\\"];
        let nginx = rendered(Product::Nginx, &["unix:/a b"], &paths, false);
        assert_eq!(lines(&nginx, "server \""), ["server \"unix:/a b\" max_fails=0;"]);
        let expected = [r"#location ~ ^(/a\x20b|/\x24x\x3by\x7bz\x7d|/q\x22\x5c)$ {"];
        assert_eq!(lines(&nginx, "#location ~"), expected);
        let haproxy = rendered(Product::Haproxy, &["unix:/a b"], &paths, false);
        assert_eq!(lines(&haproxy, "server "), ["server wsecho \"unix@/a b\" check"]);
        let expected = [r#"#use_backend wsecho if { path /a%20b "/\$x;y{z}" "/q\"\\" }"#];
        assert_eq!(lines(&haproxy, "#use_backend"), expected);
        let apache = rendered(Product::Apache, &["127.0.0.1:80"], &paths, false);
        let expected = [
            r#"ProxyPass "/a b" "ws://127.0.0.1:80/a b""#,
            r#"ProxyPass "/$x;y{z}" "ws://127.0.0.1:80/$x;y{z}""#,
            r#"ProxyPass "/q\"\\" "ws://127.0.0.1:80/q\"\\""#,
        ];
        assert_eq!(lines(&apache, "ProxyPass ")[..3], expected);
    }
}
