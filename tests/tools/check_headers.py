#!/usr/bin/env python3
"""Every header compiles alone and twice, without a warning; engram/engram.h as C++ too. A table that a script wrote is
a part of the file that includes it, not a header.

usage: check_headers.py SOURCE_ROOT COMPILER [ARGUMENT ...]
"""
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import house

FLAGS = ["-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-fsyntax-only"]
ALSO_CXX = ["engram/engram.h"] # a door that programs in other languages open
# Headers of one instruction-set tier (the word is in their name) are compiled with its flags, as engine/cpu/meson.build
# does; None on other machines.
TIERS = {"avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi2"],
         "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c", "-mbmi2"]}


def cuda_include():
    """Headers of the CUDA toolkit, where there is one."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    path = os.path.join(os.path.dirname(os.path.dirname(nvcc)), "include")
    return path if os.path.exists(os.path.join(path, "cuda_runtime_api.h")) else None


def needed_flags(root, header):
    """Flags beyond the usual ones; None: this machine cannot compile it."""
    if "<cuda_runtime_api.h>" in house.read(root, header):
        return ["-isystem", cuda_include()] if cuda_include() else None
    return tier_flags(header)


def tier_flags(header):
    for tier, flags in TIERS.items():
        if tier in os.path.basename(header):
            return flags if platform.machine() == "x86_64" else None
    return []


def headers(root):
    """(header, flags) of every header to compile."""
    for path in house.sources(root, house.PRODUCT):
        if path.endswith(".h") and not house.generated(house.read(root, path)):
            flags = needed_flags(root, path)
            if flags is not None:
                yield path, flags


def compiles(root, header, command):
    """None, or the compiler's first complaint."""
    source = f'#include "{header}"\n#include "{header}"\n'
    run = subprocess.run(command + FLAGS + ["-I", root, "-"], input=source, capture_output=True, text=True,
                         cwd=root) # so that "engine/x.h" cannot be found anywhere else
    if run.returncode == 0:
        return None
    return f"{header}: does not compile alone: {(run.stderr.strip().splitlines() or ['no message'])[0]}"


def check(root, compiler, cxx):
    jobs = [(h, compiler + ["-x", "c", "-std=gnu17"] + flags) for h, flags in headers(root)]
    if cxx:
        jobs += [(h, [cxx, "-x", "c++", "-std=c++17"]) for h in ALSO_CXX]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda job: compiles(root, *job), jobs)
    return [f for f in found if f], len(jobs)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(house.report("headers", *check(sys.argv[1], sys.argv[2:], shutil.which("g++") or shutil.which("clang++"))))
