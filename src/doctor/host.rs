//! How the host is asked: files, folders and programs, none of which can hold up the doctor or fill its
//! memory.
//!
//! Owns the bounds on time and size. It does not know what an answer means.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use rustix::fs::{Access, access};
use tokio::time::Instant;

/// The most that is read of one file, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;
/// The most that is read of a table of sockets; those that listen stand first.
const MAX_TABLE: u64 = 16 << 20;
/// The most that is read of what a program prints, in bytes.
const MAX_OUTPUT: u64 = 1 << 20;
/// How long a program may take: semanage needs seconds on a small machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a file or a folder may take: one on a network that is down, or like /proc/kmsg, never answers.
const FILE_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked after whether a program has ended.
const GLANCE: Duration = Duration::from_millis(5);

/// Reads a regular file, at most [`MAX_FILE`] bytes of it; what is not UTF-8 is replaced.
pub(super) fn read(path: impl AsRef<Path>) -> io::Result<String> {
    read_up_to(path.as_ref(), MAX_FILE)
}

/// The same for a table below /proc/net.
pub(super) fn read_table(path: &str) -> io::Result<String> {
    read_up_to(Path::new(path), MAX_TABLE)
}

fn read_up_to(path: &Path, most: u64) -> io::Result<String> {
    let path = path.to_path_buf();
    in_time(FILE_PATIENCE, move || {
        // Before opening it: for a FIFO, that waits for a writer.
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    })?
}

/// The names in a folder, at most `most` of them, in order.
pub(super) fn names(folder: &Path, most: usize) -> io::Result<Vec<OsString>> {
    let folder = folder.to_path_buf();
    in_time(FILE_PATIENCE, move || {
        let names = fs::read_dir(folder)?.flatten().take(most).map(|entry| entry.file_name());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        Ok(names)
    })?
}

/// What `look` returns, if that comes in time. Otherwise its thread is left behind.
pub(super) fn in_time<T: Send + 'static>(
    patience: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (tell, told) = sync_channel(1);
    thread::Builder::new().spawn(move || {
        // Nobody waits any more if that took too long.
        let _ = tell.send(look());
    })?;
    let late = |_| io::Error::other(format!("it took longer than {} s", patience.as_secs()));
    told.recv_timeout(patience).map_err(late)
}

/// What a program answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// Whether it exited with 0.
    pub ok: bool,
    /// What it printed, stderr included.
    pub text: String,
}

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// No folder in PATH has it.
    #[error("{0} is not installed")]
    Missing(String),
    /// It was stopped.
    #[error("{0} took longer than {time} s", time = PATIENCE.as_secs())]
    Slow(String),
    /// It cannot be run.
    #[error("cannot run {0}: {1}")]
    Failed(String, io::Error),
}

/// Runs a program from PATH, in the language that its output is read in.
pub(super) fn run(name: &str, arguments: &[&str]) -> Result<Answer, Unanswered> {
    let program = find(name).ok_or_else(|| Unanswered::Missing(name.to_owned()))?;
    run_file(&program, arguments, [])
}

/// Runs this program itself, with these environment variables added.
pub(super) fn run_self<'a>(
    arguments: &[&str],
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Answer, Unanswered> {
    let failed = |error| Unanswered::Failed("wsecho".to_owned(), error);
    run_file(&env::current_exe().map_err(failed)?, arguments, variables)
}

fn run_file<'a>(
    program: &Path,
    arguments: &[&str],
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Answer, Unanswered> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |error| Unanswered::Failed(name.clone(), error);
    let deadline = Instant::now() + PATIENCE;
    let (reader, writer) = io::pipe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(arguments).envs(variables).stdin(Stdio::null());
    command.env("LC_ALL", "C").env("SYSTEMD_COLORS", "0");
    command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
    let mut child = command.spawn().map_err(failed)?;
    // It holds the ends of the pipe that have to be closed for the reader to see the end.
    drop(command);
    // A thread, because a child of the program may keep the pipe open forever.
    let (tell, told) = sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is an answer, too.
        let _ = reader.take(MAX_OUTPUT).read_to_end(&mut bytes);
        // Nobody waits any more if that took too long.
        let _ = tell.send(bytes);
    });
    let bytes = told.recv_timeout(PATIENCE);
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => {
                let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
                return Ok(Answer { ok: status.success(), text });
            }
            None if bytes.is_err() || Instant::now() > deadline => {
                // It may have ended meanwhile; either way it is waited for.
                let _ = child.kill();
                child.wait().map_err(failed)?;
                return Err(Unanswered::Slow(name));
            }
            None => thread::sleep(GLANCE),
        }
    }
}

/// Where PATH has a program; its relative folders are left out.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_answers_is_left_behind() {
        let (_open, never) = sync_channel::<()>(1);
        let error = in_time(Duration::from_millis(1), move || never.recv()).unwrap_err();
        assert!(error.to_string().contains("took longer than"), "{error}");
        assert_eq!(in_time(PATIENCE, || 7).unwrap(), 7);
        assert_eq!(names(Path::new("/proc/self/task"), 0).unwrap().len(), 0, "bounded");
    }
}
