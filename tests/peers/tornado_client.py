"""The exchange with the client of Tornado."""

import asyncio
from contextlib import suppress

from exchange import main
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect


class Client:
    def __init__(self, socket: WebSocketClientConnection) -> None:
        self.socket = socket
        self.subprotocol = socket.selected_subprotocol
        self.compressed = "Sec-WebSocket-Extensions" in socket.headers
        self.pongs: asyncio.Queue[bytes] = asyncio.Queue()
        # Tornado calls this method, which does nothing unless overridden.
        socket.on_pong = self.pongs.put_nowait  # type: ignore

    async def send(self, message: str | bytes) -> None:
        # The service may close before all of the message is sent; `ended` reports that.
        with suppress(WebSocketClosedError):
            await self.socket.write_message(message, binary=isinstance(message, bytes))

    async def receive(self) -> str | bytes:
        message = await self.socket.read_message()
        if message is None:
            raise WebSocketClosedError(f"closed with {self.socket.close_code}")
        return message

    async def ping(self, payload: bytes) -> bytes:
        self.socket.ping(payload)
        return await self.pongs.get()

    async def close(self, code: int, reason: str) -> None:
        self.socket.close(code, reason)

    async def ended(self) -> tuple[int, str]:
        message = await self.socket.read_message()
        if message is not None:
            raise WebSocketClosedError("a message instead of a Close frame")
        return self.socket.close_code or 1006, self.socket.close_reason or ""


async def open_client(url: str, subprotocols: list[str], bits: int) -> Client:
    return Client(
        await websocket_connect(
            url,
            subprotocols=subprotocols or None,
            compression_options={} if bits else None,
        )
    )


# Tornado 6.6.1 overlooks `client_no_context_takeover` in the answer.
main(open_client, windows=[0], keeps_context=True)
