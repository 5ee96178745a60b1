"""Prints what is linked into the program, from the crates that `cargo tree` shows.

    sbom.py section TREE    for the program's section .dep-v0: the format of cargo auditable
    sbom.py bill …          for a package or image: CycloneDX 1.6, as JSON, with all other parts

Equal input gives equal bytes: the time is SOURCE_DATE_EPOCH, and the serial number is made from the
contents.
"""

import argparse
import hashlib
import json
import os
import re
import struct
import sys
import time
import uuid
import zlib
from urllib.parse import quote

# `cargo tree --prefix depth --format '{p}|{l}'`; the mark at the end says that the branch was shown before.
CRATE = re.compile(r"(\d+)(\S+) v(\S+)(?: \([^|]*\))?\|(.*?)(?: \(\*\))?")


def read_crates(path):
    """Each linked crate, wsecho first, by name and version: its licence, and the crates that it depends on."""
    crates, above = {}, []
    with open(path, encoding="utf-8") as file:
        tree = file.readlines()
    for line in tree:
        depth, name, version, licence = CRATE.fullmatch(line.rstrip("\n")).groups()
        crate = (name, version)
        del above[int(depth) :]
        crates.setdefault(crate, (licence, set()))
        if above:
            crates[above[-1]][1].add(crate)
        above.append(crate)
    return crates


def section(crates):
    """The section's bytes: JSON in a zlib stream, stored, because compressors differ between machines."""
    index = {crate: number for number, crate in enumerate(crates)}
    packages = []
    for number, ((name, version), (_, below)) in enumerate(crates.items()):
        package = {"name": name, "version": version, "source": "crates.io" if number else "local"}
        if below:
            package["dependencies"] = sorted(index[crate] for crate in below)
        if not number:
            package["root"] = True
        packages.append(package)
    data = json.dumps({"packages": packages, "format": 1}, separators=(",", ":")).encode()
    # RFC 1950 and RFC 1951, 3.2.4: one last block, of at most 64 KiB.
    size = struct.pack("<HH", len(data), len(data) ^ 0xFFFF)
    return b"\x78\x01\x01" + size + data + struct.pack(">I", zlib.adler32(data))


def read_checksums(lock):
    """The SHA-256 of each crate's archive, by name and version, from Cargo.lock."""
    entry = r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "(.+)"'
    return {(name, version): checksum for name, version, checksum in re.findall(entry, lock)}


def component(reference, name, version="", licence="", purl="", sha256="", kind="library"):
    """One component, without the fields that are empty. The version goes behind the purl's @."""
    parts = {"type": kind, "bom-ref": reference, "name": name, "version": version}
    if sha256:
        parts["hashes"] = [{"alg": "SHA-256", "content": sha256}]
    if licence:
        # Crates of old have a slash for OR.
        parts["licenses"] = [{"expression": re.sub(" */ *", " OR ", licence)}]
    if purl:
        parts["purl"] = purl.replace("@", "@" + quote(version, safe="~") if version else "", 1)
    return {field: value for field, value in parts.items() if value}


def bill(root, crates, checksums, others):
    """The document, but for its serial number; others are rows as `parts` of sbom.bash prints them."""
    (top, (_, direct)), *rest = crates.items()
    components, depends = [], {}
    for crate, (licence, below) in sorted(rest):
        name, version = crate
        purl = "pkg:cargo/{}@".format(name)
        components.append(component("{} {}".format(*crate), name, version, licence, purl, checksums[crate]))
        depends["{} {}".format(*crate)] = sorted("{} {}".format(*it) for it in below)
    linked = sorted("{} {}".format(*it) for it in direct)
    for by, name, version, licence, purl, sha256 in others:
        reference = "{}: {}".format(by, name)
        components.append(component(reference, name, version, licence, purl, sha256))
        depends[reference] = []
        linked.append(reference)
    depends = {root["bom-ref"]: linked, **depends}
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"])))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": made,
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [{"type": "application", "name": "packaging/build of wsecho", "version": top[1]}]},
            "component": root,
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": on} if on else {"ref": ref} for ref, on in depends.items()],
    }


def print_bill(args):
    with open("Cargo.lock", encoding="utf-8") as lock:
        checksums = read_checksums(lock.read())
    with open(args.parts, encoding="utf-8") as parts:
        others = [line.rstrip("\n").split("\t") for line in parts]
    sha256 = ""
    if args.file:
        with open(args.file, "rb") as package:
            sha256 = hashlib.sha256(package.read()).hexdigest()

    kind = "container" if args.purl.startswith("pkg:oci/") else "application"
    root = component("wsecho", "wsecho", args.version, args.licence, args.purl, sha256, kind)
    if "WSECHO_COMMIT" in os.environ:
        root["pedigree"] = {"commits": [{"uid": os.environ["WSECHO_COMMIT"]}]}
    root["externalReferences"] = [{"type": "website", "url": args.url}]
    document = bill(root, read_crates(args.tree), checksums, others)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, args.url + json.dumps(document, sort_keys=True))
    print(json.dumps({"serialNumber": serial.urn, **document}, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("section").add_argument("tree")
    options = commands.add_parser("bill")
    options.add_argument("--tree", required=True, help="the linked crates")
    options.add_argument("--parts", required=True, help="what else is in it")
    options.add_argument("--version", required=True, help="of the package")
    options.add_argument("--licence", required=True, help="of the package")
    options.add_argument("--purl", required=True, help="of the package, without the version behind its @")
    options.add_argument("--url", required=True, help="the project's")
    options.add_argument("--file", help="the package")
    args = parser.parse_args()
    if args.command == "section":
        sys.stdout.buffer.write(section(read_crates(args.tree)))
    else:
        print_bill(args)


main()
