#!/usr/bin/env python3
"""The service's filter of system calls lets everything through that a server does, with each tier of the tables.

    test_syscalls.py ENGRAMD SOURCE         wants strace and systemd-analyze"""
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
import harness  # noqa: E402

engramd, source = sys.argv[1:3]


def filter_sets():
    """{set: names and sets in it}, as this machine's systemd has them."""
    text = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True,
                          timeout=30).stdout
    sets, current = {}, None
    for line in text.splitlines():
        if line.startswith("@"):
            current = sets.setdefault(line.strip(), set())
        elif line.strip() and not line.strip().startswith("#") and current is not None:
            current.add(line.strip())
    return sets


def expand(sets, names):
    out = set()
    for n in names:
        out |= expand(sets, sets[n]) if n.startswith("@") else {n}
    return out


def allowed():
    """What is left of the unit's SystemCallFilter lines, one after the other."""
    sets = filter_sets()
    with open(os.path.join(source, "deploy", "systemd", "engramd.service.in"), encoding="utf-8") as f:
        lines = re.findall(r"^SystemCallFilter=(~?)(.*)$", f.read(), re.M)
    ok = expand(sets, ["@default"])
    for negated, names in lines:
        ok = ok - expand(sets, names.split()) if negated else ok | expand(sets, names.split())
    return ok


class Filter(unittest.TestCase):
    def session(self, *args):
        """The names of all system calls of a server that loads, answers, reloads and drains."""
        with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
            script = os.path.join(self.folder.name, "traced")
            with open(script, "w", encoding="utf-8") as f:
                # from the program on: what strace's own child did before belongs to nobody
                f.write('#!/bin/sh\nexec strace -D -f -qq -o %s %s "$@"\n' % (log.name, engramd))
            os.chmod(script, 0o700)
            harness.exe = script
            with harness.Server(*args, env={"NOTIFY_SOCKET": os.path.join(self.folder.name, "none")}) as s:
                body = {"prompt": "The capital of France is", "max_tokens": 8}
                self.assertEqual(200, s.complete(body, timeout=30).status)
                self.assertEqual(200, s.complete({**body, "stream": True}, timeout=30).status)
                self.assertEqual(200, s.request("GET", "/metrics").status)
                self.assertEqual(0, s.stop())
            end, text = time.monotonic() + 10, ""
            while "exit_group(" not in text and time.monotonic() < end:  # strace may be behind
                time.sleep(0.05)
                text += log.read()
            calls = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", text, re.M))
        self.assertLessEqual({"epoll_wait", "exit_group"}, calls)
        return calls

    def test_tiers(self):
        ok = allowed()
        self.assertIn("read", ok)
        self.assertNotIn("mount", ok)
        self.assertNotIn("ptrace", ok)
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        for tier in "ram", "mmap", "nvme", "shared":
            with self.subTest(tier=tier):
                used = self.session("--engram-tier", tier, "--engram-shared-dir", self.folder.name)
                self.assertEqual(set(), used - ok)


if __name__ == "__main__":
    print("seed 0 (nothing here is drawn)")
    sys.stdout.flush()
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
