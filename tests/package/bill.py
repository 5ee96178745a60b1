"""Checks bills of materials: valid by CycloneDX's schema, and of exactly what is in the program.

    bill.py LINKED EPOCH FILE…

LINKED is what rust-audit-info reads from the program. Prints what is wrong, a line each, and exits with 1
if there is any.
"""

import hashlib
import json
import pathlib
import sys
import time

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = pathlib.Path(__file__).parent.parent.parent


def linked(audited: str) -> set[tuple[str, str]]:
    """Name and version of each crate at run time, wsecho itself excluded."""
    packages = json.loads(audited)["packages"]
    runtime = [it for it in packages if it.get("kind", "runtime") == "runtime"]
    return {(it["name"], it["version"]) for it in runtime if not it.get("root")}


def complaints(path: pathlib.Path, crates: set[tuple[str, str]], epoch: int):
    """What is wrong with one bill of materials."""
    text = path.read_text()
    if invalid := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        yield f"invalid: {invalid}"
    bill = json.loads(text)
    # What rustc, zig and Debian add has its name in front.
    ours = [it for it in bill["components"] if ": " not in it["bom-ref"]]
    listed = {(it["name"], it["version"]) for it in ours}
    for what, these in ("lacks", crates - listed), ("lists what is not linked:", listed - crates):
        if these:
            yield f"{what} {sorted(these)}"
    for it in ours:
        for field in "licenses", "hashes", "purl":
            if field not in it:
                yield f"{it['name']} has no {field}"

    rows = [line.split("\t") for line in (ROOT / "packaging/licences/components").read_text().splitlines()]
    names = {it["name"] for it in bill["components"]}
    yield from (f"lacks {row[0]}" for row in rows if len(row) > 1 and row[0] not in names)
    unknown = {it["name"] for it in bill["components"] if "version" not in it} - {"glibc's start code"}
    if unknown:
        yield f"knows no version of {sorted(unknown)}"

    root = bill["metadata"]["component"]
    depends = {it["ref"]: it.get("dependsOn", []) for it in bill["dependencies"]}
    reached, todo = set(), [root["bom-ref"]]
    while todo:
        if (reference := todo.pop()) not in reached:
            reached.add(reference)
            todo += depends[reference]
    if alone := {it["bom-ref"] for it in bill["components"]} - reached:
        yield f"nothing depends on {sorted(alone)}"
    if bill["metadata"]["timestamp"] != time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)):
        yield f"made at {bill['metadata']['timestamp']}"
    package = path.with_name(path.name.removesuffix(".cdx.json"))
    if package.exists() and root["hashes"][0]["content"] != hashlib.sha256(package.read_bytes()).hexdigest():
        yield f"of another {package.name}"


def main() -> None:
    audited, epoch, *files = sys.argv[1:]
    crates = linked(pathlib.Path(audited).read_text())
    wrong = [f"{file}: {it}" for file in files for it in complaints(pathlib.Path(file), crates, int(epoch))]
    print("\n".join(wrong) or f"{len(files)} of {len(crates)} crates each")
    sys.exit(bool(wrong))


main()
