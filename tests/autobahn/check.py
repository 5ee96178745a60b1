"""Runs the Autobahn|Testsuite's client against /echo and checks its report.

    check.py [--print] [--groups 1,2,...] [--whole] WSTEST OUTDIR ws://HOST:PORT

The testsuite always exits with 0, and its "OK" does not imply that a Close frame was sent. To pass,
it must run every case that was asked for and find each one strictly OK, and the service must send
exactly one Close frame, with the code in expected.tsv.

By default these are the 301 cases of groups 1 to 11, and 24 of the 216 of groups 12 and 13, which
are about compression. --groups runs only these groups, and --whole all cases of theirs. --print
prints the received codes in the format of that table.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

AGENT = "wsecho"
# Number of cases in each group.
CASES = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}
# The same for the groups about compression: 5 kinds of data, and 7 of offers. Each case sends 1000
# messages of one of 18 sizes.
SIZES = 18
COMPRESSION = {"12": 5 * SIZES, "13": 7 * SIZES}
# The sizes that are always run: 16 bytes, and 128 KiB in frames of 4 KiB.
SAMPLE = {"1", "17"}
# The testsuite requires nothing in these: 256 KiB followed by a Close, and Close codes that do not
# exist.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}
CLOSE = "8"


@dataclass
class Outcome:
    """What the testsuite says about one case."""

    behaviour: str
    at_close: str
    close: str


def run(wstest: str, outdir: Path, base: str, cases: list[str]) -> dict[str, Outcome]:
    """Runs the cases that match these patterns."""
    shutil.rmtree(outdir, ignore_errors=True)
    outdir.mkdir(parents=True)
    spec = outdir / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "outdir": str(outdir),
                "servers": [{"agent": AGENT, "url": f"{base}/echo"}],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    python = Path(wstest).with_name("python")
    subprocess.run([python, wstest, "-m", "fuzzingclient", "-s", spec], cwd=outdir, check=True)
    index = json.loads((outdir / "index.json").read_text())
    return {case: outcome(outdir, entry) for case, entry in index.get(AGENT, {}).items()}


def outcome(outdir: Path, entry: dict[str, str]) -> Outcome:
    # Only a case's own report distinguishes an empty Close frame from none at all.
    report = json.loads((outdir / entry["reportfile"]).read_text())
    closes = report["rxFrameStats"].get(CLOSE, 0)
    code = str(report["remoteCloseCode"] or 1005) if closes else "none"
    close = code if closes < 2 else f"{code} in {closes} frames"
    return Outcome(entry["behavior"], entry["behaviorClose"], close)


def expected_codes() -> dict[str, str]:
    """The committed table."""
    lines = Path(__file__).with_name("expected.tsv").read_text().splitlines()
    return dict(line.split("\t") for line in lines if line and not line.startswith("#"))


def group(case: str) -> str:
    return case.split(".")[0]


def order(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def differences(outcomes: dict[str, Outcome], codes: dict[str, str], count: int) -> list[str]:
    """Everything that is not as expected."""
    found = []
    for name, cases in (("the testsuite ran", outcomes), ("expected.tsv has", codes)):
        if len(cases) != count:
            found.append(f"{name} {len(cases)} cases, not {count}")
    for case in sorted(outcomes.keys() ^ codes.keys(), key=order):
        found.append(f"case {case} was not run" if case in codes else f"case {case} is unknown")
    for case in sorted(outcomes.keys() & codes.keys(), key=order):
        must = "INFORMATIONAL" if case in INFORMATIONAL else "OK"
        actual = outcomes[case]
        for what, got, wanted in (
            ("behaviour", actual.behaviour, must),
            ("behaviour at the close", actual.at_close, must),
            ("code of the service's Close frame", actual.close, codes[case]),
        ):
            if got != wanted:
                found.append(f"case {case}: {what}: {got}, expected {wanted}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--groups", default=",".join(CASES | COMPRESSION))
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("wstest")
    parser.add_argument("outdir", type=Path)
    parser.add_argument("base")
    args = parser.parse_args()

    groups = args.groups.split(",")
    sampled = set() if args.whole else COMPRESSION.keys() & groups
    codes = {
        case: code
        for case, code in expected_codes().items()
        if group(case) in groups and (group(case) not in sampled or case.split(".")[2] in SAMPLE)
    }
    count = sum((CASES | COMPRESSION)[it] for it in groups if it not in sampled)
    count += sum(COMPRESSION[it] * len(SAMPLE) // SIZES for it in sampled)
    # By pattern, so that cases that the table lacks are run too.
    cases = [f"{it}.*" for it in groups if it not in sampled]
    cases += [case for case in codes if group(case) in sampled]

    outcomes = run(args.wstest, args.outdir, args.base, cases)
    if args.print:
        for case in sorted(outcomes, key=order):
            print(case, outcomes[case].close, sep="\t")
        return
    found = differences(outcomes, codes, count)
    for difference in found:
        print(difference, file=sys.stderr)
    if found:
        sys.exit(f"check.py: {len(found)} differences; see {args.outdir}/index.html")
    print(f"{len(outcomes)} cases passed, each with the right Close frame")


if __name__ == "__main__":
    main()
