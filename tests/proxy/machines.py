"""`wsecho snippet --upstream` in real proxies: two machines with two instances each, which fail in turn.

Clients come all the time. Whatever happens to one instance, they are served by the others, except
where docs/proxies.md says otherwise.
"""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socket

import service
from proxies import PATIENCE, expect, running, session, snippet
from websockets.exceptions import ConnectionClosed, InvalidStatus

ADDRESSES = [f"127.0.0.{machine}:{port}" for machine in (11, 12) for port in (8881, 8882)]
# Between one newcomer and the next, in seconds.
PAUSE = 0.05
# What a client waits for an answer, in seconds; a frozen instance never answers.
ANSWER = 4.0
# More than HAProxy needs to notice that an instance is frozen: two checks of 2 s, 2 s apart.
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


@dataclass
class Tally:
    """What became of the newcomers."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


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


async def newcomers(seconds: float, happens: Callable[[], None] = lambda: None) -> Tally:
    """Newcomers for a while, during which something happens."""
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        for number in range(round(seconds / PAUSE)):
            if number == round(0.5 / PAUSE):
                happens()
            group.create_task(newcomer(tally))
            await asyncio.sleep(PAUSE)
    return tally


def report(product: str, what: str, tally: Tally) -> None:
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(tally.outcomes.items()))
    print(f"{product}: {what}: {told}; the slowest served {tally.slowest * 1000:.0f} ms", flush=True)


def all_served(product: str, what: str, tally: Tally) -> None:
    report(product, what, tally)
    expect(f"outcomes, {what}", set(tally.outcomes), {"served"})


async def check(product: str) -> None:
    with ExitStack() as stack:
        defaults = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".toml"))
        text = snippet(product, Path(defaults.name), "--upstream", *ADDRESSES)
        first, *rest = [stack.enter_context(instance(address)) for address in ADDRESSES]
        stack.enter_context(running(product, text))
        all_served(product, "all four", await newcomers(2))

        killed = await newcomers(3, lambda: os.kill(first.pid, signal.SIGKILL))
        report(product, "one killed", killed)
        # A handshake that it had taken is repeated by nginx, not by HAProxy.
        lost = {"nginx": 0, "haproxy": 1}[product]
        missing = killed.outcomes.total() - killed.outcomes["served"]
        expect(f"{missing} newcomers lost, at most {lost}", missing <= lost, True)

        all_served(product, "one draining", await newcomers(3, rest[0].terminate))
        expect("exit code of the drained one", rest[0].wait(PATIENCE), 0)
        all_served(product, "a whole machine away", await newcomers(2))
        for address in ADDRESSES[:2]:
            stack.enter_context(instance(address))
        # HAProxy takes them back after a check.
        await newcomers(3)

        os.kill(rest[1].pid, signal.SIGSTOP)
        frozen = await newcomers(NOTICED)
        report(product, "one frozen", frozen)
        expect("unexpected outcomes", set(frozen.outcomes) - {"served", "no answer"}, set())
        later = await newcomers(2)
        report(product, "one frozen for a while", later)
        if product == "haproxy":
            expect("outcomes once it is noticed", set(later.outcomes), {"served"})
        os.kill(rest[1].pid, signal.SIGCONT)


def main() -> None:
    for product in ("nginx", "haproxy"):
        asyncio.run(check(product))


main()
