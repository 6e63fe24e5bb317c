#!/usr/bin/env python3
"""Includes go downward only. The two tables below are the rule; docs/ARCHITECTURE.md explains it."""
import os
import re

import house

# Folder -> what it may include besides itself: a folder (with a slash) or one header. The longest matching folder counts.
MAY_INCLUDE = {
    "engram/": [],
    "engine/base/": [],
    "engine/grammar/": ["engine/base/"],
    "engine/": ["engine/base/", "engine/cpu/", "engine/grammar/grammar.h",
                "engine/grammar/source.h", "engram/engram.h"],
    "engine/cpu/": ["engine/", "engine/base/", "engram/engram.h"],
    "engine/cuda/": ["engine/", "engine/base/", "engine/cpu/", "engram/engram.h"],
    "api/": ["engine/engine.h", "engine/base/"],
    "server/": ["api/", "engine/engine.h", "engine/base/"],
    # Test programs may look at every header of the layer they link; nothing of the product looks back.
    "tests/": ["engram/", "engine/", "engine/base/", "engine/cpu/", "engine/cuda/", "engine/grammar/", "api/",
               "server/"],
}

# Third-party header (regular expression) -> the folders it may be included in.
ONLY_IN = {
    r"microhttpd\.h": ["server/", "tests/"],
    r"(cjson/)?cJSON\.h": ["api/", "tests/"],
    r"\w*intrin\.h|cpuid\.h": ["engine/cpu/", "engram/", "tests/"],
    r"(cuda|cublas|nv).*\.h": ["engine/cuda/", "tests/cuda/"],
    r"utf8proc\.h": ["engine/", "tests/"],
    r"check\.h": ["tests/"],
}

# engram/ is a library of its own: the C library and pthread alone.
ENGRAM_SYSTEM = re.compile(
    r"(assert|ctype|errno|fcntl|inttypes|limits|math|pthread|sched|signal|stdalign|stdarg|stdatomic|stdbool|stddef"
    r"|stdint|stdio|stdlib|string|time|unistd|sys/\w+|linux/\w+|\w*intrin)\.h")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def folder_of(path):
    """The longest folder of the table that path lies in."""
    return max((f for f in MAY_INCLUDE if path.startswith(f)), key=len, default=None)


def check_own(root, path, name):
    """A "quoted" include: a path from the root, allowed by the table."""
    if name.endswith(".c"):
        return f"includes the source file {name}; link its library instead"
    if not os.path.exists(os.path.join(root, name)):
        return f'includes "{name}", which is no path from the root'
    mine, theirs = folder_of(path), folder_of(name)
    if theirs == mine or name in MAY_INCLUDE[mine] or theirs in MAY_INCLUDE[mine]:
        return None
    return f'includes "{name}"; {mine} may use only itself and: {" ".join(MAY_INCLUDE[mine]) or "nothing"}'


def check_system(path, name):
    for pattern, folders in ONLY_IN.items():
        if re.fullmatch(pattern, name) and not path.startswith(tuple(folders)):
            return f"includes <{name}>, which belongs in {' '.join(folders)} only"
    if path.startswith("engram/") and not ENGRAM_SYSTEM.fullmatch(name):
        return f"includes <{name}>; engram/ uses the C library and pthread alone"
    return None


def find_cycles(graph):
    """Headers that include each other in a ring, one finding per ring met."""
    findings, done = [], set()

    def visit(node, trail):
        if node in trail:
            findings.append("headers in a ring: " + " -> ".join(trail[trail.index(node):] + [node]))
            return
        if node in done:
            return
        for below in graph.get(node, []):
            visit(below, trail + [node])
        done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return findings


def check(root):
    findings, graph = [], {}
    paths = house.sources(root, house.PRODUCT + ("tests",))
    for path in paths:
        text = house.read(root, path)
        for match in INCLUDE.finditer(text):
            own, name = match.group(1) == '"', match.group(2)
            fault = check_own(root, path, name) if own else check_system(path, name)
            if fault:
                line = text.count("\n", 0, match.start(1)) + 1
                findings.append(f"{path}:{line}: {fault}")
            if own and path.endswith(".h"):
                graph.setdefault(path, []).append(name)
    return findings + find_cycles(graph), len(paths)


if __name__ == "__main__":
    house.main("includes", check)
