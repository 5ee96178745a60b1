//! The real binary: started with a configuration, its own notification socket and port 0, and used
//! only once it has reported that it is ready.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

/// How long anything may take before a test fails; far longer than it should.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The command, without the environment variables that could change what it does.
pub fn wsecho() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsecho"));
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    // As the unit does.
    command.env("MALLOC_MMAP_THRESHOLD_", "131072").env("MALLOC_ARENA_MAX", "1");
    // Each test names its own configuration.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WSECHO_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// What a command returned and printed.
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Runs a command to completion.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().expect("the binary is built");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn code(&self) -> i32 {
        self.status.code().expect("not killed by a signal")
    }
}

/// A running service, killed with the test.
pub struct Service {
    child: Child,
    notify: UnixDatagram,
    log: Receiver<String>,
    seen: Vec<String>,
    pub dir: TempDir,
    /// What the service listens on, with the actual ports.
    pub addrs: Vec<String>,
}

impl Service {
    /// Starts with this configuration, on `127.0.0.1:0` unless it says otherwise.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, |_| ())
    }

    /// The same, with `change` applied to the command.
    pub fn start_with(config: &str, change: impl FnOnce(&mut Command)) -> Self {
        let (dir, notify, command) = Self::prepare();
        Self::launch(dir, notify, command, config, change)
    }

    fn prepare() -> (TempDir, UnixDatagram, Command) {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("notify");
        let notify = UnixDatagram::bind(&socket).expect("a socket");
        let mut command = wsecho();
        command.env("NOTIFY_SOCKET", socket);
        (dir, notify, command)
    }

    /// Starts with a configuration that refers to files in the service's own folder.
    pub fn start_in(config: impl FnOnce(&Path) -> String) -> Self {
        Self::start_in_with(config, |_| ())
    }

    /// The same, with `change` applied to the command.
    pub fn start_in_with(
        config: impl FnOnce(&Path) -> String,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let (dir, notify, command) = Self::prepare();
        let config = config(dir.path());
        Self::launch(dir, notify, command, &config, change)
    }

    /// Starts with an admin listener, for [`Service::admin`] and [`Service::metric`].
    pub fn start_with_admin(config: &str, change: impl FnOnce(&mut Command)) -> Self {
        let with_admin = |dir: &Path| {
            let admin = dir.join("admin.sock");
            format!("bind = \"127.0.0.1:0\"\nadmin.bind = \"unix:{}\"\n{config}", admin.display())
        };
        Self::start_in_with(with_admin, change)
    }

    /// Starts with an abstract notification socket.
    pub fn start_abstract(name: &str) -> Self {
        use std::os::linux::net::SocketAddrExt;
        let addr = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a short name");
        let notify = UnixDatagram::bind_addr(&addr).expect("a free name");
        let mut command = wsecho();
        command.env("NOTIFY_SOCKET", format!("@{name}"));
        Self::launch(tempfile::tempdir().expect("a folder"), notify, command, "", |_| ())
    }

    fn launch(
        dir: TempDir,
        notify: UnixDatagram,
        mut command: Command,
        config: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        notify.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let path = dir.path().join("wsecho.toml");
        let bind = if config.contains("bind") { "" } else { "bind = \"127.0.0.1:0\"\n" };
        std::fs::write(&path, format!("{bind}{config}")).expect("a file");
        command.arg("--config").arg(&path).stdout(Stdio::null()).stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().expect("the binary is built");
        let (tell, log) = channel();
        if let Some(stderr) = child.stderr.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if tell.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let mut service = Self { child, notify, log, seen: Vec::new(), dir, addrs: Vec::new() };
        let ready = service.state();
        assert!(ready.starts_with("READY=1\n"), "{ready}");
        let listed = ready.split_once("listening on ").and_then(|(_, rest)| rest.split_once("; "));
        let (addrs, _) = listed.unwrap_or_else(|| panic!("no address in {ready}"));
        service.addrs = addrs.split(", ").map(str::to_owned).collect();
        service
    }

    /// The next datagram to the service manager.
    pub fn state(&self) -> String {
        self.receive().expect("a notification in time")
    }

    /// The next datagram to the service manager, if one comes within this time.
    pub fn state_within(&self, time: Duration) -> Option<String> {
        self.notify.set_read_timeout(Some(time)).expect("a timeout");
        let received = self.receive();
        self.notify.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        received.ok()
    }

    fn receive(&self) -> std::io::Result<String> {
        let mut buffer = [0; 4096];
        loop {
            match self.notify.recv(&mut buffer) {
                // A receive with a timeout is not resumed after SIGCONT, signal(7).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => {
                    let text = |length| String::from_utf8_lossy(&buffer[..length]).into_owned();
                    return received.map(text);
                }
            }
        }
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("wsecho.toml")
    }

    /// Replaces the configuration, except for the address.
    pub fn rewrite(&self, config: &str) {
        let text = format!("bind = \"127.0.0.1:0\"\n{config}");
        std::fs::write(self.config_path(), text).expect("a file");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.process(), signal).expect("it runs");
    }

    /// Reloads, and returns what the service manager was told.
    pub fn reload(&self) -> [String; 2] {
        self.signal(Signal::HUP);
        // A status update may come in between.
        ["RELOADING=1\n", "READY=1\n"].map(|due| {
            loop {
                let state = self.state();
                if state.starts_with(due) {
                    return state;
                }
            }
        })
    }

    /// The value of a metric, its name including labels, from the admin listener: 0 if it was never
    /// counted.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.admin("/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.trim_end().parse().expect("a whole number"))
    }

    /// Connects to the admin listener.
    pub fn connect_admin(&self) -> UnixStream {
        connect_unix(&self.dir.path().join("admin.sock"))
    }

    /// Sends a GET to the admin listener, `admin.sock` in the service's folder.
    pub fn admin(&self, path: &str) -> String {
        let mut stream = self.connect_admin();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// Waits for a log line that contains this text.
    pub fn log_line(&mut self, text: &str) -> String {
        if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        loop {
            let Ok(line) = self.log.recv_timeout(PATIENCE) else {
                panic!("no line with {text:?} in:\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Forgets the lines seen so far, so that they are not found again.
    pub fn forget_log(&mut self) {
        self.seen.clear();
    }

    /// Waits for the exit, and returns the exit code and the whole log.
    pub fn wait(mut self) -> (i32, String) {
        let begun = tokio::time::Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(begun.elapsed() < 2 * PATIENCE, "the service does not exit");
            std::thread::sleep(Duration::from_millis(2));
        };
        while let Ok(line) = self.log.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        (status.code().expect("not killed by a signal"), self.seen.join("\n"))
    }

    /// Asks it to stop, and waits for the exit.
    pub fn stop(self) -> (i32, String) {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub fn connect(&self) -> TcpStream {
        let addr = self.addrs[0].parse().expect("a TCP address");
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Opens a WebSocket on the first address; its session is running when this returns.
    pub fn open(&self, path: &str) -> WebSocket<TcpStream> {
        let mut socket = upgrade(self.connect(), path);
        socket.send(Message::Ping("are you there?".into())).expect("it reads");
        assert!(matches!(socket.read().expect("it answers"), Message::Pong(_)));
        socket
    }

    /// Sends a request and reads until the connection is closed.
    pub fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // In many tests it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens a WebSocket on a connected stream.
pub fn upgrade<S: Read + Write + std::fmt::Debug + 'static>(stream: S, path: &str) -> WebSocket<S> {
    let url = format!("ws://wsecho.example{path}");
    match tokio_tungstenite::tungstenite::client(url, stream) {
        Ok((socket, _)) => socket,
        Err(error) => panic!("{error}"),
    }
}

/// Connects to a Unix socket.
pub fn connect_unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Sends one text and returns its echo.
pub fn echo<S: Read + Write>(socket: &mut WebSocket<S>, text: &str) -> String {
    socket.send(text.into()).expect("it reads");
    socket.read().expect("it answers").into_text().expect("text").to_string()
}
