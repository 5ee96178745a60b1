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


def nginx_at(location: str, upstream_path: str) -> tuple[str, str]:
    """Everything right, but for what becomes of the path."""
    inside = "\n".join([f"proxy_pass http://{BACKEND}{upstream_path};", *ALL])
    return "nginx", f"server {{ listen 80; location {location} {{ {inside} }} }}"


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


def haproxy_twice() -> tuple[str, str]:
    """A proxy that passes on the PROXY header of the one before it, and adds its own."""
    product, nearer = haproxy("send-proxy", "tcp")
    nearer = nearer.replace("bind :80", "bind 127.0.0.1:81")
    return product, f"{nearer}listen outer\n    bind :80\n    server near 127.0.0.1:81 send-proxy\n"


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
    path: str = "/socket"

    def name(self) -> str:
        return f"{self.reason} by {' '.join(self.proxy[1].split()) if self.proxy else 'itself'}"


ALL = [VERSION, UPGRADE, CONNECTION]
BOTH = [UPGRADE, CONNECTION]
BROWSER = {"Host": SITE}
PAGE = HANDSHAKE | {"Origin": f"http://{SITE}"}
WORKS = "this WebSocket endpoint works"
TRACE = "0123456789abcdef"
PROXY_SPOKEN = "the peer sent a PROXY header"
NO_PROXY = "there is no PROXY header"
LOST_HOST = "the proxy in front replaced `Host`"
STRIP = ["location /ws/ {", "    proxy_pass http://wsecho/;"]
KEEP = ["proxy_pass http://wsecho;"]
MEANT = "/socket is probably meant"
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
    *(
        Row(nginx_at(*at), "no_endpoint", 404, lines, sentence, path=path)
        for at, path, lines, sentence in [
            (("/ws/", ""), "/ws/socket", STRIP, MEANT),
            (("/ws", "/"), "/ws/socket", STRIP, MEANT),
            (("/socket", "/socket/"), "/socket", KEEP, MEANT),
            (("/sock", "/"), "/socket", KEEP, MEANT),
            (("/socket", "/"), "/socket", KEEP, "endpoints: /socket, /echo"),
        ]
    ),
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
        settings=[REQUIRED, 'proxy.trusted = ["127.0.0.9"]'],
    ),
    Row(
        haproxy_twice(),
        "proxy_protocol_doubled",
        400,
        sentence="a second PROXY header follows",
        settings=[REQUIRED],
    ),
    # The client named this Host itself, and nginx passed it on.
    Row(
        nginx(*ALL, HOST, FOR),
        "origin",
        403,
        sentence="compared with Host",
        settings=[SAME_HOST],
        headers=PAGE | {"Host": "localhost:8080"},
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
        status, text = ask(row.headers, row.path, address=address)
        expect("status", status, row.status)
        expect(f"{row.sentence!r} in {text!r}", row.sentence in text, True)
        json_wanted = row.headers | {"Accept": "application/json"}
        status, body = ask(json_wanted, f"{row.path}?trace={TRACE}", address=address)
        expect("status of JSON", status, row.status)
        if row.lines:
            refusal = json.loads(body)
            expect("lines in the text", re.findall(r"^    (.*)$", text, re.MULTILINE), row.lines)
            expect("label in the text", f"\n({row.reason})\n" in text, True)
            expect("lines in the JSON", refusal["lines"], row.lines)
            expect("label in the JSON", refusal["reason"], row.reason)
        expect_known(started, row.reason, 2 * row.tries)
        if REQUIRED not in row.settings:
            check_info(row, address)


def check_info(row: Row, address: str) -> None:
    """/info says the same of the handshake with a trace, and of one that it gets itself."""
    told = json.loads(ask({}, f"/info?trace={TRACE}", BACKEND)[1])["trace"]
    outcome = "never"
    if row.status in (403, 404, 426):
        # Only then a whole request arrived.
        outcome = "broken" if row.headers != BROWSER and row.status != 404 else "refused"
        outcome = "refused" if row.reason == "origin" else outcome
        expect("reason of the trace", told["reason"], row.reason)
        expect("lines of the trace", told.get("lines", []), row.lines)
    expect("outcome of the trace", told["outcome"], outcome)
    if row.status == 426:
        verdict = json.loads(ask(row.headers, "/info", address)[1])["verdict"]
        expect("verdict of /info", verdict["reason"], row.reason)
        expect("lines of /info", verdict.get("lines", []), row.lines)


def check_curl(arguments: list[str], reason: str, code: int, says: str) -> None:
    command = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE), *arguments]
    with wsecho() as started:
        curl = subprocess.run(command, capture_output=True, text=True)
        expect(f"exit code of curl, which says {curl.stderr!r}", curl.returncode, code)
        expect(f"{says!r} from curl", says in curl.stdout + curl.stderr, True)
        expect_known(started, reason, 1)


def check_alert() -> None:
    """Faults count for the alert only where a proxy is at fault, whatever strangers send."""
    half = {name: value for name, value in HANDSHAKE.items() if name != "Upgrade"}
    faults = 'wsecho_proxy_faults_total{reason="proxy_upgrade_lost"}'

    def refused(client: str) -> None:
        # This machine is trusted, so its word on the client counts, as another proxy's would.
        expect("status", ask(half | {"X-Forwarded-For": client})[0], 426)

    with wsecho(), running(*nginx(*ALL, FOR)):
        for _ in range(3):
            refused("198.51.100.1")
        expect("faults of one stranger", metric(faults), 1)
        expect("status", ask(HANDSHAKE | {"X-Forwarded-For": "198.51.100.9"})[0], 101)
        for host in range(10):
            refused(f"203.0.113.{host}")
        expect("faults once the proxy has let a WebSocket through", metric(faults), 1)
    with wsecho(), running(*nginx(VERSION, CONNECTION, FOR)):
        for host in range(5):
            expect("status", ask(HANDSHAKE | {"X-Forwarded-For": f"203.0.113.{host}"})[0], 426)
        expect("faults of a broken proxy", metric(faults), 5)


def main() -> None:
    print("the alert", flush=True)
    check_alert()
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


if __name__ == "__main__":
    main()
