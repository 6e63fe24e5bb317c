#!/usr/bin/env python3
"""Many clients that stream at once, for a while: no error, no wrong byte, no growth, no stall at any number of connections.
`test_load.py ENGRAMD STREAM_LOAD [--quick] [--seconds S]`"""
import argparse
import json
import subprocess
import sys
import unittest

import probe
from swarm import harness

COUNTS = [1, 127, 128, 129, 255, 256, 512, 1024]
MAX_GROWTH_MIB = 6
options = None


def stream_load(server, *args):
    """(exit code, report, complaints)."""
    r = subprocess.run([options.stream_load, "--port", str(server.port), "--pid", str(server.proc.pid), *map(str, args)],
                       capture_output=True, text=True, timeout=600)
    if not r.stdout:
        raise AssertionError("no report: %d %s" % (r.returncode, r.stderr))
    return r.returncode, json.loads(r.stdout), r.stderr


class Load(harness.Case):
    def check(self, code, report, complaints):
        self.assertEqual((0, 0), (report["errors"], report["wrong"]), complaints)
        self.assertEqual(report["asked"], report["answered"])
        self.assertTrue(report["verified"])
        self.assertEqual(0, code, complaints)

    def test_many_streams(self):
        clients, args = (64, []) if options.quick else (512, ["--max-growth-mib", MAX_GROWTH_MIB])
        with harness.Server("--log-level", "warning") as s:
            code, report, complaints = stream_load(s, "--clients", clients, "--seconds", options.seconds, *args)
            print(json.dumps(report))
            self.check(code, report, complaints)
            self.assertEqual(clients, report["most_in_flight"])
            probe.still_well(s, {"prompt": [300] * 4000, "max_tokens": 95, "temperature": 0, "ignore_eos": True})
            self.assertEqual(0, s.stop(), s.text())

    def test_no_number_of_connections_stalls(self):
        with harness.Server("--log-level", "warning", "--max-queue", "2000") as s:
            for n in COUNTS:
                code, report, complaints = stream_load(s, "--clients", n, "--seconds", "0.5", "--requests", 8, "--prompt-tokens", 4,
                                                       "--max-tokens", 2, "--timeout", 60)
                print("%4d connections: %5d answers, %.0f tokens/s, slowest %.0f ms" % (
                    n, report["answered"], report["tokens_per_s"], report["whole_ms"]["max"]))
                self.check(code, report, complaints)
                self.assertEqual(n, report["most_in_flight"])
            self.assertEqual(0, s.stop(), s.text())

    def test_open_loop(self):
        """Requests fall due whatever the server does: a tenth of what it can do must never pile up."""
        with harness.Server("--log-level", "warning") as s:
            _, fast, complaints = stream_load(s, "--clients", 8, "--seconds", 2, "--max-tokens", 8)
            rate = max(1, fast["requests_per_s"] / 10)
            code, report, complaints = stream_load(s, "--clients", 64, "--seconds", 3, "--max-tokens", 8, "--rate", "%.2f" % rate)
            self.check(code, report, complaints)
            self.assertEqual(0, report["never_sent"])
            self.assertGreater(report["asked"], 0)
            self.assertLess(report["first_token_ms"]["p50"], 1000)
            self.assertEqual(0, s.stop(), s.text())

    def test_a_death_is_noticed(self):
        """The judge itself: a server that dies in the middle."""
        with harness.Server("--log-level", "warning") as s:
            tool = subprocess.Popen([options.stream_load, "--port", str(s.port), "--clients", "8", "--seconds", "20", "--no-verify"],
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            with s.connect(60) as c:  # the server answers: the tool is at work, too
                c.send_request("POST", "/v1/completions", {"prompt": [300], "max_tokens": 64, "ignore_eos": True})
                c.read_answer()
            s.proc.kill()
            out, _ = tool.communicate(timeout=60)
            self.assertEqual(1, tool.returncode)
            self.assertGreater(json.loads(out)["errors"], 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("engramd")
    parser.add_argument("stream_load")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=0)
    options, rest = parser.parse_known_args()
    options.seconds = options.seconds or (8 if options.quick else 20)
    harness.exe = options.engramd
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
