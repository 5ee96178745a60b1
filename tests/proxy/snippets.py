"""The output of `wsecho snippet` in real proxies, in each variant it has commented lines for.

Beyond that, only certificate paths are changed. Every variant must pass every kind of message and
Close, and the log must name the real client, whatever its headers claim.
"""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from threading import Thread
from typing import Any

from proxies import (
    BACKEND,
    CLIENT,
    HANDSHAKE,
    PATIENCE,
    PLAIN,
    SITE,
    SPOOFED,
    ask,
    changed,
    echoes,
    end,
    expect,
    record,
    running,
    session,
    snippet,
    uncommented,
    wsecho,
)

SETTINGS = [
    # Reveals a lost or spoofed Host.
    'origins = "same-host"',
    "require_origin = true",
    'shutdown.drain_spread = "0s"',
    'unix_mode = "0666"',
]
REQUIRED = 'proxy.proxy_protocol = "required"'
MEBIBYTE = 1 << 20
SECRET = "c29tZXRoaW5nOnNlY3JldA"
KEEPALIVE = "upstream wsecho {\n    keepalive 32;\n"

LISTEN_TLS = "#listen 443 ssl;\n    #listen [::]:443 ssl;\n    #"
NGINX_TLS = [
    *(
        (LISTEN_TLS + line, LISTEN_TLS.replace("#", "") + line)
        for line in ("ssl_reject_handshake on;\n", "ssl_certificate /etc/nginx/wsecho.crt;\n")
    ),
    *uncommented("ssl_certificate_key /etc/nginx/wsecho.key;"),
]
STREAM_TLS = [
    ("        listen 80;\n        listen [::]:80;\n", ""),
    *uncommented("listen 443 ssl;", "listen [::]:443 ssl;"),
    *uncommented(
        "ssl_certificate /etc/nginx/wsecho.crt;", "ssl_certificate_key /etc/nginx/wsecho.key;"
    ),
]
NGINX_PREFIX = [
    ("    location / {\n        proxy_pass http://wsecho;\n", ""),
    *uncommented("location /ws/ {", "    proxy_pass http://wsecho/;"),
]
NGINX_PATHS = [
    ("    location / {\n", ""),
    *uncommented("location ~ ^(/socket|/echo)$ {"),
]
NGINX_NO_MAP = [
    ("proxy_set_header Connection $wsecho_connection;\n", ""),
    *uncommented('proxy_set_header Connection "upgrade";'),
]
HAPROXY_TLS = uncommented(
    "bind :443 ssl crt /etc/haproxy/wsecho.pem",
    "bind :::443 v6only ssl crt /etc/haproxy/wsecho.pem",
)
HAPROXY_PREFIX = uncommented(r"http-request replace-path ^/ws(/.*) \1")
HAPROXY_PATHS = [
    ("    default_backend wsecho\n", ""),
    *uncommented("use_backend wsecho if { path /socket /echo }"),
]
APACHE_TLS = [
    ("<VirtualHost *:80>\n# For", "# For"),
    *uncommented(
        "<VirtualHost *:443>",
        "    SSLEngine on",
        "    SSLCertificateFile /etc/pki/tls/certs/wsecho.crt",
        "    SSLCertificateKeyFile /etc/pki/tls/private/wsecho.key",
    ),
]
APACHE_SOCKET = f'    ProxyPass "/socket" "ws://{BACKEND}/socket"\n'
APACHE_PREFIXED = f'ProxyPass "/ws/" "ws://{BACKEND}/"\n'
APACHE_PREFIX = [
    (f"    #{APACHE_PREFIXED}", ""),
    (APACHE_SOCKET, f"    {APACHE_PREFIXED}{APACHE_SOCKET}"),
]
APACHE_UPGRADE = [
    (APACHE_SOCKET, ""),
    (f'    ProxyPass "/echo" "ws://{BACKEND}/echo"\n', ""),
    (f'    ProxyPass "/" "http://{BACKEND}/"\n', ""),
    *uncommented(f'ProxyPass "/" "http://{BACKEND}/" upgrade=websocket'),
]

CADDY_TLS = [
    (f"http://{SITE} {{\n", ""),
    *uncommented(f"{SITE} {{", "tls /etc/caddy/wsecho.crt /etc/caddy/wsecho.key"),
]
CADDY_PREFIX = [("\thandle {\n", ""), *uncommented("handle_path /ws/* {")]
CADDY_PATHS = [
    ("\thandle {\n", ""),
    *uncommented("@wsecho path /socket /echo", "handle @wsecho {"),
]
ENVOY_TLS = [
    ("port_value: 80,", "port_value: 443,"),
    *uncommented(
        "transport_socket:",
        "  name: envoy.transport_sockets.tls",
        "  typed_config:",
        '    "@type": type.googleapis.com/'
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "    common_tls_context:",
        "      tls_certificates:",
        "      - certificate_chain: {filename: /etc/envoy/wsecho.crt}",
        "        private_key: {filename: /etc/envoy/wsecho.key}",
    ),
]
ENVOY_ROUTE = "- match: {prefix: /}\n                route: {cluster: wsecho, timeout: 0s}\n"
ENVOY_PREFIX = [
    (ENVOY_ROUTE, "\n"),
    *uncommented(
        "- match: {prefix: /ws/}",
        "  route: {cluster: wsecho, timeout: 0s, prefix_rewrite: /}",
    ),
]
VARNISH_PREFIX = uncommented('set req.url = regsub(req.url, "^/ws/", "/");')
LIGHTTPD_TLS = uncommented(
    'server.modules += ( "mod_openssl" )',
    '$SERVER["socket"] == ":443" {',
    '    ssl.engine = "enable"',
    '    ssl.pemfile = "/etc/lighttpd/wsecho.crt"',
    '    ssl.privkey = "/etc/lighttpd/wsecho.key"',
    "}",
)
LIGHTTPD_PREFIX = [
    ('    proxy.header = ( "upgrade" => "enable" )\n', ""),
    *uncommented(
        'proxy.header = ( "upgrade" => "enable", "map-urlpath" => ( "/ws/" => "/" ) )',
    ),
]

# The line that lets handshakes through, for products whose own headers give them away.
SWITCHES = {
    "varnish": 'if (req.http.Upgrade ~ "(?i)websocket") { return (pipe); }',
    "lighttpd": 'proxy.header = ( "upgrade" => "enable" )',
}


@dataclass
class Variant:
    """A snippet with an administrator's changes."""

    name: str
    product: str
    changes: list[tuple[str, str]] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    prefix: str = ""
    tls: bool = False
    unix: bool = False


VARIANTS = [
    Variant("as it is", "nginx"),
    Variant("without the map", "nginx", NGINX_NO_MAP),
    Variant("beside other paths", "nginx", NGINX_PATHS),
    Variant("below a prefix", "nginx", NGINX_PREFIX, prefix="/ws"),
    Variant("TLS", "nginx", NGINX_TLS, tls=True),
    Variant("Unix socket", "nginx", unix=True),
    Variant("PROXY protocol", "nginx", settings=[REQUIRED]),
    Variant("PROXY protocol, TLS", "nginx", STREAM_TLS, [REQUIRED], tls=True),
    Variant("PROXY protocol, Unix socket", "nginx", settings=[REQUIRED], unix=True),
    Variant("as it is", "haproxy"),
    Variant("beside other paths", "haproxy", HAPROXY_PATHS),
    Variant("below a prefix", "haproxy", HAPROXY_PREFIX, prefix="/ws"),
    Variant("TLS", "haproxy", HAPROXY_TLS, tls=True),
    Variant("Unix socket", "haproxy", unix=True),
    Variant("PROXY protocol", "haproxy", settings=[REQUIRED]),
    Variant("PROXY protocol, Unix socket", "haproxy", settings=[REQUIRED], unix=True),
    Variant("as it is", "apache"),
    Variant("below a prefix", "apache", APACHE_PREFIX, prefix="/ws"),
    Variant("TLS", "apache", APACHE_TLS, tls=True),
    Variant("Unix socket", "apache", unix=True),
    Variant("upgrade=websocket", "apache", APACHE_UPGRADE),
    Variant("upgrade=websocket, TLS", "apache", APACHE_UPGRADE + APACHE_TLS, tls=True),
    Variant("as it is", "caddy"),
    Variant("beside other paths", "caddy", CADDY_PATHS),
    Variant("below a prefix", "caddy", CADDY_PREFIX, prefix="/ws"),
    Variant("TLS", "caddy", CADDY_TLS, tls=True),
    Variant("Unix socket", "caddy", unix=True),
    Variant("as it is", "envoy"),
    Variant("below a prefix", "envoy", ENVOY_PREFIX, prefix="/ws"),
    Variant("TLS", "envoy", ENVOY_TLS, tls=True),
    Variant("Unix socket", "envoy", unix=True),
    Variant("PROXY protocol", "envoy", settings=[REQUIRED]),
    Variant("as it is", "varnish"),
    Variant("below a prefix", "varnish", VARNISH_PREFIX, prefix="/ws"),
    Variant("Unix socket", "varnish", unix=True),
    Variant("PROXY protocol", "varnish", settings=[REQUIRED]),
    Variant("as it is", "lighttpd"),
    Variant("below a prefix", "lighttpd", LIGHTTPD_PREFIX, prefix="/ws"),
    Variant("TLS", "lighttpd", LIGHTTPD_TLS, tls=True),
    Variant("Unix socket", "lighttpd", unix=True),
]


@contextmanager
def certificate() -> Iterator[tuple[dict[str, str], ssl.SSLContext]]:
    """A throwaway certificate: files that replace those named in the snippets, and a client context
    that trusts it."""
    with tempfile.TemporaryDirectory(prefix="wsecho-certificate-") as folder:
        crt, key, pem = (Path(folder, f"wsecho.{kind}") for kind in ("crt", "key", "pem"))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            + ["-nodes", "-days", "1", "-subj", f"/CN={SITE}"]
            + ["-addext", f"subjectAltName=DNS:{SITE}", "-keyout", key, "-out", crt],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        pem.write_text(crt.read_text() + key.read_text())
        files = {
            "/etc/nginx/wsecho.crt": crt,
            "/etc/nginx/wsecho.key": key,
            "/etc/haproxy/wsecho.pem": pem,
            **{f"/etc/{it}/wsecho.crt": crt for it in ("caddy", "envoy", "lighttpd")},
            **{f"/etc/{it}/wsecho.key": key for it in ("caddy", "envoy", "lighttpd")},
            "/etc/pki/tls/certs/wsecho.crt": crt,
            "/etc/pki/tls/private/wsecho.key": key,
        }
        context = ssl.create_default_context(cafile=str(crt))
        yield {old: str(new) for old, new in files.items()}, context


async def check(variant: Variant, files: dict[str, str], tls: ssl.SSLContext) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="wsecho-socket-"))
        # Apache's workers do not run as root.
        Path(folder).chmod(0o755)
        bind = f"unix:{folder}/wsecho.sock" if variant.unix else BACKEND
        started = stack.enter_context(wsecho(*SETTINGS, *variant.settings, bind=bind))
        text = changed(snippet(variant.product, started.config), *variant.changes)
        for old, new in files.items():
            text = text.replace(old, new)
        stack.enter_context(running(variant.product, text))
        context = tls if variant.tls else None

        async with session(f"{variant.prefix}/socket", context) as client:
            await echoes(client, "Hello world", "server: ")
            await client.close(1000, "done")
            expect("Close", await end(client), (1000, "done"))

        async with session(f"{variant.prefix}/echo", context, additional_headers=SPOOFED) as client:
            for message in ("", "Gr\u00fc\u00dfe", b"", bytes(range(256)), b"\xff" * MEBIBYTE):
                await echoes(client, message)
            await echoes(client, "x" * MEBIBYTE)
            async with asyncio.timeout(PATIENCE):
                # Pongs are matched by payload: with any other payload this would wait forever.
                await (await client.ping(b"payload"))
            await client.close(4001, "spoofed")
            expect("Close", await end(client), (4001, "spoofed"))
        logged = record(started, close_reason="spoofed")
        expect(f"client in {logged}", str(logged["client"]).partition(":")[0], CLIENT)
        via = "unix" if variant.unix else "127.0.0.1"
        expect(f"via in {logged}", str(logged["via"]).partition(":")[0], via)

        await informed(variant, context)

        async with session(f"{variant.prefix}/echo", context) as client:
            await echoes(client, "still here")
            os.kill(started.process.pid, signal.SIGTERM)
            expect("Close at the end of the service", (await end(client))[0], 1001)
            # Stopping Apache while it has a WebSocket would have to wait for the session.
            started.process.wait(PATIENCE)


async def informed(variant: Variant, tls: ssl.SSLContext | None) -> None:
    """/info tells the truth about a client that claims to be another, and none of its secrets."""
    claims = SPOOFED | {"Cookie": f"a={SECRET}", "Authorization": f"Basic {SECRET}"}
    if variant.name == "beside other paths" or (variant.product == "apache" and tls):
        return
    if variant.product == "apache" and not variant.name.startswith("upgrade="):
        # Its snippet upgrades the endpoints alone.
        address = f"{CLIENT}:{PLAIN}"
        text = ask({"Host": SITE} | claims, f"{variant.prefix}/info", address)[1]
        verdict = "no_websocket"
    else:
        path = f"{variant.prefix}/info"
        async with session(path, tls, additional_headers=claims) as client:
            text = str(await client.recv())
            expect("Close of /info", await end(client), (1000, ""))
        verdict = "complete"
    told = json.loads(text)
    expect("verdict", told["verdict"]["reason"], verdict)
    expect("client", told["client"]["address"].partition(":")[0], CLIENT)
    expect("secret", SECRET in text, False)
    # Behind a PROXY header, all other headers could be the client's.
    named = "PROXY" in variant.name
    scheme = None if named else "https" if tls else "http"
    expect("scheme", told["reported"]["scheme"], scheme)
    # Apache adds it without being asked.
    expect("host that is reported", told["reported"]["host"] in (None, SITE), True)
    expect("host", told["received"]["host"], SITE)
    ignored = {(it["header"], it["reason"]) for it in told["client"]["ignored"]}
    claimed = ("x-forwarded-for", "sender_untrusted" if named else "written_by_client")
    # Caddy passes on none of what a client claims.
    arrives = variant.product != "caddy"
    expect(f"{claimed} in {ignored}", claimed in ignored, arrives)
    warnings = [warning["reason"] for warning in told["warnings"]]
    warning = "peer_untrusted" if named else "hop_untrusted"
    expect("warnings", warnings, [warning] if arrives else [])


def by_host(host: str) -> tuple[int, str]:
    """Status and body of the list of endpoints, requested from this host."""
    return ask({"Host": host}, "/")


def only_its_own_hosts(product: str, status: int, elsewhere: str) -> None:
    """Requests for hosts that no site names do not reach the service."""
    with wsecho() as started, running(product, snippet(product, started.config)):
        expect("its own host", by_host(SITE)[0], 200)
        for host in ("other.example.com", "192.0.2.1"):
            found, body = by_host(host)
            expect(f"status for {host}", found, status)
            expect(f"{elsewhere!r} in {body!r}", elsewhere in body, True)


def both_families(product: str) -> None:
    """The proxy can be reached over IPv4 and IPv6."""
    with wsecho() as started, running(product, snippet(product, started.config)):
        for address in ("127.0.0.1", "[::1]"):
            status, _ = ask({"Host": SITE}, "/", f"{address}:{PLAIN}")
            expect(f"status at {address}", status, 200)


def asks_for(product: str, switch: str) -> None:
    """Without this line, a handshake is answered with it."""
    with wsecho() as started:
        text = changed(snippet(product, started.config), (f"    {switch}\n", ""))
        with running(product, text):
            status, body = ask(HANDSHAKE, "/echo")
        expect("status", status, 426)
        expect(f"{switch!r} in {body!r}", f"\n    {switch}\n" in body, True)


class Backend(ThreadingHTTPServer):
    """In place of the service, which closes each connection itself: counts connections."""

    connections = 0

    def get_request(self) -> tuple[socket, Any]:
        self.connections += 1
        return super().get_request()


class Handler(BaseHTTPRequestHandler):
    """Allows further requests on its connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()


def keepalive() -> None:
    """With keepalive in the upstream, as by default since 1.29.7, nginx keeps its connection."""
    with wsecho() as started:
        text = changed(snippet("nginx", started.config), ("upstream wsecho {\n", KEEPALIVE))
    host, _, port = BACKEND.partition(":")
    with Backend((host, int(port)), Handler) as backend:
        Thread(target=backend.serve_forever, daemon=True).start()
        with running("nginx", text, "worker_processes 1;"):
            for _ in range(3):
                expect("status", by_host(SITE)[0], 204)
        expect("connections", backend.connections, 1)
        backend.shutdown()


def main() -> None:
    print("hosts that no site names", flush=True)
    only_its_own_hosts("nginx", 421, "check server_name")
    only_its_own_hosts("apache", 404, "Not Found")
    print("IPv4 and IPv6", flush=True)
    for product in ("nginx", "haproxy"):
        both_families(product)
    print("keepalive", flush=True)
    keepalive()
    for product, switch in SWITCHES.items():
        print(f"{product}: without its line", flush=True)
        asks_for(product, switch)
    with certificate() as (files, tls):
        for variant in VARIANTS:
            print(f"{variant.product}: {variant.name}", flush=True)
            asyncio.run(check(variant, files, tls))


if __name__ == "__main__":
    main()
