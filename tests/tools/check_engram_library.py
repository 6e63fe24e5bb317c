#!/usr/bin/env python3
"""libengram as others meet it: the shared library gives out exactly the functions of engram.h, each with its version,
and needs the C library alone; installed with its pkg-config file it compiles, links and runs the example.

usage: check_engram_library.py BUILD_DIR SOURCE_DIR COMPILER...
"""
import os
import re
import subprocess
import sys
import tempfile


def run(*args, **kwargs):
    return subprocess.run(args, check=True, capture_output=True, text=True, **kwargs).stdout


def declared(header):
    text = re.sub(r"/\*.*?\*/", "", open(header).read(), flags=re.S)
    return set(re.findall(r"^\w[^;{}()]*?\b(em_\w+)\(", text, re.M))


def check_exports(library, header):
    found = {}
    for line in run("nm", "-D", "--defined-only", library).splitlines():
        name, _, version = line.split()[-1].partition("@@")
        if name != version and not name.startswith("ENGRAM_"):
            found[name] = version
    assert set(found) == declared(header), f"exported and declared differ: {set(found) ^ declared(header)}"
    assert all(re.fullmatch(r"ENGRAM_\d+\.\d+", v) for v in found.values()), f"without a version: {found}"
    dynamic = run("readelf", "-d", library)
    assert re.search(r"SONAME.*\[libengram\.so\.0\]", dynamic), "wrong soname"
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", dynamic))
    extra = {n for n in needed if not re.match(r"(libc|libpthread|ld-linux|libgcc_s|lib[atu]\w*san)\b", n)}
    assert not extra, f"needs {extra}"


def check_installed(build, source, compiler):
    with tempfile.TemporaryDirectory() as prefix:
        run("meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", prefix, "--tags", "devel,runtime")
        config = next(os.path.join(d, "libengram.pc") for d, _, files in os.walk(prefix) if "libengram.pc" in files)
        env = dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(config), PKG_CONFIG_SYSROOT_DIR=prefix)
        flags = run("pkg-config", "--cflags", "--libs", "libengram", env=env).split()
        library = next(f[2:] for f in flags if f.startswith("-L"))
        program = os.path.join(prefix, "example")
        run(*compiler, os.path.join(source, "docs", "examples", "engram_lookup.c"), "-o", program, *flags)
        out = run(program, env=dict(env, LD_LIBRARY_PATH=library))
    lines = re.findall(r"^token (\d), order (\d), head (\d): row (\d+) holds (\d+)$", out, re.M)
    assert len(lines) == 12 and all(row == value for *_, row, value in lines), out


def main(build, source, *compiler):
    header = os.path.join(source, "engram", "engram.h")
    check_exports(os.path.join(build, "engram", "libengram.so"), header)
    check_installed(build, source, compiler)
    print(f"libengram: {len(declared(header))} functions exported, installed and used")


main(*sys.argv[1:])
