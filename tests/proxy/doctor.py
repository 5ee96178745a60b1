"""What `wsecho doctor` says about real proxies, from their configuration alone.

Each mistake of the verdicts' table must be found where it is written, without a client having met it,
and by the same name; what is right must be taken for right, and an echo must come back through it.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import service
from proxies import BACKEND, SITE, expect, running, snippet, wsecho
from snippets import certificate
from verdicts import ALL, CONNECTION, HOST, PASSING, ROWS, UPGRADE, VERSION, Row

# What systemd says of a service that runs; there is none in the namespace.
SYSTEMCTL = """
cat <<'END'
Id=wsecho.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
NeedDaemonReload=no
END
"""
# SELinux and firewalld as their manual pages show them, when they are in the way.
BARRIERS = {
    "getenforce": "echo Enforcing",
    "getsebool": "echo 'httpd_can_network_connect --> off'",
    "semanage": "echo 'http_port_t tcp 80, 81, 443'; echo 'unreserved_port_t tcp 1024-32767'",
    "firewall-cmd": "[ $1 = --state ] && echo running || { echo no; exit 1; }",
}
SOCKET = "/tmp/wsecho-doctor.sock"
# The addresses in a folder of its own, as a distribution keeps them.
UPSTREAM = f"upstream back {{ server {BACKEND}; }}"
MAP = "map $http_upgrade $connection_upgrade { default upgrade; '' close; }"
NO_DEFAULT = "map $http_upgrade $connection_upgrade { '' close; }"
BY_MAP = "proxy_set_header Connection $connection_upgrade;"
HALF = " ".join([VERSION, CONNECTION])
FULL = " ".join(ALL)
LOST = "proxy_upgrade_lost"


@dataclass
class Case:
    """A configuration, what the doctor calls its fault, and on which line it is."""

    proxy: tuple[str, str]
    label: str | None
    settings: tuple[str, ...] = ()
    # What the named line contains.
    line: str = ""
    bind: str = BACKEND
    # Whether an echo comes back through the proxy if nothing is wrong.
    through: bool = True


def nginx(server: str, before: str = "") -> tuple[str, str]:
    return "nginx", f"{before}\nserver {{ listen 80;\n{server}\n}}"


def location(path: str, target: str, lines: str) -> str:
    return f"location {path} {{\n proxy_pass http://{target};\n {lines}\n}}"


def haproxy(lines: str, server: str = "", defaults: str = "") -> tuple[str, str]:
    return (
        "haproxy",
        f"""
defaults
    mode http
    timeout connect 5s
    timeout client 5m
    timeout server 5m
    {defaults}
frontend front
    bind 127.0.0.1:80
    default_backend back
backend back
    {lines}
    server wsecho {BACKEND} {server}
""",
    )


def apache(text: str) -> tuple[str, str]:
    return "apache", text


HTTP, WS = f"http://{BACKEND}", f"ws://{BACKEND}"
REWRITE = """
<VirtualHost *:80>
    ServerName localhost
    {engine}
    RewriteCond %{{HTTP:Upgrade}} websocket [NC]
    RewriteRule ^/(.*) ws://127.0.0.1:8888/$1 [P,L]
    ProxyPass / http://127.0.0.1:8888/
</VirtualHost>
"""
MODULE = "LoadModule rewrite_module modules/mod_rewrite.so\n"
LOAD = "LoadModule {0}_module modules/mod_{0}.so\n"
BALANCERS = "".join(
    LOAD.format(name) for name in ("slotmem_shm", "proxy_balancer", "lbmethod_byrequests")
)
CASES = [
    # Upstream names, variables, `set` and `map`.
    Case(nginx(location("/", "back", HALF), UPSTREAM), LOST, line="proxy_pass"),
    Case(nginx(location("/", "back", FULL), UPSTREAM), None),
    Case(nginx(f"set $b {BACKEND};" + location("/", "$b", HALF)), LOST),
    Case(nginx(f"set $b {BACKEND};" + location("/", "$b", FULL)), None),
    Case(
        nginx(location("/", "$b$request_uri", HALF), f"map $host $b {{ default {BACKEND}; }}"),
        LOST,
    ),
    # With a variable, what stands in proxy_pass is the whole path.
    Case(nginx(f"set $b {BACKEND};" + location("/ws/", "$b/socket", FULL)), None),
    Case(nginx(f"set $b {BACKEND};" + location("/", "$b/", FULL)), "no_endpoint"),
    # A map for Connection, with and without its default.
    Case(nginx(location("/", BACKEND, f"{VERSION} {UPGRADE} {BY_MAP}"), MAP), None),
    Case(
        nginx(location("/", BACKEND, f"{VERSION} {UPGRADE} {BY_MAP}"), NO_DEFAULT),
        "proxy_connection_emptied",
        line="map $http_upgrade",
    ),
    # Nested locations, inheritance, `if`.
    Case(nginx(f"{FULL} location / {{ {location('/socket', BACKEND, '')} return 404; }}"), None),
    Case(
        nginx(f"{FULL} location / {{ {location('/socket', BACKEND, HOST)} return 404; }}"),
        "proxy_headers_lost",
        line=f"proxy_pass http://{BACKEND}",
    ),
    Case(
        nginx(
            "location / { if ($http_upgrade) {\n"
            f" proxy_pass http://{BACKEND};\n}} {HALF} return 404; }}"
        ),
        None,  # `return` comes first: nothing is passed on.
        through=False,
    ),
    Case(
        nginx(f"location / {{ {HALF} if ($http_upgrade) {{\n proxy_pass http://{BACKEND}; }} }}"),
        LOST,
        line="proxy_pass",
    ),
    # Only the location that takes an endpoint counts.
    Case(
        nginx(
            location("/", BACKEND, "") + location("~ ^/(socket|echo)$", BACKEND, FULL)
        ),
        None,
    ),
    Case(nginx(location("/", BACKEND, "") + location("/socket", BACKEND, FULL)), "proxy_nothing_passed"),
    Case(nginx(location("= /healthz", BACKEND, "")), None, through=False),
    Case(nginx(location("/ws/", f"{BACKEND}/", FULL)), None),
    # A Unix socket.
    Case(nginx(location("/", f"unix:{SOCKET}:", HALF)), LOST, bind=f"unix:{SOCKET}"),
    Case(nginx(location("/", f"unix:{SOCKET}", FULL)), None, bind=f"unix:{SOCKET}"),
    # Another service.
    Case(nginx(location("/", "127.0.0.1:9999", "")), None, through=False),
    # Silence.
    Case(
        nginx(location("/", BACKEND, f"{FULL} proxy_read_timeout 20s;")),
        "idle_timeout",
        line="proxy_pass",
    ),
    Case(haproxy("timeout server 10s"), "idle_timeout", line="server wsecho"),
    Case(haproxy("timeout server 10s\n    timeout tunnel 1h"), None),
    # Zero is none, and leaves a tunnel to the others.
    Case(haproxy("timeout server 0\n    timeout tunnel 0"), None),
    Case(haproxy("timeout server 10s\n    timeout tunnel 0"), "idle_timeout", line="server wsecho"),
    # HAProxy's rules and defaults.
    Case(haproxy("http-request del-header Upgrade"), "header_dropped", line="del-header"),
    Case(haproxy("http-request del-header Upgrade if { path /x }"), None),
    Case(haproxy("", defaults="default-server send-proxy"), "proxy_protocol_unexpected"),
    Case(haproxy("", "check"), None),
    # Apache: order, rewriting, balancers, paths.
    Case(apache(f"ProxyPass / {HTTP}/\nProxyPass /socket {WS}/socket"), "proxy_apache"),
    Case(apache(f"ProxyPass /socket {WS}/socket\nProxyPass /echo {WS}/echo\nProxyPass / {HTTP}/"), None),
    Case(apache(f"ProxyPass / {HTTP}/ upgrade=websocket"), None),
    Case(apache(f"<Location /socket>\nProxyPass {HTTP}/socket\n</Location>"), "proxy_apache"),
    Case(apache(f"<Location /socket>\nProxyPass {WS}/socket\n</Location>"), None),
    Case(apache(MODULE + REWRITE.format(engine="RewriteEngine On")), None),
    Case(apache(MODULE + REWRITE.format(engine="")), "proxy_apache", line="ProxyPass / "),
    Case(
        apache(
            f"{BALANCERS}<Proxy balancer://b>\nBalancerMember {HTTP}\n</Proxy>\n"
            "ProxyPass / balancer://b/"
        ),
        "proxy_apache",
        line="ProxyPass / ",
    ),
    Case(apache(f"ProxyPass /ws {WS}/"), "no_endpoint", line="ProxyPass"),
    Case(apache(f"ProxyPass /ws/ {WS}/"), None),
    Case(apache(f"Define back {BACKEND}\nProxyPass / http://${{back}}/"), "proxy_apache"),
    Case(apache(f"ProxyPass / wss://{BACKEND}/"), "tls_spoken"),
]


@contextmanager
def tools(scripts: dict[str, str]) -> Iterator[str]:
    """A folder with the programs that the doctor asks."""
    with tempfile.TemporaryDirectory(prefix="wsecho-tools-") as folder:
        for name, script in scripts.items():
            tool = Path(folder, name)
            tool.write_text(f"#!/bin/sh\n{script}\n")
            tool.chmod(0o755)
        yield folder


def doctor(config: Path, *arguments: str, **barriers: str) -> tuple[int, str]:
    """The exit code of a doctor, and what it prints."""
    with tools({"systemctl": SYSTEMCTL, **barriers}) as folder:
        command = [service.binary(), "doctor", "--config", str(config), *arguments]
        path = {"PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={**os.environ, **path}
        )
    expect("stderr", done.stderr, "")
    return done.returncode, done.stdout


def findings(config: Path, **barriers: str) -> tuple[int, dict[str, Any]]:
    code, text = doctor(config, "--format", "json", **barriers)
    return code, json.loads(text)


def check(case: Case) -> None:
    with wsecho(*case.settings, bind=case.bind) as started, running(*case.proxy) as proxy:
        code, report = findings(started.config)
        text = proxy.config.read_text().splitlines()
    told = f"in {report}"
    labels = [it["label"] for it in report["findings"]]
    expect(f"labels {told}", labels, [case.label] if case.label else [])
    expect(f"exit code {told}", code, 1 if case.label else 0)
    if case.label:
        finding = report["findings"][0]
        expect(f"its line {told}", case.line in text[finding["line"] - 1], True)
    else:
        expect(f"echoes {told}", len(report["echoed"]), 2 if case.through else 1)


def check_row(row: Row) -> None:
    """The doctor names a mistake as the service does."""
    assert row.proxy
    with wsecho(*row.settings) as started, running(*row.proxy) as proxy:
        code, report = findings(started.config)
        text = proxy.config.read_text().splitlines()
    told = f"in {report}"
    labels = [it["label"] for it in report["findings"]]
    if row.reason in ("no_websocket", "origin"):
        expect(f"labels {told}", labels, [])
        expect(f"exit code {told}", code, 0)
        return
    expect(f"labels {told}", labels[0], row.reason)
    # The table's HAProxy cuts after five seconds.
    expect(f"other labels {told}", set(labels[1:]) <= {"idle_timeout"}, True)
    expect(f"exit code {told}", code, 1)
    finding = report["findings"][0]
    leads = re.compile(r"proxy_pass|server |ProxyPass")
    expect(f"the line {told}", bool(leads.search(text[finding["line"] - 1])), True)
    if row.lines and row.reason != "no_endpoint" or "location" in str(row.proxy):
        expect(f"lines {told}", finding["lines"], row.lines)


def check_passing(product: str) -> None:
    """A host on which all is well takes one line, which names the way through the proxy."""
    with wsecho() as started, running(product, snippet(product, started.config)):
        code, text = doctor(started.config)
    expect(f"exit code after {text}", code, 0)
    expect(f"lines of {text}", len(text.splitlines()), 1)
    expect(f"an echo through it in {text}", len(re.findall("ws://", text)), 2)


def check_includes() -> None:
    """A mistake in an included file is found there."""
    with tempfile.TemporaryDirectory(prefix="wsecho-included-") as folder:
        included = Path(folder, "sites", "echo.inc")
        included.parent.mkdir()
        upstream = Path(folder, "upstream.inc")
        upstream.write_text(UPSTREAM)
        for product, text, inside, label in [
            (
                "nginx",
                f"include {folder}/sites/*.inc;",
                f"include {upstream};\nserver {{ listen 80;\n location / {{\n"
                f"  proxy_pass http://back; }} }}",
                "proxy_nothing_passed",
            ),
            (
                "apache",
                f"IncludeOptional {folder}/sites/*.inc",
                f"# The\n# echo\n\nProxyPass / {HTTP}/",
                "proxy_apache",
            ),
        ]:
            included.write_text(inside)
            with wsecho() as started, running(product, text):
                _, report = findings(started.config)
            found = [(it["label"], it["file"], it["line"]) for it in report["findings"]]
            expect(f"findings in {report}", found, [(label, str(included), 4)])


def check_tls() -> None:
    """An echo comes back over TLS too, whatever the certificate."""
    with certificate() as (paths, _), wsecho() as started:
        crt, key = paths["/etc/nginx/wsecho.crt"], paths["/etc/nginx/wsecho.key"]
        tls = f"listen 443 ssl; ssl_certificate {crt}; ssl_certificate_key {key};"
        to_tls = "if ($scheme = http) { return 301 https://$host$request_uri; }"
        passing = f"server_name {SITE}; {location('/', BACKEND, FULL)}"
        bind = f"bind :443 ssl crt {paths['/etc/haproxy/wsecho.pem']}"
        redirect = "http-request redirect scheme https unless { ssl_fc }"
        one = haproxy("timeout tunnel 1h")[1].replace("default_b", f"{bind}\n{redirect}\ndefault_b")
        demand = f"ssl_verify_client on; ssl_client_certificate {crt};"
        apache_tls = (
            f"SSLEngine on\nSSLCertificateFile {crt}\nSSLCertificateKeyFile {key}\n"
            f"ServerName {SITE}\nProxyPass / {WS}/"
        )
        to_site = f"ServerName {SITE}\nRedirect / https://{SITE}/"
        for product, text, host in [
            ("nginx", f"server {{ {tls} {passing} }}", SITE),
            # One server for both, the first of the address without a name of ours.
            (
                "nginx",
                f"server {{ listen 80; {tls} return 404; }} "
                f"server {{ listen 80; {tls} {to_tls} {passing} }}",
                SITE,
            ),
            ("haproxy", one, "127.0.0.1"),
            (
                "apache",
                LOAD.format("alias") + f"<VirtualHost *:80>\n{to_site}\n</VirtualHost>\n"
                f"<VirtualHost *:443>\n{apache_tls}\n</VirtualHost>",
                SITE,
            ),
            # Only clients can get in.
            ("nginx", f"server {{ {tls} {demand} {passing} }}", None),
        ]:
            with running(product, text):
                code, report = findings(started.config)
            expect(f"exit code in {report}", code, 0)
            through = [f"wss://{host}/socket (any certificate accepted)"] if host else []
            expect(f"echoes in {report}", report["echoed"][1:], through)
            skipped = [it for it in report["unchecked"] if it["what"].startswith("an echo")]
            expect(f"unchecked in {report}", len(skipped), 0 if host else 1)


def check_barriers() -> None:
    """What keeps a proxy from our port, and clients from the proxy's."""
    proxy = PASSING[0]
    with wsecho() as started, running(*proxy):
        code, report = findings(started.config, **BARRIERS)
        on = "echo 'httpd_can_network_connect --> on'"
        open_ = {"getsebool": on, "firewall-cmd": "[ $1 = --state ] && echo running || echo yes"}
        _, opened = findings(started.config, **BARRIERS | open_)
    told = f"in {report}"
    expect(f"exit code {told}", code, 1)
    lines = {it["label"]: it["lines"] for it in report["findings"]}
    expect(f"labels {told}", list(lines), ["selinux_port", "firewall_closed"])
    command = "semanage port -a -t http_port_t -p tcp 8888"
    expect(f"the command {told}", lines["selinux_port"][0], command)
    expect(f"http {told}", "--add-service=http" in lines["firewall_closed"][0], True)
    expect("findings once they are open", opened["findings"], [])


def main() -> None:
    print("SELinux and firewalld", flush=True)
    check_barriers()
    print("TLS", flush=True)
    check_tls()
    print("included files", flush=True)
    check_includes()
    for product in ("nginx", "haproxy", "apache"):
        print("all well:", product, flush=True)
        check_passing(product)
    for proxy in PASSING:
        print("passing:", *proxy[1].split(), flush=True)
        # The table's HAProxy cuts after five seconds.
        check(Case(proxy, "idle_timeout" if proxy[0] == "haproxy" else None))
    for row in ROWS:
        if row.proxy:
            print(row.name(), flush=True)
            check_row(row)
    for case in CASES:
        print(case.label, "in", *case.proxy[1].split(), flush=True)
        check(case)


if __name__ == "__main__":
    main()
