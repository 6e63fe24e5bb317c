#!/usr/bin/env python3
"""Runs the command blocks of README.md and docs/*.md as their marks say (docs/CONTRIBUTING.md), in a temporary folder that
looks like the source tree. `test_docs.py ENGRAMD BUILD SOURCE [-v]`"""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import blocks

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "server"))
import harness  # noqa: E402  (found through the line above)

SHELL = ["bash", "-eu", "-o", "pipefail", "-c"]
TREE = ("api", "deploy", "docs", "engine", "engram", "models", "server", "tests", "tools")
build = source = None


def pages():
    """{name: blocks}, the README first."""
    files = [source / "README.md", *sorted((source / "docs").glob("*.md"))]
    return {str(f.relative_to(source)): blocks.blocks_of(str(f.relative_to(source)), f.read_text()) for f in files}


def make_tree(top):
    """What commands see as their folder: the tree by links, the build at its usual place, a text to work on. quickstart
    takes the folder that it lies in for the tree, so that it is copied."""
    for name in os.listdir(source):
        if name not in ("deploy", "build") and not name.startswith((".git", "build")):
            os.symlink(source / name, top / name)
    os.symlink(build, top / "build")
    os.mkdir(top / "deploy")
    for name in os.listdir(source / "deploy"):
        if (source / "deploy" / name).is_file():
            shutil.copy2(source / "deploy" / name, top / "deploy" / name)
        else:
            os.symlink(source / "deploy" / name, top / "deploy" / name)
    (top / "conversations.txt").write_text((source / "README.md").read_text())


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(top, **more):
    return {**os.environ, "HOME": str(top), "PATH": "%s:%s" % (build, os.environ["PATH"]),
            "PKG_CONFIG_PATH": str(build / "meson-uninstalled"), "LD_LIBRARY_PATH": str(build / "engram"), **more}


def run_in(top, script, timeout=60, **more):
    """(exit status, stdout, stderr) of a script; whatever it left running ends with it. Files take the output, since a pipe
    would stay open as long as what is left running."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        proc = subprocess.Popen([*SHELL, script], cwd=top, env=environment(top, **more), stdin=subprocess.DEVNULL,
                                stdout=out, stderr=err, start_new_session=True)
        try:
            proc.wait(timeout)
        finally:
            try:
                os.killpg(proc.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            proc.wait()
        out.seek(0)
        err.seek(0)
        return proc.returncode, out.read(), err.read()


class Docs(harness.Case):
    @classmethod
    def setUpClass(cls):
        cls.pages = pages()
        cls.folder = tempfile.TemporaryDirectory(prefix="engramd-docs-")
        cls.top = pathlib.Path(cls.folder.name)
        make_tree(cls.top)
        cls.server = harness.Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.folder.cleanup()

    def all_blocks(self):
        for name, found in self.pages.items():
            for b in found:
                yield name, b

    def test_every_block_has_a_mark(self):
        for _, b in self.all_blocks():
            with self.subTest(block=str(b)):
                self.assertIsNotNone(b.mark, "%s: a block without a mark above it, see docs/CONTRIBUTING.md" % b)
                if b.kind == "not run":
                    self.assertGreater(len(b.mark[1]), 8, "%s: say why it is not run" % b)

    def test_blocks_run(self):
        """In the order of the page, so that an output follows its command."""
        for name, found in self.pages.items():
            output = None
            for b in found:
                with self.subTest(block=str(b)):
                    if b.kind in ("run", "serve"):
                        output = self.run_block(b)
                    elif b.kind == "start":
                        output = self.start_block(b)
                    elif b.kind == "output":
                        self.assertIsNotNone(output, "%s: no command before it" % b)
                        missing = blocks.missing_line(b.text, output)
                        self.assertIsNone(missing, "%s: not in the output:\n%s" % (b, output))

    def run_block(self, b):
        script = b.text
        for old, new in blocks.swaps_of(b.mark[1]):
            self.assertIn(old, script, "%s: its mark replaces what is not there" % b)
            script = script.replace(old, new)
        port = self.server.port if b.kind == "serve" else free_port()
        started = time.monotonic()
        status, out, err = run_in(self.top, script.replace("8080", str(port)))
        print("%-32s %5.1f s, exit %d" % (b, time.monotonic() - started, status))
        self.assertEqual(blocks.exit_of(b.mark[1]), status, "%s:\n%s\n%s\n%s" % (b, script, out[-2000:], err[-2000:]))
        return (out + err).replace(str(port), "8080")

    def start_block(self, b):
        """A server in the foreground: it must become ready, answer, and end well when asked to."""
        proc = subprocess.Popen([*SHELL, b.text], cwd=self.top, env=environment(self.top, ENGRAMD_PORT="0"),
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                start_new_session=True)
        timer = threading.Timer(60, os.killpg, (proc.pid, signal.SIGKILL))
        timer.start()
        lines, started = [], time.monotonic()
        try:
            for line in proc.stderr:
                lines.append(line)
                m = re.search(r"listening on http://\S+:(\d+)", line)
                if m:
                    with harness.Conn(int(m.group(1))) as c:
                        c.send_request("GET", "/ready", None, {"Connection": "close"})
                        self.assertEqual(200, c.read_answer().status)
                    os.killpg(proc.pid, signal.SIGTERM)
            self.assertEqual(0, proc.wait(), "%s:\n%s" % (b, "".join(lines)))
            self.assertTrue([line for line in lines if "listening on" in line], "".join(lines))
        finally:
            timer.cancel()
            if proc.poll() is None:
                os.killpg(proc.pid, signal.SIGKILL)
                proc.wait()
            proc.stderr.close()
        print("%-32s %5.1f s" % (b, time.monotonic() - started))
        return "".join(lines)

    def test_usages_are_those_of_the_program(self):
        """A synopsis `engramd COMMAND ...` names only options that COMMAND has, and no operand that --help lacks."""
        for _, b in self.all_blocks():
            if b.kind != "usage":
                continue
            for line in b.text.strip().split("\n"):
                with self.subTest(line=line):
                    words = re.sub(r"^build/", "", line).split()
                    self.assertEqual("engramd", words[0])
                    command = [w for w in words[1:3] if re.fullmatch("[a-z]+", w)]
                    status, out, err = run_in(self.top, "engramd %s --help" % " ".join(command))
                    self.assertEqual(0, status, err)
                    for option in re.findall(r"--[a-z-]+", line):
                        self.assertRegex(out, r"%s\b" % option)
                    for operand in re.findall(r"(?<![-a-zA-Z_] )\b[A-Z][A-Z_]+\b", line):
                        self.assertIn(operand, out.split("\n\n")[0], line)

    def test_grammars_are_accepted(self):
        for _, b in self.all_blocks():
            if b.kind == "grammar":
                answer = self.server.complete({"prompt": "x", "max_tokens": 32, "structured_outputs": {"grammar": b.text}})
                self.assertEqual(200, answer.status, "%s: %r" % (b, answer))

    def test_blocks_that_do_not_run_could(self):
        """At least the shell can read them, and the files of the tree that they name are there."""
        for _, b in self.all_blocks():
            if b.kind != "not run":
                continue
            with self.subTest(block=str(b)):
                r = subprocess.run(["bash", "-n", "-c", b.text], capture_output=True, text=True)
                self.assertEqual("", r.stderr, str(b))
                commands = re.sub(r"(^|\s)#.*", "", b.text)
                for word in re.findall(r"(?:^|(?<=[\s=\"']))(?:\./)?((?:%s)/[\w./-]+)" % "|".join((*TREE, "build")), commands):
                    self.assertTrue((self.top / word).exists(), "%s: there is no %s" % (b, word))

    def test_links_lead_somewhere(self):
        """Files that pages link to, and headings within them."""
        for name in self.pages:
            page = source / name
            for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
                if re.match(r"[a-z]+:", target):
                    continue
                path, _, anchor = target.partition("#")
                to = (page.parent / path).resolve() if path else page
                self.assertTrue(to.exists(), "%s links to %s, which is not there" % (name, target))
                if anchor:
                    heads = re.findall(r"^#+ (.*)$", to.read_text(), re.M)
                    slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads]
                    self.assertIn(anchor, slugs, "%s links to %s" % (name, target))

    def test_the_index_has_every_page(self):
        index = (source / "docs" / "README.md").read_text()
        for f in (source / "docs").iterdir():
            if f.suffix in (".md", ".yaml") and f.name != "README.md":
                self.assertIn("](%s)" % f.name, index)


class Judge(unittest.TestCase):
    """The runner itself, on pages with a fault each."""

    def test_marks(self):
        page = "text\n\n<!-- test: run, 5 -> 1, exit 2 -->\n\n    a\n\n    b\n\nmore\n\n```\nc\n```\n"
        first, second = blocks.blocks_of("p", page)
        self.assertEqual(("a\n\nb\n", "run"), (first.text, first.kind))
        self.assertEqual(([("5", "1")], 2), (blocks.swaps_of(first.mark[1]), blocks.exit_of(first.mark[1])))
        self.assertIsNone(second.mark)
        with self.assertRaises(ValueError):
            blocks.blocks_of("p", "<!-- test: perhaps -->\n```\nc\n```\n")

    def test_outputs(self):
        self.assertIsNone(blocks.missing_line('{"a": ..., "b"}\nend', 'x\n{"a": 1, "b"}\ny\nthe end'))
        self.assertEqual("y", blocks.missing_line("end\ny", "y\nend"))
        self.assertEqual("a.c", blocks.missing_line("a.c", "abc"))

    def test_a_failing_command(self):
        with tempfile.TemporaryDirectory() as top:
            self.assertEqual(1, run_in(pathlib.Path(top), "false | cat\necho no")[0])

    def test_what_is_left_running(self):
        with tempfile.TemporaryDirectory() as top:
            started = time.monotonic()
            self.assertEqual((0, "yes\n", ""), run_in(pathlib.Path(top), "sleep 50 &\necho yes"))
            self.assertLess(time.monotonic() - started, 20)


if __name__ == "__main__":
    build, source = (pathlib.Path(p).resolve() for p in sys.argv[2:4])
    del sys.argv[2:4]
    harness.main()
