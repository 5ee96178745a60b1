"""Real proxies in front of a real service, and clients that connect through them.

    proxies.py nginx|haproxy CONFIG -- COMMAND ARG...

runs COMMAND while the proxy, configured by `wsecho snippet` for the host 127.0.0.1, passes
everything on to the service with this configuration.

This needs its own network namespace (in_namespace in tests/common.sh): the proxies listen on 80 and
443, as in the snippets, the service on 8888. Clients connect from CLIENT, an address in the
namespace that the service does not trust.
"""

import asyncio
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import service
from service import Service
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

BACKEND = "127.0.0.1:8888"
ADMIN = "127.0.0.1:8889"
PLAIN, TLS = 80, 443
SITE = "echo.example.com"
CLIENT = "192.0.2.1"
# Timeout for steps that take milliseconds.
PATIENCE = 20.0

HANDSHAKE = {
    "Host": SITE,
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
# Client-supplied headers that must not be believed.
SPOOFED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Real-IP": "203.0.113.9",
    "X-Forwarded-Host": "evil.example",
    "Forwarded": "for=203.0.113.9;host=evil.example",
}

# The main configuration files, as the proxies' packages provide them.
NGINX = """
{main}
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
{stream}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
}}
"""
APACHE = """
ServerRoot /usr/lib/apache2
ServerName localhost
User www-data
Group www-data
PidFile {folder}/pid
ErrorLog {folder}/error.log
Listen 80
Listen 443
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule headers_module modules/mod_headers.so
LoadModule proxy_module modules/mod_proxy.so
LoadModule proxy_http_module modules/mod_proxy_http.so
LoadModule proxy_wstunnel_module modules/mod_proxy_wstunnel.so
LoadModule ssl_module modules/mod_ssl.so
{site}
"""
LIGHTTPD = """
server.document-root = "/nonexistent"
server.errorlog = "{folder}/error.log"
server.bind = "0.0.0.0"
server.port = 80
{site}
"""
CADDY = """
{{
    admin off
    log {{
        level ERROR
    }}
}}
{site}
"""
WRAPPERS = {"apache": APACHE, "lighttpd": LIGHTTPD, "caddy": CADDY}

COMMANDS = {
    "nginx": ["nginx", "-p", ".", "-e", "error.log", "-c"],
    "haproxy": ["haproxy", "-db", "-q", "-f"],
    "apache": ["apache2", "-DFOREGROUND", "-f"],
    "caddy": ["caddy", "run", "--adapter", "caddyfile", "--config"],
    "envoy": ["envoy", "--disable-hot-restart", "--concurrency", "1", "-l", "error", "-c"],
    "varnish": ["varnishd", "-F", "-j", "none", "-a", ":80", "-n", "varnish", "-f"],
    "lighttpd": ["lighttpd", "-D", "-f"],
}
Found = TypeVar("Found")


class Difference(Exception):
    """Something is not as expected."""


def expect(what: str, actual: object, expected: object) -> None:
    """Raises Difference unless both are equal."""
    if actual != expected:
        raise Difference(f"{what}: got {str(actual)[:500]!r}, expected {str(expected)[:500]!r}")


def eventually(what: str, look: Callable[[], Found], patience: float = PATIENCE) -> Found:
    """Polls `look` until it finds something, and returns that."""
    end = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > end:
            raise Difference(f"{what}: not within {patience:.0f} s")
        time.sleep(0.02)
    return found


def serves() -> bool:
    """Whether a proxy is listening; connecting to find out would reach the service."""
    tables = [Path("/proc/self/net", name) for name in ("tcp", "tcp6")]
    texts = [table.read_text() for table in tables if table.exists()]
    lines = [line.split() for text in texts for line in text.splitlines()]
    ports = {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A"}
    return not ports.isdisjoint({PLAIN, TLS})


class Proxy:
    """A proxy that is running, or about to."""

    process: subprocess.Popen[bytes]

    def __init__(self, product: str, folder: Path, main: str) -> None:
        self.product = product
        self.main = main
        self.folder = folder
        # Envoy goes by the name.
        self.config = folder / ("config.yaml" if product == "envoy" else "config")

    def write(self, text: str) -> None:
        """Writes its configuration around `text`, a snippet or a replacement for one."""
        if self.product == "nginx":
            is_stream = any(line.startswith("stream {") for line in text.splitlines())
            kind = "stream" if is_stream else "http"
            blocks = {"http": "", "stream": "", kind: text}
            text = NGINX.format(folder=self.folder, main=self.main, **blocks)
        elif self.product in WRAPPERS:
            text = WRAPPERS[self.product].format(folder=self.folder, site=text)
        self.config.write_text(text)

    def workers(self) -> set[int]:
        """The running child processes of the main process."""
        process = self.process.pid
        children = Path(f"/proc/{process}/task/{process}/children").read_text()
        return {int(child) for child in children.split()}


@contextmanager
def running(product: str, text: str, main: str = "") -> Iterator[Proxy]:
    """Runs a proxy, which is listening when this yields; `main` goes outside nginx's `http`."""
    with tempfile.TemporaryDirectory(prefix=f"wsecho-{product}-") as folder:
        proxy = Proxy(product, Path(folder), main)
        proxy.write(text)
        # A process group of its own, so that no worker outlives the test.
        command = [*COMMANDS[product], str(proxy.config)]
        if product == "varnish":
            # Its configuration cannot set this, so a comment there says how to.
            command += ["-p", re.findall("pipe_timeout=[0-9]+", text)[0]]
        # Caddy keeps files in the home directory.
        env = {**os.environ, "HOME": folder}
        process = subprocess.Popen(command, cwd=folder, env=env, process_group=0)
        proxy.process = process
        try:
            eventually(f"{product} serves", lambda: serves() or process.poll() is not None)
            expect(f"exit code of {product}", process.poll(), None)
            yield proxy
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def snippet(product: str, config: Path, *options: str) -> str:
    """What `wsecho snippet` prints for the service with this configuration."""
    command = [service.binary(), "snippet", "--config", str(config), product, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def changed(text: str, *changes: tuple[str, str]) -> str:
    """A configuration with parts replaced, each of which must occur once."""
    for old, new in changes:
        expect(f"occurrences of {old!r} in a snippet", text.count(old), 1)
        text = text.replace(old, new)
    return text


def uncommented(*lines: str) -> list[tuple[str, str]]:
    """The changes that uncomment these lines."""
    return [(f"#{line}\n", f"{line}\n") for line in lines]


@contextmanager
def wsecho(*settings: str, bind: str = BACKEND) -> Iterator[Service]:
    """The service, with an admin listener."""
    with service.running([f'admin.bind = "{ADMIN}"', *settings], bind) as started:
        yield started


def ask(
    headers: dict[str, str], path: str = "/socket", address: str = f"127.0.0.1:{PLAIN}"
) -> tuple[int, str]:
    """Status and body of one GET; the body of a 101 never ends, so it is left out."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, "" if response.status == 101 else response.read().decode()
    finally:
        connection.close()


def metric(name: str) -> int:
    """A metric of the service; 0 if it has no sample yet."""
    _, text = ask({}, "/metrics", ADMIN)
    values = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return int(values[0]) if values else 0


def record(started: Service, **fields: object) -> dict[str, object]:
    """Waits for a log record with these fields and returns the first one."""

    def look() -> list[dict[str, object]]:
        return [it for it in started.records() if fields.items() <= it.items()]

    return eventually(f"a record with {json.dumps(fields)}", look)[0]


def session(path: str = "/echo", tls: ssl.SSLContext | None = None, **options: Any) -> connect:
    """A WebSocket from CLIENT through the proxy, as a page of the same site opens it.

    Uses asyncio, because Python's TLS cannot cope with the two threads of the blocking client.
    """
    port, plus = (TLS, "s") if tls else (PLAIN, "")
    return connect(
        f"ws{plus}://{SITE}{path}",
        host="127.0.0.1",
        port=port,
        local_addr=(CLIENT, 0),
        ssl=tls,
        proxy=None,
        origin=Origin(f"http{plus}://{SITE}"),
        open_timeout=PATIENCE,
        close_timeout=PATIENCE,
        # Only the service may ping; pings from the client library would hide silence.
        ping_interval=None,
        **options,
    )


async def echoes(client: ClientConnection, message: str | bytes, prefix: str = "") -> None:
    """Sends a message and expects it back."""
    async with asyncio.timeout(PATIENCE):
        await client.send(message)
        expected = prefix + message if isinstance(message, str) else message
        expect("echo", await client.recv(), expected)


async def end(client: ClientConnection, patience: float = PATIENCE) -> tuple[int, str]:
    """Waits for the end; code and reason of the Close frame received, 1006 if there was none."""
    async with asyncio.timeout(patience):
        await client.wait_closed()
    received = client.protocol.close_rcvd
    return (received.code, received.reason) if received else (1006, "")


def main() -> int:
    product, config, dashes, *command = sys.argv[1:]
    expect("argument", dashes, "--")
    with running(product, snippet(product, Path(config)).replace(SITE, "127.0.0.1")):
        return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main())
