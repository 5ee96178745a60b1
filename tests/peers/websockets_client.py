"""The exchange with the asyncio client of `websockets`."""

from contextlib import suppress
from typing import Any

from exchange import LIMIT, main
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.typing import Subprotocol


class Client:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.subprotocol: str | None = socket.subprotocol
        self.compressed = bool(socket.protocol.extensions)

    async def send(self, message: str | bytes) -> None:
        # The service may close before all of the message is sent; `ended` reports that.
        with suppress(ConnectionClosed):
            await self.socket.send(message)

    async def send_fragments(self, fragments: list[str]) -> None:
        await self.socket.send(fragments)

    async def receive(self) -> str | bytes:
        return await self.socket.recv()

    async def receive_frames(self) -> list[str] | list[bytes]:
        return [frame async for frame in self.socket.recv_streaming()]

    async def ping(self, payload: bytes) -> bytes:
        # Pongs are matched by payload: with any other payload this would wait forever.
        await (await self.socket.ping(payload))
        return payload

    async def close(self, code: int, reason: str) -> None:
        await self.socket.close(code, reason)

    async def ended(self) -> tuple[int, str]:
        await self.socket.wait_closed()
        received = self.socket.protocol.close_rcvd
        return (received.code, received.reason) if received else (1006, "no Close frame")


async def open_client(url: str, subprotocols: list[str], bits: int) -> Client:
    offer = [Subprotocol(name) for name in subprotocols]
    options: dict[str, Any] = {}
    if bits == 0:
        options = {"compression": None}
    elif bits < 15:
        limits = {"server_max_window_bits": bits, "client_max_window_bits": bits}
        options = {"compression": None, "extensions": [ClientPerMessageDeflateFactory(**limits)]}
    # By default it takes no message over 1 MiB, compressed or not.
    options["max_size"] = 2 * LIMIT
    return Client(await connect(url, subprotocols=offer or None, **options))


main(open_client, windows=[0, 15, 9])
