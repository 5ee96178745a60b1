//! What the host lets the service have: descriptors, a backlog, memory, kernel options.
//!
//! Owns how these limits are found. What the service needs of each is known to `config`, `net` and
//! `ops::machine`.
//!
//! Sources: proc(5), listen(2), the kernel's cgroup-v1/memory and cgroup-v2.

use std::io;
use std::path::{Path, PathBuf};

use super::report::{Finding, Report};
use crate::config::{Config, show_size};
use crate::net::listen::BACKLOG;
use crate::ops::machine::{Capacity, DEFAULT_CONNECTIONS, Machine};

/// Judges descriptors and the backlog of a unit; returns how many connections fit.
pub fn connections(
    config: &Config,
    machine: Machine,
    unit: &str,
    report: &mut Report,
) -> Option<Capacity> {
    let limit =
        || format!("Run `systemctl edit {unit}`, enter these lines, and restart the service:");
    let mut finding = |label, what: String, why: &str, fix: String, lines: &[&str]| {
        let lines = lines.iter().map(|&line| line.to_owned()).collect();
        report.findings.push(Finding { label, what, why: why.into(), fix, lines, place: None });
    };
    if machine.somaxconn < BACKLOG {
        finding(
            "somaxconn",
            format!("net.core.somaxconn is {}, less than {BACKLOG}", machine.somaxconn),
            "It cuts the listen backlog: when many clients reconnect at once, some time out.",
            format!(
                "Run `sysctl -w net.core.somaxconn={BACKLOG}`, and keep it in /etc/sysctl.d/; then \
                 restart the service."
            ),
            &[],
        );
    }
    let capacity = config.capacity(machine);
    match &capacity {
        Err(too_few) => finding(
            "descriptors",
            format!(
                "limits.max_connections = {} needs {} descriptors, and {} are allowed",
                too_few.wanted, too_few.needed, too_few.allowed
            ),
            "The service does not start: it exits with 78.",
            limit(),
            &["[Service]", &format!("LimitNOFILE={}", too_few.needed)],
        ),
        Ok(capacity) if config.clamped(machine).is_some() => finding(
            "descriptors",
            format!("{} descriptors are allowed", machine.descriptors),
            &format!(
                "So {} connections are served instead of {DEFAULT_CONNECTIONS}; further clients get \
                 503.",
                capacity.admitted
            ),
            limit(),
            &["[Service]", "LimitNOFILE=65536"],
        ),
        Ok(_) => {}
    }
    capacity.ok()
}

/// Judges a limit on memory, in bytes, against what the service of a unit may need.
pub fn memory(needed: u64, limit: u64, from: &str, unit: &str, report: &mut Report) {
    if limit >= needed {
        return;
    }
    let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
    report.findings.push(Finding {
        label: "memory",
        what: format!("{from} allows {}", mib(limit)),
        why: format!(
            "With this configuration the service may need {}, and the kernel's share on top: the \
             kernel would kill it, and every session with it.",
            mib(needed)
        ),
        fix: format!(
            "Raise it with `systemctl edit {unit}`, or lower limits.buffer_budget or \
             limits.max_connections:"
        ),
        lines: vec!["[Service]".to_owned(), format!("MemoryMax={}M", needed.div_ceil(1 << 20))],
        ..Finding::default()
    });
}

/// The lowest limit on memory of a process's control groups, in bytes, and the file that has it.
/// `membership` is `/proc/PID/cgroup`.
pub fn cgroup_limit(
    membership: &str,
    read: impl Fn(&Path) -> io::Result<String>,
) -> Option<(u64, PathBuf)> {
    let mut limits = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|it| it == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let file = Path::new(root).join(group).join(file);
            let limit = read(&file).ok().and_then(|text| text.trim().parse::<u64>().ok());
            // Without a limit, the first version has the largest number of pages.
            limits.extend(limit.filter(|limit| *limit < 1 << 62).map(|limit| (limit, file)));
        }
    }
    limits.into_iter().min()
}

/// Says which options of the kernel are missing.
pub fn kernel(lacking: &[&str], report: &mut Report) {
    if lacking.is_empty() {
        return;
    }
    report.advice.push(Finding {
        label: "kernel_option",
        what: format!("this kernel does not know {}", lacking.join(", ")),
        why: format!(
            "Without TCP_NOTSENT_LOWAT the kernel holds up to {} for each slow reader; without the \
             others dead clients are noticed later.",
            show_size(4 << 20)
        ),
        fix: "Lower the maximum in net.ipv4.tcp_wmem, or update the kernel.".to_owned(),
        ..Finding::default()
    });
}

/// The hard limit on descriptors in `/proc/PID/limits`.
#[must_use]
pub fn descriptors(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_control_group_counts() {
        let files = |path: &Path| match path.to_str().unwrap() {
            "/sys/fs/cgroup/system.slice/w.service/memory.max" => Ok("2097152\n".to_owned()),
            "/sys/fs/cgroup/system.slice/memory.max" => Ok("1048576\n".to_owned()),
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes" => Ok("4096\n".to_owned()),
            "/sys/fs/cgroup/memory/memory.limit_in_bytes" => Ok("9223372036854771712\n".to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let two = cgroup_limit("0::/system.slice/w.service\n", files);
        assert_eq!(two, Some((1 << 20, "/sys/fs/cgroup/system.slice/memory.max".into())));
        let one = cgroup_limit("3:cpu,cpuacct:/a\n2:memory:/a\n", files);
        assert_eq!(one.map(|it| it.0), Some(4096));
        assert_eq!(cgroup_limit("x\n1:cpu:/a\n", files), None);
    }

    #[test]
    fn limits_that_are_too_low_are_found() {
        let config = Config::default();
        let mut report = Report::default();
        let capacity =
            connections(&config, Machine { descriptors: 1024, somaxconn: 128 }, "a", &mut report);
        memory(300 << 20, 200 << 20, "MemoryMax= of wsecho.service", "a", &mut report);
        memory(300 << 20, 400 << 20, "MemoryMax= of wsecho.service", "a", &mut report);
        let labels: Vec<_> = report.findings.iter().map(|it| it.label).collect();
        assert_eq!(labels, ["somaxconn", "descriptors", "memory"]);
        assert!(capacity.is_some());
        assert_eq!(descriptors("Max open files   1024   4096   files\n"), Some(4096));
    }
}
