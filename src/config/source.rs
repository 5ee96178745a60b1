//! Where the configuration comes from: a file, under what the command line says instead.
//!
//! Owns the choice of the file, what a missing one means, and which files are refused unread. It does
//! not know the keys, nor when the file is read again.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Config, Finding, parse};
use crate::net::addr::ListenAddr;
use crate::ops::logging::Level;

/// The configuration file unless the command line or the environment names another.
pub const DEFAULT_PATH: &str = "/etc/wsecho.toml";
/// The variable that names another file: set in the unit, it holds for each of its commands.
pub const PATH_VARIABLE: &str = "WSECHO_CONFIG";
/// The largest file that is read, in bytes: no configuration is nearly as long.
const MAX_SIZE: u64 = 1 << 20;

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
    /// `--config`. Without it, the file that [`PATH_VARIABLE`] names is read; without that, the one
    /// at [`DEFAULT_PATH`], which may be missing.
    pub path: Option<PathBuf>,
    /// Settings that hold whatever the file says.
    pub overrides: Overrides,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The reading thread could not be started, or died.
    #[error("cannot read the configuration: {0}")]
    NotTried(io::Error),
    /// The file cannot be read.
    #[error("cannot read {0}: {1}; check the path and the permissions of the file")]
    Unreadable(PathBuf, io::Error),
    /// A directory, a FIFO, a device: reading it might never end.
    #[error("cannot read {0}: it is not a regular file; name one that is")]
    NotAFile(PathBuf),
    /// Longer than any configuration.
    #[error("cannot read {0}: it is over 1 MiB; is it the right file?")]
    TooLarge(PathBuf),
    /// Not UTF-8, from this line on.
    #[error("cannot read {0}: line {1} is not UTF-8; save the file as UTF-8")]
    NotText(PathBuf, usize),
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
    pub fn path(&self) -> PathBuf {
        self.named().unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
    }

    /// The file that must exist, because somebody named it.
    fn named(&self) -> Option<PathBuf> {
        let variable = || env::var_os(PATH_VARIABLE).filter(|path| !path.is_empty());
        self.path.clone().or_else(|| variable().map(PathBuf::from))
    }

    /// Loads the configuration. The second value is false if there is no file at the default path,
    /// so that the built-in defaults apply.
    ///
    /// # Errors
    /// If the file cannot be read, or with everything that is wrong in it.
    pub fn load(&self) -> Result<(Config, bool), ConfigError> {
        let path = self.path();
        let (mut config, found) = match read(&path) {
            Ok(text) => {
                let config = parse(&text).map_err(|found| ConfigError::Invalid(path, found))?;
                (config, true)
            }
            Err(ConfigError::Unreadable(_, error))
                if error.kind() == io::ErrorKind::NotFound && self.named().is_none() =>
            {
                (Config::default(), false)
            }
            Err(error) => return Err(error),
        };
        if !self.overrides.bind.is_empty() {
            config.boot.bind.clone_from(&self.overrides.bind);
        }
        if let Some(level) = self.overrides.log_level {
            Arc::make_mut(&mut config.policy).log_level = level;
        }
        Ok((config, found))
    }

    /// The same; if there is a file, it must be there from then on. The defaults are more open than
    /// most files, and a reload must not fall back to them when the file has gone.
    ///
    /// # Errors
    /// As [`Source::load`].
    pub fn load_and_pin(&mut self) -> Result<(Config, bool), ConfigError> {
        let loaded = self.load()?;
        if loaded.1 {
            self.path = Some(self.path());
        }
        Ok(loaded)
    }
}

/// Reads a file whose reading ends.
fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error| ConfigError::Unreadable(path.to_path_buf(), error);
    // Before opening it: for a FIFO, that waits for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(ConfigError::NotAFile(path.to_path_buf()));
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    // One byte over the limit is enough to know, even if the file grows meanwhile.
    file.take(MAX_SIZE + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(ConfigError::TooLarge(path.to_path_buf()));
    }
    String::from_utf8(text).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        ConfigError::NotText(path.to_path_buf(), line)
    })
}
