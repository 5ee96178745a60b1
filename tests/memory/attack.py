#!/usr/bin/env python3
"""Floods the service by turns while its buffer budget is used up, in a memory cgroup of 1 GiB.

The sum in docs/operations.md, "Limits and memory", is what the process may take at its defaults. This
takes all it can get: sessions that never read what they are owed use up the budget, and beside them
every other connection leaves a request head unfinished, five times over, with 1, 4 and 16 workers. The
service has to stay below the sum, serve small handshakes throughout, and end as it should.
"""

import os
import re
import resource
import socket
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from service import running  # noqa: E402

CONNECTIONS = 9_700
HOLDERS = 600
HEAD = b"GET /echo HTTP/1.1\r\nX: ".ljust(15_900, b"x")
HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# A binary frame of 1 MiB, masked with zeros.
MESSAGE = b"\x82\xff" + (1 << 20).to_bytes(8, "big") + bytes(4) + bytes(1 << 20)
MIB = 1 << 20


def documented() -> int:
    """The sum of the table, in bytes."""
    page = (ROOT / "docs/operations.md").read_text()
    total = re.search(r"\*\*total\*\*, every connection.*\*\*(\d+) MiB\*\*", page)
    assert total, "the table has a total"
    return int(total[1]) * MIB


def environment() -> dict[str, str]:
    """What the unit sets for the allocator."""
    unit = (ROOT / "systemd/wsecho.service").read_text()
    return dict(re.findall(r"^Environment=(MALLOC_\w+)=(\w+)$", unit, re.MULTILINE))


@contextmanager
def cgroup(pid: int, limit: int):
    """Moves the process into a memory cgroup with this limit; says so if there is none."""
    base = Path("/sys/fs/cgroup/memory")
    name, file = ("wsecho-attack", "memory.limit_in_bytes")
    if not base.is_dir():
        base, file = Path("/sys/fs/cgroup"), "memory.max"
    group = base / name
    try:
        group.mkdir(exist_ok=True)
        (group / file).write_text(str(limit))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        print(f"no memory cgroup here ({error}): the peak alone is judged")
        group = None
    try:
        yield
    finally:
        if group:
            (base / "cgroup.procs").write_text(str(pid))
            group.rmdir()


def memory(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def connect(port: int, number: int) -> socket.socket:
    client = socket.socket()
    # An address has some 28,000 ports for one destination.
    client.bind((f"127.0.0.{2 + number % 5}", 0))
    client.connect(("127.0.0.1", port))
    return client


def holder(port: int, number: int) -> socket.socket:
    """A session that is owed a message and never reads it."""
    client = connect(port, number)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.sendall(HANDSHAKE)
    assert client.recv(4096).startswith(b"HTTP/1.1 101"), "a small handshake is always served"
    client.setblocking(False)
    return client


def attack(workers: int) -> None:
    port = 20_000 + os.getpid() % 10_000
    settings = [f"workers = {workers}", 'timeouts.handshake = "20s"', 'timeouts.write = "1h"']
    os.environ.update(environment())
    with running(settings, f"127.0.0.1:{port}") as service, cgroup(service.process.pid, 1 << 30):
        pid = service.process.pid
        holders = [holder(port, number) for number in range(HOLDERS)]
        sent = [0] * HOLDERS
        for _ in range(3):
            for index, client in enumerate(holders):
                try:
                    while sent[index] < len(MESSAGE):
                        sent[index] += client.send(MESSAGE[sent[index] :])
                except BlockingIOError:
                    pass
            time.sleep(0.2)
        held = memory(pid, "VmRSS")
        for flood in range(5):
            heads = [connect(port, number) for number in range(CONNECTIONS - HOLDERS - 1)]
            for at in range(0, len(HEAD), 700):
                for client in heads:
                    client.setblocking(False)
                    try:
                        client.send(HEAD[at : at + 700])
                    except BlockingIOError:
                        pass
            holder(port, flood).close()
            print(
                f"workers {workers}, flood {flood + 1}: resident {memory(pid, 'VmRSS') // MIB} MiB,"
                f" {held // MIB} MiB before the floods",
                flush=True,
            )
            for client in heads:
                client.close()
            # What has ended is dropped before the next flood is admitted.
            while len(os.listdir(f"/proc/{pid}/fd")) > HOLDERS + 100:
                time.sleep(0.1)
        peak = memory(pid, "VmHWM")
        print(f"workers {workers}: peak {peak // MIB} MiB of {documented() // MIB}", flush=True)
        assert peak <= documented(), "more than docs/operations.md promises"
        for client in holders:
            client.close()


def main() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if limit < CONNECTIONS + 500:
        print(f"SKIPPED: {limit} descriptors are too few")
        sys.exit(77)
    for workers in (1, 4, 16):
        attack(workers)


if __name__ == "__main__":
    main()
