#!/usr/bin/env python3
"""wrk's scripts of deploy/load against the program; their verdicts, and that they have one. `test_wrk.py ENGRAMD`.
Exit code 77 (skipped) where wrk is not installed."""
import http.server
import itertools
import os
import shutil
import subprocess
import sys
import threading
import unittest

from swarm import harness

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "load")


def wrk(port, script, *settings, seconds=2, connections=16):
    return subprocess.run(["wrk", "-t2", "-c%d" % connections, "-d%ds" % seconds, "--timeout", "60s", "-s",
                           os.path.join(SCRIPTS, script), "http://127.0.0.1:%d" % port, "--", *settings],
                          capture_output=True, text=True, timeout=120)


class Moody(http.server.BaseHTTPRequestHandler):
    """Looks like the real thing, but says something else each time."""
    protocol_version = "HTTP/1.1"
    count = itertools.count()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = ('{"choices":[{"index":0,"text":"%d","finish_reason":"length"}],"usage":{"completion_tokens":16}}'
                % next(self.count)).encode()
        self.send_response(200)
        self.send_header("X-Request-Id", self.headers["X-Request-Id"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Scripts(harness.Case):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server("--log-level", "warning")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.text()

    def well(self, script, *settings, **more):
        r = wrk(self.server.port, script, *settings, **more)
        print(r.stdout)
        self.assertEqual(0, r.returncode, r.stdout + r.stderr)
        self.assertIn("verdict: ok", r.stdout)
        return r.stdout

    def test_completions(self):
        self.well("completions.lua", "max_tokens=8", "requests=16")

    def test_stream(self):
        self.well("stream.lua", "max_tokens=8", "requests=16", seconds=3)

    def test_scoring(self):
        self.well("scoring.lua", "prompt_tokens=24", "requests=8")

    def test_errors(self):
        self.assertIn("Non-2xx or 3xx responses", self.well("errors.lua"))

    def test_probes(self):
        self.assertNotIn("Non-2xx", self.well("probes.lua", connections=128))

    def test_verdict_on_answers_that_differ(self):
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody) as moody:
            moody.handle_error = lambda *args: None  # wrk leaves in the middle
            threading.Thread(target=moody.serve_forever, daemon=True).start()
            r = wrk(moody.server_address[1], "completions.lua", "requests=1", seconds=1)
            moody.shutdown()
        self.assertEqual(1, r.returncode, r.stdout + r.stderr)
        self.assertRegex(r.stdout, "verdict: failed: request 1 was answered differently")

    def test_verdict_on_refusals(self):
        r = wrk(self.server.port, "completions.lua", "max_tokens=1000000", seconds=1)
        self.assertEqual(1, r.returncode, r.stdout + r.stderr)
        self.assertRegex(r.stdout, "verdict: failed: status 400")

    def test_unknown_setting(self):
        r = wrk(self.server.port, "completions.lua", "max_token=1", seconds=1)
        self.assertIn("not a setting of this script: max_token=1", r.stdout + r.stderr)
        self.assertNotIn("verdict: ok", r.stdout)


if __name__ == "__main__":
    if not shutil.which("wrk"):
        print("wrk is not installed")
        sys.exit(77)
    harness.exe = sys.argv.pop(1)
    unittest.main(verbosity=2)
