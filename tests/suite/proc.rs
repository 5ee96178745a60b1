//! What the kernel says about a process, in /proc; see proc(5).

use std::time::Duration;
use std::{fs, io};

fn file(pid: u32, name: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{name}"))
}

/// A figure that a file gives in kB, converted to bytes.
pub fn bytes(pid: u32, name: &str, key: &str) -> io::Result<usize> {
    let text = file(pid, name)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    number.map(|it| it * 1024).ok_or_else(|| io::Error::other(format!("no {key} in:\n{text}")))
}

/// The CPU time of all threads, in steps of 10 ms.
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let stat = file(pid, "stat")?;
    // The name in parentheses may contain spaces; utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|it| it.parse::<u64>().unwrap()).sum();
    Ok(Duration::from_millis(10 * ticks))
}

/// The number of open descriptors.
pub fn descriptors(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
