//! The path of a Unix socket: a stale one makes room for ours, which is removed at the end.
//!
//! Owns what may be removed, and when. It does not know how a socket is opened.
//!
//! Source: unix(7).

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::BindError;
use crate::net::addr::ListenAddr;

/// Removes a socket that nothing listens on, and never anything else.
pub(super) fn remove_stale(path: &Path, addr: &ListenAddr) -> Result<(), BindError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(addr.clone()));
    }
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(%addr, "removing a stale socket that nothing listens on");
            fs::remove_file(path).map_err(|error| BindError::new(addr, error))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(BindError::Other(addr.clone(), error))
        }
        Ok(()) | Err(_) => Err(BindError::InUse(addr.clone())),
    }
}

/// Connects without waiting: a process that listens but no longer accepts would block us forever.
fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// The path of a Unix socket that we bound; removed on drop, unless it was replaced.
pub(super) struct OwnPath {
    path: PathBuf,
    identity: (u64, u64),
}

impl OwnPath {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_path_buf(), identity: Self::identity(path)? })
    }

    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        if Self::identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Another process may just have removed it, which is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}
