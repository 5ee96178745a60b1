"""`wsecho snippet --upstream` in real proxies: two machines with two instances each, of which one fails.

Sessions stay open, and newcomers come all the time. Whatever happens to one instance, the others
serve, except where docs/proxies.md says otherwise.
"""

import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, create_server, socket

import service
from proxies import PATIENCE, echoes, end, expect, running, session, snippet
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.protocol import State

ADDRESSES = [f"127.0.0.{machine}:{port}" for machine in (11, 12) for port in (8881, 8882)]
SHARE = 10
# Between one newcomer and the next, in seconds.
PAUSE = 0.05
# How long a client waits to be served, in seconds: longer than `timeout connect` for a machine.
ANSWER = 8.0
# Longer than HAProxy takes to notice that an instance is frozen: two checks of 2 s, 2 s apart.
NOTICED = 9.0


@contextmanager
def instance(address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs an instance, which may end in any way."""
    with tempfile.TemporaryDirectory(prefix="wsecho-instance-") as folder:
        config, notify = Path(folder, "wsecho.toml"), Path(folder, "notify")
        config.write_text(f'bind = "{address}"\nlog.level = "error"\nshutdown.drain_spread = "1s"\n')
        with socket(AF_UNIX, SOCK_DGRAM) as status:
            status.bind(str(notify))
            process = subprocess.Popen(
                [service.binary(), "--config", str(config)],
                env=service.environment(notify),
            )
            try:
                service.wait_until_ready(process, status)
                yield process
            finally:
                process.kill()
                process.wait()


@contextmanager
def silence(address: str) -> Iterator[None]:
    """In place of an instance, what a machine without power shows: no answer to any SYN."""
    host, _, port = address.partition(":")
    with ExitStack() as stack:
        full = stack.enter_context(create_server((host, int(port)), backlog=0))
        for _ in range(4):
            client = stack.enter_context(socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        yield


@dataclass
class Tally:
    """What became of newcomers."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def lost(self) -> int:
        return self.outcomes.total() - self.outcomes["served"]


async def newcomer(tally: Tally) -> None:
    """Opens a WebSocket, and notes how that went."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(ANSWER):
            async with session() as client:
                await client.send("hello")
                outcome = "served" if await client.recv() == "hello" else "wrong echo"
                tally.slowest = max(tally.slowest, time.monotonic() - began)
    except InvalidStatus as error:
        outcome = str(error.response.status_code)
    except ConnectionClosed as error:
        outcome = f"closed with {error.rcvd.code if error.rcvd else 1006}"
    except TimeoutError:
        outcome = "no answer"
    tally.outcomes[outcome] += 1


async def newcomers(what: str, seconds: float, happens: Callable[[], None] | None = None) -> Tally:
    """Newcomers for a while, during which something happens."""
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        for number in range(round(seconds / PAUSE)):
            if happens and number == round(0.5 / PAUSE):
                happens()
            group.create_task(newcomer(tally))
            await asyncio.sleep(PAUSE)
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(tally.outcomes.items()))
    print(f"{what}: {told}; the slowest of them {tally.slowest * 1000:.0f} ms", flush=True)
    return tally


async def ended(sessions: list[ClientConnection], code: int) -> None:
    """Expects that the share of one instance has ended in this way, and removes it."""
    async with asyncio.timeout(PATIENCE):
        while len(gone := [it for it in sessions if it.state is State.CLOSED]) < SHARE:
            await asyncio.sleep(0.02)
    expect("codes of what has ended", Counter([(await end(it))[0] for it in gone]), {code: SHARE})
    for client in gone:
        sessions.remove(client)
    for client in sessions:
        await echoes(client, "still here")


async def check(product: str) -> None:
    with ExitStack() as stack:
        defaults = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".toml"))
        text = snippet(product, Path(defaults.name), "--upstream", *ADDRESSES)
        killed, drained, *_ = [stack.enter_context(instance(it)) for it in ADDRESSES]
        stack.enter_context(running(product, text))
        # One after another, so that each goes to where there are fewest.
        sessions = [await session() for _ in range(SHARE * len(ADDRESSES))]

        tally = await newcomers("one killed", 3, killed.kill)
        # nginx repeats a handshake that the instance took and did not answer.
        expect("at most one lost", tally.lost() <= {"nginx": 0, "haproxy": 1}[product], True)
        await ended(sessions, 1006)

        tally = await newcomers("one draining", 3, drained.terminate)
        expect("newcomers lost", tally.lost(), 0)
        expect("exit code of the drained one", drained.wait(PATIENCE), 0)
        await ended(sessions, 1001)

        with silence(ADDRESSES[0]), silence(ADDRESSES[1]):
            tally = await newcomers("a machine without power", 6)
            expect("newcomers lost", tally.lost(), 0)

        with instance(ADDRESSES[0]), instance(ADDRESSES[1]) as frozen:
            await newcomers("the machine is back", 3)
            # Where there are fewest are now these two.
            sessions += [await session() for _ in range(2 * SHARE)]
            tally = await newcomers("one frozen", NOTICED, lambda: frozen.send_signal(signal.SIGSTOP))
            expect("answers", set(tally.outcomes), {"served", "no answer"})
            tally = await newcomers("it is still frozen", 2)
            if product == "haproxy":
                expect("newcomers lost once it is noticed", tally.lost(), 0)
            frozen.kill()
            await ended(sessions, 1006)
            for client in sessions:
                await client.close(1000, "")


asyncio.run(check(sys.argv[1]))
