//! One server under test, in a process of its own, or wsecho in several. This file owns how they are
//! started, pinned and stopped, how they report their address, and how their CPU time and memory are
//! read.
//!
//! All servers start the same way: this program runs itself again as a child that pins itself,
//! asks to die with its parent, and then serves or, for wsecho, executes the real binary. All of
//! them report readiness as systemd services do, because wsecho does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use clap::ValueEnum;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{floor, peers};

const TIME_TO_START: Duration = Duration::from_secs(10);

/// The servers being compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Server {
    Floor,
    Wsecho,
    #[value(name = "wsecho-2")]
    WsechoTwoWorkers,
    #[value(name = "wsecho-4")]
    WsechoFourWorkers,
    #[value(name = "wsecho-16")]
    WsechoSixteenWorkers,
    /// Instances with one worker each.
    #[value(name = "wsecho-2x1")]
    WsechoTwoInstances,
    #[value(name = "wsecho-4x1")]
    WsechoFourInstances,
    /// wsecho, asked for no compression.
    WsechoUncompressed,
    TokioTungstenite,
    Fastwebsockets,
    Yawc,
    NodeWs,
}

impl Server {
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Wsecho => "wsecho",
            Self::WsechoTwoWorkers => "wsecho, 2 workers",
            Self::WsechoFourWorkers => "wsecho, 4 workers",
            Self::WsechoSixteenWorkers => "wsecho, 16 workers",
            Self::WsechoTwoInstances => "wsecho, 2 instances",
            Self::WsechoFourInstances => "wsecho, 4 instances",
            Self::WsechoUncompressed => "wsecho, uncompressed",
            Self::TokioTungstenite => "hyper + tokio-tungstenite",
            Self::Fastwebsockets => "hyper + fastwebsockets",
            Self::Yawc => "hyper + yawc",
            Self::NodeWs => "Node's ws",
        }
    }

    /// How it is spread: processes, and threads that serve in each.
    fn spread(self) -> (usize, u32) {
        match self {
            Self::WsechoTwoWorkers => (1, 2),
            Self::WsechoFourWorkers => (1, 4),
            Self::WsechoSixteenWorkers => (1, 16),
            Self::WsechoTwoInstances => (2, 1),
            Self::WsechoFourInstances => (4, 1),
            _ => (1, 1),
        }
    }

    /// Whether it is wsecho on more than one thread or process.
    pub fn is_spread(self) -> bool {
        self.spread() != (1, 1)
    }

    /// Whether it runs when no server is asked for.
    pub fn is_compared(self) -> bool {
        self.spread().0.max(self.spread().1 as usize) <= 2
    }

    /// Whether this machine has it: Node's `ws` comes from outside, by `NODE_PATH`.
    pub fn is_available(self) -> bool {
        self != Self::NodeWs
            || Command::new("node")
                .args(["-e", "require('ws')"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
    }

    /// Becomes this server, in the child process; returns only on failure.
    pub fn become_it(self, cpus: &[usize]) -> io::Result<()> {
        pin(cpus)?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        match self {
            Self::Floor => floor::serve(&announced_listener()?),
            Self::TokioTungstenite => peers::serve_tungstenite(announced_listener()?),
            Self::Fastwebsockets => peers::serve_fastwebsockets(announced_listener()?),
            Self::Yawc => peers::serve_yawc(announced_listener()?),
            Self::NodeWs => Err(become_node(announced_listener()?)),
            _ => Err(become_wsecho(self.spread().1)),
        }
    }
}

/// Sessions are not logged, since no other server here logs them.
fn become_wsecho(workers: u32) -> io::Error {
    let config = format!(
        r#"
bind = "127.0.0.1:0"
workers = {workers}

[[endpoint]]
path = "/echo"
prefix = ""

[limits]
max_connections = 12000

[log]
level = "warn"
"#
    );
    let file = Folder::of_parent().0.join("wsecho.toml");
    match fs::write(&file, config) {
        // As its unit does.
        Ok(()) => Command::new(env!("CARGO_BIN_EXE_wsecho"))
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .env("MALLOC_ARENA_MAX", "1")
            .arg("--config")
            .arg(file)
            .exec(),
        Err(error) => error,
    }
}

/// Node's `ws` as its documentation shows it, on the listener that it inherits.
fn become_node(listener: TcpListener) -> io::Error {
    let script = "
        const { createServer } = require('http');
        const { WebSocketServer } = require('ws');
        const http = createServer();
        const server = new WebSocketServer({ server: http, perMessageDeflate: true });
        server.on('connection', (socket) => {
            socket.on('message', (data, binary) => socket.send(data, { binary }));
        });
        http.listen({ fd: Number(process.argv[1]) });";
    // Inherited: without its close-on-exec flag.
    if let Err(error) = fcntl_setfd(&listener, FdFlags::empty()) {
        return error.into();
    }
    let fd = listener.into_raw_fd().to_string();
    Command::new("node").args(["-e", script, &fd]).exec()
}

/// A listener on a free port, after telling the parent its address the way wsecho does.
fn announced_listener() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let state = format!("READY=1\nSTATUS=listening on {}; 0 sessions", listener.local_addr()?);
    UnixDatagram::unbound()?.send_to(state.as_bytes(), Folder::of_parent().notify_socket())?;
    Ok(listener)
}

/// The CPUs of this run.
pub struct Cpus {
    pub server: usize,
    /// For the second worker; shared with the load generator when there is no third CPU.
    pub second: usize,
    pub load: usize,
}

impl Cpus {
    pub fn choose() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut free = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
        let server = free.next().unwrap_or(0);
        let load = free.next().unwrap_or(server);
        Ok(Self { server, load, second: free.next().unwrap_or(load) })
    }
}

/// Pins the calling process to the given CPUs.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets the calling thread run before all others of its CPU.
pub fn at_real_time_priority() -> io::Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let set = Command::new("chrt").args(["--fifo", "--pid", "10", &thread]).output()?;
    if set.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&set.stderr).trim().to_owned();
    Err(io::Error::other(format!("real-time priority needs root: {message}")))
}

/// The folder a server shares with its parent. One server runs at a time.
struct Folder(PathBuf);

impl Folder {
    fn of(benchmark: u32) -> Self {
        Self(env::temp_dir().join(format!("wsecho-bench-{benchmark}")))
    }

    fn of_parent() -> Self {
        Self::of(std::os::unix::process::parent_id())
    }

    fn notify_socket(&self) -> PathBuf {
        self.0.join("notify")
    }
}

/// A running server, killed when dropped.
pub struct Process {
    server: Server,
    instances: Vec<(Child, SocketAddr)>,
    folder: Folder,
    /// Kept open: wsecho goes on reporting its sessions.
    notify: UnixDatagram,
}

impl Process {
    pub fn start(server: Server, cpus: &Cpus) -> io::Result<Self> {
        let folder = Folder::of(std::process::id());
        fs::create_dir_all(&folder.0)?;
        let notify = UnixDatagram::bind(folder.notify_socket())?;
        notify.set_read_timeout(Some(TIME_TO_START))?;

        let (instances, workers) = server.spread();
        let name = server.to_possible_value().expect("no server is hidden");
        let mut process = Self { server, instances: Vec::new(), folder, notify };
        for number in 0..instances {
            let pinned_to = match workers {
                1 => [cpus.server, cpus.second][number % 2].to_string(),
                _ => format!("{},{}", cpus.server, cpus.second),
            };
            let child = Command::new(env::current_exe()?)
                .args(["--serve", name.get_name(), "--cpus", &pinned_to])
                .env("NOTIFY_SOCKET", process.folder.notify_socket())
                .spawn()?;
            // From here on the child is killed whatever happens.
            let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            process.instances.push((child, nowhere));
            process.instances[number].1 = process.wait_until_ready()?;
        }
        Ok(process)
    }

    fn wait_until_ready(&self) -> io::Result<SocketAddr> {
        let (mut ready, mut address) = (false, None);
        let mut datagram = [0; 4096];
        while !ready || address.is_none() {
            let length = self.notify.recv(&mut datagram).map_err(|error| {
                io::Error::new(error.kind(), format!("the server did not become ready: {error}"))
            })?;
            for line in String::from_utf8_lossy(&datagram[..length]).lines() {
                ready |= line == "READY=1";
                if let Some(status) = line.strip_prefix("STATUS=listening on ") {
                    address = status.split([',', ';']).next().and_then(|it| it.parse().ok());
                }
            }
        }
        address.ok_or_else(|| io::Error::other("the server reported no address"))
    }

    pub fn which(&self) -> Server {
        self.server
    }

    /// Where a connection goes: its instances have their turn one after another, since a socket that
    /// they shared would give nearly all connections to one.
    pub fn address(&self, connection: usize) -> SocketAddr {
        self.instances[connection % self.instances.len()].1
    }

    /// The CPU time of all its threads. Exact only while the server sleeps: the kernel accounts for
    /// a running thread late.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut nanoseconds = 0;
        for (child, _) in &self.instances {
            for task in fs::read_dir(format!("/proc/{}/task", child.id()))? {
                let line = fs::read_to_string(task?.path().join("schedstat"))?;
                nanoseconds +=
                    line.split(' ').next().and_then(|word| word.parse::<u64>().ok()).ok_or_else(
                        || io::Error::other(format!("unexpected schedstat: {line:?}")),
                    )?;
            }
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// One of the memory figures of its first process in bytes, such as `Rss:`. (`statm` is cheaper,
    /// but off by a few hundred KiB.)
    pub fn memory(&self, key: &str) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.instances[0].0.id()))?;
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|value| value.trim().strip_suffix(" kB"))
            .and_then(|value| value.trim().parse::<u64>().ok())
            .map(|kibibytes| kibibytes * 1024)
            .ok_or_else(|| io::Error::other(format!("no line {key} in smaps_rollup")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for (child, _) in &mut self.instances {
            // An error means that it is gone already, which is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder.0);
    }
}
