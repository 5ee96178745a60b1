"""A proxy with one fault: what it does to WebSockets that pass through it.

Plain requests pass unharmed, unless the fault says otherwise.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

# How long the faults that wait, wait.
CUT_AFTER = 3.0
SLOW = 0.15


class Path:
    """One connection through the proxy."""

    def __init__(self, fault: str, client: tuple, server: tuple, head: bytes) -> None:
        self.fault = fault
        self.client, self.server = client, server
        # Compressed text would have to be inflated first.
        self.head = uncompressed(head) if fault == "alters text" else head
        self.silent = b"ping=off" in head.partition(b"\r\n")[0]

    async def run(self) -> None:
        self.server[1].write(self.head)
        answer = await self.server[0].readuntil(b"\r\n\r\n")
        if self.fault == "drops the 101":
            return
        if self.fault == "swallows the 101":
            await self.client[0].read()
            return
        self.client[1].write(answer)
        limits = {"cuts all": True, "cuts the busy": not self.silent}
        limit = CUT_AFTER if limits.get(self.fault) else None
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await first(self.pass_on(), self.pass_back())

    async def pass_on(self) -> None:
        """From client to server."""
        while data := await self.client[0].read(65536):
            if self.fault == "cuts at the first message":
                return
            if self.fault == "holds messages" or (self.fault == "forgets" and self.silent):
                continue
            if self.fault == "is slow":
                await asyncio.sleep(SLOW)
            self.server[1].write(data)

    async def pass_back(self) -> None:
        """From server to client."""
        while data := await self.server[0].read(65536):
            if self.fault == "alters text":
                data = data.replace(b"world", b"World")
            if self.fault == "is slow":
                await asyncio.sleep(SLOW)
            self.client[1].write(data)


def uncompressed(head: bytes) -> bytes:
    """The head without an offer of compression."""
    lines = head.split(b"\r\n")
    return b"\r\n".join(it for it in lines if not it.lower().startswith(b"sec-websocket-extensions"))


async def first(*steps: object) -> None:
    """Runs steps until the first ends."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def proxy(fault: str, port: int, backend: tuple[str, int]) -> AsyncIterator[None]:
    """Listens on a port until the body ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio's server complains of a task that ends as cancelled.
        with suppress(ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            upgrade = b"\r\nupgrade: websocket" in head.lower()
            is_page = head.startswith(b"GET / ")
            stopped = fault == "stops handshakes" and upgrade or fault == "dies" and not is_page
            if not stopped:
                server = await asyncio.open_connection(*backend)
                try:
                    path = Path(fault if upgrade else "", (reader, writer), server, head)
                    await path.run()
                finally:
                    server[1].close()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port):
        yield
