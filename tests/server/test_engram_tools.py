#!/usr/bin/env python3
"""engram inspect and engram trace as commands. `test_engram_tools.py ENGRAMD MAKE-MODEL`."""
import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

import harness
from harness import Case, main

make_model = None
SVG = "{http://www.w3.org/2000/svg}"


def run(*args, stdin=b"", timeout=100):
    return subprocess.run([harness.exe, "engram", *args], input=stdin, capture_output=True, timeout=timeout)


class Tool(Case):
    def json(self, *args, **more):
        r = run(*args, "--json", **more)
        self.assertEqual((0, b""), (r.returncode, r.stderr), args)
        return json.loads(r.stdout)

    def refused(self, command, args, code, pattern):
        r = run(command, *args)
        self.assertEqual((code, b""), (r.returncode, r.stdout), args)
        self.assertRegex(r.stderr.decode(), "^engramd engram %s: .*%s.*\n$" % (command, re.escape(pattern)))

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()

    def tearDown(self):
        self.dir.cleanup()

    def path(self, name, data=b""):
        path = os.path.join(self.dir.name, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def model(self, *args):
        path = os.path.join(self.dir.name, "model")
        subprocess.run([make_model, *args, path], check=True, stdout=subprocess.DEVNULL)
        return path


class Which(Tool):
    def test_help_and_wrong_words(self):
        for args in ["--help"], ["help"]:
            r = run(*args)
            self.assertEqual((0, b""), (r.returncode, r.stderr))
            self.assertIn(b"engram trace", r.stdout)
        for command in "inspect", "trace":
            r = run(command, "--help")
            self.assertEqual((0, b""), (r.returncode, r.stderr))
            self.assertIn(b"--json", r.stdout)
        for args in [], ["nothing"]:
            r = run(*args)
            self.assertEqual((2, b""), (r.returncode, r.stdout))
            self.assertIn(b"Usage: engramd engram", r.stderr)


class Inspect(Tool):
    def test_json(self):
        i = self.json("inspect")
        self.assertEqual([2, 3, 4], i["orders"])
        self.assertEqual(([1, 3], [192706, 194042]), ([t["layer"] for t in i["tables"]], [t["rows"] for t in i["tables"]]))
        taken = set()
        for t in i["tables"]:
            self.assertEqual(len(i["orders"]) * i["heads"], len(t["primes"]))
            self.assertEqual([sum(t["primes"][:k]) for k in range(len(t["primes"]))], t["first_rows"])
            self.assertEqual(sum(t["primes"]), t["addressed_rows"])
            self.assertTrue(all(m % 2 and m > 0 for m in t["multipliers"]))
            self.assertEqual(t["rows"] * (i["row_bytes"] + i["scale_bytes"]), t["bytes"])
            self.assertFalse(taken & set(t["primes"]))
            taken |= set(t["primes"])
        self.assertEqual(i["table_bytes"], sum(t["bytes"] for t in i["tables"]))
        self.assertEqual("ram", i["auto_tier"])
        plan = json.loads(subprocess.run([harness.exe, "plan", "--json"], capture_output=True, check=True).stdout)
        self.assertEqual(plan["engram_tier"], i["auto_tier"])
        self.assertEqual({t["tier"]: t["memory_bytes"] for t in i["tiers"]}["ram"], plan["memory_bytes"])

    def test_text(self):
        r = run("inspect")
        self.assertEqual((0, b""), (r.returncode, r.stderr))
        for word in b"layer 3: 194042 rows", b"multipliers", b"F8_E4M3", b"--engram-tier auto is ram", b"nvme":
            self.assertIn(word, r.stdout)

    def test_large_tables_stay_in_their_files(self):
        i = self.json("inspect", self.model("--engram-vocab", "200000"))
        self.assertGreater(i["table_bytes"], 64 << 20)
        self.assertEqual(("mmap", True), (i["auto_tier"], "large" in i["auto_why"]))

    def test_models_of_other_kinds(self):
        i = self.json("inspect", self.model("--dtype", "bf16", "--seed", "9"))
        self.assertEqual(("BF16", None, 0), (i["dtype"], i["scale_dtype"], i["scale_bytes"]))
        path = self.model("--no-engram")
        self.assertEqual([], self.json("inspect", path)["tables"])
        self.assertIn(b"no Engram layers", run("inspect", path).stdout)

    def test_refusals(self):
        self.refused("inspect", ["/nonexistent"], 1, "/nonexistent")
        self.refused("inspect", ["a", "b"], 2, "one argument too many")
        self.refused("inspect", ["--svg", "x"], 2, "unknown option --svg")


class Trace(Tool):
    TEXT = b"The quick brown fox jumps over the lazy dog.\nThe quick brown fox sleeps.\n" * 40

    def test_json(self):
        path = self.path("text", self.TEXT)
        t = self.json("trace", path)
        self.assertEqual((24, 1), (t["rows_per_token"], t["sampled_one_in"]))
        self.assertEqual(24 * t["tokens"], t["rows"])
        self.assertEqual(t["unique_rows"], sum(o["unique_rows"] for o in t["orders"]))
        # a text that repeats itself: longer n-grams are not much rarer
        self.assertTrue(t["orders"][0]["unique_rows"] <= t["orders"][2]["unique_rows"] < t["rows"] / 50)
        rates = [c["lru_hit_rate"] for c in t["caches"]]
        self.assertEqual(sorted(rates), rates)
        self.assertAlmostEqual(1 - t["unique_rows"] / t["rows"], t["caches"][-1]["hit_rate"], 5)
        self.assertEqual([256 << 20], [c["bytes"] for c in t["caches"] if c["configured"]])
        for args, data in [("-",), self.TEXT], [(self.model(), path), b""], [("--engram-cache-bytes", "0", path), b""]:
            other = self.json("trace", *args, stdin=data)
            self.assertGreater(other["tokens"], 100)
            self.assertEqual(args[0] == "-", other["file"] == "standard input")
        self.assertFalse(any(c["configured"] for c in other["caches"]))
        self.assertEqual(t["tokens"], other["tokens"])

    def test_text(self):
        r = run("trace", self.path("text", self.TEXT))
        self.assertEqual((0, b""), (r.returncode, r.stderr))
        for word in b"24 rows for each", b"different", b"LRU would", b"256 MiB", b"--engram-cache-bytes":
            self.assertIn(word, r.stdout)

    def test_plot(self):
        svg = os.path.join(self.dir.name, "out.svg")
        name = "a <b> & \"c\" \u00e9" + "x" * 100
        t = self.json("trace", self.path(name, self.TEXT), "--svg", svg)
        root = ElementTree.parse(svg).getroot()
        self.assertEqual(SVG + "svg", root.tag)
        _, _, width, height = map(int, root.get("viewBox").split())
        texts = [e.text for e in root.iter(SVG + "text")]
        self.assertTrue(any("a <b> & \"c\" \u00e9" in text for text in texts) or "\u2026" in texts[0], texts)
        for word in "size of the row cache", "rows found in it", "100 %", "256 MiB configured":
            self.assertIn(word, texts)
        self.assertIn("prefers-color-scheme: dark", root.find(SVG + "style").text)
        lines = root.findall(SVG + "polyline")
        self.assertEqual(["lru", "cache"], [line.get("class") for line in lines])
        for line in lines:
            points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
            self.assertEqual(len(t["caches"]), len(points))
            self.assertEqual(sorted(points), points)  # sizes grow to the right
            self.assertTrue(all(0 <= x <= width and 0 <= y <= height for x, y in points))
        self.assertEqual(2 * len(t["caches"]), len(root.findall(SVG + "circle")))

    def test_refusals(self):
        text = self.path("text", self.TEXT)
        for args, code, pattern in [([], 2, "a FILE is missing"), (["/nonexistent"], 1, "cannot open /nonexistent"),
                                    ([self.dir.name], 1, "cannot read"), ([self.path("bad", b"a \xff")], 1, "not valid UTF-8"),
                                    (["/nonexistent", text], 1, "/nonexistent"), (["a", "b", "c"], 2, "one argument too many"),
                                    (["--svg", "/nonexistent/x", text], 1, "cannot write /nonexistent/x"),
                                    ([self.model("--no-engram"), text], 1, "no Engram layers")]:
            self.refused("trace", args, code, pattern)

    def test_nothing_to_trace(self):
        """The bundled model has a BOS, so that even an empty text is a token; without one it is a sentence."""
        self.assertEqual(1, self.json("trace", self.path("empty"))["tokens"])

    def test_long_text_in_bounded_memory(self):
        """More asks than are kept: figures are of a sample, and memory stays where it was promised to."""
        path = self.path("long", b"".join(b"%d %x\nWord %d\n" % (i, i * i, i % 1000) for i in range(120000)))
        before = max_rss()
        t = self.json("trace", path)
        self.assertGreater(t["sampled_one_in"], 1)
        self.assertLess(max_rss(), max(before, 300 << 20))
        self.assertTrue(0.3 < t["caches"][-1]["lru_hit_rate"] < 1, t["caches"][-1])

    def test_bar_on_a_terminal_only(self):
        path = self.path("text", self.TEXT * 50)
        self.assertEqual(b"", run("trace", path).stderr)
        master, slave = pty.openpty()
        p = subprocess.Popen([harness.exe, "engram", "trace", path], stdout=subprocess.PIPE, stderr=slave)
        os.close(slave)
        seen, deadline = b"", time.monotonic() + 60
        while time.monotonic() < deadline and select.select([master], [], [], 60)[0]:
            try:
                data = os.read(master, 4096)
            except OSError:  # the other side is gone
                break
            if not data:
                break
            seen += data
        os.close(master)
        self.assertIn(b"tokens", p.stdout.read())
        p.stdout.close()
        self.assertEqual(0, p.wait(10))
        self.assertRegex(seen, rb"\r\x1b\[K\[#*\.*\] +\d+ % ")
        self.assertTrue(seen.endswith(b"\r\x1b[K"), seen[-80:])


def max_rss():
    """Of all children that have ended."""
    import resource
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


if __name__ == "__main__":
    make_model = sys.argv.pop(2)
    main()
