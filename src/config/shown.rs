//! The configuration that holds, as a file that says the same, with the origin of each value.
//!
//! It does not know what values mean: those given are repeated as they are written.

use std::path::Path;

use super::keys::{ENDPOINT, KEYS, Key};
use super::read::Given;
use super::value::quantity::show_duration;
use super::{Config, Overrides, header};
use crate::ops::drain::Times;

/// A key with its value, in TOML.
#[derive(Clone)]
pub(super) struct Setting {
    key: &'static Key,
    /// Which endpoint it belongs to; 0 elsewhere.
    endpoint: usize,
    value: String,
    origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Line(usize),
    Variable(String),
    CommandLine(&'static str),
    Default,
    /// A default that follows from another key.
    Follows(&'static str),
}

/// Every key with its value, endpoint by endpoint where they belong to one.
pub(super) fn settings(
    config: &Config,
    given: &[(Origin, Given<'_>)],
    overrides: &Overrides,
) -> Vec<Setting> {
    let mut settings = Vec::new();
    for keys in KEYS.chunk_by(|one, next| one.section() == next.section()) {
        let times = if keys[0].section() == ENDPOINT { config.policy.endpoints.len() } else { 1 };
        for endpoint in 0..times {
            settings.extend(keys.iter().map(|key| {
                let written =
                    given.iter().rfind(|(_, it)| it.path == key.path && it.table == endpoint);
                let (value, origin) = overridden(key, overrides)
                    .or_else(|| written.map(|(origin, it)| (it.value.to_owned(), origin.clone())))
                    .unwrap_or_else(|| default(key, endpoint, config));
                Setting { key, endpoint, value, origin }
            }));
        }
    }
    settings
}

fn overridden(key: &Key, overrides: &Overrides) -> Option<(String, Origin)> {
    match key.path {
        "bind" if !overrides.bind.is_empty() => {
            let addrs: Vec<String> = overrides.bind.iter().map(|it| format!("\"{it}\"")).collect();
            Some((format!("[{}]", addrs.join(", ")), Origin::CommandLine("--bind")))
        }
        "log.level" => overrides
            .log_level
            .map(|level| (format!("{level:?}").to_lowercase(), Origin::CommandLine("--log-level")))
            .map(|(level, origin)| (format!("\"{level}\""), origin)),
        _ => None,
    }
}

fn default(key: &Key, endpoint: usize, config: &Config) -> (String, Origin) {
    let policy = &config.policy;
    match (key.path, key.default) {
        ("shutdown.drain_spread", _) if policy.shutdown.spread != Times::default().spread => {
            let spread = show_duration(policy.shutdown.spread);
            (format!("\"{spread}\""), Origin::Follows("drain_timeout"))
        }
        ("endpoint.prefix", _) => {
            (format!("{:?}", policy.endpoints[endpoint].prefix), Origin::Default)
        }
        (_, Some(default)) => (default.to_owned(), Origin::Default),
        (_, None) => (format!("{:?}", policy.endpoints[endpoint].path), Origin::Default),
    }
}

/// A file with these settings; `file` is the one that they were read from.
pub(super) fn show(settings: &[Setting], file: &Path) -> String {
    let origin = |setting: &Setting| match &setting.origin {
        Origin::Line(line) => format!("{}:{line}", file.display()),
        Origin::Variable(name) => name.clone(),
        Origin::CommandLine(option) => (*option).to_owned(),
        Origin::Default => "default".to_owned(),
        Origin::Follows(key) => format!("default, follows {key}"),
    };
    let place = |setting: &Setting| (setting.key.section(), setting.endpoint);
    let mut lines = Vec::new();
    for settings in settings.chunk_by(|one, next| place(one) == place(next)) {
        let header = header(settings[0].key.section());
        if !header.is_empty() {
            lines.push(format!("\n{header}\n"));
        }
        let line = |it: &Setting| format!("{} = {}  # {}\n", it.key.name(), it.value, origin(it));
        lines.extend(settings.iter().map(line));
    }
    lines.concat()
}
