//! A whole configuration of each proxy, for the service as it runs here.
//!
//! Owns what a proxy's file looks like around the lines that [`super`] asks for when they are
//! missing, and how each product quotes. It does not know where the service's addresses and paths
//! are written, nor where the text goes.
//!
//! A line that begins with `#` and no blank is ready to be uncommented; other comments explain.
//!
//! Sources: nginx's ngx_http_proxy_module and ngx_stream_proxy_module, HAProxy's configuration
//! manual, Apache's mod_proxy. The oldest versions meant are those of EL 7: nginx 1.20 (EPEL),
//! HAProxy 1.5, Apache 2.4.6.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::diagnosis::{APACHE, HTTP_VERSION, SET_CONNECTION, SET_HOST, SET_UPGRADE};
use crate::net::listen::ListenAddr;

/// A proxy that there is a configuration for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Product {
    /// nginx, as /etc/nginx/conf.d/wsecho.conf.
    Nginx,
    /// HAProxy, as a part of /etc/haproxy/haproxy.cfg.
    Haproxy,
    /// Apache 2.4, as /etc/httpd/conf.d/wsecho.conf.
    Apache,
}

/// What a proxy has to know of the service behind it.
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
        Product::Nginx => nginx(&upstreams, &service.paths),
        Product::Haproxy => haproxy(&upstreams, &service.paths, service.proxy_protocol),
        Product::Apache => apache(&upstreams, &service.paths, service.proxy_protocol),
    }
}

/// Where a proxy connects to.
#[derive(Debug, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Unix(String),
}

/// An address, and what is to be known about it.
#[derive(Debug, PartialEq, Eq)]
struct Upstream {
    address: Address,
    note: Option<&'static str>,
}

impl Upstream {
    /// What leads to each listener from this machine, every address once.
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
                            let note =
                                "`bind` leaves the port open: give it one, and name it here.";
                            (Address::Tcp((ip, PORT).into()), Some(note))
                        }
                        port => (Address::Tcp((ip, port).into()), None),
                    }
                }
                ListenAddr::Unix(path) => (Address::Unix(path.display().to_string()), None),
                ListenAddr::Inherited => {
                    let note = "As in wsecho.socket; `systemctl cat wsecho.socket` shows changes.";
                    (Address::Tcp((Ipv4Addr::LOCALHOST, PORT).into()), Some(note))
                }
            };
            if upstreams.iter().all(|upstream| upstream.address != address) {
                upstreams.push(Self { address, note });
            }
        }
        upstreams
    }
}

/// A line for each upstream, its note before it.
fn lines(upstreams: &[Upstream], indent: &str, line: impl Fn(usize, &Address) -> String) -> String {
    let mut text = String::new();
    for (index, Upstream { address, note }) in upstreams.iter().enumerate() {
        if let Some(note) = note {
            writeln!(text, "{indent}# {note}").expect("a String takes all");
        }
        writeln!(text, "{indent}{}", line(index, address)).expect("a String takes all");
    }
    text
}

/// In double quotes where the text is not plain, and `special` behind backslashes.
fn quoted<'a>(text: &'a str, special: &[char]) -> Cow<'a, str> {
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-:@~%".contains(char);
    if text.chars().all(plain) {
        return text.into();
    }
    format!("\"{}\"", escaped(text, special)).into()
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

/// The `server` lines of an upstream of nginx.
fn nginx_servers(upstreams: &[Upstream]) -> String {
    // They are one process: all of them answer or none, so resting from one only takes longer.
    let option = if upstreams.len() > 1 { " max_fails=0" } else { "" };
    lines(upstreams, "    ", |_, address| match address {
        Address::Tcp(tcp) => format!("server {tcp}{option};"),
        Address::Unix(path) => {
            format!("server {}{option};", quoted(&format!("unix:{path}"), &['"', '\\']))
        }
    })
}

/// An expression for a path: whatever nginx's parser or PCRE could see something in is written in
/// hexadecimal.
fn nginx_expression(path: &str) -> String {
    decoded(path).iter().fold(String::new(), |mut expression, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'_' | b'-' => {
                expression.push(char::from(*byte));
            }
            _ => write!(expression, "\\x{byte:02x}").expect("a String takes all"),
        }
        expression
    })
}

fn nginx(upstreams: &[Upstream], paths: &[&str]) -> String {
    let servers = nginx_servers(upstreams);
    let any_unix = upstreams.iter().any(|upstream| matches!(upstream.address, Address::Unix(_)));
    let unix = if any_unix {
        "    # nginx has to be in the group of the socket: usermod -aG wsecho nginx\n"
    } else {
        "    # With bind = \"unix:/run/wsecho/wsecho.sock\", and nginx in the group wsecho:\n    \
         #server unix:/run/wsecho/wsecho.sock;\n"
    };
    let endpoints = paths.iter().map(|path| nginx_expression(path)).collect::<Vec<_>>().join("|");
    let set_mapped = SET_CONNECTION.replace("\"upgrade\"", "$wsecho_connection");
    format!(
        "\
# nginx in front of wsecho: copy to /etc/nginx/conf.d/, set server_name, then `nginx -t` and
# `systemctl reload nginx`. For nginx 1.4 and newer; EPEL 7 has 1.20.
# A line that begins with # and no blank is ready to be uncommented.

# Only a request that asks for an upgrade gets one; the others stay ordinary.
map $http_upgrade $wsecho_connection {{
    default upgrade;
    ''      close;
}}

upstream wsecho {{
{servers}{unix}    # nginx has some 28,000 ports for each address (net.ipv4.ip_local_port_range), and so many
    # sessions; each takes two of its worker_connections. For more, name several addresses in bind
    # and here: with max_fails=0, or nginx answers 502 for 10 s after a restart of wsecho.
    #server 127.0.0.2:8888 max_fails=0;
}}

server {{
    listen 80;
    server_name echo.example.com;
    # For wss://
    #listen 443 ssl;
    #ssl_certificate /etc/nginx/wsecho.crt;
    #ssl_certificate_key /etc/nginx/wsecho.key;

    # In a server that has other things to do, in place of `location / {{`:
    #location ~ ^({endpoints})$ {{
    # Below a prefix, in place of both lines; the slash at the end takes the prefix away:
    #location /ws/ {{
    #    proxy_pass http://wsecho/;
    location / {{
        proxy_pass http://wsecho;
        # These three lines are what makes a WebSocket pass: nginx speaks HTTP/1.0 to upstreams
        # unless told otherwise, and drops both headers. From 1.29.7 the first one is the default.
        {HTTP_VERSION}
        {SET_UPGRADE}
        {set_mapped}
        # Without the map this does as well where nothing but WebSockets passes:
        #{SET_CONNECTION}

        # $http_host, because $host loses the port.
        {SET_HOST}
        # Who the client is. What it says of itself in the other headers is not passed on: wsecho
        # believes them only where they agree.
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host \"\";
        proxy_set_header X-Real-IP \"\";
        proxy_set_header Forwarded \"\";

        # nginx cuts a connection on which nothing passes for 60 s by default.
        proxy_read_timeout 1h;
    }}
}}
"
    )
}

fn nginx_stream(upstreams: &[Upstream]) -> String {
    let servers = nginx_servers(upstreams).replace("    ", "        ");
    format!(
        "\
# nginx in front of wsecho with [proxy] proxy_protocol = \"required\". Only nginx's stream module can
# send the PROXY protocol; it passes connections on unread, so there is nothing about HTTP here.
# Put it at the end of /etc/nginx/nginx.conf, outside of `http {{ }}`, then `nginx -t` and
# `systemctl reload nginx`. The module is in the package nginx-mod-stream (EL) or
# libnginx-mod-stream (Debian).
# A line that begins with # and no blank is ready to be uncommented.

stream {{
    upstream wsecho {{
{servers}    }}

    server {{
        # No server of `http {{ }}` can have the same port.
        listen 80;
        # For wss://, in place of the line above:
        #listen 443 ssl;
        #ssl_certificate /etc/nginx/wsecho.crt;
        #ssl_certificate_key /etc/nginx/wsecho.key;

        proxy_pass wsecho;
        proxy_protocol on;
        # nginx cuts a connection on which nothing passes for 10 min by default.
        proxy_timeout 1h;
    }}
}}
"
    )
}

fn haproxy(upstreams: &[Upstream], paths: &[&str], proxy_protocol: bool) -> String {
    const SPECIAL: [char; 3] = ['"', '\\', '$'];
    let option = if proxy_protocol { " send-proxy-v2" } else { "" };
    let servers = lines(upstreams, "    ", |index, address| {
        let name =
            if upstreams.len() > 1 { format!("wsecho{}", index + 1) } else { "wsecho".into() };
        match address {
            Address::Tcp(tcp) => format!("server {name} {tcp} check{option}"),
            Address::Unix(path) => {
                let path = format!("unix@{path}");
                format!("server {name} {} check{option}", quoted(&path, &SPECIAL))
            }
        }
    });
    let any_unix = upstreams.iter().any(|upstream| matches!(upstream.address, Address::Unix(_)));
    let unix = if any_unix {
        "    # HAProxy has to be in the group of the socket, and `chroot` in its `global` hides the path.\n"
    } else {
        ""
    };
    let proxy_protocol = if proxy_protocol {
        "    # For [proxy] proxy_protocol = \"required\"; the health checks send it as well.\n"
    } else {
        ""
    };
    let endpoints = paths.iter().map(|path| quoted(path, &SPECIAL)).collect::<Vec<_>>().join(" ");
    format!(
        "\
# HAProxy 1.5 or newer in front of wsecho: append to /etc/haproxy/haproxy.cfg, then
# `haproxy -c -f /etc/haproxy/haproxy.cfg` and `systemctl reload haproxy`.
# A line that begins with # and no blank is ready to be uncommented.

frontend wsecho
    mode http
    bind :80
    # For wss://, with certificate and key in one file:
    #bind :443 ssl crt /etc/haproxy/wsecho.pem

    # For requests; an open WebSocket is bounded by `timeout tunnel` below.
    timeout client 30s

    # Who the client is. What it says of itself in the other headers is not passed on: wsecho
    # believes them only where they agree.
    option forwardfor
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}
    http-request del-header X-Forwarded-Host
    http-request del-header X-Real-IP
    http-request del-header Forwarded

    # Below a prefix (HAProxy 2.2 and newer):
    #http-request replace-path ^/ws(/.*) \\1
    # In a frontend that has other things to do, in place of default_backend:
    #use_backend wsecho if {{ path {endpoints} }}
    default_backend wsecho

backend wsecho
    mode http
    timeout connect 5s
    timeout server 30s
    # Without it an open WebSocket on which nothing passes is cut at `timeout client` or `server`.
    timeout tunnel 1h
    option httpchk GET /healthz

    # `Upgrade` and `Connection` need no line: HAProxy passes WebSockets by itself.
{unix}{proxy_protocol}{servers}    # HAProxy has some 28,000 ports for each address (net.ipv4.ip_local_port_range), and so many
    # sessions; `maxconn` in its `global` counts, too. For more, name several addresses in bind and
    # here; a Unix socket needs no ports.
    #server wsecho0 127.0.0.2:8888 check{option}
"
    )
}

fn apache(upstreams: &[Upstream], paths: &[&str], proxy_protocol: bool) -> String {
    const SPECIAL: [char; 2] = ['"', '\\'];
    let Upstream { address, note } = upstreams.first().expect("a service listens somewhere");
    // A Unix socket stands before the URL, whose host is then a name only.
    let (before, host) = match address {
        Address::Tcp(tcp) => (String::new(), tcp.to_string()),
        Address::Unix(path) => (format!("unix:{}|", escaped(path, &SPECIAL)), "localhost".into()),
    };
    let pass = |path: &str| {
        let path = escaped(&String::from_utf8_lossy(&decoded(path)), &SPECIAL);
        let mend = APACHE.replace("/socket", &path);
        mend.replacen("ws://127.0.0.1:8888", &format!("{before}ws://{host}"), 1)
    };
    let mut endpoints = String::new();
    for path in paths {
        writeln!(endpoints, "    {}", pass(path)).expect("a String takes all");
    }
    let all = format!("ProxyPass \"/\" \"{before}http://{host}/\"");
    if !paths.contains(&"/") {
        endpoints += "    # The list of endpoints, and /healthz:\n    ";
        endpoints += &all;
        endpoints += "\n";
    }
    let prefixed = pass("/").replacen("\"/\"", "\"/ws/\"", 1);
    let mut notes = String::new();
    for note in note.iter().copied().chain(match address {
        Address::Unix(_) => Some(
            "Unix sockets need Apache 2.4.7, and Apache in their group: usermod -aG wsecho apache",
        ),
        Address::Tcp(_) => None,
    }) {
        writeln!(notes, "    # {note}").expect("a String takes all");
    }
    if upstreams.len() > 1 {
        notes += "    # The first address of `bind`: Apache needs no other one.\n";
    }
    let warning = if proxy_protocol {
        "#\n# ATTENTION: Apache cannot send the PROXY protocol. With [proxy] proxy_protocol = \
         \"required\" wsecho\n# refuses it: set \"off\", or put HAProxy or nginx's stream module in \
         front.\n"
    } else {
        ""
    };
    format!(
        "\
# Apache 2.4 in front of wsecho: set ServerName and copy to
#   /etc/httpd/conf.d/ (EL), then `apachectl -t` and `systemctl reload httpd`;
#   /etc/apache2/sites-available/ (Debian), then `a2enmod headers proxy_http proxy_wstunnel`,
#   `a2ensite wsecho`, `apachectl -t` and `systemctl reload apache2`.
# For Apache 2.4.6 (EL 7) and newer.
# A line that begins with # and no blank is ready to be uncommented.
{warning}
<VirtualHost *:80>
# For wss://, in place of the line above (EL: package mod_ssl; Debian: `a2enmod ssl`):
#<VirtualHost *:443>
#    SSLEngine on
#    SSLCertificateFile /etc/pki/tls/certs/wsecho.crt
#    SSLCertificateKeyFile /etc/pki/tls/private/wsecho.key
    ServerName echo.example.com

    # The Host that the client named; Apache says the name of the upstream otherwise.
    ProxyPreserveHost On
    # Who the client is; X-Forwarded-For and -Host come by themselves. What the client says of
    # itself in the other headers is not passed on: wsecho believes them only where they agree.
    RequestHeader set X-Forwarded-Proto \"http\" env=!HTTPS
    RequestHeader set X-Forwarded-Proto \"https\" env=HTTPS
    RequestHeader unset X-Forwarded-Host
    RequestHeader unset X-Real-IP
    RequestHeader unset Forwarded

    # A connection on which nothing passes is cut after this or Timeout, whichever is longer.
    ProxyTimeout 3600

    # ws:// is what makes a WebSocket pass (mod_proxy_wstunnel); with http:// it does not. It is all
    # that 2.4.6 knows.
{notes}{endpoints}    # From 2.4.47 this line does it all, in place of the lines above (mod_proxy_http):
    #{all} upgrade=websocket
    # Below a prefix, before the lines above:
    #{prefixed}
</VirtualHost>
"
    )
}

#[cfg(test)]
mod tests {
    use super::super::diagnosis::{Diagnosis, host_remedy};
    use super::*;
    use crate::ws::handshake::{Connection, Trace, Upgrade};

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

    /// The lines in which one of the words stands, without indentation.
    fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
        text.lines().map(str::trim).filter(|line| line.starts_with(word)).collect()
    }

    #[test]
    fn every_line_that_a_verdict_asks_for_stands_in_the_configuration() {
        let nothing = Trace {
            http_1_1: false,
            upgrade: Upgrade::Absent,
            connection: Connection::Other,
            key: true,
            forwarded_by_apache: false,
        };
        let apache = Trace {
            http_1_1: true,
            connection: Connection::KeepAlive,
            forwarded_by_apache: true,
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
    fn an_address_that_is_not_known_here_is_explained() {
        for (bind, note) in [("systemd", "wsecho.socket"), ("127.0.0.1:0", "give it one")] {
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
            (Product::Apache, "\n# ATTENTION: Apache cannot send the PROXY protocol."),
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
        assert_eq!(lines(&nginx, "server \""), ["server \"unix:/a b\";"]);
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
