#!/usr/bin/env python3
"""Runs the wsecho binary for one test command, the way systemd would run it.

    tests/service.py [--bind ADDR] [--set 'KEY = VALUE']... -- COMMAND ARG...

The service listens on a port chosen by the kernel, or on ADDR; in COMMAND, `{url}` becomes its
ws://127.0.0.1:PORT, `{pid}` its process ID and `{config}` its configuration file. COMMAND runs once
the service has sent READY=1.

The exit code is 0 if COMMAND succeeded and the service behaved: it must exit with 0 on SIGTERM
(which COMMAND may have sent already), and peers alone must never make it log anything above info.
Otherwise the exit code is 1, and the end of the service's log is shown.
"""

import argparse
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The kernel chooses the port.
ANY_PORT = "127.0.0.1:0"
READY_LIMIT = 30.0
# The service may use all of its drain_timeout, which is 30 s.
STOP_LIMIT = 40.0
LOG_SHOWN = 20
CALM = {"INFO", "DEBUG", "TRACE"}


class ServiceError(Exception):
    """The service broke a rule that holds in every test."""


@dataclass
class Service:
    """A running service that is ready."""

    process: subprocess.Popen[bytes]
    url: str
    config: Path
    log: Path

    def records(self) -> list[dict[str, Any]]:
        """The log records so far."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]


def binary() -> str:
    """The binary under test: WSECHO_BINARY, or this tree's release build."""
    root = Path(__file__).resolve().parent.parent
    target = root / os.environ.get("CARGO_TARGET_DIR", "target")
    return os.environ.get("WSECHO_BINARY") or str(target / "release" / "wsecho")


def environment(notify: Path) -> dict[str, str]:
    """The service's environment; it would warn of a WSECHO_ variable that is none of its keys."""
    kept = {name: value for name, value in os.environ.items() if name != "WSECHO_BINARY"}
    return {**kept, "NOTIFY_SOCKET": str(notify)}


@contextmanager
def running(settings: list[str], bind: str = ANY_PORT) -> Iterator[Service]:
    """Starts the service, and checks how it ends unless the body has failed already."""
    with tempfile.TemporaryDirectory(prefix="wsecho-test-") as folder:
        config, log, notify = (Path(folder, name) for name in ("wsecho.toml", "log", "notify"))
        lines = [f'bind = "{bind}"', 'log.format = "json"', *settings]
        config.write_text("\n".join(lines) + "\n")
        process = None
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as status, log.open("wb") as err:
                status.bind(str(notify))
                process = subprocess.Popen(
                    [binary(), "--config", str(config)],
                    env=environment(notify),
                    stdin=subprocess.DEVNULL,
                    stderr=err,
                )
                # The socket stays open: the service reports its status until it ends.
                yield Service(process, wait_until_ready(process, status), config, log)
                stop(process)
            check_log(log.read_text())
        except BaseException:
            if log.exists():
                last = log.read_text().splitlines()[-LOG_SHOWN:]
                print("--- the end of the service's log", *last, "---", sep="\n", file=sys.stderr)
            raise
        finally:
            if process and process.poll() is None:
                process.kill()
                process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], status: socket.socket) -> str:
    """Waits for READY=1 and returns the URL that belongs to the address in STATUS."""
    # Whichever comes first: a datagram, or the exit of a service that could not start.
    ended = os.pidfd_open(process.pid)
    try:
        readable, _, _ = select.select([status.fileno(), ended], [], [], READY_LIMIT)
    finally:
        os.close(ended)
    if status.fileno() not in readable:
        why = f"exited with code {process.poll()}" if readable else "sent nothing"
        raise ServiceError(f"the service {why} before READY=1")
    told = status.recv(4096).decode()
    found = re.search(r"^STATUS=listening on (\S+); 0 sessions$", told, re.MULTILINE)
    if not found or "READY=1" not in told.splitlines():
        raise ServiceError(f"the first notification is {told!r}, not READY=1 with an address")
    return f"ws://{found[1]}"


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stops the service with SIGTERM, unless the test has done so, and checks its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        raise ServiceError(f"the service is still running {STOP_LIMIT:.0f} s after SIGTERM") from None
    if code != 0:
        raise ServiceError(f"the service exited with code {code}, not 0")


def check_log(log: str) -> None:
    """Checks that every line is a JSON record, and none is above info."""
    for line in log.splitlines():
        try:
            level = json.loads(line)["level"]
        except (ValueError, KeyError, TypeError):
            raise ServiceError(f"not a JSON log record with a level: {line!r}") from None
        if level not in CALM:
            raise ServiceError(f"a peer made the service log above info: {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs a command against its own service.")
    parser.add_argument("--bind", default=ANY_PORT, help="where to listen")
    parser.add_argument("--set", action="append", default=[], help="a line for the configuration")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    if not os.access(binary(), os.X_OK):
        sys.exit(f"service.py: {binary()} does not exist: run cargo build --release")
    try:
        with running(args.set, args.bind) as service:
            known = {
                "{url}": service.url,
                "{pid}": str(service.process.pid),
                "{config}": str(service.config),
            }
            command = args.command
            for name, value in known.items():
                command = [word.replace(name, value) for word in command]
            code = subprocess.call(command, stdin=subprocess.DEVNULL)
            if code != 0:
                raise ServiceError(f"{command[0]} exited with code {code}")
    except ServiceError as error:
        print(f"service.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
