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

use super::{APACHE, HTTP_VERSION, SET_CONNECTION, SET_UPGRADE};
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
pub struct Service<'a> {
    /// Where it listens: at least one address.
    pub bind: &'a [ListenAddr],
    /// The paths of its endpoints.
    pub paths: Vec<&'a str>,
    /// Whether its listeners require the PROXY protocol.
    pub proxy_protocol: bool,
}

/// The configuration with which `product` passes everything to `service`.
#[must_use]
pub fn render(product: Product, service: &Service<'_>) -> String {
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
    // They are one process: none is better while another one does not answer.
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
    # sessions. For more, name several in bind and here; a Unix socket needs no ports.
    #server 127.0.0.2:8888;
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
        # Before 1.29.7 nginx speaks HTTP/1.0 to upstreams, and up to this day it drops both headers:
        # these three lines are what makes a WebSocket pass.
        {HTTP_VERSION}
        {SET_UPGRADE}
        {set_mapped}
        # Without the map above this does as well where nothing but WebSockets passes:
        #{SET_CONNECTION}

        # $http_host, because $host loses the port.
        proxy_set_header Host $http_host;
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
# HAProxy in front of wsecho: append to /etc/haproxy/haproxy.cfg, then
# `haproxy -c -f /etc/haproxy/haproxy.cfg` and `systemctl reload haproxy`. For HAProxy 1.5 and newer.
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
    # sessions. For more, name several in bind and here; a Unix socket needs no ports.
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
    # Who the client is; X-Forwarded-For and -Host come by themselves. What the client says of itself
    # in the other headers is not passed on: wsecho believes them only where they agree.
    RequestHeader set X-Forwarded-Proto \"http\" env=!HTTPS
    RequestHeader set X-Forwarded-Proto \"https\" env=HTTPS
    RequestHeader unset X-Forwarded-Host
    RequestHeader unset X-Real-IP
    RequestHeader unset Forwarded

    # A connection on which nothing passes is cut after Timeout, 60 s by default, or this.
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
