#!/usr/bin/env python3
"""deploy/nginx/engramd.conf: streams are not held back, and a new version is rolled out under load without a failed request.

    test_rollout.py ENGRAMD STUB STREAM_LOAD SOURCE"""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
import harness  # noqa: E402

engramd, stub, stream_load, source = sys.argv[1:5]


def free_ports(n):
    held = [socket.socket() for _ in range(n)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


class Nginx:
    """nginx with the configuration of the tree, its ports replaced."""

    def __init__(self, case, ports):
        folder = tempfile.TemporaryDirectory()
        case.addCleanup(folder.cleanup)
        self.port, = free_ports(1)
        with open(os.path.join(source, "deploy", "nginx", "engramd.conf"), encoding="utf-8") as f:
            site = f.read()
        for old, new in ("127.0.0.1:8081", "127.0.0.1:%d" % ports[0]), ("127.0.0.1:8082", "127.0.0.1:%d" % ports[1]), \
                ("listen 80;", "listen 127.0.0.1:%d;" % self.port):
            case.assertIn(old, site)
            site = site.replace(old, new)
        self.conf = os.path.join(folder.name, "nginx.conf")
        with open(self.conf, "w", encoding="utf-8") as f:
            f.write("daemon off; worker_processes 1; pid %s/pid; error_log %s/error.log;\nevents {worker_connections 512;}\n"
                    "http { access_log off; %s\n%s}\n" % (folder.name, folder.name, "".join(
                        "%s_temp_path %s/%s; " % (n, folder.name, n)
                        for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")), site))
        checked = subprocess.run(["nginx", "-t", "-q", "-c", self.conf], capture_output=True, text=True, timeout=30)
        case.assertEqual((0, ""), (checked.returncode, checked.stderr))
        self.proc = subprocess.Popen(["nginx", "-c", self.conf], stderr=subprocess.DEVNULL)
        case.addCleanup(self.proc.wait, 20)
        case.addCleanup(self.proc.terminate)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                case.assertLess(time.monotonic(), end, "nginx does not listen")
                time.sleep(0.05)

    def connect(self):
        return harness.Conn(self.port, timeout=30)

    def get(self, path):
        with self.connect() as c:
            c.send_request("GET", path, headers={"Connection": "close"})
            return c.read_answer()


@unittest.skipUnless(shutil.which("nginx"), "nginx is not installed")
class Proxy(harness.Case):
    def server(self, program, port, *args):
        harness.exe = program
        s = harness.Server(*args, port=port)
        self.addCleanup(s.__exit__)
        return s

    def test_streams_are_not_held_back(self):
        ports = free_ports(2)
        self.server(stub, ports[0], "stub:step_us=300000")
        nginx = Nginx(self, ports)  # the second server does not run: its refusals are stepped over
        times = []
        with nginx.connect() as c:
            c.send_request("POST", "/v1/completions", {"prompt": [300], "max_tokens": 5, "stream": True})
            self.assertEqual(200, c.read_head()[0])
            for _ in c.events():
                times.append(time.monotonic())
        self.assertEqual(6, len(times))
        self.assertGreater(times[4] - times[0], 0.8)
        self.assertEqual(403, nginx.get("/metrics").status)

    def test_a_server_that_drains_is_stepped_over(self):
        ports = free_ports(2)
        first = self.server(stub, ports[0], "stub:step_us=200000")
        self.server(stub, ports[1], "stub:")
        nginx = Nginx(self, ports)
        with first.connect() as held:
            held.send_request("POST", "/v1/completions", {"prompt": [300], "max_tokens": 10, "stream": True})
            self.assertEqual(200, held.read_head()[0])
            first.send_signal(15)
            first.wait_line("draining")
            for _ in range(10):
                with nginx.connect() as c:
                    c.send_request("POST", "/v1/completions", {"prompt": [300], "max_tokens": 2})
                    self.assertEqual(200, c.read_answer().status)
            self.assertEqual("[DONE]", [e for _, e in held.events()][-1])
        self.assertEqual(0, first.wait(10))

    def test_rollout_under_load(self):
        ports = free_ports(2)
        servers = [self.server(engramd, p, "--served-model-name", "old", "--threads", "1") for p in ports]
        nginx = Nginx(self, ports)
        load = subprocess.Popen([stream_load, "--port", str(nginx.port), "--clients", "12", "--seconds", "12",
                                 "--requests", "16", "--max-tokens", "48"], stdout=subprocess.PIPE, text=True)
        self.addCleanup(load.stdout.close)
        self.addCleanup(load.kill)
        time.sleep(2)  # past the requests that are made alone
        for i, port in enumerate(ports):
            time.sleep(1)
            self.assertEqual(0, servers[i].stop(timeout=40))  # SIGTERM: drains, then ends
            servers[i] = self.server(engramd, port, "--served-model-name", "new", "--threads", "1")
        self.assertIsNone(load.poll(), "the load was over before the rollout")
        out, _ = load.communicate(timeout=90)
        said = json.loads(out)
        self.assertEqual((0, 0, 0), (load.returncode, said["errors"], said["wrong"]), out)
        self.assertGreater(said["answered"], 20)
        for s in servers:
            self.assertEqual("new", s.request("GET", "/v1/models").json()["data"][0]["id"])
            self.assertTrue(re.search(r"http_requests_total\{handler=\"/v1/completions\",method=\"POST\",status=\"2xx\"\} [1-9]",
                                      s.request("GET", "/metrics").body.decode()), "no request reached the new server")
        print("rolled out under %d answers, %.1f tokens/s" % (said["answered"], said["tokens_per_s"]))


if __name__ == "__main__":
    print("seed 0 (nothing here is drawn)")
    sys.stdout.flush()
    unittest.main(argv=sys.argv[:1] + sys.argv[5:], verbosity=2)
