"""Drives the command-line client `websocat` as users do: with lines through pipes.

    websocat_client.py WEBSOCAT ws://HOST:PORT PID

On the first difference it exits with 1 and a line that names it. Empty messages are left out,
because websocat takes them for the end of the input.
"""

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO

LIMIT = 1 << 20
# Per run of websocat; each takes milliseconds, except the one that waits for pings.
STEP_LIMIT = 30

LINES = [
    "Hello world",
    "Gr\u00fc\u00dfe, \u4e16\u754c, \U0001f980",
    *("x" * length for length in (117, 118, 125, 126, 65527, 65528, 65535, 65536)),
    "\u20ac" * 30_000,
]
BINARIES = [bytes(range(256)), *(b"\xff" * length for length in (1, 125, 126, 65535, 65536, LIMIT))]


class Difference(Exception):
    """Something is not as expected."""


def expect(what: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise Difference(f"{what}: got {actual!r:.120}, expected {expected!r:.120}")


def write(pipe: IO[bytes], feed: bytes) -> None:
    """Writes to a program that may have exited already: its output and exit code say why."""
    with contextlib.suppress(BrokenPipeError):
        pipe.write(feed)
        pipe.flush()


def websocat(*args: str, feed: bytes, expected: int) -> tuple[bytes, str]:
    """Runs websocat until it has printed the expected number of bytes; returns its output and log.

    Its input is closed only then, because websocat stops reading from the socket at end of input.
    """
    with subprocess.Popen(
        [PROGRAM, "--buffer-size", str(2 * LIMIT), *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        # A signal, because the pipes below block.
        signal.signal(signal.SIGALRM, lambda *_: process.kill())
        signal.alarm(STEP_LIMIT)
        assert process.stdin and process.stdout and process.stderr
        # In a thread, because the first echoes arrive while later messages are still being written.
        writer = threading.Thread(target=write, args=(process.stdin, feed))
        writer.start()
        output = process.stdout.read(expected)
        writer.join()
        process.stdin.close()
        output += process.stdout.read()
        errors = process.stderr.read().decode()
        code = process.wait()
        signal.alarm(0)
    if code != 0:
        raise Difference(f"exit code {code}, {len(output)} bytes received; websocat says: {errors!r}")
    return output, errors


def lines(path: str, prefix: str) -> None:
    """Text: each line is a message."""
    longest = "y" * (LIMIT - len(prefix) - 1)
    sent = [line + "\n" for line in (*LINES, longest)]
    replies = [prefix + line for line in sent]
    feed, reply = ("".join(part).encode() for part in (sent, replies))
    output, _ = websocat("--text", BASE + path, feed=feed, expected=len(reply))
    for number, line in enumerate(replies):
        actual = output.decode().splitlines(keepends=True)[number]
        expect(f"{path}: echo of line {number}", actual, line)
    expect(f"{path}: length of all echoes", len(output), len(reply))


def binaries(path: str) -> None:
    """Binary: each message is prefixed with its length, to keep the boundaries."""
    feed = b"".join(struct.pack("!I", len(message)) + message for message in BINARIES)
    args = ("--binary", "lengthprefixed:stdio:", BASE + path)
    output, _ = websocat(*args, feed=feed, expected=len(feed))
    rest = output
    for message in BINARIES:
        (length,) = struct.unpack_from("!I", rest)
        expect(f"{path}: length of the echo of {len(message)} bytes", length, len(message))
        expect(f"{path}: echo of {len(message)} bytes", rest[4 : 4 + length], message)
        rest = rest[4 + length :]
    expect(f"{path}: what follows the last echo", rest, b"")


def close_code() -> None:
    """The service answers a Close frame with its code and reason; websocat's log shows that."""
    args = ("-vv", "--close-status-code", "4000", "--close-reason", "bye", f"{BASE}/socket")
    _, log = websocat(*args, feed=b"hello\n", expected=len(b"server: hello\n"))
    if 'status_code: 4000, reason: "bye"' not in log:
        raise Difference(f"Close 4000 with its reason did not come back: {log[-500:]!r}")


def pings_and_sigterm() -> None:
    """Pings are answered for as long as the session lives; SIGTERM to the service ends it."""
    pings = ["--ping-interval", "1", "--ping-timeout", "5", "--print-ping-rtts"]
    args = ["-vv", "--exit-on-eof", *pings, f"{BASE}/socket"]
    with subprocess.Popen(
        [PROGRAM, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        signal.signal(signal.SIGALRM, lambda *_: process.kill())
        signal.alarm(STEP_LIMIT)
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("hello\n")
        process.stdin.flush()
        expect("echo", process.stdout.readline(), "server: hello\n")
        if not any(line.startswith("RTT ") for line in process.stderr):
            raise Difference(f"no pong within {STEP_LIMIT} s")
        os.kill(PID, signal.SIGTERM)
        expect("what follows SIGTERM to the service", process.stdout.read(), "")
        log = process.stderr.read()
        if "status_code: 1001" not in log:
            raise Difference(f"no Close with 1001 after SIGTERM: {log[-500:]!r}")
        process.stdin.close()
        process.wait()
        signal.alarm(0)


def main() -> None:
    steps: list[tuple[str, Callable[[], None]]] = [
        ("lines through /socket", lambda: lines("/socket", "server: ")),
        ("lines through /echo", lambda: lines("/echo", "")),
        ("binary messages through /socket", lambda: binaries("/socket")),
        ("binary messages through /echo", lambda: binaries("/echo")),
        ("a close code", close_code),
        ("pings, and SIGTERM to the service", pings_and_sigterm),
    ]
    for name, step in steps:
        try:
            step()
        except (Difference, OSError, struct.error, IndexError) as error:
            sys.exit(f"websocat_client.py: {name}: {error}")
        print(f"ok: {name}")


PROGRAM, BASE, PID = sys.argv[1], sys.argv[2], int(sys.argv[3])
main()
