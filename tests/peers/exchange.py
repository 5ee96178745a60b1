"""What every Python client does with the service, whichever library it uses.

Each client implements `Peer` with its library and calls `main`. On the first deviation from what a
WebSocket echo must do, the script exits with 1 and a line that names it.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

# The service's default max_message_size.
LIMIT = 1 << 20
PREFIX = "server: "
# Per step; a step takes milliseconds.
STEP_LIMIT = 30.0

TEXTS = [
    "Hello world",
    "",
    "Gr\u00fc\u00dfe, \u4e16\u754c, \U0001f980, e\u0301, \u202eright to left, \0 and \ufeff",
    # Lengths around those at which the header of the frame, or of its reply, grows.
    *("x" * length for length in (117, 118, 125, 126, 65527, 65528, 65535, 65536)),
    "\u20ac" * 30_000,
]
BINARIES = [
    b"",
    bytes(range(256)),
    *(b"\xff" * length for length in (125, 126, 65535, 65536)),
    b"\0" * LIMIT,
    # The longest one does not compress, but grows.
    *(random.Random(1).randbytes(length) for length in (1, 1000, LIMIT)),
]
# These are cut between characters, because a library may have to encode each on its own.
FRAGMENTS = ["Gr\u00fc", "", "\u00dfe", "z" * 70_000, "\U0001f980"]


class Peer(Protocol):
    """One open connection of a client library."""

    subprotocol: str | None
    # Whether compression was agreed to.
    compressed: bool

    async def send(self, message: str | bytes) -> None:
        """Sends a text or a binary message."""

    async def receive(self) -> str | bytes:
        """The next message."""

    async def ping(self, payload: bytes) -> bytes:
        """Sends a ping and returns the payload of its pong."""

    async def close(self, code: int, reason: str) -> None:
        """Sends a Close frame; `ended` returns the answer."""

    async def ended(self) -> tuple[int, str | None]:
        """Waits for the end; returns the code of the received Close, and its reason if known."""


# With the URL, the subprotocols to offer, and the bits of the window of compression to offer: 0 if it
# is not to be offered, 15 for what the library offers unasked or by its simplest setting.
Connect = Callable[[str, list[str], int], Awaitable[Peer]]


class Difference(Exception):
    """Something is not as expected."""


def shown(value: object) -> str:
    """Formats a value for a message; long ones by length and beginning."""
    text = repr(value)
    if isinstance(value, str | bytes) and len(text) > 80:
        return f"{type(value).__name__} of {len(value)}: {text[:60]}..."
    return text


def expect(what: str, actual: object, expected: object) -> None:
    """Raises Difference unless both are equal, including their types."""
    if type(actual) is not type(expected) or actual != expected:
        raise Difference(f"{what}: got {shown(actual)}, expected {shown(expected)}")


async def expect_end(what: str, peer: Peer, code: int, reason: str) -> None:
    """Waits for the end and checks its code and reason."""
    actual_code, actual_reason = await peer.ended()
    expect(f"{what}: code", actual_code, code)
    if actual_reason is not None:
        expect(f"{what}: reason", actual_reason, reason)


async def echoes(connect: Connect, base: str, path: str, prefix: str, bits: int) -> None:
    """Every message comes back, first one at a time, then many small ones at once."""
    # Clients often limit messages to 1 MiB as well, so the longest text leaves room for the prefix.
    longest = "y" * (LIMIT - len(prefix))
    messages: list[str | bytes] = [*TEXTS, longest, *BINARIES]
    peer = await connect(base + path, [], bits)
    expect(f"{path}: subprotocol when none was offered", peer.subprotocol, None)
    expect(f"{path}: compression", peer.compressed, bits > 0)
    for message in messages:
        await peer.send(message)
        reply = prefix + message if isinstance(message, str) else message
        expect(f"{path}: echo of {shown(message)}", await peer.receive(), reply)
    if send_fragments := getattr(peer, "send_fragments", None):
        await send_fragments(FRAGMENTS)
        expect(f"{path}: echo of fragments", await peer.receive(), prefix + "".join(FRAGMENTS))
    burst = [f"message {number}" for number in range(1000)]
    for message in burst:
        await peer.send(message)
    for message in burst:
        expect(f"{path}: echo of {message!r} in a burst", await peer.receive(), prefix + message)
    await peer.close(1000, "")
    await expect_end(f"{path}: Close after the echoes", peer, 1000, "")


async def whole_frames(connect: Connect, base: str, bits: int) -> None:
    """A large message comes back in one frame if the URL says so, and else in several."""
    rng = random.Random(2)
    for query, is_one in (("", False), ("?frames=whole", True)):
        peer = await connect(f"{base}/socket{query}", [], bits)
        receive_frames = getattr(peer, "receive_frames", None)
        if not receive_frames:
            return
        for message in (rng.randbytes(LIMIT), rng.randbytes(LIMIT // 4).hex()):
            await peer.send(message)
            frames = await receive_frames()
            reply = PREFIX + message if isinstance(message, str) else message
            expect(f"echo of {shown(message)}", reply[:0].join(frames), reply)
            expect(f"one frame for {shown(message)} with {query!r}", len(frames) == 1, is_one)
        await peer.close(1000, "")
        await expect_end("Close after the frames", peer, 1000, "")


async def pings(connect: Connect, base: str) -> None:
    """A ping is answered with its own payload, also between messages."""
    peer = await connect(f"{base}/socket", [], 0)
    for payload in (b"ping", bytes(range(125))):
        expect("pong", await peer.ping(payload), payload)
    await peer.send("after the pings")
    expect("echo after the pings", await peer.receive(), "server: after the pings")
    await peer.close(1000, "")
    await expect_end("Close after the pings", peer, 1000, "")


async def subprotocols(connect: Connect, base: str) -> None:
    """The first offered subprotocol is confirmed."""
    peer = await connect(f"{base}/socket", ["chat.v2", "chat.v1"], 0)
    expect("subprotocol", peer.subprotocol, "chat.v2")
    await peer.close(1000, "")
    await expect_end("Close of a session with a subprotocol", peer, 1000, "")


async def client_closes(connect: Connect, base: str) -> None:
    """The client's code and reason come back."""
    for code, reason in [
        (1000, ""),
        (1001, "going away"),
        (1011, "z" * 123),
        (3000, "Gr\u00fc\u00dfe"),
        (4999, "private"),
    ]:
        peer = await connect(f"{base}/socket", [], 0)
        await peer.close(code, reason)
        await expect_end(f"answer to Close {code}", peer, code, reason)


async def too_big(connect: Connect, base: str, bits: int) -> None:
    """One byte over the limit ends the session with 1009 and a reason that says so."""
    peer = await connect(f"{base}/echo", [], bits)
    await peer.send(b"\0" * (LIMIT + 1))
    code, reason = await peer.ended()
    expect("Close code after a message over the limit", code, 1009)
    if reason is not None and "max_message_size" not in reason:
        raise Difference(f"the reason of 1009 does not name max_message_size: {reason!r}")


async def context_kept(connect: Connect, base: str) -> None:
    """A client that compresses with earlier messages in mind is told that it agreed not to."""
    peer = await connect(f"{base}/echo", [], 15)
    expect("compression", peer.compressed, True)
    await peer.send("again and again")
    expect("echo of the first message", await peer.receive(), "again and again")
    await peer.send("again and again")
    code, reason = await peer.ended()
    expect("Close code", code, 1007)
    if reason is None or "client_no_context_takeover" not in reason:
        raise Difference(f"the reason of 1007 does not name client_no_context_takeover: {reason!r}")


async def service_stops(connect: Connect, base: str, pid: int) -> None:
    """SIGTERM ends an open session with 1001."""
    peer = await connect(f"{base}/socket", [], 0)
    await peer.send("still here")
    expect("echo before SIGTERM", await peer.receive(), "server: still here")
    os.kill(pid, signal.SIGTERM)
    code, _ = await peer.ended()
    expect("Close code after SIGTERM", code, 1001)


async def check(
    connect: Connect, base: str, pid: int, windows: Sequence[int], keeps_context: bool
) -> None:
    """Runs all steps, each within its time limit; the last one stops the service."""
    steps: list[tuple[str, Callable[[], Awaitable[None]]]] = []
    if keeps_context:
        steps.append(("a context that is kept", lambda: context_kept(connect, base)))
    for bits in windows:
        how = f"compressed with {bits} bits" if bits else "uncompressed"
        for path, prefix in (("/socket", PREFIX), ("/echo", "")):
            step = partial(echoes, connect, base, path, prefix, bits)
            steps.append((f"echoes through {path}, {how}", step))
        steps.append((f"a message over the limit, {how}", partial(too_big, connect, base, bits)))
        steps.append((f"whole frames, {how}", partial(whole_frames, connect, base, bits)))
    steps += [
        ("pings", lambda: pings(connect, base)),
        ("subprotocols", lambda: subprotocols(connect, base)),
        ("closes by the client", lambda: client_closes(connect, base)),
        ("SIGTERM", lambda: service_stops(connect, base, pid)),
    ]
    for name, step in steps:
        try:
            async with asyncio.timeout(STEP_LIMIT):
                await step()
        except TimeoutError:
            raise Difference(f"{name}: timed out after {STEP_LIMIT:.0f} s") from None
        except Difference as difference:
            raise Difference(f"{name}: {difference}") from None
        except Exception as error:
            raise Difference(f"{name}: the client says {type(error).__name__}: {error}") from error
        print(f"ok: {name}")


def main(connect: Connect, windows: Sequence[int], keeps_context: bool = False) -> None:
    """A client's command line: ws://HOST:PORT and the service's process ID.

    The messages are exchanged once with each of `windows`. `keeps_context` is for a library that
    does so from one compressed message to the next, whatever is agreed to.
    """
    base, pid = sys.argv[1:]
    try:
        asyncio.run(check(connect, base, int(pid), windows, keeps_context))
    except Difference as difference:
        sys.exit(f"{os.path.basename(sys.argv[0])}: {difference}")
