//! What would keep the service from starting on this host, for the user that asks.
//!
//! Owns what can be known without listening. It cannot tell whether an address is in use: by the
//! service itself, as a rule.
//!
//! Sources: capabilities(7), ip(7) for `ip_unprivileged_port_start`, passwd(5), group(5).

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use procfs::process::Process;
use rustix::fs::{Access, access};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::Config;
use crate::net::addr::ListenAddr;
use crate::ops::machine::Machine;

impl Config {
    /// What would make a start fail here and now, one sentence each.
    #[must_use]
    pub fn obstacles(&self, machine: Machine) -> Vec<String> {
        let mut found: Vec<String> =
            self.capacity(machine).err().map(|too_few| too_few.to_string()).into_iter().collect();
        let bind = self.boot.bind.iter().map(|addr| ("bind", addr));
        let admin = self.boot.admin.iter().map(|addr| ("admin.bind", addr));
        for (key, addr) in bind.chain(admin) {
            let obstacle = match addr {
                ListenAddr::Tcp(tcp) => tcp_obstacle(*tcp),
                ListenAddr::Unix(path) => unix_obstacle(path, &self.boot.instance),
                ListenAddr::Inherited => None,
            };
            found.extend(obstacle.map(|obstacle| format!("{key} = \"{addr}\": {obstacle}")));
        }
        found
    }
}

fn tcp_obstacle(addr: SocketAddr) -> Option<String> {
    if (1..first_port_for_all()).contains(&addr.port()) && !may_open_low_ports() {
        return Some(format!(
            "this user may not open ports below {}: let systemd do so (wsecho.socket, \
             bind = \"systemd\"), or use a higher port",
            first_port_for_all()
        ));
    }
    // Any port will do: ours may be in use.
    match TcpListener::bind((addr.ip(), 0)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Some("this host has no such address: `ip addr` lists those that it has".to_owned())
        }
        Err(error) => Some(format!("cannot listen there: {error}")),
        Ok(_) => None,
    }
}

fn unix_obstacle(path: &Path, instance: &str) -> Option<String> {
    // Created by the unit when it starts.
    let of_the_unit = match instance {
        "" => "/run/wsecho".to_owned(),
        name => format!("/run/wsecho-{name}"),
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Some("this is not a socket, so it would not be replaced: move it away".to_owned())
        }
        _ if folder == Path::new(&of_the_unit) => None,
        _ if !folder.is_dir() => {
            Some(format!("its folder does not exist: create it, or use {of_the_unit}"))
        }
        _ if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() => Some(format!(
            "this user may not create files in its folder: change that, or use {of_the_unit}"
        )),
        _ => None,
    }
}

/// The lowest port that takes no capability.
fn first_port_for_all() -> u16 {
    // Linux 3.10 does not have this file yet.
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    start.ok().and_then(|start| start.trim().parse().ok()).unwrap_or(1024)
}

fn may_open_low_ports() -> bool {
    const CAP_NET_BIND_SERVICE: u32 = 10;
    let status = Process::myself().and_then(|process| process.status());
    status.is_ok_and(|status| status.capeff & (1 << CAP_NET_BIND_SERVICE) != 0)
}

/// Why this process cannot judge for a user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// `/etc/passwd` does not have it.
    #[error("/etc/passwd has no user {0:?}")]
    Unknown(String),
    /// It is another user, and this process may not become it.
    #[error("only root can check for another user: run it with sudo")]
    NotRoot,
    /// The kernel or a sandbox refuses.
    #[error("cannot become the user {0:?}: {1}")]
    Refused(String, io::Error),
}

/// Makes this process that of another user, so that the kernel judges by that user's rights.
///
/// For processes without threads: the kernel changes one at a time.
///
/// # Errors
/// See [`UserError`].
pub fn become_user(name: &str) -> Result<(), UserError> {
    let (uid, gid) = user(name).ok_or_else(|| UserError::Unknown(name.to_owned()))?;
    if geteuid() == uid {
        return Ok(());
    }
    if !geteuid().is_root() {
        return Err(UserError::NotRoot);
    }
    set_thread_groups(&groups(name))
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, uid))
        .map_err(|error| UserError::Refused(name.to_owned(), error.into()))
}

fn user(name: &str) -> Option<(Uid, Gid)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (uid, gid) = (fields.next()? == name).then(|| (fields.nth(1), fields.next()))?;
        Some((Uid::from_raw(uid?.parse().ok()?), Gid::from_raw(gid?.parse().ok()?)))
    })
}

/// The supplementary groups of a user.
fn groups(name: &str) -> Vec<Gid> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let member_of = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let (gid, members) = (fields.next()?, fields.next()?);
        members.split(',').any(|member| member == name).then(|| gid.parse().ok())?
    };
    groups.lines().filter_map(member_of).map(Gid::from_raw).collect()
}
