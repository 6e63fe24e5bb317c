#!/usr/bin/env python3
"""The open-loop generator: what it plans, what it measures, what it calls a failure.

    test_trace_load.py ENGRAMD STUB TRACE_LOAD"""
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
import harness  # noqa: E402
import promtext  # noqa: E402

engramd, stub, trace_load = sys.argv[1:4]


class Load(harness.Case):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def serve(self, program, *args):
        harness.exe = program
        s = harness.Server(*args)
        self.addCleanup(s.__exit__)
        return s

    def run_load(self, port, *args, code=0):
        r = subprocess.run([trace_load, "--port", str(port), *args], capture_output=True, text=True, timeout=90)
        self.assertEqual(code, r.returncode, r.stdout + r.stderr)
        return json.loads(r.stdout) if r.stdout else {}, r.stderr

    def rows(self, name):
        with open(self.path(name), newline="", encoding="utf-8") as f:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]

    def plan(self, *args):
        """The arrivals of a trace that no server answers."""
        self.run_load(1, "--write-trace", self.path("plan"), *args, code=1)
        return self.rows("plan")

    def test_arrivals_are_poisson(self):
        plan = self.plan("--rate", "2000", "--seconds", "2")
        self.assertTrue(3700 < len(plan) < 4300, len(plan))
        gaps = [b["at_s"] - a["at_s"] for a, b in zip(plan, plan[1:])]
        self.assertTrue(all(g >= 0 for g in gaps))
        # an exponential's deviation is its mean
        self.assertTrue(0.9 < statistics.stdev(gaps) / statistics.mean(gaps) < 1.1)

    def test_shape(self):
        plan = self.plan("--rate", "2000", "--seconds", "1", "--prompt-tokens", "40", "--output-tokens", "20", "--prefixes",
                         "3", "--prefix-tokens", "100", "--prefix-share", "0.25")
        with_prefix = [a for a in plan if a["prefix"] >= 0]
        self.assertEqual({0, 1, 2}, {a["prefix"] for a in with_prefix})
        self.assertTrue(0.2 < len(with_prefix) / len(plan) < 0.3)
        own = [a["prompt_tokens"] - a["prefix_tokens"] for a in plan]
        self.assertTrue(36 < statistics.mean(own) < 44, statistics.mean(own))
        self.assertTrue(10 <= min(own) and max(own) <= 160)
        self.assertTrue(18 < statistics.mean(a["max_tokens"] for a in plan) < 22)
        self.assertEqual(plan, self.plan("--rate", "2000", "--seconds", "1", "--prompt-tokens", "40", "--output-tokens",
                                         "20", "--prefixes", "3", "--prefix-tokens", "100", "--prefix-share", "0.25"))
        self.assertNotEqual(plan[:9], self.plan("--rate", "2000", "--seconds", "1", "--seed", "2")[:9])

    def test_figures(self):
        """A server whose steps take 20 ms: times are known, and the summary is that of the rows."""
        s = self.serve(stub, "stub:step_us=20000")
        said, _ = self.run_load(s.port, "--rate", "20", "--seconds", "2", "--output-tokens", "16", "--prompt-tokens", "8",
                                "--prefixes", "0", "--csv", self.path("csv"), "--goal-first-ms", "10000",
                                "--goal-token-ms", "10000")
        rows = self.rows("csv")
        self.assertEqual((said["arrivals"], 0, 0), (said["answered"], said["failed"], said["never_sent"]))
        self.assertEqual(said["arrivals"], len(rows))
        self.assertEqual(1, said["good_share"])
        for r in rows:
            self.assertTrue(r["first_ms"] <= r["whole_ms"])
            if r["tokens"] > 1:
                self.assertAlmostEqual(r["whole_ms"], r["first_ms"] + r["per_token_ms"] * (r["tokens"] - 1), delta=200)
        self.assertTrue(18 < said["inter_token_ms"]["p50"] < 100, said)
        ordered = sorted(r["first_ms"] for r in rows)
        self.assertAlmostEqual(said["first_token_ms"]["max"], ordered[-1], delta=0.1)
        self.assertTrue(abs(said["first_token_ms"]["p50"] / ordered[len(ordered) // 2] - 1) < 0.1)
        self.assertAlmostEqual(said["output_tokens_per_s"], sum(r["tokens"] for r in rows) / said["seconds"], delta=0.2)

    def test_goodput_counts_what_meets_both_goals(self):
        s = self.serve(stub, "stub:step_us=20000")
        args = ["--rate", "20", "--seconds", "1", "--output-tokens", "8", "--prefixes", "0", "--csv", self.path("csv")]
        said, _ = self.run_load(s.port, *args, "--goal-first-ms", "10000", "--goal-token-ms", "1")
        self.assertLess(said["good_share"], 0.2)
        rows = self.rows("csv")
        self.assertEqual(sum(r["per_token_ms"] <= 1 for r in rows), sum(r["good"] for r in rows))
        self.assertAlmostEqual(said["goodput_per_s"], sum(r["good"] for r in rows) / said["seconds"], delta=0.01)

    def test_times_count_from_the_arrival(self):
        """One request at a time: the others wait in the server's queue, and their wait is in the figures."""
        s = self.serve(stub, "--max-num-seqs", "1", "stub:step_us=20000")
        with open(self.path("trace"), "w", encoding="utf-8") as f:
            f.write("at_s,prompt_tokens,max_tokens,prefix,prefix_tokens\n" + "0,4,10,-1,0\n" * 5)
        self.run_load(s.port, "--trace", self.path("trace"), "--csv", self.path("csv"))
        first = sorted(r["first_ms"] for r in self.rows("csv"))
        for i in range(1, 5):
            self.assertGreater(first[i], i * 150)

    def test_trace_is_replayed(self):
        s = self.serve(stub, "stub:")
        self.run_load(s.port, "--rate", "40", "--seconds", "1", "--write-trace", self.path("trace"), "--csv",
                      self.path("a"))
        said, _ = self.run_load(s.port, "--trace", self.path("trace"), "--speed", "2", "--csv", self.path("b"))
        a, b = self.rows("a"), self.rows("b")
        self.assertEqual([(r["prompt_tokens"], r["tokens"]) for r in a], [(r["prompt_tokens"], r["tokens"]) for r in b])
        for x, y in zip(a, b):
            self.assertAlmostEqual(x["at_s"] / 2, y["at_s"], places=5)
        self.assertLess(said["seconds"], 2)

    def test_shared_prefixes_hit_the_cache(self):
        s = self.serve(engramd)
        args = ["--rate", "20", "--seconds", "2", "--prompt-tokens", "16", "--output-tokens", "4", "--prefix-tokens", "256"]
        self.run_load(s.port, *args, "--prefix-share", "0")
        before = self.hits(s)
        self.run_load(s.port, *args, "--prefix-share", "1", "--prefixes", "2", "--seed", "7")
        self.assertGreater(self.hits(s) - before, 256 * 10)

    def hits(self, s):
        return promtext.value(promtext.parse(s.request("GET", "/metrics").body.decode()), "vllm:prefix_cache_hits_total")

    def test_text_prompts(self):
        s = self.serve(engramd)
        said, _ = self.run_load(s.port, "--text", "--rate", "10", "--seconds", "1", "--output-tokens", "4", "--model",
                                "engram-pocket")
        self.assertEqual(said["arrivals"], said["answered"])

    def test_refusals_are_failures(self):
        s = self.serve(stub, "--max-num-seqs", "1", "--max-queue", "1", "stub:step_us=50000")
        said, err = self.run_load(s.port, "--rate", "40", "--seconds", "1", code=1)
        self.assertGreater(said["failed"], 0)
        self.assertEqual(said["arrivals"], said["answered"] + said["failed"])
        self.assertIn("HTTP/1.1 429", err)

    def test_a_full_generator_says_so(self):
        s = self.serve(stub, "stub:step_us=50000")
        said, _ = self.run_load(s.port, "--rate", "40", "--seconds", "1", "--max-in-flight", "2", code=1)
        self.assertGreater(said["never_sent"], 0)
        self.assertEqual(2, said["most_in_flight"])

    def test_bad_traces(self):
        for text in ("0,4,10,-1\n", "1,4,4,-1,0\n0,4,4,-1,0\n", "0,0,4,-1,0\n", "0,4,4,1,5\n", "0,4,4,-1,0,9\n", "nan,4,4,-1,0\n",
                     "x\n", "0,4,99999999999,-1,0\n"):
            with open(self.path("bad"), "w", encoding="utf-8") as f:
                f.write("at_s,prompt_tokens,max_tokens,prefix,prefix_tokens\n" + text)
            _, err = self.run_load(1, "--trace", self.path("bad"), code=1)
            self.assertRegex(err, r"bad:[23]: not a line")
        _, err = self.run_load(1, "--trace", self.path("nowhere"), code=1)
        self.assertIn("No such file", err)

    def test_usage(self):
        for args in ["--rate", "0"], ["--nonsense"], ["more"], ["--speed", "0"], ["--max-in-flight", "0"]:
            _, err = self.run_load(1, *args, code=2)
            self.assertIn("usage: trace_load", err)


if __name__ == "__main__":
    print("seed 0 (nothing here is drawn)")
    sys.stdout.flush()
    unittest.main(argv=sys.argv[:1] + sys.argv[4:], verbosity=2)
