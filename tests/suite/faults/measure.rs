//! What a service costs: memory, CPU time, descriptors, and the kernel's share.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::Socket;
use tokio::time::Instant;

use crate::proc;
use crate::service::{PATIENCE, Service};

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * KIB;

/// Polls until a condition holds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "timed out: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Tells threads to stop, even if the test fails.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The resident memory that the process has written to. Pages of the executable, which come and go
/// with what runs, do not count.
pub fn memory(service: &Service) -> usize {
    proc::bytes(service.pid(), "smaps_rollup", "Anonymous").expect("it runs")
}

/// Waits until memory is at most this much above `before`.
pub fn assert_memory_returns(service: &Service, before: usize, slack: usize) {
    let begun = Instant::now();
    loop {
        let over = memory(service).saturating_sub(before);
        if over <= slack {
            return;
        }
        assert!(begun.elapsed() < PATIENCE / 4, "{over} bytes were not given back");
        sleep(Duration::from_millis(10));
    }
}

/// The peak of memory since this was created.
pub struct Peak<'a> {
    service: &'a Service,
    before: usize,
}

impl<'a> Peak<'a> {
    pub fn new(service: &'a Service) -> Self {
        // proc(5): 5 resets the peak to the current size.
        fs::write(format!("/proc/{}/clear_refs", service.pid()), "5").expect("our own child");
        Self { service, before: proc::bytes(service.pid(), "status", "VmRSS").expect("it runs") }
    }

    /// How far the peak was above the memory at the start. The kernel counts in batches per core,
    /// so this may be off by half a megabyte.
    pub fn growth(&self) -> usize {
        let peak = proc::bytes(self.service.pid(), "status", "VmHWM").expect("it runs");
        peak.saturating_sub(self.before)
    }
}

/// The CPU time of all threads, in steps of 10 ms.
pub fn cpu(service: &Service) -> Duration {
    proc::cpu(service.pid()).expect("it runs")
}

/// The number of open descriptors.
pub fn descriptors(service: &Service) -> usize {
    proc::descriptors(service.pid()).expect("it runs")
}

/// The server's end of a connection, to read its socket options.
pub fn server_side(service: &Service, client: SocketAddr) -> Socket {
    let process = pidfd_open(service.process(), PidfdFlags::empty()).expect("our own child");
    for entry in fs::read_dir(format!("/proc/{}/fd", service.pid())).expect("our own child") {
        let number = entry.unwrap().file_name().to_string_lossy().parse().expect("a number");
        // It may have been closed by now.
        let copy = pidfd_getfd(&process, number, PidfdGetfdFlags::empty());
        let Ok(socket) = copy.map(|fd: OwnedFd| Socket::from(fd)) else { continue };
        if socket.peer_addr().is_ok_and(|peer| peer.as_socket() == Some(client)) {
            return socket;
        }
    }
    panic!("{client} is not connected to the service");
}

/// Bytes in flight from clients that the service has not read yet.
pub fn unread(service: &Service) -> usize {
    let port = service.addrs[0].rsplit_once(':').expect("an address").1;
    let port = format!(":{:04X}", port.parse::<u16>().expect("a port"));
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
    let queues = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let [local, remote, state, queues] = std::array::from_fn(|_| fields.next());
        let (sending, receiving) = queues?.split_once(':')?;
        // In state 0A, listening, the queues count connections.
        let queue = match (local?.ends_with(&port), remote?.ends_with(&port)) {
            (true, _) if state != Some("0A") => receiving,
            (false, true) => sending,
            _ => return None,
        };
        usize::from_str_radix(queue, 16).ok()
    });
    queues.sum()
}

/// What the kernel holds for the server's end of one connection, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelMemory {
    pub receiving: usize,
    pub sending: usize,
}

/// The kernel's memory for each connection, by the client's port; `None` without `ss`.
pub fn kernel_memory(service: &Service) -> Option<HashMap<u16, KernelMemory>> {
    let port = service.addrs[0].rsplit_once(':').expect("an address").1;
    let output = Command::new("ss").args(["-tmnHO", "sport", "=", &format!(":{port}")]).output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: `ss` (Debian: iproute2) is needed for the kernel's memory");
        return None;
    };
    let text = String::from_utf8(output.stdout).expect("ASCII");
    // ss(8): r is memory for data received and not read, w for data to be sent, with overhead.
    let figure = |line: &str, name: char| {
        let list = line.split_once("skmem:(")?.1;
        list.split([',', ')']).find_map(|it| it.strip_prefix(name)?.parse::<usize>().ok())
    };
    let per_line = text.lines().filter_map(|line| {
        let client = line.split_whitespace().nth(4)?.rsplit_once(':')?.1.parse().ok()?;
        let (receiving, sending) = (figure(line, 'r')?, figure(line, 'w')?);
        Some((client, KernelMemory { receiving, sending }))
    });
    Some(per_line.collect())
}
