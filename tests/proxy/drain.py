"""Streams numbered messages through nginx while the service is told to stop.

    drain.py ws://127.0.0.1:PORT PID

Every client's echoes must be an exact prefix of what it sent, the last frame a Close with 1001,
and the end of the connection a FIN.
"""

import asyncio
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

CLIENTS = 100
# Every client has had so many echoes when the service is told to stop.
WARM = 20
# For everything; the service's own drain_timeout is 30 s.
LIMIT = 60.0
CONTINUATION, TEXT, CLOSE, PING, PONG = 0, 1, 8, 9, 10
FIN = 0x80

NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen unix:{folder}/socket;
        location / {{
            proxy_pass {backend};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }}
    }}
}}
"""

REQUEST = (
    b"GET /echo HTTP/1.1\r\nHost: wsecho.example\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)


@asynccontextmanager
async def nginx(backend: str) -> AsyncIterator[str]:
    """Runs nginx before the backend, and yields the path of its socket."""
    with tempfile.TemporaryDirectory(prefix="wsecho-nginx-") as folder:
        config, path = Path(folder, "nginx.conf"), f"{folder}/socket"
        config.write_text(NGINX.format(folder=folder, backend=backend))
        process = subprocess.Popen(["nginx", "-p", folder, "-e", "stderr", "-c", str(config)])
        try:
            while True:
                if process.poll() is not None:
                    sys.exit(f"drain.py: nginx ended with exit code {process.returncode}")
                try:
                    _, writer = await asyncio.open_unix_connection(path)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                break
            yield path
        finally:
            process.terminate()
            process.wait()


def message(number: int) -> bytes:
    """Mostly small, now and then so large that its echo comes in fragments."""
    return b"%d " % number + b"x" * (100_000 if number % 10 == 9 else number % 50)


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame; its mask is all zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + struct.pack("!H", size)
    else:
        length = b"\xff" + struct.pack("!Q", size)
    return bytes([FIN | opcode]) + length + bytes(4) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[bool, int, bytes]:
    """Whether it is final, its opcode, its payload."""
    first, size = await reader.readexactly(2)
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return first & FIN != 0, first & 15, await reader.readexactly(size)


class Client:
    """One stream of messages, sent as fast as they are taken."""

    def __init__(self) -> None:
        self.sent = 0
        self.echoed = 0
        self.warm = asyncio.Event()
        self.closed = False

    async def run(self, path: str) -> None:
        reader, self.writer = await asyncio.open_unix_connection(path)
        self.writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        sending = asyncio.create_task(self.send())
        code = await self.receive(reader)
        assert code == 1001, f"the Close has {code}"
        self.closed = True
        await sending
        self.writer.write(frame(CLOSE, struct.pack("!H", code)))
        rest = await reader.read()
        assert rest == b"", f"{len(rest)} bytes behind the Close"
        self.writer.close()

    async def send(self) -> None:
        while not self.closed:
            self.writer.write(frame(TEXT, message(self.sent)))
            self.sent += 1
            await self.writer.drain()
            # Others have their turn even if all is taken at once.
            await asyncio.sleep(0)

    async def receive(self, reader: asyncio.StreamReader) -> int:
        """Checks every echo against what was sent, and returns the code of the Close."""
        parts: list[bytes] = []
        while True:
            final, opcode, payload = await read_frame(reader)
            if opcode == CLOSE:
                assert not parts, "the Close cuts a message"
                return int.from_bytes(payload[:2], "big")
            assert opcode == (CONTINUATION if parts else TEXT), f"opcode {opcode}"
            parts.append(payload)
            if final:
                assert b"".join(parts) == message(self.echoed), f"echo {self.echoed} is wrong"
                assert self.echoed < self.sent
                parts.clear()
                self.echoed += 1
                if self.echoed == WARM:
                    self.warm.set()


async def main(url: str, pid: int) -> None:
    async with nginx(url.replace("ws://", "http://")) as path:
        clients = [Client() for _ in range(CLIENTS)]
        running = [asyncio.create_task(client.run(path)) for client in clients]
        warm = asyncio.gather(*(client.warm.wait() for client in clients))
        # Whichever comes first: all are warm, or one has failed.
        await asyncio.wait([*running, warm], return_when=asyncio.FIRST_COMPLETED)
        warm.cancel()
        os.kill(pid, signal.SIGTERM)
        results = await asyncio.gather(*running, return_exceptions=True)
    failures = [repr(result) for result in results if result is not None]
    if failures:
        sys.exit("\n".join(f"drain.py: {failure}" for failure in failures))
    echoed, sent = (sum(getattr(it, name) for it in clients) for name in ("echoed", "sent"))
    print(f"{CLIENTS} clients: {echoed} echoes of {sent} messages, each closed with 1001 and a FIN")


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(sys.argv[1], int(sys.argv[2])), LIMIT))
