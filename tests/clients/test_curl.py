#!/usr/bin/env python3
"""curl, as the README shows it, against the program and the model that comes with it. `test_curl.py ENGRAMD`."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
from harness import Case, Server, main  # noqa: E402

PARIS = '{"prompt":"The capital of France is","max_tokens":8,"temperature":0%s}'


class Curl(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.text()

    def curl(self, path, *args):
        r = subprocess.run(["curl", "-s", "localhost:%d%s" % (self.server.port, path), *args], capture_output=True,
                           timeout=60)
        self.assertEqual(0, r.returncode, r)
        return r.stdout.decode()

    def test_the_line_of_the_readme(self):
        answer = json.loads(self.curl("/v1/completions", "-d", PARIS % ""))
        self.assertEqual(" Paris.", answer["choices"][0]["text"])

    def test_stream(self):
        lines = self.curl("/v1/completions", "-N", "-d", PARIS % ',"stream":true').split("\n\n")
        self.assertEqual(["data: [DONE]", ""], lines[-2:])
        pieces = [json.loads(line[6:])["choices"][0]["text"] for line in lines[:-2]]
        self.assertEqual(" Paris.", "".join(pieces))

    def test_probes(self):
        for path in "/health", "/ready", "/version", "/v1/models":
            self.assertTrue(json.loads(self.curl(path, "-f")))
            self.assertIn("HTTP/1.1 200", self.curl(path, "-I"))

    def test_error(self):
        out = self.curl("/v1/completions", "-d", "{}", "-w", "\n%{http_code} %{content_type}")
        body, code = out.rsplit("\n", 1)
        self.assertEqual("400 application/json", code)
        self.assertEqual("prompt", json.loads(body)["error"]["param"])

    def test_large_bodies(self):
        """curl asks before it sends much (Expect: 100-continue)."""
        with tempfile.NamedTemporaryFile() as f:
            for size, status in (2 << 20, "400"), (20 << 20, "413"):
                f.truncate(0)
                f.seek(0)
                f.write(b'{"prompt":"' + b"a" * size + b'"}')
                f.flush()
                for more in [], ["-H", "Expect:"], ["-H", "Transfer-Encoding: chunked"]:
                    out = self.curl("/v1/completions", "--data-binary", "@" + f.name, "-w", "\n%{http_code}", *more)
                    body, code = out.rsplit("\n", 1)
                    self.assertEqual(status, code, (size, more))
                    self.assertIn("message", json.loads(body)["error"])

    def test_same_connection(self):
        args = ["-o", "/dev/null", "localhost:%d/health" % self.server.port]
        r = subprocess.run(["curl", "-s", "-w", "%{num_connects} ", *args, *args, *args], capture_output=True, timeout=20)
        self.assertEqual(b"1 0 0 ", r.stdout)


if __name__ == "__main__":
    if not shutil.which("curl"):
        print("curl is not installed")
        sys.exit(77)
    main()
