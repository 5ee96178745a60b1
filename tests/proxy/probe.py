"""What `wsecho probe` says about real proxies and servers, and what it measures through them.

Through each proxy of the verdicts' table the probe must name the verdict that the service itself
gives; servers that nobody here wrote must be healthy, and over HTTP/2 must do what they announce.
"""

import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import service
from aiohttp import WSMsgType, web
from hypercorn import config as hypercorn_config
from hypercorn.asyncio import serve as hypercorn_serve
from proxies import (
    BACKEND,
    PLAIN,
    SITE,
    TLS,
    changed,
    eventually,
    expect,
    running,
    serves,
    snippet,
    wsecho,
)
from tornado.httpserver import HTTPServer
from tornado.web import Application
from tornado.websocket import WebSocketHandler
from verdicts import ROWS, Row, haproxy
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

# For a probe that measures; one without is done in milliseconds.
PATIENCE = 90.0
# The site of the snippets, on this host.
HERE = (f"--resolve={SITE}:127.0.0.1", f"ws://{SITE}/echo")
# After how much silence the firewall forgets a connection.
DROPPED = 4.0


async def probe(*arguments: str) -> tuple[int, str]:
    """The exit code of a probe, and what it prints, without line breaks."""
    process = await asyncio.create_subprocess_exec(
        service.binary(), "probe", "--proxy", "none", *arguments, stdout=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, " ".join(out.decode().split())


def label(row: Row) -> str:
    """What the probe calls the failure: the service's own verdict, unless the proxy itself answers."""
    if row.status < 500:
        return f"({row.reason}, as wsecho itself says)"
    return f"(http_{row.status})"


async def check_verdict(row: Row) -> None:
    assert row.proxy
    with wsecho(*row.settings), running(*row.proxy):
        origin = [f"--origin={row.headers['Origin']}"] if "Origin" in row.headers else []
        host = f"--host={row.headers['Host']}"
        code, text = await probe(host, *origin, f"ws://127.0.0.1:{PLAIN}{row.path}")
        expect("exit code", code, 1)
        expect(f"{label(row)} at the end of {text}", text.endswith(label(row)), True)
        if row.status < 500:
            expect(f"{row.sentence!r} in {text}", row.sentence in text.replace("| ", ""), True)


def seconds(text: str, name: str) -> float:
    """The time on the line of a measurement."""
    found = re.search(rf" {name} ([0-9.]+) s ", text)
    expect(f"{name} in {text}", bool(found), True)
    return float(found[1]) if found else 0.0


async def check_idle(product: str, change: tuple[str, str], cut: float) -> None:
    with wsecho() as started:
        text = changed(snippet(product, started.config), change)
        with running(product, text):
            code, told = await probe(*HERE, "--idle", "10s")
    expect(f"exit code after {told}", code, 0)
    found = seconds(told, "idle")
    expect(f"{found} s is about {cut} s", abs(found - cut) < 0.5, True)
    expect(f"FIN in {told}", "then FIN, without a Close frame" in told, True)


def firewall() -> None:
    """Lets nothing pass to the service that belongs to a connection silent for DROPPED seconds."""
    for name, value in [("tcp_loose", 0), ("tcp_timeout_established", int(DROPPED))]:
        Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").write_text(str(value))
    rules = """
table ip firewall {
    chain input {
        type filter hook input priority 0;
        tcp dport 8888 ct state invalid drop
        tcp sport 8888 ct state invalid drop
        tcp dport 8888 tcp flags & (syn | ack) != syn ct state new drop
    }
}
"""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


async def check_drop() -> None:
    with wsecho('timeouts.pong = "1s"'):
        code, told = await probe(f"ws://{BACKEND}/echo", "--idle", "12s")
    expect(f"exit code after {told}", code, 0)
    lived = seconds(told, "idle")
    expect(f"{lived} s lives, {DROPPED} s does not", DROPPED - 1.5 < lived <= DROPPED, True)
    expect(f"the firewall in {told}", "a ping is not even acknowledged" in told, True)
    print(told[told.index("idle") :], flush=True)


@asynccontextmanager
async def cutting(most: int, to: int = 8888) -> AsyncIterator[int]:
    """A proxy that ends each connection once a client has sent more than this."""

    async def relay(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        server, out = await asyncio.open_connection("127.0.0.1", to)

        async def forward(
            source: asyncio.StreamReader, to: asyncio.StreamWriter, room: float
        ) -> None:
            while room > 0 and (data := await source.read(1 << 16)):
                room -= len(data)
                if room >= 0:
                    to.write(data)
                    await to.drain()
            back.close()
            out.close()

        await asyncio.gather(
            forward(client, out, most), forward(server, back, float("inf")), return_exceptions=True
        )

    listener = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def check_size() -> None:
    with wsecho() as started:
        with running("nginx", snippet("nginx", started.config)):
            code, told = await probe(*HERE, "--max-size")
            expect(f"exit code after {told}", code, 0)
            reason = 'max-size 1 MiB comes back; 1,048,577 bytes: Close 1009, "wsecho: message over'
            expect(f"{reason!r} in {told}", reason in told, True)
        async with cutting(200_000) as port:
            code, told = await probe(f"ws://127.0.0.1:{port}/echo", "--max-size")
            expect(f"exit code after {told}", code, 0)
            found = re.search(r"max-size ([0-9]+) B comes back; [0-9,]+ bytes: (FIN|RST), ", told)
            expect(f"the cut in {told}", bool(found), True)
            # The handshake and the header of the frame count, too.
            expect(f"199 kB in {told}", found and 199_000 < int(found[1]) < 200_000, True)


# Servers that nobody here wrote, each on a port of its own.


async def with_websockets(check: Callable[[int], Awaitable[None]]) -> None:
    async def echo(client: Any) -> None:
        with suppress(ConnectionClosed):
            async for message in client:
                await client.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        await check(server.sockets[0].getsockname()[1])


async def with_aiohttp(check: Callable[[int], Awaitable[None]]) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        client = web.WebSocketResponse()
        await client.prepare(request)
        async for message in client:
            if message.type == WSMsgType.TEXT:
                await client.send_str(message.data)
            elif message.type == WSMsgType.BINARY:
                await client.send_bytes(message.data)
        return client

    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        await check(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def with_tornado(check: Callable[[int], Awaitable[None]]) -> None:
    class Echo(WebSocketHandler):
        def on_message(self, message: str | bytes) -> None:
            self.write_message(message, binary=isinstance(message, bytes))

    server = HTTPServer(Application([("/", Echo)], websocket_ping_interval=0))
    server.listen(0, "127.0.0.1")
    try:
        sockets = server._sockets.values()  # noqa: SLF001  # tornado tells the port nowhere else
        await check(next(iter(sockets)).getsockname()[1])
    finally:
        server.stop()


NODE = """
const server = new (require("ws").WebSocketServer)({ host: "127.0.0.1", port: 0 });
server.on("connection", (client) =>
    client.on("message", (data, binary) => client.send(data, { binary })));
server.on("listening", () => console.log(server.address().port));
"""


async def with_ws(check: Callable[[int], Awaitable[None]]) -> None:
    process = await asyncio.create_subprocess_exec("node", "-e", NODE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        await check(int(await process.stdout.readline()))
    finally:
        process.kill()
        await process.wait()


# Each server, and the largest message that it takes by default.
SERVERS = [
    (with_websockets, 1 << 20),
    (with_aiohttp, (4 << 20) - 1),
    (with_tornado, 10 << 20),
    (with_ws, None),
]


async def check_servers() -> None:
    for server, most in SERVERS:

        async def check(port: int, most: int | None = most) -> None:
            url = f"ws://127.0.0.1:{port}/"
            size = ["--max-size"] if most else []
            code, told = await probe(url, "--count=20", "--interval=5ms", *size)
            expect(f"exit code after {told}", code, 0)
            if most:
                largest = f"makes the round trip has {most:,} bytes. The server,"
                expect(f"{largest!r} in {told}", largest in told, True)
            print("healthy:", server.__name__, flush=True)

        await server(check)


# libwebsockets' own test server, whose mirror sends each message to all of its clients.
MIRROR = ["--subprotocol=lws-mirror-protocol", f"--send={'d' * 200}", "--expect=^d+$"]


async def check_libwebsockets() -> None:
    process = subprocess.Popen(["libwebsockets-test-server", f"--port={PLAIN}"])
    try:
        eventually("libwebsockets serves", serves)
        code, told = await probe(*MIRROR, f"ws://127.0.0.1:{PLAIN}/")
        expect(f"exit code after {told}", code, 0)
        # The head has about 320 bytes, and the message after it is too much.
        async with cutting(450, PLAIN) as port:
            code, told = await probe(*MIRROR, f"ws://127.0.0.1:{port}/")
            expect(f"exit code after {told}", code, 1)
            seen = re.search(r"(closed|reset) before the echo of .*\((cut|reset)\)$", told)
            expect(f"the cut in {told}", bool(seen), True)
    finally:
        process.kill()
        process.wait()


# HTTP/2.


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1, with its key in the same file."""
    pem = folder / "site.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-nodes"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    pem.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return pem


async def check_http2(pem: Path, path: str, *says: str, healthy: bool = True) -> None:
    """What the probe says of a server with TLS; over HTTP/1.1 all of them work."""
    code, told = await probe(f"--ca={pem}", f"wss://127.0.0.1:{TLS}{path}")
    expect(f"exit code after {told}", code, 0 if healthy else 1)
    for text in ("1000 answered with 1000", *says):
        expect(f"{text!r} in {told}", text in told, True)
    print("http2:", says[-1], flush=True)


def haproxy_http2(pem: Path, option: str = "") -> tuple[str, str]:
    product, text = haproxy()
    bind = f"bind :{TLS} ssl crt {pem} alpn h2,http/1.1"
    return product, f"global\n    {option}\n" + text.replace("bind :80", bind)


ENVOY = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": {v3}.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - {{ certificate_chain: {{ filename: {pem} }}, private_key: {{ filename: {pem} }} }}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {v3}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          http2_protocol_options: {{ allow_connect: {connect} }}
          upgrade_configs: [{{ upgrade_type: websocket }}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: wsecho }} }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": {v3}.filters.http.router.v3.Router }}
  clusters:
  - name: wsecho
    load_assignment:
      cluster_name: wsecho
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 8888 }} }} }}
"""


@contextmanager
def envoy(folder: Path, pem: Path, connect: bool) -> Iterator[None]:
    config = folder / "envoy.yaml"
    values = {"port": TLS, "pem": pem, "connect": str(connect).lower()}
    config.write_text(ENVOY.format(v3="type.googleapis.com/envoy.extensions", **values))
    command = [Path(sys.executable).with_name("envoy"), "--config-path", config]
    command += ["--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"]
    process = subprocess.Popen(command)
    try:
        eventually("Envoy serves", lambda: serves() or process.poll() is not None)
        expect("exit code of Envoy", process.poll(), None)
        yield
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def hypercorn(pem: Path, announced_only: bool) -> AsyncIterator[None]:
    """An echo, which refuses what it announces if `announced_only` is set."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        if announced_only and scope["http_version"] == "2":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            kind = "text" if event.get("text") is not None else "bytes"
            await send({"type": "websocket.send", kind: event[kind]})

    config = hypercorn_config.Config()
    config.bind = [f"127.0.0.1:{TLS}"]
    config.certfile = config.keyfile = str(pem)
    config.errorlog = None
    done = asyncio.Event()
    task = asyncio.create_task(hypercorn_serve(echo, config, shutdown_trigger=done.wait))
    try:
        while not serves():
            expect("Hypercorn runs", task.done(), False)
            await asyncio.sleep(0.02)
        yield
    finally:
        done.set()
        await task


async def check_http2_servers(folder: Path) -> None:
    pem = certificate(folder)
    opened = "extended CONNECT: 200"
    with wsecho():
        with running(*haproxy_http2(pem)):
            await check_http2(pem, "/echo", opened, "WebSockets work on this path")
        with running(*haproxy_http2(pem, "h2-workaround-bogus-websocket-clients")):
            await check_http2(pem, "/echo", "extended CONNECT is not announced")
        with envoy(folder, pem, connect=True):
            gap = "with a Sec-WebSocket-Key it succeeds. Over HTTP/1.1, the same WebSocket works."
            await check_http2(pem, "/echo", gap, "(http2_key)", healthy=False)
        with envoy(folder, pem, connect=False):
            await check_http2(pem, "/echo", "extended CONNECT is not announced")
    async with hypercorn(pem, announced_only=False):
        await check_http2(pem, "/", opened, "WebSockets work on this path")
    async with hypercorn(pem, announced_only=True):
        refused = "The server announces extended CONNECT, but answers it with 403 Forbidden."
        await check_http2(pem, "/", refused, "(http2_refused)", healthy=False)


async def main() -> None:
    for row in ROWS:
        if row.proxy and "Upgrade" in row.headers:
            print(label(row), row.name(), flush=True)
            await check_verdict(row)
    print("idle", flush=True)
    await check_idle("nginx", ("proxy_read_timeout 1h;", "proxy_read_timeout 3s;"), 3.0)
    await check_idle("haproxy", ("    timeout tunnel 1h\n", "    timeout tunnel 4s\n"), 4.0)
    print("max-size", flush=True)
    await check_size()
    print("servers", flush=True)
    await check_servers()
    await check_libwebsockets()
    print("http2", flush=True)
    with tempfile.TemporaryDirectory(prefix="wsecho-probe-") as folder:
        await check_http2_servers(Path(folder))
    print("a silent drop", flush=True)
    firewall()
    await check_drop()


if __name__ == "__main__":
    asyncio.run(main())
