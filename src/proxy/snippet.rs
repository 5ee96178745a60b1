//! A complete configuration of each proxy, for the service as it is configured here.
//!
//! Owns the templates in `snippet/`, what fills them, and how each product quotes. The lines that a
//! verdict asks for come from [`super::diagnosis`]. It does not know where the service's addresses
//! and paths are configured, nor where the text goes.
//!
//! In a template, a line that starts with `#` and no space is ready to be uncommented; all other
//! comments explain.
//!
//! Sources: nginx's ngx_http_proxy_module and ngx_stream_proxy_module, HAProxy's configuration
//! manual, Apache's mod_proxy. The oldest supported versions are those of EL 7: nginx 1.20 (EPEL),
//! HAProxy 1.5, Apache 2.4.6.

mod template;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use self::template::{Values, fill, text, when};
use super::diagnosis::{HTTP_VERSION, SET_CONNECTION, SET_HOST, SET_UPGRADE};
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
}

/// What a proxy has to know about the service behind it.
#[derive(Clone, Debug)]
pub struct Backend<'a> {
    /// Where it listens: at least one address.
    pub bind: &'a [ListenAddr],
    /// The paths of its endpoints.
    pub paths: Vec<&'a str>,
    /// Whether its listeners require the PROXY protocol.
    pub proxy_protocol: bool,
}

/// The configuration with which `product` passes everything to `service`.
#[must_use]
pub fn render(product: Product, service: &Backend<'_>) -> String {
    let upstreams = Upstream::of(service.bind);
    match product {
        Product::Nginx if service.proxy_protocol => nginx_stream(&upstreams),
        Product::Nginx => nginx_http(&upstreams, &service.paths),
        Product::Haproxy => haproxy(&upstreams, &service.paths, service.proxy_protocol),
        Product::Apache => apache(&upstreams, &service.paths, service.proxy_protocol),
    }
}

fn nginx_http(upstreams: &[Upstream], paths: &[&str]) -> String {
    let endpoints: Vec<String> = paths.iter().map(|path| nginx_expression(path)).collect();
    let unix = upstreams.iter().any(Upstream::is_unix);
    fill(
        include_str!("snippet/nginx_http.conf"),
        &[
            ("note", notes(upstreams)),
            ("server", nginx_servers(upstreams)),
            ("unix?", when(unix)),
            ("no_unix?", when(!unix)),
            ("endpoints", text(endpoints.join("|"))),
            ("http_version", text(HTTP_VERSION)),
            ("set_upgrade", text(SET_UPGRADE)),
            ("set_connection", text(SET_CONNECTION)),
            ("set_host", text(SET_HOST)),
        ],
    )
}

fn nginx_stream(upstreams: &[Upstream]) -> String {
    fill(
        include_str!("snippet/nginx_stream.conf"),
        &[("note", notes(upstreams)), ("server", nginx_servers(upstreams))],
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

fn haproxy(upstreams: &[Upstream], paths: &[&str], proxy_protocol: bool) -> String {
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

/// Where a proxy connects to.
#[derive(Debug, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Unix(String),
}

/// An address, and what the administrator has to know about it.
#[derive(Debug, PartialEq, Eq)]
struct Upstream {
    address: Address,
    note: Option<&'static str>,
}

impl Upstream {
    /// How to reach each listener from this machine, without duplicates.
    fn of(bind: &[ListenAddr]) -> Vec<Self> {
        /// The port of the default, and of `wsecho.socket`.
        const PORT: u16 = 8888;
        let mut upstreams: Vec<Self> = Vec::new();
        for listen in bind {
            let (address, note) = match listen {
                ListenAddr::Tcp(tcp) => {
                    let ip = match tcp.ip() {
                        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                        ip => ip,
                    };
                    match tcp.port() {
                        0 => {
                            let note = "`bind` leaves the port open: set one there and here.";
                            (Address::Tcp((ip, PORT).into()), Some(note))
                        }
                        port => (Address::Tcp((ip, port).into()), None),
                    }
                }
                ListenAddr::Unix(path) => (Address::Unix(path.display().to_string()), None),
                ListenAddr::Inherited => {
                    let note = "as in wsecho.socket; `systemctl cat wsecho.socket` shows changes.";
                    (Address::Tcp((Ipv4Addr::LOCALHOST, PORT).into()), Some(note))
                }
            };
            if upstreams.iter().all(|upstream| upstream.address != address) {
                upstreams.push(Self { address, note });
            }
        }
        upstreams
    }

    fn is_unix(&self) -> bool {
        matches!(self.address, Address::Unix(_))
    }

    /// The address as nginx and HAProxy write it, each with a prefix of its own for Unix sockets.
    fn named(&self, unix: &str, special: &[char]) -> String {
        match &self.address {
            Address::Tcp(tcp) => tcp.to_string(),
            Address::Unix(path) => quoted(&[unix, path].concat(), special),
        }
    }
}

/// What the administrator has to know about these addresses.
fn notes(upstreams: &[Upstream]) -> Values {
    let note = |upstream: &Upstream| {
        upstream.note.map(|note| format!("{}: {note}", upstream.named("unix:", &[])))
    };
    upstreams.iter().filter_map(note).collect()
}

/// In double quotes unless the text is plain, with a backslash before each `special`.
fn quoted(text: &str, special: &[char]) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-:@~%".contains(char);
    if text.chars().all(plain) {
        return text.into();
    }
    format!("\"{}\"", escaped(text, special))
}

fn escaped(text: &str, special: &[char]) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        if special.contains(&char) {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

/// A path without its percent-encoding, as nginx and Apache compare it.
fn decoded(path: &str) -> Vec<u8> {
    let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, behind @ ..] = rest {
        let encoded = behind.get(..2).filter(|_| *first == b'%').and_then(hex);
        bytes.push(encoded.unwrap_or(*first));
        rest = if encoded.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::diagnosis::{Diagnosis, host_remedy};
    use super::*;
    use crate::ws::handshake::{Connection, Front, Trace, Upgrade};

    const PRODUCTS: [Product; 3] = [Product::Nginx, Product::Haproxy, Product::Apache];

    fn rendered(product: Product, bind: &[&str], paths: &[&str], proxy_protocol: bool) -> String {
        let bind: Vec<ListenAddr> = bind.iter().map(|addr| addr.parse().unwrap()).collect();
        let text = render(product, &Backend { bind: &bind, paths: paths.to_vec(), proxy_protocol });
        for line in text.lines() {
            let comment = line.trim_start().starts_with("# ");
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
        for (product, remedy) in [
            (Product::Nginx, Diagnosis::of(nothing).remedy),
            (Product::Nginx, Some(host_remedy())),
            (Product::Apache, Diagnosis::of(apache).remedy),
        ] {
            let text = rendered(product, &["127.0.0.1:8888"], &["/socket", "/echo"], false);
            for line in remedy.unwrap().lines {
                assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
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
            for product in PRODUCTS {
                let text = rendered(product, &[bind], &["/"], false);
                assert!(text.contains(note) && text.contains("127.0.0.1:8888"), "{text}");
            }
        }
    }

    #[test]
    fn the_proxy_protocol_is_sent_by_those_that_can_and_the_other_one_says_so() {
        for (product, line) in [
            (Product::Nginx, "\n        proxy_protocol on;\n"),
            (Product::Haproxy, "\n    server wsecho 127.0.0.1:8888 check send-proxy-v2\n"),
            (Product::Apache, "\n# WARNING: Apache cannot send the PROXY protocol,"),
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
