"""Asks the service, through proxies that lack a line each, which line it is.

    verdicts.py ws://127.0.0.1:PORT SHIPPED_NGINX_CONF

Runs in a network namespace of its own, so that the ports below are free. Every handshake that the
client sends is a right one.
"""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
PROXY = 8000

VERSION = "proxy_http_version 1.1;"
UPGRADE = "proxy_set_header Upgrade $http_upgrade;"
CONNECTION = 'proxy_set_header Connection "upgrade";'
EMPTY = 'proxy_set_header Connection "";'
WRONG = 'proxy_set_header Upgrade "upgrade";'
APACHE = 'ProxyPass "/socket" "ws://127.0.0.1:8888/socket"'

# What stands in the location beside proxy_pass, the verdict, and the lines it must name.
NGINX_ROWS = [
    ([], "proxy_nothing_passed", [VERSION, UPGRADE, CONNECTION]),
    ([VERSION], "proxy_headers_lost", [UPGRADE, CONNECTION]),
    ([UPGRADE, CONNECTION], "proxy_http_1_0", [VERSION]),
    ([VERSION, UPGRADE], "proxy_connection_lost", [CONNECTION]),
    ([VERSION, UPGRADE, EMPTY], "proxy_connection_emptied", [CONNECTION]),
    ([VERSION, CONNECTION], "proxy_upgrade_lost", [UPGRADE]),
    ([VERSION, WRONG, CONNECTION], "proxy_upgrade_value", [UPGRADE]),
]

NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""
NGINX_SERVER = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{backend};
            {lines}
        }}
    }}
"""
HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    server wsecho {backend}
"""
APACHE_CONF = """
ServerRoot /usr/lib/apache2
ServerName localhost
PidFile {folder}/pid
ErrorLog {folder}/error.log
Listen 127.0.0.1:{port}
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule proxy_module modules/mod_proxy.so
LoadModule proxy_http_module modules/mod_proxy_http.so
LoadModule proxy_wstunnel_module modules/mod_proxy_wstunnel.so
ProxyPass / {scheme}://{backend}/
"""

Answer = tuple[int, bytes]


def ask(port: int, headers: dict[str, str], path: str = "/socket") -> Answer:
    """The status and the body of one GET; a 101 has no body that ends."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, b"" if response.status == 101 else response.read()
    finally:
        connection.close()


@contextmanager
def proxy(command: list[str], port: int) -> Iterator[None]:
    """Runs a proxy in the foreground, from when it answers on `port`."""
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + 20
        while True:
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"verdicts.py: {command[0]} does not serve")
            try:
                ask(port, {}, "/healthz")
                break
            except OSError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        sys.exit(f"verdicts.py: {what}: {found!r} instead of {expected!r}")
    print(f"{what}: {found}")


def expect_verdict(what: str, port: int, reason: str, lines: list[str]) -> None:
    """The same verdict as JSON and as text, both through the proxy."""
    status, body = ask(port, HANDSHAKE | {"Accept": "application/json"})
    expect(f"{what}, status", status, 426)
    refusal = json.loads(body)
    expect(f"{what}, verdict", refusal["reason"], reason)
    expect(f"{what}, lines", refusal["lines"], lines)
    _, text = ask(port, HANDSHAKE)
    for line in lines:
        expect(f"{what}, text has {line!r}", f"\n    {line}\n" in text.decode(), True)


def main() -> None:
    backend = sys.argv[1].removeprefix("ws://")
    shipped = Path(sys.argv[2]).read_text()
    with tempfile.TemporaryDirectory(prefix="wsecho-proxy-") as folder:
        config = Path(folder, "config")

        servers = [
            NGINX_SERVER.format(port=PROXY + row, backend=backend, lines="\n".join(lines))
            for row, (lines, _, _) in enumerate(NGINX_ROWS)
        ]
        # As packaged, but for the two addresses that an administrator changes too.
        whole = shipped.replace("server 127.0.0.1:8888;", f"server {backend};")
        servers.append(whole.replace("listen 80;", f"listen 127.0.0.1:{PROXY + 99};"))
        config.write_text(NGINX.format(folder=folder, servers="\n".join(servers)))
        with proxy(["nginx", "-p", folder, "-e", "stderr", "-c", str(config)], PROXY):
            for row, (lines, reason, missing) in enumerate(NGINX_ROWS):
                expect_verdict(f"nginx with {lines}", PROXY + row, reason, missing)
            expect("nginx as packaged", ask(PROXY + 99, HANDSHAKE)[0], 101)
            status, body = ask(PROXY + 99, {"Accept": "application/json"})
            expect("a browser through nginx", json.loads(body)["reason"], "no_websocket")

        config.write_text(HAPROXY.format(port=PROXY, backend=backend))
        with proxy(["haproxy", "-db", "-f", str(config)], PROXY):
            expect("HAProxy untouched", ask(PROXY, HANDSHAKE)[0], 101)

        for scheme in ("http", "ws"):
            settings = APACHE_CONF.format(
                folder=folder, port=PROXY, backend=backend, scheme=scheme
            )
            config.write_text(settings)
            with proxy(["apache2", "-X", "-f", str(config)], PROXY):
                if scheme == "http":
                    expect_verdict("Apache with http://", PROXY, "proxy_apache", [APACHE])
                else:
                    expect("Apache with ws://", ask(PROXY, HANDSHAKE)[0], 101)


main()
