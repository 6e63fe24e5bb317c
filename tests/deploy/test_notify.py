#!/usr/bin/env python3
"""What the service manager hears: READY, STATUS, STOPPING and WATCHDOG on a socket of the test's own. Stub engine."""
import os
import signal
import socket
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
from harness import Case, Server, main  # noqa: E402

FREEZE = 6002


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, case, abstract=False):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if abstract:
            self.name = "@engramd-test-%d-%d" % (os.getpid(), time.monotonic_ns())
            self.sock.bind("\0" + self.name[1:])
        else:
            folder = tempfile.TemporaryDirectory()
            case.addCleanup(folder.cleanup)
            self.name = os.path.join(folder.name, "notify")
            self.sock.bind(self.name)
        case.addCleanup(self.sock.close)
        self.heard = []  # (time, {name: value})

    def listen(self, seconds, until=None):
        """Messages that arrive within that time, or up to the first that has the name `until`."""
        end, new = time.monotonic() + seconds, []
        while time.monotonic() < end:
            self.sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                data = self.sock.recv(4096)
            except TimeoutError:
                break
            pairs = dict(line.split("=", 1) for line in data.decode().split("\n"))
            new.append((time.monotonic(), pairs))
            if until in pairs:
                break
        self.heard += new
        return [pairs for _, pairs in new]

    def pings(self, seconds):
        return sum("WATCHDOG" in m for m in self.listen(seconds))


class Notify(Case):
    def server(self, manager, *args, watchdog_s=None, wait=True, pid=None):
        env = {"NOTIFY_SOCKET": manager.name}
        if watchdog_s:
            env["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        if pid:
            env["WATCHDOG_PID"] = str(pid)
        return Server(*args, env=env, wait=wait)

    def test_life(self):
        for abstract in False, True:
            m = Manager(self, abstract)
            with self.server(m, "--drain-timeout", "7", "stub:load_ms=2500") as s:
                loading = m.listen(5, until="READY")
                self.assertEqual("1", loading[-1]["READY"])
                self.assertEqual("Serving on http://127.0.0.1:%d" % s.port, loading[-1]["STATUS"])
                told = [x["STATUS"] for x in loading[:-1]]
                self.assertGreaterEqual(len(told), 2)
                self.assertEqual(len(told), len(set(told)))
                for text in told:
                    self.assertRegex(text, r"^Loading: (begins|weights|tables), \d{1,2} %$")
                s.send_signal(signal.SIGTERM)
                stop = m.listen(5, until="STOPPING")[-1]
                self.assertEqual("1", stop["STOPPING"])
                self.assertEqual("Draining: 0 requests are running", stop["STATUS"])
                self.assertEqual(22_000_000, int(stop["EXTEND_TIMEOUT_USEC"]))
                self.assertEqual(0, s.wait(5))
                self.assertNotIn("WATCHDOG", {k for _, x in m.heard for k in x})  # nobody waits for pings

    def test_model_that_does_not_load(self):
        m = Manager(self)
        with self.server(m, "stub:load_ms=100,fail_load=1", wait=False) as s:
            self.assertEqual(1, s.wait(10))
            heard = m.listen(0.5)
            self.assertIn("the stub was told not to load", heard[-1]["STATUS"])
            self.assertFalse(any("READY" in x for x in heard))

    def test_pings_while_loading_idle_and_draining(self):
        m = Manager(self)
        with self.server(m, "stub:load_ms=2500,step_us=400000", watchdog_s=2) as s:
            self.assertGreaterEqual(m.pings(4), 2)
            with s.connect() as c:
                c.send_request("POST", "/v1/completions", {"prompt": [300], "max_tokens": 8, "stream": True})
                self.assertEqual(200, c.read_head()[0])
                s.send_signal(signal.SIGTERM)
                self.assertGreaterEqual(m.pings(2.5), 1)
                self.assertEqual("[DONE]", [e for _, e in c.events()][-1])
            self.assertEqual(0, s.wait(5))
        times = [t for t, x in m.heard if "WATCHDOG" in x]
        self.assertLess(max(b - a for a, b in zip(times, times[1:])), 2)  # the manager would have killed it

    def test_no_ping_from_a_hung_step(self):
        m = Manager(self)
        with self.server(m, "stub:freeze_ms=4000,step_us=10000", watchdog_s=2) as s, s.connect() as c:
            m.listen(5, until="READY")
            c.send_request("POST", "/v1/completions", {"prompt": [FREEZE], "max_tokens": 3})
            s.wait_line("stub: begin")
            time.sleep(0.3)
            m.pings(1.3)  # one may still tell of the time before
            self.assertEqual(0, m.pings(2))
            self.assertEqual(200, c.read_answer().status)
            self.assertGreaterEqual(m.pings(2), 1)  # and it comes to life again

    def test_pings_of_another_process(self):
        m = Manager(self)
        with self.server(m, "stub:", watchdog_s=0.4, pid=1):
            m.listen(5, until="READY")
            self.assertEqual(0, m.pings(1.2))

    def test_reload_does_not_end_a_service_without_keys(self):
        m = Manager(self)
        with self.server(m, "stub:") as s:
            s.send_signal(signal.SIGHUP)
            self.assertEqual(200, s.request("GET", "/health").status)
            self.assertEqual(0, s.stop())

    def test_a_socket_name_that_is_none(self):
        for name in "relative", "@", "/" + 200 * "x":
            with Server("stub:", env={"NOTIFY_SOCKET": name}, wait=False) as s:
                self.assertEqual(1, s.wait(5), name)
                self.assertRegex(s.text(), r"engramd serve: NOTIFY_SOCKET: .* is neither a path nor an abstract name")

    def test_a_manager_that_does_not_listen(self):
        with Server("stub:", env={"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1000000"}) as s:
            self.assertEqual(200, s.complete({"prompt": [300], "max_tokens": 1}).status)
            self.assertEqual(0, s.stop())


if __name__ == "__main__":
    unittest.TestCase.maxDiff = None
    main()
