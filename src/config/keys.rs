//! The table of configuration keys.
//!
//! Each fact about a key is stated once, here: the reader, the report of changes at a reload,
//! `config/wsecho.toml`, wsecho.toml(5) and "did you mean" all follow from it. A new key takes an
//! entry in [`KEYS`] and the code that acts on it.

use super::field::{self, Applies, Field, field};
use super::value::{
    Addr, ByteSize, EndpointPath, Mode, Name, Peer, Prefix, Seconds, Value, Whole, Word,
};
use crate::ops::logging::{Format, Level};
use crate::proxy::protocol::Expect;
use crate::ws::handshake::{Origins, Subprotocols};

/// A key of the configuration file.
pub struct Key {
    /// The name, with its section in front: `timeouts.close`.
    pub path: &'static str,
    /// The default, in TOML. A key without one must be given.
    pub default: Option<&'static str>,
    /// The version that introduced it.
    pub since: &'static str,
    /// What everyone should know: the comment in the file, and the beginning in the manual page.
    ///
    /// Spaces and newlines separate words. What is in backquotes is typed literally.
    pub summary: &'static str,
    /// What only the manual page says. An empty line separates paragraphs.
    pub details: &'static str,
    pub(super) field: Field,
}

impl Key {
    /// The section, empty for the top of the file.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    /// The name within the section.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The environment variable that sets it, over the file; `None` for the keys of an endpoint.
    #[must_use]
    pub fn variable(&self) -> Option<String> {
        let name = self.path.replace('.', "_").to_uppercase();
        (self.section() != ENDPOINT).then(|| format!("WSECHO_{name}"))
    }

    /// The type and range of the value.
    #[must_use]
    pub fn kind(&self) -> String {
        (self.field.kind)()
    }

    /// Whether only a restart changes it.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        self.field.applies == Applies::OnRestart
    }
}

/// The section that may be there several times, as `[[endpoint]]`.
pub const ENDPOINT: &str = "endpoint";

/// What everyone should know about [`ENDPOINT`].
pub const ENDPOINT_SUMMARY: &str = r#"
    A path on which WebSockets are echoed. Any `[[endpoint]]` replaces both default ones: `/socket`
    with the prefix `"server: "`, and `/echo` without a prefix."#;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Every key, in the order of the file, which is also the order of reading.
pub const KEYS: &[Key] = &[
    Key {
        path: "bind",
        default: Some(r#"["127.0.0.1:8888"]"#),
        since: "0.1.0",
        summary: r#"
            Addresses to listen on, such as `"127.0.0.1:8888"`, `"[::1]:8888"` or
            `"unix:/run/wsecho/wsecho.sock"`; `"systemd"` stands for every socket passed by
            `wsecho.socket`. Host names are not resolved."#,
        details: r"
            An IPv6 address does not accept IPv4 connections. Port 0 picks a free port.

            The path of a Unix socket has at most 107 bytes. The unit creates `/run/wsecho`, which
            only members of the group `wsecho` may enter. A stale socket at the path is replaced;
            anything else there is left alone.

            Other hosts can reach an address that is not a loopback address, and without TLS:
            `wsecho check` warns about it.",
        field: field!(Addr => boot.bind, field::bind),
    },
    Key {
        path: "workers",
        default: Some("0"),
        since: "0.1.0",
        summary: "Threads that serve connections; 0 means one per core.",
        details: "",
        field: field!(Whole<0, 1024> => boot.workers),
    },
    Key {
        path: "unix_mode",
        default: Some(r#""0660""#),
        since: "0.1.0",
        summary: "Permissions of the Unix sockets that wsecho creates.",
        details: r"
            As for `chmod(1)`. The permissions of sockets passed by systemd are set with
            `SocketMode=` in `wsecho.socket`.",
        field: field!(Mode => boot.unix_mode),
    },
    Key {
        path: "instance",
        default: Some(r#""""#),
        since: "0.1.0",
        summary: r"
            Name of this instance where several share the sockets of `wsecho.socket`; empty means that
            there is only one. `wsecho@.service` sets it.",
        details: r"
            It appears in `/info`, in the label `name` of `wsecho_build_info` and in the log. An
            instance that has a name leaves newcomers to the others while all its
            `limits.max_connections` are in use, and refuses them only if nobody takes them.",
        field: field!(Name => boot.instance),
    },
    Key {
        path: "origins",
        default: Some(r#""any""#),
        since: "0.1.0",
        summary: r#"
            Origins that may open a WebSocket: `"any"`, `"same-host"`, or a list such as
            `["https://example.com", "http://localhost:3000"]`."#,
        details: r#"
            Browsers let any page connect to any host, and name the page's origin in the `Origin`
            header. `"same-host"` admits pages from the host and port that the request is for; a
            list admits the origins in it, compared byte by byte; there are no wildcards. Others are
            refused with 403.

            Behind a proxy, the host is the one that a trusted proxy passes on."#,
        field: field!(Origins => policy.origins),
    },
    Key {
        path: "require_origin",
        default: Some("false"),
        since: "0.1.0",
        summary: r"
            Whether to refuse clients that send no `Origin`. Programs other than browsers do not
            send it unless told to.",
        details: "They are refused with 403.",
        field: field!(bool => policy.require_origin),
    },
    Key {
        path: "endpoint.path",
        default: None,
        since: "0.1.0",
        summary: r#"
            Path of the URL. `"/"` takes WebSockets only: other requests still get the page there, or the
            list of endpoints."#,
        details: r"
            It starts with a slash, and is compared byte by byte, without the query, so it is written
            as clients send it: percent-encoded. No two endpoints have the same path.",
        field: field!(EndpointPath => endpoint.path, field::endpoint_path),
    },
    Key {
        path: "endpoint.prefix",
        default: Some(r#""""#),
        since: "0.1.0",
        summary: r"
            Put before each text message that is echoed. Binary messages are echoed unchanged.",
        details: "It has to be shorter than `limits.max_message_size`.",
        field: field!(Prefix => endpoint.prefix),
    },
    Key {
        path: "endpoint.subprotocols",
        default: Some(r#""any""#),
        since: "0.1.0",
        summary: r#"
            Which of the subprotocols offered by a client to select: `"any"` selects the first,
            `"none"` none, and a list the first one that it contains. Browsers fail the connection
            if they offer some and none is selected."#,
        details: "",
        field: field!(Subprotocols => endpoint.subprotocols),
    },
    Key {
        path: "endpoint.compression",
        default: Some("true"),
        since: "0.1.0",
        summary: r"
            Whether to agree to compression (permessage-deflate, RFC 7692) if a client offers it.",
        details: r"
            A compressed message is sent back as the client compressed it, and inflated only to check
            it. This shows whether compressed frames get through, but not whether the client can
            inflate what another program compressed. `limits.max_message_size` applies to the
            inflated message.

            The answer always has `server_no_context_takeover` and `client_no_context_takeover`. An
            offer with `server_max_window_bits` below 15 is accepted only if it has
            `client_max_window_bits` too, and one with 8 never. If no offer is accepted, the session
            goes on without compression.",
        field: field!(bool => endpoint.compression),
    },
    Key {
        path: "endpoint.options",
        default: Some("true"),
        since: "0.1.0",
        summary: r"
            Whether clients may ask for more than an echo in the query of the URL, such as
            `?ping=off`: see wsecho(8).",
        details: "If not, a handshake that asks for it is refused with 403.",
        field: field!(bool => endpoint.options),
    },
    Key {
        path: "limits.max_connections",
        default: Some("10000"),
        since: "0.1.0",
        summary: r"
            Concurrent connections; more are refused with 503. The default is lower where fewer file
            descriptors are allowed.",
        details: r"
            Each connection takes a file descriptor, of which the unit allows 65536
            (`LimitNOFILE=`). The soft limit is raised to the hard limit at start. If that is too
            low for a value given here, the service does not start and exits with 78; if it is too
            low for the default, the service takes fewer connections and logs a warning.",
        field: field!(Whole<1, 1_000_000> => boot.max_connections),
    },
    Key {
        path: "limits.max_connections_per_client",
        default: Some("0"),
        since: "0.1.0",
        summary: r"
            Concurrent connections from one client; more are refused with 429. 0 means no limit.",
        details: r"
            A client is an IPv4 address or an IPv6 network of 64 bits. Behind a proxy it is the
            client according to `[proxy]`, counted from the handshake on.",
        field: field!(Whole<0, 1_000_000> => policy.max_connections_per_client),
    },
    Key {
        path: "limits.max_message_size",
        default: Some(r#""1 MiB""#),
        since: "0.1.0",
        summary: r"
            Size of the largest message, including the prefix. A larger one ends its session with
            close code 1009.",
        details: "All fragments of a message count together.",
        field: field!(ByteSize<125, GIB> => policy.max_message_size),
    },
    Key {
        path: "limits.buffer_budget",
        default: Some(r#""256 MiB""#),
        since: "0.1.0",
        summary: r"
            Memory for the unfinished and unsent messages of all sessions together. When it is used
            up, reading waits for writing. The first 4 KiB of each session are not counted.",
        details: r"
            While it is used up, a session that has held memory for longer than `timeouts.write` is
            closed with 1013, or dropped if it has output waiting.",
        field: field!(ByteSize<MIB, TIB> => boot.buffer_budget),
    },
    Key {
        path: "proxy.trusted",
        default: Some(r#"["127.0.0.0/8", "::1/128", "unix"]"#),
        since: "0.1.0",
        summary: r#"
            Proxies that are believed when they name the client, with `Forwarded`,
            `X-Forwarded-For`, `X-Real-IP` or the PROXY protocol. `"unix"` stands for everything
            that connects to a Unix socket."#,
        details: r"
            The headers are followed from right to left, past at most 32 trusted proxies; the first
            address that is not trusted is the client. If several of them name different clients,
            none is believed, because a client could have sent one of them: make the proxy set or
            remove each.

            The log shows the client and, at level `debug`, why it is believed to be the client.",
        field: field!(Peer => policy.proxy.trusted, field::trusted),
    },
    Key {
        path: "proxy.proxy_protocol",
        default: Some(r#""off""#),
        since: "0.1.0",
        summary: r#"
            With `"required"`, every connection to `bind` must start with a PROXY protocol header,
            version 1 or 2, from a trusted proxy. With `"off"`, none may."#,
        details: "Connections that differ are refused. It is never detected automatically.",
        field: field!(Word<Expect> => policy.proxy.protocol),
    },
    Key {
        path: "http.page",
        default: Some("true"),
        since: "0.1.0",
        summary: r"
            Whether a browser that opens `/` gets a page that tests WebSockets from where it is, and
            says where they break. Others always get the list of endpoints.",
        details: r"
            The page needs nothing but this service: it loads nothing else, works behind a path
            prefix and over https, and knows no more of the configuration than the endpoints, their
            prefixes, `limits.max_message_size` and `timeouts.ping_interval`.",
        field: field!(bool => policy.http.page),
    },
    Key {
        path: "http.name",
        default: Some(r#""""#),
        since: "0.1.0",
        summary: r"
            Name of this instance in `/info`, to tell several behind one load balancer apart. Empty
            means the name of the host.",
        details: "",
        field: field!(Name => policy.http.name),
    },
    Key {
        path: "http.info",
        default: Some("true"),
        since: "0.1.0",
        summary: r"
            Whether `/info` shows a client what arrived of its own request, as JSON.",
        details: r"
            That includes the headers that proxies added. Passwords, cookies and tokens are redacted
            as far as their names give them away; set this to `false` if a proxy adds other headers
            that clients must not see.",
        field: field!(bool => policy.http.info),
    },
    Key {
        path: "admin.bind",
        default: Some("[]"),
        since: "0.1.0",
        summary: r#"
            Addresses that serve `/metrics` (for Prometheus) and `/healthz`, such as
            `["127.0.0.1:8889"]`."#,
        details: r#"
            In the forms of the `bind` at the top of the file, except `"systemd"`. Nothing served
            there is secret, but there is no authentication either: use a loopback address or a Unix
            socket.

            These addresses are served until the process exits. While it drains, `/healthz` answers
            with 503."#,
        field: field!(Addr => boot.admin, field::admin_bind),
    },
    Key {
        path: "timeouts.handshake",
        default: Some(r#""10s""#),
        since: "0.1.0",
        summary: r"
            Time from accept to a complete request head; a connection that takes longer is closed.",
        details: "",
        field: field!(Seconds<1> => policy.handshake_timeout),
    },
    Key {
        path: "timeouts.close",
        default: Some(r#""5s""#),
        since: "0.1.0",
        summary: r"
            Time for sending an answer that is not an upgrade, and for the closing handshake of a
            session.",
        details: "",
        field: field!(Seconds<1> => policy.timeouts.close),
    },
    Key {
        path: "timeouts.write",
        default: Some(r#""30s""#),
        since: "0.1.0",
        summary: r"
            A client that reads nothing for this long, although output is waiting for it, is
            dropped.",
        details: r"
            A client that may have much to read first has longer: 1 s for each 1,000 bytes sent since
            it last answered a ping, up to 458 s. If `timeouts.write` is below 30 s, that time is
            shorter in proportion.",
        field: field!(Seconds<1> => policy.timeouts.write),
    },
    Key {
        path: "timeouts.ping_interval",
        default: Some(r#""25s""#),
        since: "0.1.0",
        summary: r"
            A client that sends nothing for this long, give or take a tenth, is pinged. Keep it
            below the idle timeout of any proxy in front; that of nginx is 60 seconds.",
        details: r"
            A client that opens the endpoint with `?ping=off` is never pinged, and with `?ping=5m`
            after exactly that time, unless 100 others are pinged later than usual: see wsecho(8).",
        field: field!(Seconds<1> => policy.timeouts.ping_interval),
    },
    Key {
        path: "timeouts.pong",
        default: Some(r#""20s""#),
        since: "0.1.0",
        summary: "A client that sends nothing for this long after a ping is dropped.",
        details: r"
            If it may have much to read first, it has longer, as with `timeouts.write`.",
        field: field!(Seconds<1> => policy.timeouts.pong),
    },
    Key {
        path: "shutdown.drain_timeout",
        default: Some(r#""30s""#),
        since: "0.1.0",
        summary: r"
            Longest time from SIGTERM to exit; what is still open then is aborted. Keep it at 35
            seconds or less, since the unit has `TimeoutStopSec=40s`.",
        details: "",
        field: field!(Seconds<0> => policy.shutdown.timeout),
    },
    Key {
        path: "shutdown.drain_spread",
        default: Some(r#""5s""#),
        since: "0.1.0",
        summary: r"
            Time over which sessions are closed, so that their clients do not all reconnect at
            once. At most `drain_timeout`, and by default at most half of it.",
        details: r"
            The close code is 1001. A session that is closed last still has to answer within
            `drain_timeout`, so leave it `timeouts.close`.",
        field: field!(Seconds<0> => policy.shutdown.spread),
    },
    Key {
        path: "log.level",
        default: Some(r#""info""#),
        since: "0.1.0",
        summary: "Least severe level to log. At `info`, each session is one line, at its end.",
        details: "",
        field: field!(Word<Level> => policy.log_level),
    },
    Key {
        path: "log.format",
        default: Some(r#""auto""#),
        since: "0.1.0",
        summary: r#"
            Format of log lines. `"auto"` is `"journal"` if stderr is connected to journald, and
            `"text"` otherwise."#,
        details: r#"
            `"text"` has the time, and colour on a terminal. `"journal"` has the priority that
            `journald(8)` reads, and no time. `"json"` is one object per line."#,
        field: field!(Word<Format> => boot.log_format),
    },
];
