//! Keys that the environment sets, over the file: `WSECHO_ADMIN_BIND` sets `admin.bind`.
//!
//! Owns the names of the variables, and how a value is written in one. It does not know what a value
//! means: a variable is read as a line of the file would be.

use std::ffi::OsString;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Finding;
use super::keys::{KEYS, Key};
use super::source::PATH_VARIABLE;

/// What the names of the variables begin with.
const PREFIX: &str = "WSECHO_";

/// What the environment says about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub(super) variables: Vec<Variable>,
    /// Names that begin as ours and mean nothing.
    pub(super) unknown: Vec<String>,
    pub(super) findings: Vec<Finding>,
}

/// A key that a variable sets.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    /// As a line of TOML.
    pub(super) line: String,
}

impl Environment {
    /// Takes what concerns the configuration. An empty variable is like one that is not set.
    #[must_use]
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut this = Self::default();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            if !name.starts_with(PREFIX) || name == PATH_VARIABLE || value.is_empty() {
                continue;
            }
            let Some(key) = KEYS.iter().find(|key| key.variable().as_ref() == Some(&name)) else {
                if is_of_a_cluster(&name, &value.to_string_lossy()) {
                    continue;
                }
                match bind_for(&name) {
                    Some(bind) => this.findings.push(Finding {
                        message: format!(
                            "there is no such key; write the address and the port in {bind}"
                        ),
                        variable: Some(name),
                        line: 1,
                        column: 1,
                    }),
                    None => this.unknown.push(name),
                }
                continue;
            };
            match value.into_string() {
                Ok(value) => {
                    let line = format!("{} = {}", key.path, in_toml(key, &value));
                    this.variables.push(Variable { name, line });
                }
                Err(_) => this.findings.push(Finding {
                    variable: Some(name),
                    line: 1,
                    column: 1,
                    message: "the value is not UTF-8".to_owned(),
                }),
            }
        }
        this.variables.sort_unstable_by(|one, next| one.name.cmp(&next.name));
        this.unknown.sort_unstable();
        this
    }
}

/// Whether Kubernetes made this variable, for a service that is called wsecho.
fn is_of_a_cluster(name: &str, value: &str) -> bool {
    let is_url = value.contains("://");
    name.contains("_SERVICE_") || name.contains("_PORT_") || (name.ends_with("_PORT") && is_url)
}

/// The variable that has what a variable for a port was to say. Without it, the service would listen
/// elsewhere.
fn bind_for(name: &str) -> Option<String> {
    let bind = format!("{}BIND", name.strip_suffix("PORT")?);
    KEYS.iter().filter_map(Key::variable).find(|variable| *variable == bind)
}

/// A value as the file would have it: a string may be given without its quotes.
fn in_toml(key: &Key, value: &str) -> String {
    // What a key other than a string or a list has as its default needs no quotes.
    let is_bare = key.default.is_some_and(|default| !default.starts_with(['"', '[']));
    let line = format!("value = {value}");
    let is_toml = DeTable::parse(&line).is_ok_and(|table| {
        let mut values = table.get_ref().values().map(Spanned::get_ref);
        let is_ours = match values.next() {
            Some(DeValue::String(_) | DeValue::Array(_)) => true,
            _ => is_bare,
        };
        is_ours && values.next().is_none()
    });
    if is_toml {
        return value.to_owned();
    }
    // A string of JSON is one of TOML, but for this character.
    serde_json::Value::from(value).to_string().replace('\u{7f}', "\\u007f")
}
