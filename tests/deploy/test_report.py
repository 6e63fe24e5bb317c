#!/usr/bin/env python3
"""deploy/load/report.py: a report of two servers with tables, plots and the machine's data, and a verdict.

    test_report.py ENGRAMD TRACE_LOAD SOURCE"""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
import harness  # noqa: E402

engramd, trace_load, source = sys.argv[1:4]
load = os.path.join(source, "deploy", "load")
sys.path.insert(0, load)
import plot  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


class Report(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = os.path.join(folder.name, "report")
        harness.exe = engramd

    def write(self, *args):
        r = subprocess.run([sys.executable, os.path.join(load, "report.py"), "--out", self.out, "--trace-load", trace_load,
                            *args], capture_output=True, text=True, timeout=100)
        with open(os.path.join(self.out, "report.md"), encoding="utf-8") as f:
            return r, f.read()

    @unittest.skipUnless(shutil.which("wrk"), "wrk is not installed")
    def test_two_servers(self):
        with harness.Server("--log-level", "warning") as a, harness.Server("--no-prefix-cache", "--log-level", "warning") as b:
            r, text = self.write("--seconds", "1", "--connections", "4", "--rates", "4,8",
                                 "one=http://127.0.0.1:%d" % a.port, "two=http://127.0.0.1:%d" % b.port)
            self.assertEqual(0, r.returncode, r.stderr + text)
        self.assertEqual(4, text.count("| ok |"), text)  # wrk: completions and chat, each in one piece and streamed
        for row in "| one | 4 |", "| one | 8 |", "| two | 4 |", "| two | 8 |":
            self.assertEqual(1, text.count(row), text)
        for fact in "processor", "cores", "memory", "system", "commit":
            self.assertRegex(text, r"\| %s \| \S" % fact)
        plots = sorted(n for n in os.listdir(self.out) if n.endswith(".svg"))
        self.assertEqual(5, len(plots))
        for name in plots:
            self.assertIn("(%s)" % name, text)
            svg = xml.etree.ElementTree.parse(os.path.join(self.out, name)).getroot()
            self.assertEqual(2, len(svg.findall(SVG + "polyline")), name)
            self.assertTrue(svg.get("aria-label"))

    def test_a_server_that_fails(self):
        with harness.Server("--max-prompts", "1", "--max-json-depth", "4", "--log-level", "warning") as s:
            port = s.port
        r, text = self.write("--seconds", "1", "--connections", "", "--rates", "5", "gone=http://127.0.0.1:%d" % port)
        self.assertEqual(1, r.returncode, text)
        self.assertRegex(text, r"\| gone \| 5 \| 0 \| [1-9]")

    def test_ticks_are_round_and_hold_the_data(self):
        for high in 0, 0.003, 1, 7, 99, 100, 12345.6:
            t = plot.ticks(0, high)
            self.assertTrue(t[0] <= 0 and t[-1] >= high and 2 <= len(t) <= 12, (high, t))

    def test_text_is_escaped(self):
        svg = plot.chart('a<b & "c"', "x", "y", {"<s>": [(0, 1), (2, 3)]})
        root = xml.etree.ElementTree.fromstring(svg)
        self.assertEqual('a<b & "c"', root.find(SVG + "title").text)


if __name__ == "__main__":
    print("seed 0 (nothing here is drawn)")
    sys.stdout.flush()
    unittest.main(argv=sys.argv[:1] + sys.argv[4:], verbosity=2)
