#!/usr/bin/env python3
"""Registers, shared memory and spills of every kernel on every architecture, as the compiler reports them, against
resources.txt beside this file: a kernel that needs more than is written there runs fewer warps at a time, which no test
of its results would show.

usage: check_resources.py [--write] VERSION LOG ...

VERSION is the compiler's. Another compiler than the table's may need an eighth more. --write makes the table anew.
"""
import os
import re
import sys

TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "resources.txt")
HEADER = """\
# What each kernel needs; guarded by check_resources.py, which writes this table with --write.
# compiler {version}
# architecture kernel registers shared-bytes spill-bytes
"""
ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)\w*'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def plain_name(symbol):
    """linear<8,4> of _Z6linearILi8ELi4EEv11linear_args."""
    match = re.match(r"_ZL?(\d+)", symbol)
    if not match:
        return symbol
    begin = match.end()
    end = begin + int(match.group(1))
    numbers = re.match(r"I((?:Li\d+E)+)E", symbol[end:])
    return symbol[begin:end] + ("<%s>" % ",".join(re.findall(r"Li(\d+)E", numbers.group(1))) if numbers else "")


def read_log(path):
    """{(arch, kernel): (registers, shared, spills)} of one compiler's output."""
    found, key, spills = {}, None, 0
    with open(path, encoding="utf-8") as f:
        for line in f:
            if match := ENTRY.search(line):
                key, spills = (int(match.group(2)), plain_name(match.group(1))), 0
            elif match := SPILLS.search(line):
                spills = int(match.group(1)) + int(match.group(2))
            elif (match := USED.search(line)) and key:
                shared = SHARED.search(line)
                found[key] = (int(match.group(1)), int(shared.group(1)) if shared else 0, spills)
    return found


def read_table():
    version, table = "", {}
    with open(TABLE, encoding="utf-8") as f:
        for line in f:
            if line.startswith("# compiler "):
                version = line.split()[2]
            elif not line.startswith("#"):
                arch, kernel, *numbers = line.split()
                table[int(arch), kernel] = tuple(map(int, numbers))
    return version, table


def write_table(version, found):
    with open(TABLE, "w", encoding="utf-8") as f:
        f.write(HEADER.format(version=version))
        for (arch, kernel), numbers in sorted(found.items()):
            f.write("%d %s %d %d %d\n" % (arch, kernel, *numbers))


def compare(version, found):
    """Findings: what needs more than the table says, and what only one side has."""
    table_version, table = read_table()
    slack = 0 if version == table_version else 8
    for key in sorted(found.keys() | table.keys()):
        name = "%s on sm_%d" % (key[1], key[0])
        if key not in table:
            yield f"{name} is not in resources.txt"
        elif key not in found and key[0] in {arch for arch, _ in found}:
            yield f"{name} is in resources.txt, but was not compiled"
        elif key in found:
            for what, got, most in zip(("registers", "bytes of shared memory", "bytes of spills"), found[key], table[key]):
                if got > most + (max(8, most // slack) if slack else 0):
                    yield f"{name} needs {got} {what}, {most} are written down"


def main(args):
    write = args[:1] == ["--write"]
    version, *logs = args[write:]
    found = {}
    for log in logs:
        found.update(read_log(log))
    if write:
        write_table(version, found)
        return 0
    findings = list(compare(version, found))
    for finding in findings:
        print(finding)
    print(f"resources: {len(findings)} findings, {len(found)} kernels looked at")
    return 1 if findings or not found else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
