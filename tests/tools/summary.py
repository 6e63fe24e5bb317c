#!/usr/bin/env python3
"""Sums meson's JSON test logs: names what failed or was skipped, then one line `N passed, N failed, N skipped`.

usage: summary.py [--no-skips] [--counts] LOG.json ...

--no-skips  a skipped test counts as failed (what CI asks for)
--counts    prints just the three numbers

Exit status 1 when something failed or nothing ran at all.
"""
import json
import sys

PASSED = {"OK", "EXPECTEDFAIL"}
SKIPPED = {"SKIP"}


def results(paths):
    """(name, result) of every test in the logs; a log that is missing or empty gives nothing."""
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace") as log:
                for line in log:
                    if line.strip():
                        test = json.loads(line)
                        yield test["name"], test["result"]
        except OSError as error:
            print(f"no test log: {error}", file=sys.stderr)


def main(argv):
    no_skips, counts_only = "--no-skips" in argv, "--counts" in argv
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for name, result in results(a for a in argv if not a.startswith("--")):
        kind = "passed" if result in PASSED else "skipped" if result in SKIPPED else "failed"
        if kind == "skipped" and no_skips:
            kind = "failed"
        counts[kind] += 1
        if kind != "passed":
            print(f"{kind}: {name} ({result})", file=sys.stderr)
    if counts_only:
        print(counts["passed"], counts["failed"], counts["skipped"])
    else:
        print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    return 1 if counts["failed"] or not sum(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
