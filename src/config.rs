//! The configuration: `/etc/wsecho.toml` and what it means.
//!
//! Owns the names of the keys, TOML, and the line and column in every finding. Each value's type
//! belongs to the module that acts on it; this one puts them together. It does not know the
//! command line's syntax, nor when a file is read again.
//!
//! Source: TOML 1.1. Defaults are those of `config/wsecho.toml`, which a test compares.

mod advice;
mod read;
mod value;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::read::{Document, Position, Table};
use self::value::{Addr, ByteSize, EndpointPath, Mode, Peer, Prefix, Seconds, Whole};
use crate::net::listen::ListenAddr;
use crate::ops::drain;
use crate::ops::logging::{Format, Level};
use crate::proxy::client_addr::Trusted;
use crate::proxy::protocol::Expect;
use crate::ws::engine::Echo;
use crate::ws::handshake::{Origins, Subprotocols};
use crate::ws::session::Timeouts;

/// Where the configuration is looked for unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/wsecho.toml";

/// Everything the service is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What only a restart changes.
    pub boot: Boot,
    /// What a reload changes, for connections accepted from then on.
    pub policy: Arc<Policy>,
}

/// Settings that hold from start to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// `bind`.
    pub bind: Vec<ListenAddr>,
    /// `admin.bind`: where metrics are to be had; nowhere by default.
    pub admin: Vec<ListenAddr>,
    /// `unix_mode`: the permissions of Unix sockets.
    pub unix_mode: u32,
    /// `workers`: threads; 0 means one per core.
    pub workers: usize,
    /// `limits.max_connections`; where it is not given, 10,000 or what the machine allows.
    pub max_connections: Option<usize>,
    /// `limits.buffer_budget`, in bytes.
    pub buffer_budget: usize,
    /// `log.format`.
    pub log_format: Format,
}

/// Settings that a connection keeps from its accept on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `[[endpoint]]`, in the order of the file.
    pub endpoints: Vec<Endpoint>,
    /// `origins`.
    pub origins: Origins,
    /// `require_origin`.
    pub require_origin: bool,
    /// `[proxy]`.
    pub proxy: Proxy,
    /// `limits.max_message_size`, in bytes.
    pub max_message_size: u64,
    /// `limits.max_connections_per_client`; 0 means any number.
    pub max_connections_per_client: usize,
    /// `timeouts.handshake`: from accept to a complete request head.
    pub handshake_timeout: Duration,
    /// The rest of `[timeouts]`; `close` also bounds the writing of an answer.
    pub timeouts: Timeouts,
    /// `[shutdown]`.
    pub shutdown: drain::Times,
    /// `log.level`.
    pub log_level: Level,
}

/// A path on which WebSockets are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The path, compared byte by byte.
    pub path: String,
    /// What goes before each text message.
    pub prefix: Box<str>,
    /// Which subprotocol is confirmed.
    pub subprotocols: Subprotocols,
}

/// `[proxy]`: what stands in front, and what is believed of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxy {
    /// `trusted`.
    pub trusted: Trusted,
    /// `proxy_protocol`.
    pub protocol: Expect,
}

/// The keys in which two configurations differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Acted on from the next connection on.
    pub reloaded: Vec<&'static str>,
    /// Without effect until the service is started anew.
    pub need_restart: Vec<&'static str>,
}

impl Config {
    /// The keys whose values differ in `new`.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Changes {
        fn different(keys: &[(&'static str, bool)]) -> Vec<&'static str> {
            keys.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect()
        }
        // Taken apart whole, so that a new field cannot be forgotten here.
        let Boot { bind, admin, unix_mode, workers, max_connections, buffer_budget, log_format } =
            &self.boot;
        let Policy {
            endpoints,
            origins,
            require_origin,
            proxy: Proxy { trusted, protocol },
            max_message_size,
            max_connections_per_client,
            handshake_timeout,
            timeouts: Timeouts { ping_interval, pong, write, close },
            shutdown: drain::Times { timeout, spread },
            log_level,
        } = &*self.policy;
        let policy = &new.policy;
        Changes {
            reloaded: different(&[
                ("endpoint", *endpoints == policy.endpoints),
                ("origins", *origins == policy.origins),
                ("require_origin", *require_origin == policy.require_origin),
                ("proxy.trusted", *trusted == policy.proxy.trusted),
                ("proxy.proxy_protocol", *protocol == policy.proxy.protocol),
                (
                    "limits.max_connections_per_client",
                    *max_connections_per_client == policy.max_connections_per_client,
                ),
                ("limits.max_message_size", *max_message_size == policy.max_message_size),
                ("timeouts.handshake", *handshake_timeout == policy.handshake_timeout),
                ("timeouts.close", *close == policy.timeouts.close),
                ("timeouts.write", *write == policy.timeouts.write),
                ("timeouts.ping_interval", *ping_interval == policy.timeouts.ping_interval),
                ("timeouts.pong", *pong == policy.timeouts.pong),
                ("shutdown.drain_timeout", *timeout == policy.shutdown.timeout),
                ("shutdown.drain_spread", *spread == policy.shutdown.spread),
                ("log.level", *log_level == policy.log_level),
            ]),
            need_restart: different(&[
                ("bind", *bind == new.boot.bind),
                ("admin.bind", *admin == new.boot.admin),
                ("unix_mode", *unix_mode == new.boot.unix_mode),
                ("workers", *workers == new.boot.workers),
                ("limits.max_connections", *max_connections == new.boot.max_connections),
                ("limits.buffer_budget", *buffer_budget == new.boot.buffer_budget),
                ("log.format", *log_format == new.boot.log_format),
            ]),
        }
    }
}

impl Default for Boot {
    fn default() -> Self {
        Self {
            bind: vec![ListenAddr::Tcp(([127, 0, 0, 1], 8888).into())],
            admin: Vec::new(),
            unix_mode: 0o660,
            workers: 0,
            max_connections: None,
            buffer_budget: 256 << 20,
            log_format: Format::default(),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        let endpoint = |path: &str, prefix: &str| Endpoint {
            path: path.to_owned(),
            prefix: prefix.into(),
            ..Default::default()
        };
        Self {
            endpoints: vec![endpoint("/socket", "server: "), endpoint("/echo", "")],
            origins: Origins::default(),
            require_origin: false,
            proxy: Proxy::default(),
            max_message_size: Echo::default().max_message_size,
            max_connections_per_client: 0,
            handshake_timeout: Duration::from_secs(10),
            timeouts: Timeouts::default(),
            shutdown: drain::Times::default(),
            log_level: Level::default(),
        }
    }
}

/// What the command line says instead of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--bind`: replaces all of `bind`, unless empty.
    pub bind: Vec<ListenAddr>,
    /// `--log-level`.
    pub log_level: Option<Level>,
}

/// Where the configuration comes from; it can be read again and again.
#[derive(Clone, Debug)]
pub struct Source {
    /// `--config`; without it [`DEFAULT_PATH`] is used, and may be missing.
    pub path: Option<PathBuf>,
    /// What holds whatever the file says.
    pub overrides: Overrides,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {0}: {1}; correct the path, or make the file readable for this user")]
    Unreadable(PathBuf, std::io::Error),
    /// The file is read and wrong.
    #[error("{}", Listed(.0, .1))]
    Invalid(PathBuf, Vec<Finding>),
}

/// All findings, one a line, as compilers print them.
struct Listed<'a>(&'a Path, &'a [Finding]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Finding { line, column, message }) in self.1.iter().enumerate() {
            let newline = if index > 0 { "\n" } else { "" };
            write!(f, "{newline}{}:{line}:{column}: {message}", self.0.display())?;
        }
        Ok(())
    }
}

impl Source {
    /// The file that is read.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(DEFAULT_PATH))
    }

    /// Reads the file once and wholly.
    ///
    /// The second value tells whether there was a file: where the default path is empty, the
    /// built-in defaults hold.
    ///
    /// # Errors
    /// When the file cannot be read, or with everything that is wrong in it.
    pub fn load(&self) -> Result<(Config, bool), ConfigError> {
        let path = self.path();
        let (mut config, found) = match std::fs::read_to_string(path) {
            Ok(text) => {
                let config = parse(&text)
                    .map_err(|findings| ConfigError::Invalid(path.to_path_buf(), findings))?;
                (config, true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.path.is_none() => {
                (Config::default(), false)
            }
            Err(error) => return Err(ConfigError::Unreadable(path.to_path_buf(), error)),
        };
        if !self.overrides.bind.is_empty() {
            config.boot.bind.clone_from(&self.overrides.bind);
        }
        if let Some(level) = self.overrides.log_level {
            Arc::make_mut(&mut config.policy).log_level = level;
        }
        Ok((config, found))
    }
}

/// Reads a configuration from the text of a file: the defaults, and what the file changes.
///
/// # Errors
/// All findings, in the order of the file.
pub fn parse(text: &str) -> Result<Config, Vec<Finding>> {
    let document = Document::new(text);
    let mut top = document.parse();
    let mut boot = Boot::default();
    let mut policy = Policy::default();

    if let Some(bind) = top.filled::<Addr>("bind") {
        boot.bind = addresses(&document, "bind", bind, &[]);
    }
    let mut admin = top.table("admin");
    if let Some(bind) = admin.list::<Addr>("bind") {
        if let Some((at, _)) = bind.iter().find(|(_, Addr(addr))| *addr == ListenAddr::Inherited) {
            document
                .find(*at, "admin.bind: sockets passed by systemd are for bind: write an address");
        }
        boot.admin = addresses(&document, "admin.bind", bind, &boot.bind);
    }
    admin.finish();
    top.set::<Mode, _>("unix_mode", &mut boot.unix_mode);
    top.set::<Whole<0, 1024>, _>("workers", &mut boot.workers);

    let mut limits = top.table("limits");
    limits.set::<Whole<1, 1_000_000>, _>("max_connections", &mut boot.max_connections);
    limits.set::<ByteSize<125, { 1 << 30 }>, _>("max_message_size", &mut policy.max_message_size);
    limits.set::<ByteSize<{ 1 << 20 }, { 1 << 40 }>, _>("buffer_budget", &mut boot.buffer_budget);
    let per_client = &mut policy.max_connections_per_client;
    limits.set::<Whole<0, 1_000_000>, _>("max_connections_per_client", per_client);
    limits.finish();

    top.set::<Origins, _>("origins", &mut policy.origins);
    top.set::<bool, _>("require_origin", &mut policy.require_origin);

    let mut proxy = top.table("proxy");
    if let Some(trusted) = proxy.list::<Peer>("trusted") {
        policy.proxy.trusted = trusted.into_iter().map(|(_, Peer(peer))| peer).collect();
    }
    proxy.set::<Expect, _>("proxy_protocol", &mut policy.proxy.protocol);
    proxy.finish();

    let mut timeouts = top.table("timeouts");
    timeouts.set::<Seconds<1>, _>("handshake", &mut policy.handshake_timeout);
    let session = &mut policy.timeouts;
    timeouts.set::<Seconds<1>, _>("close", &mut session.close);
    timeouts.set::<Seconds<1>, _>("write", &mut session.write);
    timeouts.set::<Seconds<1>, _>("ping_interval", &mut session.ping_interval);
    timeouts.set::<Seconds<1>, _>("pong", &mut session.pong);
    timeouts.finish();

    let mut shutdown = top.table("shutdown");
    shutdown.set::<Seconds<0>, _>("drain_timeout", &mut policy.shutdown.timeout);
    if let Some(at) = shutdown.set::<Seconds<0>, _>("drain_spread", &mut policy.shutdown.spread) {
        if policy.shutdown.spread > policy.shutdown.timeout {
            document.find(at, "shutdown.drain_spread is longer than drain_timeout: lower it");
        }
    }
    shutdown.finish();

    let mut log = top.table("log");
    log.set::<Level, _>("level", &mut policy.log_level);
    log.set::<Format, _>("format", &mut boot.log_format);
    log.finish();

    let given = top.tables("endpoint");
    if !given.is_empty() {
        policy.endpoints = endpoints(&document, given);
    }
    top.finish();
    document.into_result(Config { boot, policy: Arc::new(policy) })
}

/// The addresses of a list, each of them once and none of those that are taken.
fn addresses(
    document: &Document<'_>,
    key: &str,
    given: Vec<(Position, Addr)>,
    taken: &[ListenAddr],
) -> Vec<ListenAddr> {
    let mut bind: Vec<ListenAddr> = Vec::new();
    for (at, Addr(addr)) in given {
        let any_port = matches!(&addr, ListenAddr::Tcp(tcp) if tcp.port() == 0);
        if bind.contains(&addr) && !any_port {
            document.find(at, format!("{key}: \"{addr}\" stands here twice: remove one"));
        }
        if taken.contains(&addr) && !any_port {
            document.find(at, format!("{key}: \"{addr}\" stands in bind too: use another port"));
        }
        bind.push(addr);
    }
    bind
}

/// The endpoints of the file, each path once.
fn endpoints(document: &Document<'_>, given: Vec<Table<'_, '_>>) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for mut table in given {
        let mut endpoint = Endpoint::default();
        if let Some((at, EndpointPath(path))) = table.required("path", "\"/socket\"") {
            if endpoints.iter().any(|other| other.path == path) {
                let twice = format!("endpoint.path: \"{path}\" stands here twice: remove one");
                document.find(at, twice);
            }
            endpoint.path = path;
        }
        table.set::<Prefix, _>("prefix", &mut endpoint.prefix);
        table.set::<Subprotocols, _>("subprotocols", &mut endpoint.subprotocols);
        table.finish();
        endpoints.push(endpoint);
    }
    endpoints
}
