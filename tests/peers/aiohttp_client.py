"""The exchange with the client of `aiohttp`."""

import aiohttp
from aiohttp import ClientSession, ClientWebSocketResponse, WSMessage, WSMsgType
from exchange import main


class Client:
    def __init__(self, session: ClientSession, socket: ClientWebSocketResponse) -> None:
        self.session = session
        self.socket = socket
        self.subprotocol = socket.protocol
        self.compressed = socket.compress > 0
        self.last: WSMessage | None = None

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self.socket.send_str(message)
        else:
            await self.socket.send_bytes(message)

    async def next(self) -> WSMessage:
        """The next frame or message; answers pings, because `autoping` is off."""
        while True:
            message = await self.socket.receive()
            if message.type is not WSMsgType.PING:
                return message
            await self.socket.pong(message.data)

    async def receive(self) -> str | bytes:
        message = await self.next()
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            raise aiohttp.ClientError(f"{message} instead of a message")
        return message.data

    async def ping(self, payload: bytes) -> bytes:
        await self.socket.ping(payload)
        message = await self.next()
        if message.type is not WSMsgType.PONG:
            raise aiohttp.ClientError(f"{message} instead of a pong")
        return bytes(message.data)

    async def close(self, code: int, reason: str) -> None:
        await self.socket.close(code=code, message=reason.encode())

    async def ended(self) -> tuple[int, str | None]:
        async with self.session:
            if self.socket.closed:
                # `close` has read the answer and kept only its code.
                return self.socket.close_code or 1006, None
            message = await self.next()
            if message.type is not WSMsgType.CLOSE:
                raise aiohttp.ClientError(f"{message} instead of a Close frame")
            await self.socket.close()
            return message.data, message.extra or ""


async def open_client(url: str, subprotocols: list[str], bits: int) -> Client:
    session = ClientSession()
    socket = await session.ws_connect(
        url,
        protocols=subprotocols,
        autoping=False,
        autoclose=False,
        max_msg_size=0,
        compress=bits,
    )
    return Client(session, socket)


main(open_client, windows=[0, 15, 10])
