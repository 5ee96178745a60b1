//! Starting the service through a shell, which can set up what std cannot: limits, a umask, and
//! inherited sockets like those from systemd.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};

/// Has a shell run a command before it executes the service.
pub fn through_shell(command: &mut Command, first: &str) {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{first}; exec \"$0\" \"$@\""));
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    *command = shell;
}

/// Passes descriptors to the service as systemd does.
pub fn inherit(fds: &[&dyn AsFd], command: &mut Command) {
    // std can only set the standard streams: they carry the sockets to the shell.
    let first = format!(
        "exec 3<&0 4>&1 </dev/null >/dev/null; export LISTEN_FDS={} LISTEN_PID=$$",
        fds.len()
    );
    through_shell(command, &first);
    let mut copies = fds.iter().map(|fd| fd.as_fd().try_clone_to_owned().expect("a descriptor"));
    command.stdin(copies.next().expect("a socket"));
    command.stdout(copies.next().map_or_else(Stdio::null, Stdio::from));
}
