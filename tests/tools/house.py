"""What the house checks share: which files count, and how findings are reported."""
import os
import sys

PRODUCT = ("server", "api", "engine", "engram")
SKIPPED_DIRS = {".git", ".cache", "__pycache__", "venv", ".venv"}
DATA_DIRS = ("tests/golden", "tests/fuzz/corpus", "models")


def walk(root, folders=("",)):
    """Paths below the folders, relative to root, with / between; build trees, caches and data are left out."""
    for folder in folders:
        for where, dirs, files in os.walk(os.path.join(root, folder)):
            rel = os.path.relpath(where, root).replace(os.sep, "/")
            rel = "" if rel == "." else rel + "/"
            dirs[:] = sorted(d for d in dirs if keep_dir(rel, d))
            for name in sorted(files):
                yield rel + name


def keep_dir(parent, name):
    if name in SKIPPED_DIRS or (not parent and name.startswith("build")):
        return False
    return parent + name not in DATA_DIRS


def sources(root, folders):
    return [p for p in walk(root, folders) if p.endswith((".c", ".h", ".cu", ".cuh"))]


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
        return f.read()


def report(what, findings, looked_at):
    """Prints the findings and returns the exit status. A check that looked at nothing has failed."""
    for finding in findings:
        print(finding)
    print(f"{what}: {len(findings)} findings, {looked_at} looked at")
    return 1 if findings or not looked_at else 0


def main(what, check):
    """check(root) -> (findings, number of things looked at)."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} SOURCE_ROOT")
    sys.exit(report(what, *check(sys.argv[1])))
