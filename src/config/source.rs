//! Where the configuration comes from: a file, and what holds over it.
//!
//! Owns the choice of the file, what a missing one means, and which files are refused unread. It does
//! not know the keys, nor when the file is read again.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::{Finding, Loaded, read};
use crate::net::addr::ListenAddr;
use crate::ops::logging::Level;

/// The configuration file unless the command line or the environment names another.
const DEFAULT_PATH: &str = "/etc/wsecho.toml";
/// The variable that names another file, or several with colons between them, of which the first that
/// exists is read: set in the unit, it holds for each of its commands.
pub(super) const PATH_VARIABLE: &str = "WSECHO_CONFIG";
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
    /// `--config`. Without it, the first file of `WSECHO_CONFIG` that exists is read; without that,
    /// the one at `/etc/wsecho.toml`, which may be missing.
    pub path: Option<PathBuf>,
    /// The files of `WSECHO_CONFIG`.
    files: Vec<PathBuf>,
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
    /// What these environment variables say: which file, and what holds over it.
    #[must_use]
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let variables: Vec<_> = variables.into_iter().collect();
        let files = variables.iter().filter(|(name, _)| name == PATH_VARIABLE);
        let files = files.flat_map(|(_, files)| env::split_paths(files));
        let files = files.filter(|path| !path.as_os_str().is_empty()).collect();
        let environment = Environment::new(variables);
        let overrides = Overrides { environment, ..Overrides::default() };
        Self { path: None, files, overrides }
    }

    /// The file that is read: the first that exists, or the last.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let (_, file) = self.chosen();
        file
    }

    /// The files before it, none of which exists, and the file.
    fn chosen(&self) -> (Vec<PathBuf>, PathBuf) {
        let mut missing = match &self.path {
            Some(path) => vec![path.clone()],
            None => self.files.clone(),
        };
        let last = missing.pop().unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
        match missing.iter().position(|path| exists(path)) {
            Some(first) => {
                missing.truncate(first + 1);
                let file = missing.pop().unwrap_or(last);
                (missing, file)
            }
            None => (missing, last),
        }
    }

    /// Whether the file must exist, because somebody named it: the default one does not, even where
    /// the unit's `WSECHO_CONFIG` ends in it.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.path.is_some() || self.path() != Path::new(DEFAULT_PATH)
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
                if error.kind() == io::ErrorKind::NotFound && !self.is_required() =>
            {
                (Vec::new(), false)
            }
            Err(error) => return Err(error),
        };
        let loaded = read(&file, &self.overrides)
            .map_err(|findings| ConfigError::Invalid(path, findings))?;
        Ok((loaded, found))
    }
}

/// A source whose file is chosen once: if there was one, it must be there from then on, and no other is
/// read. The defaults are more open than most files, and a reload must not fall back to them.
#[derive(Clone, Debug)]
pub struct Pinned {
    source: Source,
    file: Option<PathBuf>,
}

impl Pinned {
    /// Nothing is chosen until the first file has been loaded.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self { source, file: None }
    }

    /// Loads the configuration. The second value is what the choice of the file deserves to have said.
    ///
    /// # Errors
    /// As [`Source::load`].
    pub fn load(&mut self) -> Result<(Loaded, Option<String>), ConfigError> {
        let path = self.file.clone().or_else(|| self.source.path.clone());
        let (loaded, found) = Source { path, ..self.source.clone() }.load()?;
        let (missing, chosen) = self.source.chosen();
        let said = match &self.file {
            Some(file) if *file != chosen => {
                Some(format!("{} is read only after a restart", chosen.display()))
            }
            Some(_) => None,
            None => said_of(&missing, &chosen, found),
        };
        if found {
            self.file.get_or_insert(chosen);
        }
        Ok((loaded, said))
    }
}

/// What to say of the files that do not exist.
fn said_of(missing: &[PathBuf], chosen: &Path, found: bool) -> Option<String> {
    let (also, instead) = if found {
        (None, chosen.display().to_string())
    } else {
        (Some(chosen), "the defaults".into())
    };
    let missing = missing.iter().map(PathBuf::as_path).chain(also);
    let missing: Vec<_> = missing.map(|path| path.display().to_string()).collect();
    let verb = if missing.len() > 1 { "do" } else { "does" };
    let missing = missing.join(" and ");
    (!missing.is_empty()).then(|| format!("{missing} {verb} not exist: using {instead}"))
}

/// Whether something is there, even a file that cannot be read, or a link that leads nowhere: it is what
/// the administrator means.
fn exists(path: &Path) -> bool {
    !matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
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
