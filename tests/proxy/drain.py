"""Streams numbered messages through nginx while the service is being stopped.

Every client's echoes must be an exact prefix of what it sent; the last frame must be a Close with
1001, and the connection must end with a FIN.
"""

import asyncio
import os
import signal
import struct
import sys

from proxies import PLAIN, running, snippet, wsecho

CLIENTS = 100
# The service is stopped once every client has received this many echoes.
WARM = 20
# For the whole test; the service's drain_timeout is 30 s.
LIMIT = 60.0
CONTINUATION, TEXT, CLOSE, PING, PONG = 0, 1, 8, 9, 10
FIN = 0x80

REQUEST = (
    b"GET /echo HTTP/1.1\r\nHost: echo.example.com\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)


def message(number: int) -> bytes:
    """Mostly small, sometimes so large that its echo is fragmented."""
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
    """One stream of messages, sent as fast as possible."""

    def __init__(self) -> None:
        self.sent = 0
        self.echoed = 0
        self.warm = asyncio.Event()
        self.closed = False

    async def run(self) -> None:
        reader, self.writer = await asyncio.open_connection("127.0.0.1", PLAIN)
        self.writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        sending = asyncio.create_task(self.send())
        code = await self.receive(reader)
        assert code == 1001, f"the Close code is {code}"
        self.closed = True
        await sending
        self.writer.write(frame(CLOSE, struct.pack("!H", code)))
        rest = await reader.read()
        assert rest == b"", f"{len(rest)} bytes after the Close"
        self.writer.close()

    async def send(self) -> None:
        while not self.closed:
            self.writer.write(frame(TEXT, message(self.sent)))
            self.sent += 1
            await self.writer.drain()
            # Let other tasks run even if drain() never waits.
            await asyncio.sleep(0)

    async def receive(self, reader: asyncio.StreamReader) -> int:
        """Checks every echo against what was sent, and returns the code of the Close."""
        parts: list[bytes] = []
        while True:
            final, opcode, payload = await read_frame(reader)
            if opcode == CLOSE:
                assert not parts, "the Close interrupts a message"
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


async def stream(pid: int) -> list[Client]:
    """Lets all clients stream, stops the service, and returns the clients once all ended cleanly."""
    clients = [Client() for _ in range(CLIENTS)]
    streams = [asyncio.create_task(client.run()) for client in clients]
    warm = asyncio.gather(*(client.warm.wait() for client in clients))
    # Whichever comes first: all clients are warm, or one has failed.
    await asyncio.wait([*streams, warm], return_when=asyncio.FIRST_COMPLETED)
    warm.cancel()
    os.kill(pid, signal.SIGTERM)
    results = await asyncio.gather(*streams, return_exceptions=True)
    failures = [repr(result) for result in results if result is not None]
    if failures:
        sys.exit("\n".join(f"drain.py: {failure}" for failure in failures))
    return clients


def main() -> None:
    with wsecho() as started, running("nginx", snippet("nginx", started.config)):
        clients = asyncio.run(asyncio.wait_for(stream(started.process.pid), LIMIT))
    echoed, sent = (sum(getattr(it, name) for it in clients) for name in ("echoed", "sent"))
    print(f"{CLIENTS} clients: {echoed} echoes of {sent} messages, each closed with 1001 and a FIN")


main()
