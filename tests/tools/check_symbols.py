#!/usr/bin/env python3
"""Every global symbol of every static library begins with em_, and engram and base need no other layer.

usage: check_symbols.py NM SOURCE_ROOT BUILD_ROOT
"""
import json
import os
import re
import subprocess
import sys

import house

# What compilers add on their own: sanitizers, coverage.
COMPILER = re.compile(r"__(odr_)?(asan|ubsan|tsan|sancov|sanitizer|llvm|gcov|start___sancov|stop___sancov)|\.L")
ALONE = {"libengram.a", "libbase.a"}


def symbols(nm, library):
    """(defined, undefined) global names."""
    out = subprocess.run([nm, "-g", "-P", library], check=True, capture_output=True, text=True).stdout
    defined, undefined = set(), set()
    for line in out.splitlines():
        fields = line.split()
        if len(fields) >= 2 and len(fields[1]) == 1:
            (undefined if fields[1] in "Uwv" else defined).add(fields[0])
    return defined, undefined


def check_library(nm, library):
    """(findings, number of symbols)."""
    name = os.path.basename(library)
    defined, undefined = symbols(nm, library)
    findings = [f"{name}: {symbol} does not begin with em_" for symbol in sorted(defined)
                if not symbol.startswith("em_") and not COMPILER.match(symbol)]
    if name in ALONE:
        findings += [f"{name}: needs {symbol}, which it does not define" for symbol in sorted(undefined - defined)
                     if symbol.startswith("em_")]
    return findings, len(defined)


def product_libraries(source_root, build_root):
    """Paths of the static libraries that the product's folders define, as meson knows them."""
    with open(os.path.join(build_root, "meson-info", "intro-targets.json"), encoding="utf-8") as f:
        targets = json.load(f)
    for target in targets:
        folder = os.path.relpath(target["defined_in"], source_root).split(os.sep)[0]
        if target["type"] == "static library" and folder in house.PRODUCT:
            yield from target["filename"]


def main(argv):
    if len(argv) != 4:
        sys.exit(__doc__)
    findings, count = [], 0
    for library in product_libraries(argv[2], argv[3]):
        found, n = check_library(argv[1], library)
        findings += found if n else [f"{library}: exports nothing"]
        count += n
    sys.exit(house.report("symbols", findings, count))


if __name__ == "__main__":
    main(sys.argv)
