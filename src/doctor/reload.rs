//! Whether the service runs what is installed: its program, and its configuration as the file has it.
//!
//! Owns how the admin listener is asked. Which metric says what is documented in docs/operations.md.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use procfs::process::Process;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::Instant;

use super::report::{Finding, Report};
use crate::net::addr::ListenAddr;

/// How long the admin listener may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most that is read of its answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The metrics of the service, if it serves them and answers in time.
pub(super) fn metrics(admin: &[ListenAddr]) -> Option<String> {
    admin.iter().find_map(|addr| {
        let (domain, addr) = match addr {
            ListenAddr::Tcp(tcp) if tcp.port() != 0 => (Domain::for_address(*tcp), (*tcp).into()),
            ListenAddr::Unix(path) => (Domain::UNIX, SockAddr::unix(path).ok()?),
            _ => return None,
        };
        let deadline = Instant::now() + PATIENCE;
        let mut socket = Socket::new(domain, Type::STREAM, None).ok()?;
        socket.connect_timeout(&addr, PATIENCE).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        let mut part = [0; 16 << 10];
        loop {
            match socket.read(&mut part).ok()? {
                0 => return Some(String::from_utf8_lossy(&answer).into_owned()),
                read => answer.extend(&part[..read]),
            }
            if answer.len() > MAX_ANSWER || Instant::now() > deadline {
                return None;
            }
        }
    })
}

/// When the file was written last, in seconds of Unix time.
pub(super) fn written(file: &Path) -> Option<f64> {
    let modified = fs::metadata(file).and_then(|file| file.modified()).ok()?;
    Some(modified.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

/// When a process began, in seconds of Unix time.
pub(super) fn began(pid: u32) -> Option<f64> {
    let stat = Process::new(i32::try_from(pid).ok()?).and_then(|process| process.stat()).ok()?;
    let since_boot =
        Duration::from_secs(stat.starttime) / u32::try_from(procfs::ticks_per_second()).ok()?;
    Some(
        Duration::from_secs(procfs::boot_time_secs().ok()?).as_secs_f64()
            + since_boot.as_secs_f64(),
    )
}

/// Judges the last reload of a unit: by the metrics, or by when the process began if it serves none.
/// `times` are when the file was written last and when the process began, in seconds of Unix time.
pub fn judge(
    file: &str,
    unit: &str,
    metrics: Option<&str>,
    times: [Option<f64>; 2],
    report: &mut Report,
) {
    let metric = |name: &str| {
        let mut lines = metrics?.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == name)?.1.trim().parse::<f64>().ok()
    };
    let finding = |label, what: String, why: &str, fix: String| Finding {
        label,
        what,
        why: why.to_owned(),
        fix,
        ..Finding::default()
    };
    if metric("wsecho_config_last_reload_successful") == Some(0.0) {
        report.findings.push(finding(
            "reload_refused",
            format!("the last reload of {unit} was refused"),
            "It keeps its old configuration, and would not start with the new one.",
            format!("Fix what `wsecho check` shows, then run `systemctl reload {unit}`."),
        ));
        return;
    }
    let [written, began] = times;
    let read = metric("wsecho_config_last_reload_timestamp_seconds");
    let (Some(written), Some(read_at)) = (written, read.or(began)) else { return };
    // Both clocks tick in parts of a second.
    if written <= read_at + 1.0 {
        return;
    }
    // It checks the file first.
    let apply = format!("Run `systemctl reload {unit}`");
    if read.is_some() {
        report.findings.push(finding(
            "config_newer",
            format!("{file} is newer than what {unit} has read"),
            "What was changed there does not apply yet.",
            format!("{apply}."),
        ));
    } else {
        report.advice.push(finding(
            "config_newer",
            format!("{file} has been changed since {unit} was started"),
            "Unless it was reloaded since, what was changed there does not apply yet.",
            format!("{apply}; `[admin] bind` lets the doctor see reloads."),
        ));
    }
}

/// Judges the running program of a unit; `exe` is what `/proc/PID/exe` leads to.
pub fn program(exe: &Path, unit: &str, metrics: Option<&str>, report: &mut Report) {
    if !exe.to_string_lossy().ends_with(" (deleted)") {
        return;
    }
    let version = metrics.and_then(|text| {
        let (_, rest) = text.split_once("wsecho_build_info{version=\"")?;
        Some(rest.split_once('"')?.0)
    });
    let which = version.map_or(String::new(), |version| format!(", {version},"));
    let fix = if unit.contains('@') {
        "Run `/usr/libexec/wsecho/roll`: it restarts the instances one by one.".to_owned()
    } else {
        format!("Run `systemctl restart {unit}`: open sessions end with 1001.")
    };
    report.findings.push(Finding {
        label: "old_program",
        what: format!("{unit} runs a program{which} that is no longer installed"),
        why: format!(
            "It was replaced, this one is {}; the old one runs on until it is restarted.",
            env!("CARGO_PKG_VERSION")
        ),
        fix,
        ..Finding::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_not_read_yet_is_found() {
        let metrics = |ok: u8| {
            format!(
                "wsecho_config_last_reload_successful {ok}\n\
                 wsecho_config_last_reload_timestamp_seconds 1000.5\n"
            )
        };
        for (metrics, written, findings, advice) in [
            (Some(metrics(1)), 1000.0, None, 0),
            (Some(metrics(1)), 1010.0, Some("config_newer"), 0),
            (Some(metrics(0)), 1000.0, Some("reload_refused"), 0),
            (None, 990.0, None, 0),
            (None, 1010.0, None, 1),
        ] {
            let mut report = Report::default();
            let times = [Some(written), Some(995.0)];
            judge("f", "wsecho", metrics.as_deref(), times, &mut report);
            let label = report.findings.first().map(|it| it.label);
            assert_eq!((label, report.advice.len()), (findings, advice), "{metrics:?} {written}");
        }
        let mut report = Report::default();
        program(Path::new("/usr/bin/wsecho"), "wsecho", None, &mut report);
        assert!(report.is_healthy());
        let old = Path::new("/usr/bin/wsecho (deleted)");
        program(old, "wsecho", None, &mut report);
        program(old, "wsecho@1", Some("wsecho_build_info{version=\"0.0.9\"} 1\n"), &mut report);
        let [one, other] = &report.findings[..] else { panic!("{report:?}") };
        assert_eq!((one.label, other.label), ("old_program", "old_program"));
        assert!(other.what.contains("wsecho@1 runs a program, 0.0.9,"), "{other:?}");
        assert!(one.fix.contains("restart wsecho`") && other.fix.contains("roll"), "{report:?}");
    }
}
