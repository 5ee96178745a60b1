//! A service run the way systemd runs it. This file owns its listening socket, which outlives it,
//! its configuration, its readiness and its log.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::launch::inherit;

/// How long a start, reload or stop may take; a drain takes 30 seconds at most.
const PATIENCE: Duration = Duration::from_secs(40);
/// The backlog of wsecho.socket.
const BACKLOG: i32 = 4096;

/// What the service logged.
#[derive(Default)]
pub struct Log {
    /// How many sessions ended, by how.
    pub ended: BTreeMap<String, u64>,
    /// Lines that are not at level info, or are no records at all.
    pub loud: Vec<String>,
}

impl Log {
    fn add(&mut self, line: String) {
        let record: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        match record["level"].as_str() {
            Some("INFO") => {
                if let Some(label) = record["ended"].as_str() {
                    *self.ended.entry(label.to_owned()).or_default() += 1;
                }
            }
            _ => self.loud.push(line),
        }
    }
}

pub struct Service {
    pub name: &'static str,
    listener: TcpListener,
    addr: SocketAddr,
    dir: TempDir,
    notify: UnixDatagram,
    child: Mutex<Child>,
    pid: AtomicU32,
    reloads: AtomicU64,
    /// Odd while it is being restarted.
    restarts: AtomicU64,
    log: Arc<Mutex<Log>>,
}

impl Service {
    pub fn start(name: &'static str) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let dir = tempfile::tempdir()?;
        let notify = UnixDatagram::bind(dir.path().join("notify"))?;
        notify.set_read_timeout(Some(PATIENCE))?;
        configure(&dir, 0)?;
        let log = Arc::new(Mutex::new(Log::default()));
        let child = launch(&dir, &listener, &log)?;
        let service = Self {
            name,
            addr: listener.local_addr()?,
            listener,
            dir,
            notify,
            pid: AtomicU32::new(child.id()),
            child: Mutex::new(child),
            reloads: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            log,
        };
        service.wait_for("READY=1")?;
        Ok(service)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Odd while it is being restarted, and a different number after each restart.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Acquire)
    }

    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("not poisoned")
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().expect("not poisoned")
    }

    pub fn reload(&self) -> io::Result<()> {
        let number = self.reloads.fetch_add(1, Ordering::Relaxed) + 1;
        configure(&self.dir, number)?;
        self.signal(Signal::HUP)?;
        self.wait_for("RELOADING=1")?;
        let state = self.wait_for("READY=1")?;
        if state.contains("refused") {
            return Err(io::Error::other(format!("{}: a reload was refused", self.name)));
        }
        Ok(())
    }

    /// Stops the process and starts another on the same socket.
    pub fn restart(&self) -> io::Result<()> {
        self.restarts.fetch_add(1, Ordering::Release);
        self.stop()?;
        *self.child() = launch(&self.dir, &self.listener, &self.log)?;
        self.pid.store(self.child().id(), Ordering::Relaxed);
        self.wait_for("READY=1")?;
        self.restarts.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Stops it; every session must end on its own in time.
    pub fn stop(&self) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.child().wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("{}: {status} after SIGTERM", self.name)))
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child()), signal)?)
    }

    /// Reads notifications up to this one.
    fn wait_for(&self, state: &str) -> io::Result<String> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.notify.recv(&mut buffer).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: no {state}: {error}", self.name))
            })?;
            let told = String::from_utf8_lossy(&buffer[..length]);
            if told.lines().any(|line| line == state) {
                return Ok(told.into_owned());
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended on its own, unless this run failed.
        let _ = self.child().kill();
        let _ = self.child().wait();
    }
}

/// Timers short enough to fire many times in a run; each reload changes one.
fn configure(dir: &TempDir, reload: u64) -> io::Result<()> {
    let text = format!(
        r#"
bind = "systemd"
log.format = "json"

[timeouts]
ping_interval = "{}s"
pong = "15s"
write = "10s"
"#,
        4 + reload % 2
    );
    fs::write(dir.path().join("wsecho.toml"), text)
}

fn launch(dir: &TempDir, listener: &TcpListener, log: &Arc<Mutex<Log>>) -> io::Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsecho"));
    command
        .arg("--config")
        .arg(dir.path().join("wsecho.toml"))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        // As the unit sets it.
        .env("MALLOC_MMAP_THRESHOLD_", "131072")
        .env("MALLOC_ARENA_MAX", "1")
        .env_remove("JOURNAL_STREAM");
    inherit(&[listener], &mut command);
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().expect("it is piped");
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            log.lock().expect("not poisoned").add(line);
        }
    });
    Ok(child)
}
