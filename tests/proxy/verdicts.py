"""What the service says about misconfigured proxies.

Each row of the table is one mistake in a real proxy. A correct handshake is sent through it, and
the verdict must appear in the body that comes back through the proxy, in the service's log and in
its counter.
"""

import json
import re
import subprocess
from contextlib import nullcontext
from dataclasses import dataclass, field

from proxies import (
    BACKEND,
    HANDSHAKE,
    PATIENCE,
    PLAIN,
    SITE,
    ask,
    expect,
    metric,
    record,
    running,
    wsecho,
)
from service import Service

VERSION = "proxy_http_version 1.1;"
UPGRADE = "proxy_set_header Upgrade $http_upgrade;"
CONNECTION = 'proxy_set_header Connection "upgrade";'
EMPTY = 'proxy_set_header Connection "";'
WRONG = 'proxy_set_header Upgrade "upgrade";'
HOST = "proxy_set_header Host $http_host;"
FOR = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
APACHE = 'ProxyPass "/socket" "ws://127.0.0.1:8888/socket"'

SAME_HOST = 'origins = "same-host"'
REQUIRED = 'proxy.proxy_protocol = "required"'


def nginx(*lines: str, scheme: str = "http") -> tuple[str, str]:
    inside = "\n".join([f"proxy_pass {scheme}://{BACKEND};", *lines])
    return "nginx", f"server {{ listen 80; location / {{ {inside} }} }}"


def nginx_stream(*lines: str) -> tuple[str, str]:
    inside = "\n".join([f"proxy_pass {BACKEND};", *lines])
    return "nginx", f"stream {{ server {{ listen 80; {inside} }} }}"


def haproxy(option: str = "", mode: str = "http") -> tuple[str, str]:
    return (
        "haproxy",
        f"""
defaults
    mode {mode}
    timeout connect 5s
    timeout client 5s
    timeout server 5s
listen front
    bind :80
    server wsecho {BACKEND} {option}
""",
    )


def apache(scheme: str) -> tuple[str, str]:
    return "apache", f"ProxyPass / {scheme}://{BACKEND}/"


@dataclass
class Row:
    """One mistake and its consequences."""

    proxy: tuple[str, str] | None
    reason: str
    status: int = 426
    # If the verdict names lines to add, it is also checked as JSON.
    lines: list[str] = field(default_factory=list)
    # Part of the body.
    sentence: str = "a WebSocket handshake arrived, but"
    settings: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=lambda: HANDSHAKE)
    # How many times the proxy tries for one request.
    tries: int = 1

    def name(self) -> str:
        return f"{self.reason} by {' '.join(self.proxy[1].split()) if self.proxy else 'itself'}"


ALL = [VERSION, UPGRADE, CONNECTION]
BOTH = [UPGRADE, CONNECTION]
BROWSER = {"Host": SITE}
PAGE = HANDSHAKE | {"Origin": f"http://{SITE}"}
WORKS = "this WebSocket endpoint works"
PROXY_SPOKEN = "the peer sent a PROXY header"
NO_PROXY = "there is no PROXY header"
LOST_HOST = "the proxy in front replaced `Host`"
UNEXPECTED, MISSING = "proxy_protocol_unexpected", "proxy_protocol_missing"
ROWS = [
    Row(nginx(), "proxy_nothing_passed", lines=ALL),
    Row(nginx(VERSION), "proxy_headers_lost", lines=BOTH),
    # What nginx sends by default from 1.29.7 on.
    Row(nginx(VERSION, EMPTY), "proxy_headers_lost", lines=BOTH),
    Row(nginx(UPGRADE, CONNECTION), "proxy_http_1_0", lines=[VERSION]),
    Row(nginx(VERSION, UPGRADE), "proxy_connection_lost", lines=[CONNECTION]),
    Row(nginx(VERSION, UPGRADE, EMPTY), "proxy_connection_emptied", lines=[CONNECTION]),
    Row(nginx(VERSION, CONNECTION), "proxy_upgrade_lost", lines=[UPGRADE]),
    Row(nginx(VERSION, WRONG, CONNECTION), "proxy_upgrade_value", lines=[UPGRADE]),
    Row(apache("http"), "proxy_apache", lines=[APACHE]),
    Row(nginx(*ALL, FOR), "host_lost", 403, [HOST], LOST_HOST, [SAME_HOST], PAGE),
    Row(nginx(*ALL), "no_websocket", sentence=WORKS, headers=BROWSER),
    Row(None, "no_websocket", sentence=WORKS, headers=BROWSER),
    Row(haproxy("send-proxy-v2"), UNEXPECTED, 400, sentence=PROXY_SPOKEN),
    Row(haproxy("send-proxy"), UNEXPECTED, 400, sentence=PROXY_SPOKEN),
    Row(haproxy("send-proxy-v2", "tcp"), UNEXPECTED, 400, sentence=PROXY_SPOKEN),
    Row(nginx_stream("proxy_protocol on;"), UNEXPECTED, 400, sentence=PROXY_SPOKEN),
    *(
        Row(proxy, MISSING, 400, sentence=NO_PROXY, settings=[REQUIRED])
        for proxy in (nginx(*ALL), nginx_stream(), haproxy(), apache("ws"))
    ),
    Row(
        haproxy("send-proxy-v2"),
        "proxy_protocol_untrusted",
        400,
        sentence="this peer is not trusted to send a PROXY header",
        settings=[REQUIRED, "proxy.trusted = []"],
    ),
    # In these the proxy itself answers.
    Row(nginx(*ALL, scheme="https"), "tls_spoken", 502, sentence="502 Bad Gateway"),
    Row(haproxy("ssl verify none"), "tls_spoken", 503, sentence="No server", tries=4),
    Row(haproxy("proto h2"), "http2_spoken", 503, sentence="No server", tries=4),
]

# With nothing missing; HAProxy needs no extra line.
PASSING = [nginx(*ALL), haproxy(), apache("ws")]

# What curl makes of a wrong URL: the verdict, curl's exit code and its message.
CURL_ROWS = [
    (["--insecure", f"https://{BACKEND}/socket"], "tls_spoken", 35, "wrong version number"),
    (["--http2-prior-knowledge", f"http://{BACKEND}/socket"], "http2_spoken", 52, "Empty reply"),
    ([f"http://{BACKEND}/socket"], "no_websocket", 0, WORKS),
]


def expect_known(started: Service, reason: str, times: int) -> None:
    """Checks that the service refused this many and logged one line about it."""
    expect("counter", metric(f'wsecho_handshakes_refused_total{{reason="{reason}"}}'), times)
    expect("suppressed", metric(f'wsecho_log_suppressed_total{{kind="{reason}"}}'), times - 1)
    level = record(started, reason=reason)["level"]
    expect("level of the line in the log", level, "INFO")


def check(row: Row) -> None:
    proxy = running(*row.proxy) if row.proxy else nullcontext()
    with wsecho(*row.settings) as started, proxy:
        address = f"127.0.0.1:{PLAIN}" if row.proxy else BACKEND
        status, text = ask(row.headers, address=address)
        expect("status", status, row.status)
        expect(f"{row.sentence!r} in {text!r}", row.sentence in text, True)
        status, body = ask(row.headers | {"Accept": "application/json"}, address=address)
        expect("status of JSON", status, row.status)
        if row.lines:
            refusal = json.loads(body)
            expect("lines in the text", re.findall(r"^    (.*)$", text, re.MULTILINE), row.lines)
            expect("label in the text", f"\n({row.reason})\n" in text, True)
            expect("lines in the JSON", refusal["lines"], row.lines)
            expect("label in the JSON", refusal["reason"], row.reason)
        expect_known(started, row.reason, 2 * row.tries)


def check_curl(arguments: list[str], reason: str, code: int, says: str) -> None:
    command = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE), *arguments]
    with wsecho() as started:
        curl = subprocess.run(command, capture_output=True, text=True)
        expect(f"exit code of curl, which says {curl.stderr!r}", curl.returncode, code)
        expect(f"{says!r} from curl", says in curl.stdout + curl.stderr, True)
        expect_known(started, reason, 1)


def main() -> None:
    for row in ROWS:
        print(f"{row.status}: {row.name()}", flush=True)
        check(row)
    for proxy in PASSING:
        print("101:", *proxy[1].split(), flush=True)
        with wsecho(), running(*proxy):
            expect("status", ask(HANDSHAKE)[0], 101)
    for curl_row in CURL_ROWS:
        print("curl", *curl_row[0], flush=True)
        check_curl(*curl_row)


main()
