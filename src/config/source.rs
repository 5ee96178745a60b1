//! Where the configuration comes from: a file, under what the command line says instead.
//!
//! Owns the default path and what it means that a file is missing. It does not know the keys, nor
//! when the file is read again.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Config, Finding, parse};
use crate::net::addr::ListenAddr;
use crate::ops::logging::Level;

/// The configuration file unless the command line names another.
pub const DEFAULT_PATH: &str = "/etc/wsecho.toml";

/// What the command line sets, over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--bind`: unless empty, replaces the whole of `bind`.
    pub bind: Vec<ListenAddr>,
    /// `--log-level`.
    pub log_level: Option<Level>,
}

/// Where the configuration comes from; it can be loaded any number of times.
#[derive(Clone, Debug)]
pub struct Source {
    /// `--config`. Without it, [`DEFAULT_PATH`] is read and may be missing.
    pub path: Option<PathBuf>,
    /// Settings that hold whatever the file says.
    pub overrides: Overrides,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {0}: {1}; check the path and the permissions of the file")]
    Unreadable(PathBuf, io::Error),
    /// The file has been read and is wrong.
    #[error("{}", Listed(.0, .1))]
    Invalid(PathBuf, Vec<Finding>),
}

/// All findings, one per line, in the format of compilers.
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

    /// Loads the configuration. The second value is false if there is no file at the default path,
    /// so that the built-in defaults apply.
    ///
    /// # Errors
    /// If the file cannot be read, or with everything that is wrong in it.
    pub fn load(&self) -> Result<(Config, bool), ConfigError> {
        let path = self.path();
        let (mut config, found) = match std::fs::read_to_string(path) {
            Ok(text) => {
                let config = parse(&text)
                    .map_err(|findings| ConfigError::Invalid(path.to_path_buf(), findings))?;
                (config, true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.path.is_none() => {
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
