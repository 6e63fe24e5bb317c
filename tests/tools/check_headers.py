#!/usr/bin/env python3
"""Every header compiles alone and twice, without a warning; engram/engram.h as C++ too.

usage: check_headers.py SOURCE_ROOT COMPILER [ARGUMENT ...]
"""
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import house

FLAGS = ["-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-fsyntax-only"]
ALSO_CXX = ["engram/engram.h"] # a door that programs in other languages open


def compiles(root, header, command):
    """None, or the compiler's first complaint."""
    source = f'#include "{header}"\n#include "{header}"\n'
    run = subprocess.run(command + FLAGS + ["-I", root, "-"], input=source, capture_output=True, text=True,
                         cwd=root) # so that "engine/x.h" cannot be found anywhere else
    if run.returncode == 0:
        return None
    return f"{header}: does not compile alone: {(run.stderr.strip().splitlines() or ['no message'])[0]}"


def check(root, compiler, cxx):
    jobs = [(h, compiler + ["-x", "c", "-std=gnu17"]) for h in house.sources(root, house.PRODUCT) if h.endswith(".h")]
    if cxx:
        jobs += [(h, [cxx, "-x", "c++", "-std=c++17"]) for h in ALSO_CXX]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda job: compiles(root, *job), jobs)
    return [f for f in found if f], len(jobs)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(house.report("headers", *check(sys.argv[1], sys.argv[2:], shutil.which("g++") or shutil.which("clang++"))))
