"""What clients see when a proxy is reloaded or stopped, and when the service is restarted."""

import asyncio
import os
import signal

from proxies import (
    HANDSHAKE,
    PATIENCE,
    Proxy,
    ask,
    changed,
    echoes,
    end,
    eventually,
    expect,
    record,
    running,
    serves,
    session,
    snippet,
    wsecho,
)
from service import Service

# What a proxy answers while the service is down.
AWAY = {"nginx": 502, "haproxy": 503, "apache": 503}
# The signal on which each proxy exits with its last session.
GRACEFULLY = {
    "nginx": signal.SIGQUIT,
    "haproxy": signal.SIGUSR1,
    "apache": signal.SIGWINCH,
}
LAST_LINE = "        proxy_read_timeout 1h;\n"


def handshake() -> int:
    return ask(HANDSHAKE, "/echo")[0]


async def service_restarts(product: str, away: int) -> None:
    """Close 1001 passes through; new clients are refused until the service is back."""
    with wsecho() as first:
        text = snippet(product, first.config)
        with running(product, text):
            async with session() as client:
                await echoes(client, "before")
                os.kill(first.process.pid, signal.SIGTERM)
                expect("Close", (await end(client))[0], 1001)
                first.process.wait(PATIENCE)
                expect("a handshake while the service is down", handshake(), away)
                with wsecho():
                    # HAProxy needs two successful checks; the others pass on the next request.
                    if product == "haproxy":
                        eventually("HAProxy sees the service is back", lambda: handshake() == 101)
                    expect("a handshake when it is back", handshake(), 101)
                    async with session() as client:
                        await echoes(client, "after")
                        await client.close(1000, "")


def reload(proxy: Proxy, text: str) -> None:
    """Reloads nginx with a configuration that answers everything with 418."""
    proxy.write(changed(text, (LAST_LINE, f"{LAST_LINE}        return 418;\n")))
    proxy.process.send_signal(signal.SIGHUP)
    eventually("the new configuration is in effect", lambda: handshake() == 418)


async def nginx_reloads(started: Service) -> None:
    """Sessions stay with the old worker, which exits with the last of them."""
    text = snippet("nginx", started.config)
    with running("nginx", text) as proxy:
        async with session() as client:
            await echoes(client, "before")
            old = proxy.workers()
            reload(proxy, text)
            await echoes(client, "after")
            expect("old workers still running", old & proxy.workers(), old)
            await client.close(1000, "")
            eventually("the old workers exit", lambda: not old & proxy.workers())


async def nginx_reloads_with_a_limit(started: Service) -> None:
    """With worker_shutdown_timeout, sessions are cut."""
    text = snippet("nginx", started.config)
    with running("nginx", text, "worker_shutdown_timeout 1s;") as proxy:
        async with session() as client:
            await echoes(client, "before")
            reload(proxy, text)
            expect("Close code", (await end(client))[0], 1006)
            record(started, ended="eof")


async def proxy_ends(product: str, gracefully: signal.Signals) -> None:
    """On a graceful stop, sessions continue until the last one ends; otherwise they are cut."""
    with wsecho() as started:
        text = snippet(product, started.config)
        with running(product, text) as proxy:
            async with session() as client:
                await echoes(client, "before")
                proxy.process.send_signal(gracefully)
                eventually("it stops listening", lambda: not serves())
                await echoes(client, "after")
                await client.close(1000, "")
                expect(f"exit code of {product}", proxy.process.wait(PATIENCE), 0)
        with running(product, text) as proxy:
            async with session() as client:
                await echoes(client, "before")
                proxy.process.send_signal(signal.SIGTERM)
                expect("Close code", (await end(client))[0], 1006)
                # Apache waits 10 s for its processes, then kills them.
                proxy.process.wait(10 * PATIENCE)


def main() -> None:
    for product, status in AWAY.items():
        print(f"the service restarts behind {product}", flush=True)
        asyncio.run(service_restarts(product, status))
    for product, gracefully in GRACEFULLY.items():
        print(f"{product} ends", flush=True)
        asyncio.run(proxy_ends(product, gracefully))
    for check in (nginx_reloads, nginx_reloads_with_a_limit):
        print(check.__name__.replace("_", " "), flush=True)
        with wsecho() as started:
            asyncio.run(check(started))


main()
