"""Uses a service until each of its metrics has a sample, and prints them.

    exercise.py ws://127.0.0.1:PORT PID ADMIN_SOCKET
"""

import os
import signal
import socket
import sys
import time

HANDSHAKE = b"""GET /echo HTTP/1.1\r
Host: localhost\r
Upgrade: websocket\r
Connection: Upgrade\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
\r
"""
# Masked with zeros: "hi", and a Close without a code.
HI = b"\x81\x82\0\0\0\0hi"
CLOSE = b"\x88\x80\0\0\0\0"
# Metrics with labels, whose samples appear once something has been counted.
FAMILIES = [
    "wsecho_handshakes_refused_total{",
    "wsecho_proxy_faults_total{",
    "wsecho_log_suppressed_total{",
    "wsecho_sessions_ended_total{",
    "wsecho_config_reloads_total{",
]
PATIENCE = 20.0


def exchange(stream: socket.socket, request: bytes) -> bytes:
    """Sends a request and reads until the connection ends."""
    with stream:
        stream.settimeout(PATIENCE)
        stream.sendall(request)
        answer = b""
        while received := stream.recv(65536):
            answer += received
        return answer


def metrics(admin: str) -> str:
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(admin)
    head, _, body = exchange(stream, b"GET /metrics HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") and not head.startswith(b"HTTP/1.0 200 "):
        sys.exit(f"exercise.py: /metrics answers {head!r}")
    return body.decode()


def main() -> None:
    url, pid, admin = sys.argv[1:]
    host, port = url.removeprefix("ws://").split(":")
    address = (host, int(port))
    echoed = exchange(socket.create_connection(address), HANDSHAKE + HI + CLOSE)
    if not echoed.endswith(b"\x81\x02hi\x88\x00"):
        sys.exit(f"exercise.py: no echo and no Close in {echoed!r}")
    # What a proxy leaves of a handshake; the second one is not logged.
    broken = HANDSHAKE.replace(b"Upgrade: websocket", b"X-Forwarded-For: 192.0.2.1")
    for _ in range(2):
        exchange(socket.create_connection(address), broken)
    os.kill(int(pid), signal.SIGHUP)
    end = time.monotonic() + PATIENCE
    while any(family not in (text := metrics(admin)) for family in FAMILIES):
        if time.monotonic() > end:
            missing = [family for family in FAMILIES if family not in text]
            sys.exit(f"exercise.py: nothing is counted as {missing} in:\n{text}")
        time.sleep(0.05)
    print(text, end="")


main()
