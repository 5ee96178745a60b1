"""Known vulnerabilities of the crates in use, for machines that cannot fetch the RustSec database.

    advisories.py database SNAPSHOT FOLDER   fills FOLDER with what cargo deny takes for the database
    advisories.py uncovered SNAPSHOT         prints the crates in use that SNAPSHOT was not made for
    advisories.py snapshot FOLDER            prints a snapshot of the database in FOLDER

A snapshot holds names, dates and versions only: what an advisory says is in the database.
"""

import json
import pathlib
import re
import subprocess
import sys
import textwrap
import tomllib

ROOT = pathlib.Path(__file__).parent.parent
FRONT = re.compile(r"```toml\n(.*?)```", re.S)


def crates_in_use() -> list[str]:
    """NAME@VERSION of each crate from a registry that Linux builds, tests and fuzzers may compile."""
    found = set()
    for manifest in ("Cargo.toml", "fuzz/Cargo.toml"):
        for architecture in ("x86_64", "aarch64"):
            command = ["cargo", "metadata", "--quiet", "--locked", "--format-version=1", "--all-features"]
            command += [f"--filter-platform={architecture}-unknown-linux-gnu", f"--manifest-path={ROOT / manifest}"]
            metadata = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            packages = {package["id"]: package for package in metadata["packages"]}
            nodes = (packages[node["id"]] for node in metadata["resolve"]["nodes"])
            found |= {f"{it['name']}@{it['version']}" for it in nodes if it["source"]}
    return sorted(found)


def front_matter(advisory: dict) -> str:
    """An advisory as the database has it, but for its text."""
    fields = {key: advisory[key] for key in ("id", "package", "date", "informational") if key in advisory}
    lines = ["[advisory]"] + [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    lines += ["[versions]"] + [f"{key} = {json.dumps(advisory.get(key, []))}" for key in ("patched", "unaffected")]
    return "\n".join(["```toml", *lines, "```", "", f"# {advisory['package']}, as in {advisory['id']}", ""])


def write_database(snapshot: pathlib.Path, folder: pathlib.Path) -> None:
    for advisory in tomllib.loads(snapshot.read_text())["advisory"]:
        path = folder / "crates" / advisory["package"] / f"{advisory['id']}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(front_matter(advisory))


def uncovered(snapshot: pathlib.Path) -> list[str]:
    covered = tomllib.loads(snapshot.read_text())["crates"].split()
    return [crate for crate in crates_in_use() if crate not in covered]


def read_snapshot(folder: pathlib.Path) -> str:
    """Those advisories of a clone of the database that are about crates in use."""
    crates = crates_in_use()
    advisories = []
    for name in sorted({crate.split("@")[0] for crate in crates}):
        for path in sorted((folder / "crates" / name).glob("RUSTSEC-*.md")):
            front = tomllib.loads(FRONT.search(path.read_text())[1])
            if "withdrawn" not in front["advisory"]:
                advisories.append(front["advisory"] | front["versions"])
    newest = max(path.stem for path in folder.glob("crates/*/RUSTSEC-*.md"))
    lines = [
        "# Stands in for the RustSec database where tests/supply-chain cannot fetch that. To renew it from a clone:",
        "#     python3 tests/advisories.py snapshot CLONE > tests/advisories.toml",
        f'newest = "{newest}"',
        "# Looked up, whether or not there is an advisory about them.",
        'crates = """',
        *textwrap.wrap(" ".join(crates), 108, break_long_words=False, break_on_hyphens=False),
        '"""',
    ]
    for advisory in advisories:
        lines += ["", "[[advisory]]"]
        for key in ("id", "package", "date", "informational", "patched", "unaffected"):
            if advisory.get(key):
                lines.append(f"{key} = {json.dumps(advisory[key])}")
    return "\n".join(lines)


match sys.argv[1:]:
    case ["database", snapshot, folder]:
        write_database(pathlib.Path(snapshot), pathlib.Path(folder))
    case ["uncovered", snapshot]:
        print("\n".join(uncovered(pathlib.Path(snapshot))))
    case ["snapshot", folder]:
        print(read_snapshot(pathlib.Path(folder)))
    case _:
        sys.exit(__doc__)
