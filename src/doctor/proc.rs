//! Processes and listening sockets, as /proc shows them.
//!
//! Owns the formats of /proc/net and of a process's folder. Of other users' processes it sees only what
//! the kernel lets it.
//!
//! Source: proc(5).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::host;
use crate::net::addr::ListenAddr;

/// The most processes that are looked at.
const MAX_PROCESSES: usize = 100_000;

/// A running process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// The number of its parent.
    pub parent: u32,
    /// Its command line; nginx replaces it by a title.
    pub args: Vec<String>,
    /// Its working folder, if that may be seen.
    pub cwd: Option<PathBuf>,
    /// Whether it runs in this namespace of mounts or one that is not known: its files are these.
    pub is_here: bool,
}

/// All processes that can be seen.
pub(super) fn processes() -> Vec<Process> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    pids.take(MAX_PROCESSES).filter_map(process).collect()
}

/// One process.
pub(super) fn process(pid: u32) -> Option<Process> {
    let read = |name: &str| host::read(format!("/proc/{pid}/{name}")).ok();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace("self");
    let stat = read("stat")?;
    // The name before it may hold anything.
    let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    let args = read("cmdline").unwrap_or_default();
    Some(Process {
        pid,
        name: read("comm")?.trim_end().to_owned(),
        parent,
        args: args.trim_end_matches('\0').split('\0').map(str::to_owned).collect(),
        cwd: fs::read_link(format!("/proc/{pid}/cwd")).ok(),
        is_here: namespace(&pid.to_string()).is_none_or(|other| Some(other) == own),
    })
}

/// A socket that something listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Its address.
    pub addr: ListenAddr,
    /// What `/proc/PID/fd` calls it.
    pub inode: u64,
}

/// All of them.
pub(super) fn listening() -> Vec<Listening> {
    let table =
        |name: &str| host::read_table(&format!("/proc/self/net/{name}")).unwrap_or_default();
    let mut all = in_tcp_table(&table("tcp"));
    all.extend(in_tcp_table(&table("tcp6")));
    all.extend(in_unix_table(&table("unix")));
    all
}

/// The listening sockets of `/proc/net/tcp` or `tcp6`.
#[must_use]
pub fn in_tcp_table(table: &str) -> Vec<Listening> {
    const LISTEN: &str = "0A";
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        if fields.get(3) != Some(&LISTEN) {
            return None;
        }
        let addr = SocketAddr::new(ip_of(ip)?, u16::from_str_radix(port, 16).ok()?);
        Some(Listening { addr: ListenAddr::Tcp(addr), inode: fields.get(9)?.parse().ok()? })
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// An address in words of the machine's byte order.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// The listening sockets of `/proc/net/unix`.
#[must_use]
pub fn in_unix_table(table: &str) -> Vec<Listening> {
    /// `__SO_ACCEPTCON`.
    const ACCEPTS: u32 = 1 << 16;
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
        let path = fields.get(7).filter(|path| path.starts_with('/'))?;
        let inode = fields.get(6)?.parse().ok()?;
        (flags & ACCEPTS != 0).then(|| Listening { addr: ListenAddr::Unix(path.into()), inode })
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// The process that has a socket open, if that may be seen: of several, the service's own.
pub(super) fn owner(inode: u64, processes: &[Process]) -> Option<&Process> {
    let link = PathBuf::from(format!("socket:[{inode}]"));
    let has = |process: &&Process| {
        let open =
            fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
        open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to == link)
    };
    let mut owners = processes.iter().filter(has).peekable();
    let first = owners.peek().copied();
    owners.find(|process| process.name == "wsecho").or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_are_found_in_the_tables() {
        let head = "sl local_address rem_address st\n";
        let rest = "00000000:00000000 00:00000000 00000000 0 0 4711 1 x";
        let tcp = format!(
            "{head}0: 0100007F:22B8 00000000:0000 0A {rest}\n1: 0100007F:22B8 0100007F:9999 01 {rest}\n"
        );
        let addr = |text: &str| text.parse::<ListenAddr>().unwrap();
        let found = |addr| vec![Listening { addr, inode: 4711 }];
        if cfg!(target_endian = "little") {
            assert_eq!(in_tcp_table(&tcp), found(addr("127.0.0.1:8888")));
            let six = tcp.replace("0100007F:22B8", "00000000000000000000000001000000:22B8");
            assert_eq!(in_tcp_table(&six), found(addr("[::1]:8888")));
        }
        let unix = "Num RefCount\n0: 2 0 00010000 0001 01 4711 /run/w.sock\n\
                    1: 2 0 00000000 0001 03 4712 /run/w.sock\n2: 2 0 00010000 0001 01 9 @x\n";
        assert_eq!(in_unix_table(unix), found(addr("unix:/run/w.sock")));
        assert!(in_tcp_table("x\n:\n0: zz:1 a 0A\n").is_empty());
    }
}
