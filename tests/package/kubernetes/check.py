"""Judges the rendered objects: their schemas, their numbers, and what their environment starts.

    check.py BINARY TOOLS FOLDER

TOOLS has bin/kubernetes-validate and kinds.mjs; FOLDER has the rendered YAML.
"""

import copy
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml

BINARY, TOOLS, FOLDER = sys.argv[1:]
ROOT = pathlib.Path(__file__).resolve().parents[3]
# The oldest release that knows `sleep` as a preStop action, and the newest with a schema.
RELEASES = ["1.30", "1.37"]
FOREIGN = {"PodMonitor", "HTTPRoute"}


def objects():
    found = []
    for file in sorted(pathlib.Path(FOLDER).glob("*.yaml")):
        found += [it for it in yaml.safe_load_all(file.read_text()) if it]
    return {it["kind"]: it for it in found}


def validates(thing, release):
    """Whether Kubernetes' own schema accepts an object; a kind without a schema is not accepted."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(thing, file)
        file.flush()
        command = [f"{TOOLS}/bin/kubernetes-validate", "--strict", "-k", release, file.name]
        done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    return done.returncode == 0 and " passed for resource " in said, said


def check_schemas(all_objects):
    for kind, thing in all_objects.items():
        if kind in FOREIGN:
            continue
        for release in RELEASES:
            valid, said = validates(thing, release)
            assert valid, said
        wrong = copy.deepcopy(thing)
        wrong["spec"]["nonsense"] = 1
        assert not validates(wrong, RELEASES[-1])[0], f"the schema of {kind} lets anything pass"
    assert not validates({"apiVersion": "v0", "kind": "Nonsense", "metadata": {"name": "x"}}, "1.37")[0]
    foreign = json.dumps([all_objects[kind] for kind in sorted(FOREIGN)])
    subprocess.run(["node", f"{TOOLS}/kinds.mjs"], input=foreign, text=True, check=True)


def seconds(duration):
    """A duration that has one unit, as wsecho writes it."""
    number, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def unit(name, key):
    """The values that a unit file gives a key."""
    text = (ROOT / "systemd" / name).read_text()
    return re.findall(rf"^{key}=(.*)$", text, re.M)


def environment(container):
    return {it["name"]: it.get("value", "pod") for it in container["env"]}


def effective(variables):
    """The configuration under these variables: section.key to its value, as printed."""
    clean = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run([BINARY, "check", "--print"], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sets nothing" not in done.stderr, done.stderr
    found, section = {}, ""
    for line in done.stdout.splitlines():
        if line.startswith("["):
            section = line.strip("[]") + "."
        elif match := re.match(r"(\w+) = (.*?)  # (.*)$", line):
            found[section + match[1]] = (match[2], match[3])
    return found


def check_numbers(all_objects):
    pod = all_objects["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    given = environment(container)
    keys = effective(given)
    for name in given:
        assert name.startswith("MALLOC_") or any(it[1] == name for it in keys.values()), name

    drain = seconds(keys["shutdown.drain_timeout"][0].strip('"'))
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod["terminationGracePeriodSeconds"]
    assert sleep + drain < grace <= sleep + drain + 10, (sleep, drain, grace)

    [most] = unit("50-hardening.conf", "MemoryMax")
    assert container["resources"]["limits"] == {"memory": most.replace("G", "Gi")}
    ours = [it.split("=", 1) for it in unit("wsecho.service", "Environment")]
    for name, value in (it for it in ours if it[0].startswith("MALLOC_")):
        assert given[name] == value, name

    ports = {it["name"]: it["containerPort"] for it in container["ports"]}
    assert keys["bind"][0] == f'"0.0.0.0:{ports["ws"]}"', keys["bind"]
    assert keys["admin.bind"][0] == f'"0.0.0.0:{ports["admin"]}"', keys["admin.bind"]

    labels = all_objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind, path in [
        ("Deployment", ["selector", "matchLabels"]),
        ("Service", ["selector"]),
        ("PodDisruptionBudget", ["selector", "matchLabels"]),
        ("NetworkPolicy", ["podSelector", "matchLabels"]),
        ("PodMonitor", ["selector", "matchLabels"]),
    ]:
        selector = all_objects[kind]["spec"]
        for step in path:
            selector = selector[step]
        assert selector.items() <= labels.items(), kind
    [service] = all_objects["Service"]["spec"]["ports"]
    assert service["targetPort"] in ports
    [rule] = all_objects["HTTPRoute"]["spec"]["rules"]
    [backend] = rule["backendRefs"]
    assert backend == {"name": all_objects["Service"]["metadata"]["name"], "port": service["port"]}
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert container["image"].endswith(f"/wsecho:{version}"), container["image"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answer(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return None, ""


def check_start(all_objects):
    """The container's environment starts the service, and its probes get what they ask for."""
    [container] = all_objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    variables = environment(container)
    ports = {it["containerPort"]: free_port() for it in container["ports"]}
    for name, value in variables.items():
        for port, free in ports.items():
            variables[name] = value = value.replace(f":{port}", f":{free}")
    named = {it["name"]: ports[it["containerPort"]] for it in container["ports"]}
    service = subprocess.Popen([BINARY], env=variables, stderr=subprocess.DEVNULL)
    try:
        ready = container["readinessProbe"]["httpGet"]
        url = f"http://127.0.0.1:{named[ready['port']]}{ready['path']}"
        deadline = time.monotonic() + 20
        while answer(url)[0] != 200:
            assert time.monotonic() < deadline and service.poll() is None, "it is never ready"
            time.sleep(0.05)
        live = container["livenessProbe"]["tcpSocket"]["port"]
        socket.create_connection(("127.0.0.1", named[live]), timeout=5).close()
        [endpoint] = all_objects["PodMonitor"]["spec"]["podMetricsEndpoints"]
        url = f"http://127.0.0.1:{named[endpoint['port']]}{endpoint['path']}"
        assert "wsecho_sessions" in answer(url)[1]
    finally:
        service.terminate()
        assert service.wait(timeout=40) == 0


found = objects()
check_schemas(found)
check_numbers(found)
check_start(found)
print("kubernetes: all is well")
