"""The service's page in real browsers: directly, behind proxies that work, and behind broken ones.

    page.py chrome|firefox EXECUTABLE FOLDER

Screenshots go to FOLDER. This needs its own network namespace, as tests/proxy does.
"""

import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import service
from fault import proxy as faulty
from proxies import BACKEND, Difference, expect, running, wsecho
from verdicts import ALL, HOST, ROWS, Row

WORKS = r"^WebSockets work from here\.$"
ASLEEP = r"^The connection ended while this page was asleep\.$"
BREAKS = r"^The proxy in front of wsecho breaks the handshake: "
# What a browser is told of each mistake, by label.
SENTENCES = {
    "proxy_nothing_passed": BREAKS + "it speaks HTTP/1.0 and dropped “Upgrade” and “Connection”",
    "proxy_headers_lost": BREAKS + "it dropped “Upgrade” and “Connection”",
    "proxy_http_1_0": BREAKS + "it sent it as HTTP/1.0",
    "proxy_connection_lost": BREAKS + "it dropped “Connection: upgrade”",
    "proxy_connection_emptied": BREAKS + "it set “Connection” to an empty value",
    "proxy_upgrade_lost": BREAKS + "it dropped “Upgrade: websocket”",
    "proxy_upgrade_value": BREAKS + "it replaced “Upgrade: websocket” with another value",
    "proxy_apache": BREAKS + "Apache in front forwarded it as plain HTTP",
    "host_lost": BREAKS + ".*the proxy in front replaced “Host”",
}
FRONT = "http://127.0.0.1/"
# A second instance beside the one at BACKEND.
OTHER = "127.0.0.1:8887"
# What each fault of tests/browser/fault.py looks like.
FAULTS: dict[str, dict[str, Any]] = {
    "drops the 101": {
        "expected": r"^wsecho answered 101, but no valid 101 came back\.$",
        "steps": {"handshake": "101 lost", "echo": "not reached"},
    },
    "swallows the 101": {
        "expected": r"^No answer to the handshake within 20 s\.$",
        "detail": "wsecho answered 101",
    },
    "stops handshakes": {
        "expected": r"^The handshake never reached wsecho; plain requests do\.$",
        "steps": {"handshake": "never arrived"},
    },
    "dies": {"expected": r"^The server does not answer any more\.$"},
    "holds messages": {
        "expected": r"^The WebSocket opens, but the first message never comes back\.$",
        "steps": {"handshake": "101 in", "echo": "no answer", "silence": "not reached"},
    },
    "cuts at the first message": {
        "expected": r"^The WebSocket opens, and is cut before the first message comes back\.$"
    },
    "alters text": {
        "expected": r"^The echo comes back altered\.$",
        "detail": "byte 15 is 0x57 instead of 0x77",
    },
    "cuts all": {"expected": r"^Connections are cut after (2\.\d+|[3-6](\.\d+)?) s, whether silent or not\.$"},
    "cuts the busy": {
        "expected": r"^The connection was cut after (2\.\d+|[3-6](\.\d+)?) s, although it was in use\.$"
    },
    "forgets": {
        "expected": r"^No answer after 0:\d\d of silence, and no notice: something forgot the connection\.$",
        "checks": ["check"],
    },
    "is slow": {
        "expected": r"^WebSockets work from here, but slowly: a message takes 3\d\d ms to come back\.$",
        "detail": "The page’s own request took",
    },
}


class Browser:
    """A browser that visits pages."""

    def __init__(self, name: str, executable: str, scheme: str) -> None:
        command = ["node", Path(__file__).with_name("page.cjs"), name, executable, scheme]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def visit(self, what: str, url: str, expected: str, **more: object) -> None:
        """Opens a page and checks it: see page.cjs."""
        begun = time.monotonic()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"url": url, "expected": expected, **more}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        found = json.loads(answer) if answer else {"error": "the browser has ended"}
        if "error" in found:
            raise Difference(f"{what}: {found['error']}")
        print(f"ok: {what} ({time.monotonic() - begun:.1f} s)", flush=True)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


@contextmanager
def certificate() -> Iterator[tuple[Path, Path]]:
    """A certificate that nobody knows, and its key."""
    with tempfile.TemporaryDirectory(prefix="wsecho-certificate-") as folder:
        crt, key = Path(folder, "crt"), Path(folder, "key")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        command += ["-nodes", "-days", "1", "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", crt]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        yield crt, key


def locations(*blocks: str, listen: str = "listen 80;") -> tuple[str, str]:
    """An nginx with these locations, each of which passes everything on to the service."""
    inside = "\n".join(blocks)
    return "nginx", f"server {{ {listen} {inside} }}"


def location(path: str, *lines: str, backend: str = BACKEND, upstream: str = "") -> str:
    words = "\n".join([f"proxy_pass http://{backend}{upstream};", *ALL, HOST, *lines])
    return f"location {path} {{ {words} }}"


def untold(reason: str) -> str:
    """A refusal in place of /info."""
    refusal = json.dumps({"reason": reason, "message": "no more than that"})
    return f"location = /info {{ default_type application/json; return 503 '{refusal}'; }}"


def shows_a_page(row: Row) -> bool:
    """Whether the page gets through the mistake of this row."""
    return row.reason in SENTENCES and row.path == "/socket"


def direct(browser: Browser, shot: Any) -> None:
    everything = ["keyboard", "graph", "messages", "close", "report", "seen", "accessible"]
    with wsecho() as started:
        url = started.url.replace("ws", "http", 1) + "/"
        checks = [*everything, "alive"]
        shots = {1280: shot("works"), 390: shot("phone")}
        browser.visit("directly", url, WORKS, checks=checks, shots=shots, forced=shot("forced"), calm=True)
        browser.visit("as in the README", url, WORKS, checks=["graph", "burst"], shots={1280: shot("readme")}, calm=True)
        browser.visit("on a small phone", url, WORKS, checks=["narrow"], calm=True)
        browser.visit("with choices of one's own", url, WORKS, checks=["choices", "again", "overtaken"])
        browser.visit("asleep for a while", url, WORKS, checks=["asleep"], later=WORKS, calm=True)


def behind_proxies(browser: Browser, shot: Any) -> None:
    with wsecho(), certificate() as (crt, key):
        tls = f"listen 443 ssl; ssl_certificate {crt}; ssl_certificate_key {key};"
        prefix = [location("/some/prefix/", upstream="/"), location("= /some/prefix", upstream="/")]
        with running(*locations(*prefix, listen=tls)):
            for path in ("/some/prefix/", "/some/prefix"):
                url = f"https://127.0.0.1{path}"
                browser.visit(f"behind TLS and {path}", url, WORKS, checks=["messages", "seen"], calm=True)
        with running(*locations(location("/", "proxy_read_timeout 3s;"))):
            expected = r"^WebSockets work from here, but silence is cut after 3 s\.$"
            detail = "It is no default that we know. Raise that limit: wsecho pings only every 25 s"
            browser.visit(
                "behind an idle limit of 3 s", FRONT, expected, detail=detail,
                steps={"silence": "cut after 3 s", "echo": "equal"}, checks=["graph", "accessible"],
                shots={1280: shot("cut")},
            )  # fmt: skip
            browser.visit("asleep behind it", FRONT, WORKS, checks=["asleep"], later=ASLEEP)
        with running(*locations(location("/"), "location /socket { return 403; }")):
            expected = r"^Something in front of wsecho refuses this path: 403\.$"
            browser.visit("behind a path that is refused", FRONT, expected)
        with running(*locations(location("/"), location("/socket", upstream="/socket/"))):
            expected = r"^wsecho refuses the handshake: no WebSocket endpoint has this path, /socket is "
            lines = ["proxy_pass http://wsecho;"]
            browser.visit("behind a path that is changed", FRONT, expected, lines=lines)
        stopped = location("/socket", "if ($http_upgrade) { return 444; }")
        with running(*locations(location("/"), stopped, untold("memory_spent"))):
            expected = r"^The handshake fails, while plain requests get through\.$"
            detail = "wsecho does not say why: no more than that."
            browser.visit("while /info has no memory", FRONT, expected, detail=detail, checks=["untold"])
    with wsecho("http.info = false"):
        with running(*locations("location / { proxy_pass http://%s; }" % BACKEND)):
            expected = r"^The handshake fails, while plain requests get through\.$"
            browser.visit("without /info", FRONT, expected, detail="/info is switched off")
    plain = ["[[endpoint]]", 'path = "/socket"', 'prefix = "server: "', "options = false"]
    with wsecho(*plain) as started:
        url = started.url.replace("ws", "http", 1) + "/"
        steps = {"silence": "not measured: refused"}
        browser.visit("without options of the URL", url, WORKS, steps=steps)


def behind_a_balancer(browser: Browser) -> None:
    """Two instances in turn: what one does not know, the other may."""
    upstream = f"upstream both {{ server {BACKEND}; server {OTHER}; }}"

    def balanced(*blocks: str) -> tuple[str, str]:
        product, text = locations(*blocks)
        return product, f"{upstream} {text}"

    everything = location("/", backend="both")
    with wsecho('http.name = "one"'), service.running(['http.name = "two"'], OTHER):
        with running(*balanced(everything)):
            browser.visit("in front of two instances", FRONT, WORKS, checks=["instances"])
        plain = f"location /socket {{ proxy_pass http://both; {HOST} }}"
        with running(*balanced(everything, plain)):
            browser.visit(
                "broken in front of two instances", FRONT, SENTENCES["proxy_nothing_passed"],
                detail="That is what instance ", lines=ROWS[0].lines,
            )  # fmt: skip
        stopped = location("/socket", "if ($http_upgrade) { return 444; }", backend="both")
        with running(*balanced(everything, stopped)):
            browser.visit(
                "stopped in front of two instances", FRONT, FAULTS["stops handshakes"]["expected"],
                detail="None of the instances that answer got it: ",
            )  # fmt: skip


def behind_mistakes(browser: Browser, shot: Any) -> None:
    rows = [row for row in ROWS if row.proxy and shows_a_page(row)]
    expect("mistakes", {row.reason for row in rows}, set(SENTENCES))
    for row in rows:
        assert row.proxy
        is_shown = row.reason == "proxy_connection_lost"
        more: dict[str, Any] = {"shots": {1280: shot("broken")}, "checks": ["accessible"]} if is_shown else {}
        with wsecho(*row.settings), running(*row.proxy):
            browser.visit(row.name(), FRONT, SENTENCES[row.reason], lines=row.lines, **more)


async def behind_faults(browser: Browser) -> None:
    host, port = BACKEND.split(":")
    for fault, visit in FAULTS.items():
        with wsecho():
            async with faulty(fault, 80, (host, int(port))):
                await asyncio.to_thread(browser.visit, f"behind a proxy that {fault}", FRONT, **visit)
    with wsecho("[[endpoint]]", 'path = "/"'):
        fault = "stops handshakes"
        async with faulty(fault, 80, (host, int(port))):
            what = f"as an endpoint itself, behind a proxy that {fault}"
            await asyncio.to_thread(browser.visit, what, FRONT, **FAULTS[fault])
    with wsecho():
        fault = "swallows the 101"
        blocks = [location("/"), untold("client_full"), location("/socket", backend=OTHER)]
        async with faulty(fault, int(OTHER.split(":")[1]), (host, int(port))):
            with running(*locations(*blocks)):
                visit = {**FAULTS[fault], "detail": "wsecho refuses the handshake: no more than that.", "checks": ["untold"]}
                what = "without an answer to the handshake, nor to what became of it"
                await asyncio.to_thread(browser.visit, what, FRONT, **visit)


def main() -> None:
    name, executable, folder = sys.argv[1:]
    with ExitStack() as stack:

        def start(scheme: str) -> tuple[Browser, Any]:
            browser = Browser(name, executable, scheme)
            stack.callback(browser.close)
            return browser, lambda what: str(Path(folder, f"page-{name}-{scheme}-{what}.png"))

        browser, shot = start("light")
        direct(browser, shot)
        behind_proxies(browser, shot)
        behind_a_balancer(browser)
        behind_mistakes(browser, shot)
        asyncio.run(behind_faults(browser))
        browser, shot = start("dark")
        with wsecho() as started:
            url = started.url.replace("ws", "http", 1) + "/"
            checks = ["graph", "accessible"]
            browser.visit("in the dark", url, WORKS, checks=checks, shots={1280: shot("works")}, calm=True)
        with running(*ROWS[0].proxy), wsecho():
            browser.visit("broken in the dark", FRONT, SENTENCES[ROWS[0].reason], lines=ROWS[0].lines, checks=["accessible"])


main()
