//! The configuration: what `/etc/wsecho.toml` says, checked and typed.
//!
//! Owns the settings as a whole: each one's type belongs to the module that acts on it, and this
//! one puts them together. What is known about each key is in [`keys`]; nothing here knows the
//! command line, nor when a file is read again.
//!
//! Source: TOML 1.1.

mod advice;
mod environment;
mod field;
mod host;
pub mod keys;
mod lines;
mod memory;
mod read;
mod relations;
mod shown;
mod slips;
mod source;
mod value;

use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::environment::Environment;
use self::field::{Applies, Draft};
pub use self::host::{UserError, become_user};
use self::keys::{ENDPOINT, KEYS, Key};
use self::read::{Document, Table, find_relation};
use self::shown::{Origin, Setting};
pub use self::source::{ConfigError, Overrides, Pinned, Source};
pub use self::value::quantity::{duration as read_duration, show_duration};
pub(crate) use self::value::quantity::{show_size, size as read_size};
use crate::net::addr::ListenAddr;
use crate::ops::drain;
use crate::ops::logging::{Format, Level};
use crate::ops::machine::Machine;
use crate::proxy::client_addr::Trusted;
use crate::proxy::protocol::Expect;
use crate::ws::engine::Echo;
use crate::ws::handshake::{Origins, Subprotocols};
use crate::ws::session::Timeouts;

/// All settings of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Settings that only a restart changes.
    pub boot: Boot,
    /// Settings that a reload changes, for connections accepted from then on.
    pub policy: Arc<Policy>,
}

/// Settings that hold for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// `bind`.
    pub bind: Vec<ListenAddr>,
    /// `admin.bind`: where metrics are available; nowhere by default.
    pub admin: Vec<ListenAddr>,
    /// `unix_mode`: the permissions of Unix sockets.
    pub unix_mode: u32,
    /// `instance`: its name where several share inherited sockets; empty if there is only this one.
    pub instance: Box<str>,
    /// `workers`: 0 means one per core.
    pub workers: usize,
    /// `limits.max_connections`; if absent, 10,000 or what the machine allows.
    pub max_connections: Option<usize>,
    /// `limits.buffer_budget`, in bytes.
    pub buffer_budget: usize,
    /// `log.format`.
    pub log_format: Format,
}

/// Settings under which a connection is accepted, and which it keeps.
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
    /// `[http]`.
    pub http: Http,
    /// `limits.max_message_size`, in bytes.
    pub max_message_size: u64,
    /// `limits.max_connections_per_client`: 0 means no limit.
    pub max_connections_per_client: usize,
    /// `timeouts.handshake`.
    pub handshake_timeout: Duration,
    /// The rest of `[timeouts]`; `close` also bounds the writing of an answer.
    pub timeouts: Timeouts,
    /// `[shutdown]`.
    pub shutdown: drain::Times,
    /// `log.level`.
    pub log_level: Level,
}

/// A path on which WebSockets are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The path, compared byte by byte.
    pub path: String,
    /// Prepended to each text message.
    pub prefix: Box<str>,
    /// Which subprotocol to confirm.
    pub subprotocols: Subprotocols,
    /// Whether to agree to compression.
    pub compression: bool,
    /// Whether clients may ask for more than an echo in the query of the URL.
    pub options: bool,
}

/// `[proxy]`: what is believed of a proxy in front.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxy {
    /// `trusted`.
    pub trusted: Trusted,
    /// `proxy_protocol`.
    pub protocol: Expect,
}

/// `[http]`: what is served besides WebSockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// `name`; empty means that of the host.
    pub name: Box<str>,
    /// `info`: whether `/info` is served.
    pub info: bool,
    /// `page`: whether a browser gets the page at `/`.
    pub page: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self { name: "".into(), info: true, page: true }
    }
}

/// The keys whose values differ between two configurations.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In effect from the next connection on.
    pub reloaded: Vec<&'static str>,
    /// Without effect until the service is restarted.
    pub need_restart: Vec<&'static str>,
}

impl Config {
    /// The keys whose values differ in `new`; all endpoints together are one key.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        for key in KEYS.iter().filter(|key| (key.field.differs)(self, new)) {
            let list = match key.field.applies {
                Applies::OnReload => &mut changes.reloaded,
                Applies::OnRestart => &mut changes.need_restart,
            };
            list.push(if key.section() == ENDPOINT { ENDPOINT } else { key.path });
        }
        // The keys of endpoints stand side by side.
        changes.reloaded.dedup();
        changes
    }
}

impl Default for Boot {
    fn default() -> Self {
        Self {
            bind: vec![ListenAddr::Tcp(([127, 0, 0, 1], 8888).into())],
            admin: Vec::new(),
            unix_mode: 0o660,
            instance: "".into(),
            workers: 0,
            max_connections: None,
            buffer_budget: 256 << 20,
            log_format: Format::default(),
        }
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            path: String::new(),
            prefix: Box::default(),
            subprotocols: Subprotocols::default(),
            compression: true,
            options: true,
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
            http: Http::default(),
            max_message_size: Echo::default().max_message_size,
            max_connections_per_client: 0,
            handshake_timeout: Duration::from_secs(10),
            timeouts: Timeouts::default(),
            shutdown: drain::Times::default(),
            log_level: Level::default(),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The environment variable that is wrong; `None` means the file.
    pub variable: Option<String>,
    /// Of the file, from 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, and how to fix it.
    pub message: String,
}

/// A configuration, and where each value of it comes from.
#[derive(Clone)]
pub struct Loaded {
    /// All settings.
    pub config: Config,
    settings: Vec<Setting>,
    /// Environment variables that look like ours and mean nothing.
    unknown: Vec<String>,
}

impl Loaded {
    /// What is valid and may still surprise on this machine.
    #[must_use]
    pub fn warnings(&self, machine: Machine) -> Vec<String> {
        let mut warnings: Vec<String> = self.unknown.iter().map(|name| {
            format!("{name} in the environment sets nothing; wsecho.toml(5) has the names of the variables")
        }).collect();
        warnings.extend(self.config.warnings(machine));
        warnings
    }

    /// The settings as a file that means the same, with the origin of each; `file` is what they were
    /// read from.
    #[must_use]
    pub fn show(&self, file: &Path) -> String {
        shown::show(&self.settings, file)
    }
}

/// Reads a configuration from the text of a file: the defaults, and what the file changes.
///
/// # Errors
/// All findings, in the order of the file.
pub fn parse(text: &str) -> Result<Config, Vec<Finding>> {
    read(text.as_bytes(), &Overrides::default()).map(|loaded| loaded.config)
}

/// Reads the bytes of a file, which is empty if there is none, under what holds over it.
///
/// # Errors
/// All findings, in the order of the file; then those of the environment.
pub fn read(file: &[u8], overrides: &Overrides) -> Result<Loaded, Vec<Finding>> {
    let text = lines::utf8(file).map_err(|finding| vec![finding])?;
    let Environment { variables, unknown, findings: ill_formed } = &overrides.environment;
    // Each variable on its own: what is wrong with one must not reach another.
    let variables = variables.iter().map(|it| (Some(it.name.as_str()), it.line.as_str()));
    let layers: Vec<(Option<&str>, Document<'_>)> = std::iter::once((None, text))
        .chain(variables)
        .map(|(name, text)| (name, Document::new(text)))
        .collect();
    let mut draft = Draft::default();
    let mut given = Vec::new();
    for (name, document) in &layers {
        examine(document, &mut draft);
        let origin =
            |line| name.map_or(Origin::Line(line), |name| Origin::Variable(name.to_owned()));
        given.extend(document.given().into_iter().map(|it| (origin(it.line), it)));
    }
    if !given.iter().any(|(_, given)| given.path == "shutdown.drain_spread") {
        let shutdown = &mut draft.policy.shutdown;
        shutdown.spread = shutdown.spread.min(shutdown.timeout / 2);
    }
    if !overrides.bind.is_empty() {
        draft.boot.bind.clone_from(&overrides.bind);
    }
    draft.policy.log_level = overrides.log_level.unwrap_or(draft.policy.log_level);
    let config = Config { boot: draft.boot, policy: Arc::new(draft.policy) };
    let documents = layers.iter().rev().map(|(_, document)| document);
    relations::check(&config, |keys, message| find_relation(&documents, keys, &message));
    let mut findings = Vec::new();
    for (name, document) in layers {
        let variable = name.map(str::to_owned);
        let remedy =
            |line: &str, above: &str| name.is_none().then(|| slips::remedy(line, above))?;
        let found = document.into_findings(remedy).into_iter();
        findings.extend(found.map(|it| Finding { variable: variable.clone(), ..it }));
    }
    findings.extend_from_slice(ill_formed);
    if !findings.is_empty() {
        return Err(findings);
    }
    let settings = shown::settings(&config, &given, overrides);
    Ok(Loaded { config, settings, unknown: unknown.clone() })
}

/// Reads every key of a document, over what has been read before.
fn examine(document: &Document<'_>, draft: &mut Draft) {
    let mut top = document.parse();
    for keys in KEYS.chunk_by(|one, next| one.section() == next.section()) {
        match keys[0].section() {
            "" => read_keys(keys, &mut top, draft),
            ENDPOINT => {
                let tables = top.tables(ENDPOINT);
                if !tables.is_empty() {
                    draft.policy.endpoints.clear();
                }
                for mut table in tables {
                    read_keys(keys, &mut table, draft);
                    table.finish(home);
                    draft.policy.endpoints.push(mem::take(&mut draft.endpoint));
                }
            }
            section => {
                let mut table = top.table(section);
                read_keys(keys, &mut table, draft);
                table.finish(home);
            }
        }
    }
    top.finish(home);
}

/// The header of the section that a key of this name belongs to; empty for the top of the file.
fn home(name: &str) -> Option<String> {
    KEYS.iter().find(|key| key.name() == name).map(|key| header(key.section()))
}

/// How a section is written.
fn header(section: &str) -> String {
    match section {
        "" => String::new(),
        ENDPOINT => format!("[[{section}]]"),
        _ => format!("[{section}]"),
    }
}

/// Reads the keys of one table.
fn read_keys(keys: &[Key], table: &mut Table<'_, '_>, draft: &mut Draft) {
    for key in keys {
        match table.take(key.name(), key.path) {
            Some(entry) => (key.field.read)(draft, &entry),
            None if key.default.is_none() => table.missing(key.path),
            None => {}
        }
    }
}
