"""A path that cuts idle connections: why there are pings, and what the service logs.

Each proxy cuts a connection that is idle for CUT. A session with pings outlives that; one without
pings is cut, and the service logs it.
"""

import asyncio
import sys
import time

from proxies import changed, echoes, end, expect, record, running, session, snippet, wsecho

CUT = 3.0
# Several times the proxy's idle timeout.
LONG = 10.0
# On a busy machine.
SLACK = 10

FIN = ("eof", "the client or a proxy closed the connection without a Close frame")
RESET = ("broken", "the connection failed: connection reset")
# What sets the timeout, and how the service sees the end.
CUTS = {
    "nginx": (("proxy_read_timeout 1h;", f"proxy_read_timeout {CUT:.0f}s;"), FIN),
    "haproxy": (("    timeout tunnel 1h\n", f"    timeout tunnel {CUT:.0f}s\n"), RESET),
    # The longer of the two counts.
    "envoy": (("stream_idle_timeout: 3600s", f"stream_idle_timeout: {CUT:.0f}s"), FIN),
    "varnish": (("pipe_timeout=3600 ", f"pipe_timeout={CUT:.0f} "), FIN),
    "lighttpd": (("server.max-read-idle = 3600", f"server.max-read-idle = {CUT:.0f}"), FIN),
    "apache": (("ProxyTimeout 3600\n", f"ProxyTimeout {CUT:.0f}\nTimeout {CUT:.0f}\n"), FIN),
}


async def check(product: str) -> None:
    cut, (label, sentence) = CUTS[product]
    with wsecho('timeouts.ping_interval = "1s"') as started:
        text = changed(snippet(product, started.config), cut)
        with running(product, text):
            pinged = await session()
            async with session("/echo?ping=off") as silent:
                began = time.monotonic()
                code, _ = await end(silent, CUT * SLACK)
                lasted = time.monotonic() - began
            expect("Close code of the idle session", code, 1006)
            expect(f"{lasted} s is the proxy's idle timeout", lasted > CUT * 0.9, True)
            logged = record(started, ended=label)
            expect(f"the sentence in {logged}", sentence in str(logged["message"]), True)
            expect(f"the seconds of {logged}", float(str(logged["seconds"])) > CUT * 0.9, True)

            await asyncio.sleep(max(0.0, LONG - lasted))
            await echoes(pinged, "still here")
            await pinged.close(1000, "done")
            record(started, close_reason="done")
            print(f"1006 after {lasted:.1f} s, still open with pings", flush=True)


asyncio.run(check(sys.argv[1]))
