"""The exchange with `websocket-client`, which blocks: it sends a whole message before it reads."""

import asyncio
from struct import unpack_from

from exchange import STEP_LIMIT, main
from websocket import ABNF, WebSocket, create_connection


class Client:
    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.subprotocol = socket.subprotocol
        # The library knows no extensions.
        self.compressed = False

    async def send(self, message: str | bytes) -> None:
        opcode = ABNF.OPCODE_TEXT if isinstance(message, str) else ABNF.OPCODE_BINARY
        await asyncio.to_thread(self.socket.send, message, opcode)

    async def next(self, *wanted: int) -> tuple[int, bytes]:
        """The next message or control frame; nothing is answered automatically."""
        opcode, frame = await asyncio.to_thread(self.socket.recv_data_frame, True)
        if opcode not in wanted:
            raise ValueError(f"opcode {opcode} instead of one of {wanted}")
        # Not the frame's own opcode, which is the last fragment's if the message is fragmented.
        return opcode, bytes(frame.data)

    async def receive(self) -> str | bytes:
        opcode, data = await self.next(ABNF.OPCODE_TEXT, ABNF.OPCODE_BINARY)
        return data.decode() if opcode == ABNF.OPCODE_TEXT else data

    async def ping(self, payload: bytes) -> bytes:
        self.socket.ping(payload)
        _, payload = await self.next(ABNF.OPCODE_PONG)
        return payload

    async def close(self, code: int, reason: str) -> None:
        self.socket.send_close(code, reason.encode())

    async def ended(self) -> tuple[int, str]:
        _, payload = await self.next(ABNF.OPCODE_CLOSE)
        self.socket.shutdown()
        return unpack_from("!H", payload)[0], payload[2:].decode()


async def open_client(url: str, subprotocols: list[str], _: int) -> Client:
    socket = await asyncio.to_thread(
        create_connection, url, timeout=STEP_LIMIT, subprotocols=subprotocols or None
    )
    return Client(socket)


main(open_client, windows=[0])
