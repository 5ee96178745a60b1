//! Where the configuration comes from: a file, and what holds over it.
//!
//! Owns the choice of the file, what a missing one means, and which files are refused unread. It does
//! not know the keys, nor when the file is read again.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::{Finding, Loaded, read};
use crate::net::addr::ListenAddr;
use crate::ops::logging::Level;

/// The configuration file unless the command line or the environment names another.
pub const DEFAULT_PATH: &str = "/etc/wsecho.toml";
/// The variable that names another file: set in the unit, it holds for each of its commands.
pub const PATH_VARIABLE: &str = "WSECHO_CONFIG";
/// The largest file that is read, in bytes: no configuration is nearly as long.
const MAX_SIZE: u64 = 1 << 20;

/// What holds over the file: the environment, and over that the command line.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The variables that set keys.
    pub environment: Environment,
    /// `--bind`: unless empty, replaces the whole of `bind`.
    pub bind: Vec<ListenAddr>,
    /// `--log-level`.
    pub log_level: Option<Level>,
}

/// Where the configuration comes from; it can be loaded any number of times.
#[derive(Clone, Debug)]
pub struct Source {
    /// `--config`. Without it, the file that `WSECHO_CONFIG` names is read; without that, the one
    /// at [`DEFAULT_PATH`], which may be missing.
    pub path: Option<PathBuf>,
    /// What holds whatever the file says.
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
    /// What the file or the environment says is wrong.
    #[error("{}", Listed(.0, .1))]
    Invalid(PathBuf, Vec<Finding>),
}

/// All findings, one per line, in the format of compilers.
struct Listed<'a>(&'a Path, &'a [Finding]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Finding { variable, line, column, message }) in self.1.iter().enumerate() {
            let newline = if index > 0 { "\n" } else { "" };
            match variable {
                Some(name) => write!(f, "{newline}{name}: {message}")?,
                None => write!(f, "{newline}{}:{line}:{column}: {message}", self.0.display())?,
            }
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

    /// The file that must exist, because somebody named it: the unit's `WSECHO_CONFIG`, which is
    /// the default, does not.
    fn named(&self) -> Option<PathBuf> {
        let by_default = |path: &PathBuf| path.as_os_str().is_empty() || path == DEFAULT_PATH;
        let variable = || env::var_os(PATH_VARIABLE).map(PathBuf::from);
        self.path.clone().or_else(|| variable().filter(|path| !by_default(path)))
    }

    /// Loads the configuration. The second value is false if there is no file at the default path,
    /// so that the built-in defaults apply.
    ///
    /// # Errors
    /// If the file cannot be read, or with everything that is wrong in it.
    pub fn load(&self) -> Result<(Loaded, bool), ConfigError> {
        let path = self.path();
        let (file, found) = match read_file(&path) {
            Ok(file) => (file, true),
            Err(ConfigError::Unreadable(_, error))
                if error.kind() == io::ErrorKind::NotFound && self.named().is_none() =>
            {
                (Vec::new(), false)
            }
            Err(error) => return Err(error),
        };
        let loaded = read(&file, &self.overrides)
            .map_err(|findings| ConfigError::Invalid(path, findings))?;
        Ok((loaded, found))
    }

    /// The same; if there is a file, it must be there from then on. The defaults are more open than
    /// most files, and a reload must not fall back to them when the file has gone.
    ///
    /// # Errors
    /// As [`Source::load`].
    pub fn load_and_pin(&mut self) -> Result<(Loaded, bool), ConfigError> {
        let loaded = self.load()?;
        if loaded.1 {
            self.path = Some(self.path());
        }
        Ok(loaded)
    }
}

/// Reads a file whose reading ends.
fn read_file(path: &Path) -> Result<Vec<u8>, ConfigError> {
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
    Ok(text)
}
